"""A network has its arguments in the order of the one that it was made of: `lowered(one, other)` is
`trained(one, other)`."""
import os
import subprocess
import sys

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from binary_networks import images
from netopt_callbacks.lowering import Lower, lower_segments
from segment_networks import binarized, random_graph, unsettle

LOADED = """
import sys
import cntk as C
import netopt_callbacks
print(' '.join(argument.name for argument in C.load_model(sys.argv[1]).arguments))
"""


def names(model):
    return [argument.name for argument in model.arguments]


def conv(name):
    return C.layers.Convolution2D((3, 3), 2, pad=True, name=name)


def maps(*names, shape=(2, 5, 5)):
    return [C.input_variable(shape, name=name) for name in names]


def first_read_late():
    """What reads `q` first comes after what reads `d` in the order in which all is computed."""
    q, d = maps('q', 'd')
    a = conv('a')(q)
    return C.combine([a + conv('b')(d), a])


def read_back_to_front(count=35):
    """A sum of layers, each of another input; the last one comes first."""
    inputs = maps(*[f'i{number}' for number in range(count)], shape=(4,))
    total = C.layers.Dense(4, name='d0')(inputs[0])
    for number, x in enumerate(inputs[1:]):
        total = C.layers.Dense(4, name=f'd{number + 1}')(x) + total
    return C.relu(total)


def shared_tower():
    """Two inputs through the same layers; an output in the middle."""
    q, d = maps('q', 'd', shape=(8,))
    shared, top = C.layers.Dense(8, activation=C.relu, name='shared'), C.layers.Dense(8, name='top')
    one, other = shared(q), shared(d)
    a, b = top(C.sin(one)), top(C.sin(other))
    return C.combine([C.reduce_sum(a * b, axis=0), a, other])


def in_a_block(names_of_block):
    """A block whose inputs have another order than that in which it reads them."""
    inputs = dict(zip('qd', maps('q', 'd')))
    inside = {name: C.placeholder(x.shape, x.dynamic_axes) for name, x in inputs.items()}
    content = C.sin(conv('a')(C.relu(conv('b')(inside['d']))) + conv('c')(inside['q']))
    return C.as_block(content, [(inside[name], inputs[name]) for name in names_of_block], 'Two')


def random_vectors(seed):
    """Vectors of one length, each computed from one or two that are there already; several outputs
    in any order."""
    random = np.random.RandomState(seed)
    known = maps(*[f'input{number}' for number in range(random.randint(2, 7))], shape=(4,))
    random.shuffle(known)
    count = len(known)
    for number in range(random.randint(6, 16)):
        y = known[random.randint(max(0, len(known) - 5), len(known))]
        z = known[random.randint(len(known))]
        layer = C.layers.Dense(4, name=f'dense{number}')
        known.append(
            [
                lambda: layer(y),
                lambda: layer(y) + z,
                lambda: z + layer(y),
                lambda: C.relu(y),
                lambda: C.sin(z),
                lambda: z * C.sigmoid(y),
            ][random.randint(6)]()
        )
    # The last one reads what all else does, so that each input is an argument.
    outputs = [known[place] for place in count + random.permutation(len(known) - count)[:3]]
    model = C.combine(
        [C.alias(each) for each in outputs] + [C.layers.Dense(4, name='last')(C.splice(*known))]
    )
    unsettle(model, random)
    return model


MADE = [
    first_read_late,
    read_back_to_front,
    shared_tower,
    lambda: in_a_block('qd'),
    lambda: in_a_block('dq'),
]


def data_of(model):
    return [images(argument.shape, 3) for argument in model.arguments]


def evaluated(model, data):
    """Returns what a network gives where its inputs are told by place alone."""
    return nc.graph.evaluate(model.outputs, dict(zip(model.arguments, data)))


def assert_in_order(model):
    """Compares all that this package makes of a network with the network."""
    trained = binarized(model)
    expected, data = names(model), data_of(trained)
    assert names(trained) == expected
    for float_layers in ('cntk', 'native', 'apart'):
        lowered = lower_segments(trained, float_layers).model
        again = lower_segments(lowered, float_layers).model
        for each in (lowered, again, lowered.clone('clone'), lowered.clone('share')):
            assert names(each) == expected
        if float_layers != 'native':
            for one, other in zip(evaluated(lowered, data), evaluated(trained, data)):
                assert np.array_equal(one, other)
    return trained


@pytest.mark.parametrize('made', MADE)
def test_a_lowered_network_has_the_order_of_the_trained_one(made):
    assert_in_order(made())


@pytest.mark.few(6)
@pytest.mark.parametrize('seed', range(60))
def test_random_graphs_keep_their_order(seed):
    assert_in_order(random_vectors(seed))


@pytest.mark.few(2)
@pytest.mark.parametrize('seed', range(0, 36, 2))
def test_random_graphs_of_feature_maps_keep_their_order(seed):
    assert_in_order(random_graph(seed, 6 + seed % 9)[1])


@pytest.mark.few(6)
@pytest.mark.parametrize('seed', range(40))
def test_other_optimizations_keep_it(seed):
    model = random_vectors(seed)
    factored = nc.FactorDense(rank=2, filter_function=lambda layer: layer.name != 'last')
    if not any(layer.name.startswith('dense') for layer in nc.graph.layers(model)):
        return
    optimized = nc.optimize(model, factored)
    bits = nc.BinarizeDense(filter_function=lambda layer: layer.name == 'last')
    for each in (optimized, nc.optimize(optimized, bits), nc.graph.clone_shared(optimized)):
        assert names(each) == names(model)


def test_networks_of_netopt_keep_it():
    model = first_read_late()
    binary = nc.quantization.convert_to_binary_convolution(model, lambda layer: True)
    native = nc.quantization.convert_to_native_binary_convolution(binary)
    assert [names(each) for each in (binary, native)] == [names(model)] * 2
    data = data_of(model)
    for one, other in zip(evaluated(native, data), evaluated(binary, data)):
        assert np.array_equal(one, other)


def test_it_stays_in_a_file_and_another_process(tmp_path):
    lowered, _ = Lower().run(binarized(first_read_late()), [])
    path = str(tmp_path / 'lowered.dnn')
    lowered.save(path)
    found = subprocess.run(
        [sys.executable, '-c', LOADED, path],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        stdout=subprocess.PIPE,
        check=True,
    )
    assert found.stdout.decode().split() == ['q', 'd']


@pytest.mark.parametrize('made', MADE[:1] + MADE[3:])
def test_a_file_has_the_inputs_in_that_order(made, tmp_path):
    trained = binarized(made())
    for model in (trained, Lower().run(trained, [])[0]):
        exported = nc.deploy.export(model, str(tmp_path / 'network.onnx'))
        assert exported.inputs == names(trained)


def test_a_block_is_opened_in_the_order_of_its_inputs():
    for order in ('qd', 'dq'):
        opened = nc.graph.opened(in_a_block(order), lambda function: function.name == 'b')
        assert ''.join(names(opened)) == order
