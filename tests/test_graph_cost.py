"""What finding, replacing and counting layers costs: linear in their number."""
import time

import pytest

from bench_graph import deep_network, two_replaced
from netopt_callbacks import count, graph


def processor_seconds(function, model):
    """Returns the fastest of three, in time of this process: other processes do not count."""
    times = []
    for _ in range(3):
        start = time.process_time()
        function(model)
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.parametrize('function', [graph.layers, graph.other_products, two_replaced, count.whole],
                         ids=lambda function: function.__name__)
def test_eight_times_the_layers_take_about_eight_times_as_long(function, networks=[]):
    """Where each Function was asked for its outputs, it took 16 to 33 times as long."""
    if not networks:
        networks += [deep_network(60), deep_network(480)]
    small, large = (processor_seconds(function, model) for model in networks)
    assert large < 12 * small
