"""What finding, replacing and counting layers asks CNTK for: linear in the number of layers
(times: `tests.bench.graph`)."""
import collections
import sys

import pytest

from tests.bench.graph import deep_network, two_replaced
from netopt_callbacks import count, graph


def calls_of(function, model):
    """Returns how often each function written in C, so each of CNTK's, is called."""
    calls = collections.Counter()

    def note(frame, event, called):
        if event == 'c_call':
            calls[called.__name__] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function(model)
    finally:
        sys.setprofile(before)
    return calls


@pytest.fixture(scope='module')
def networks():
    return deep_network(30), deep_network(240)


@pytest.mark.parametrize(
    'function',
    [graph.layers, graph.other_products, two_replaced, count.whole],
    ids=lambda function: function.__name__,
)
def test_eight_times_the_layers_take_eight_times_the_calls(function, networks):
    """And few Functions are asked for their outputs: CNTK goes through all the graph below each
    that is."""
    small, large = (calls_of(function, network) for network in networks)
    assert large['Function_inputs'] > 240  # it was seen
    assert {
        name: (small[name], number)
        for name, number in large.items()
        if number > 8.5 * small[name] + 20
    } == {}
    assert large['Function_outputs'] < 2 * 240
