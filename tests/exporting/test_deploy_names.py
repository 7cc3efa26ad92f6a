"""Whatever users call things, every node of a file has a name of its own."""
import cntk as C
import numpy as np
import pytest

pytest.importorskip('onnx', reason='the onnx package is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

import onnx  # noqa: E402

import netopt_callbacks as nc  # noqa: E402
from binary_networks import images  # noqa: E402
from netopt_callbacks import deploy  # noqa: E402
from netopt_callbacks.lowering import Lower  # noqa: E402
from segment_networks import binarized, unsettle  # noqa: E402


def dense(size, name, **options):
    return C.layers.Dense(size, name=name, **options)


def shared_tower():
    """Two inputs through the same layers, of which the binary ones are lowered alone."""
    tower = C.layers.Sequential(
        [
            dense(8, 'hidden', activation=C.tanh),
            dense(8, 'hidden', activation=C.sigmoid),
            dense(4, 'float'),
        ]
    )
    one, other = C.input_variable(6, name='one'), C.input_variable(6, name='other')
    return binarized(C.square(tower(one) - tower(other)))


def two_heads_of_one_name():
    x = C.input_variable(6, name='x')
    heads = [dense(size, 'head', activation=C.tanh)(x) for size in (3, 5)]
    return binarized(C.combine([C.sin(each) for each in heads]))


def step_named_as_a_layer():
    x = C.input_variable((2, 5, 5), name='x')
    y = C.layers.Convolution2D((3, 3), 4, pad=True, name='same')(x)
    y = C.sin(C.sin(C.sin(y, name='same'), name='same'), name='same_2')
    return binarized(dense(3, 'same')(C.cos(dense(4, 'same')(y), name='same')))


def lowered(seed):
    x = C.input_variable((2, 5, 5), name='x')
    y = C.layers.Convolution2D((3, 3), 8, pad=True, activation=C.relu, name='conv')(x)
    model = dense(4, 'dense')(y)
    unsettle(model, np.random.RandomState(seed))
    return Lower().run(binarized(model), [])[0]


def lowered_twice_applied():
    one, other = (C.input_variable((2, 5, 5), name=name) for name in ('one', 'other'))
    tower = lowered(1)
    return C.square(tower(one) - tower(other))


def two_lowered():
    x = C.input_variable((2, 5, 5), name='x')
    return lowered(1)(x) + lowered(2)(x)


MADE = {
    shared_tower: ['hidden', 'hidden_2', 'hidden_3', 'hidden_4'],
    two_heads_of_one_name: ['head', 'head_2'],
    step_named_as_a_layer: ['same', 'same_2', 'same_3'],
    lowered_twice_applied: ['conv_to_dense', 'conv_to_dense_2'],
    two_lowered: ['conv_to_dense', 'conv_to_dense_2'],
}


@pytest.mark.parametrize('make', MADE)
def test_each_node_has_a_name_of_its_own(make, tmp_path):
    model, path = make(), str(tmp_path / 'file.onnx')
    exported = deploy.export(model, path)
    assert exported.segments == MADE[make]
    nodes = onnx.load(path).graph.node
    names = [node.name for node in nodes if node.name]
    assert len(set(names)) == len(names)
    assert sorted(node.name for node in nodes if node.domain == 'netopt') == exported.segments
    assert exported.inputs == [argument.name for argument in model.arguments]
    feed = {x: images(x.shape, 3) for x in model.arguments}
    expected = nc.graph.evaluate(model.outputs, feed)
    for session in (deploy.session(path), onnxruntime.InferenceSession(path)):
        found = session.run(exported.outputs, {x.name: feed[x] for x in model.arguments})
        for value, wanted in zip(found, expected):
            np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-4)


def named(**names):
    """A network of two outputs of which some things have the names that are given."""
    x = C.input_variable((2, 5, 5), name=names.get('input', 'x'))
    y = C.layers.Convolution2D((3, 3), 4, pad=True, name=names.get('layer', 'conv'))(x)
    z = dense(3, 'dense')(y) + C.Parameter(3, init=1, name=names.get('parameter', 'p'))
    outputs = [
        C.alias(z, names.get('output', 'one')),
        C.alias(C.sin(y), names.get('other', 'other')),
    ]
    return binarized(C.combine(outputs, name=names.get('whole', '')))


@pytest.mark.parametrize('what', ['input', 'layer', 'parameter', 'output', 'other', 'whole'])
@pytest.mark.parametrize(
    'name', ['netopt_entry_0_0', 'netopt_output_0', 'netopt_output_1', 'netopt_state_0']
)
def test_a_name_that_the_file_needs_is_refused(what, name, tmp_path):
    with pytest.raises(NotImplementedError, match=f"'{name}' is a name that the file needs"):
        deploy.export(named(**{what: name}), str(tmp_path / 'file.onnx'))
    assert not list(tmp_path.iterdir())


def test_other_names_with_that_beginning_are_not(tmp_path):
    model = named(input='netopt_x', layer='netopt', output='netopt_head', other='netopt_1')
    exported = deploy.export(model, str(tmp_path / 'file.onnx'))
    assert (exported.inputs, exported.outputs) == (['netopt_x'], ['netopt_head', 'netopt_1'])
