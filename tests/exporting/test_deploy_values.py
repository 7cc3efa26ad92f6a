"""Segments that read several values and give several leave CNTK."""
import cntk as C
import numpy as np
import pytest

pytest.importorskip('onnx', reason='the onnx package is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

import netopt_callbacks as nc  # noqa: E402
from binary_networks import images  # noqa: E402
from netopt_callbacks import deploy, native, onnx_file  # noqa: E402
from netopt_callbacks.exporting import cut  # noqa: E402
from netopt_callbacks.lowering import lower_segments  # noqa: E402
from netopt_callbacks.lowering.binary_segment import BinarySegmentOp  # noqa: E402
from segment_networks import binarized, random_graph, unsettle  # noqa: E402


def layer(y, filters, name, **options):
    y = C.layers.Convolution2D((3, 3), filters, pad=True, bias=False, name=name, **options)(y)
    return C.layers.BatchNormalization(map_rank=1)(y)


def trained(model):
    unsettle(model, np.random.RandomState(4))
    return binarized(model, input_scale=None)


def two_heads():
    """A trunk, whose values are read by a segment at once and by the network; and two heads."""
    x = C.input_variable((3, 6, 5), name='image')
    y = C.relu(layer(layer(x, 16, 'one'), 9, 'two'))
    first = C.layers.Dense(5, name='float')(layer(y, 7, 'first'))
    second = C.layers.GlobalAveragePooling()(layer(y, 12, 'second', strides=2))
    return trained(
        C.combine([C.alias(first, 'first'), C.alias(second, 'second'), C.alias(C.tanh(y), 'map')])
    )


def of_two_inputs():
    image = C.input_variable((3, 6, 5), name='image')
    other = C.input_variable((8, 6, 5), name='other')
    y = C.relu(layer(image, 9, 'one') + layer(other, 9, 'two'))
    return trained(C.combine([C.alias(y, 'map'), C.layers.Dense(4, name='rows')(y)]))


def around():
    """What a segment gives goes through CNTK, and what comes of it is read beside it."""
    x = C.input_variable((3, 6, 5), name='image')
    y = layer(x, 8, 'one')
    for number in range(3):
        y = layer(C.relu(y), 8, f'inside{number}') + C.tanh(y)
    return trained(C.alias(y, 'map'))


def one_head_of_two():
    """Of what a segment gives, one output is read by nothing."""
    return C.combine([lower_segments(two_heads()).model.outputs[0]])


def one_value_for_both_inputs():
    x = C.input_variable((8, 6, 5), name='image')
    image, other = C.input_variable(x.shape, name='one'), C.input_variable(x.shape, name='other')
    y = C.relu(layer(image, 9, 'one') + layer(other, 9, 'two'))
    return lower_segments(trained(C.combine([y, C.sin(y)]))).model(x, x)


NETWORKS = [
    (two_heads, ['one_to_second']),
    (of_two_inputs, ['one_to_rows']),
    (around, ['one_to_inside0', 'inside1_to_inside2']),
    (one_head_of_two, ['one_to_second']),
    (one_value_for_both_inputs, ['one_to_two']),
]


def assert_exported(model, path, segments, data=None):
    exported = deploy.export(model, path, data=data)
    assert sorted(exported.segments) == sorted(segments)
    assert exported.comparison.segments == len(segments) and exported.comparison.tied == 0
    return exported


def sessions(path):
    return [deploy.session(path), onnxruntime.InferenceSession(path)]


def assert_file_is_the_network(model, path, exported):
    for batch in (1, 3):
        feed = {x: images(x.shape, batch, seed=batch) for x in model.arguments}
        expected = nc.graph.evaluate(model.outputs, feed)
        for session in sessions(path):
            found = session.run(exported.outputs, {x.name: feed[x] for x in model.arguments})
            for value, wanted in zip(found, expected):
                np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    'make, segments', NETWORKS, ids=lambda value: getattr(value, '__name__', '')
)
def test_segments_of_several_values_are_exported(make, segments, tmp_path):
    model, path = make(), str(tmp_path / 'file.onnx')
    assert_file_is_the_network(model, path, assert_exported(model, path, segments))


def test_a_network_that_is_lowered_already_is_the_same_file(tmp_path):
    model = two_heads()
    files = [str(tmp_path / 'trained.onnx'), str(tmp_path / 'lowered.onnx')]
    for each, path in zip((model, lower_segments(model).model), files):
        assert_exported(each, path, ['one_to_second'])
    x = images((3, 6, 5), 4)
    one, other = (deploy.session(path).run(None, {'image': x}) for path in files)
    assert all(map(np.array_equal, one, other))


@pytest.mark.few(2)
@pytest.mark.parametrize('seed', range(12))
def test_random_graphs_are_exported(seed, tmp_path):
    inputs, model = random_graph(seed, 7)
    model, path = binarized(model, input_scale=None), str(tmp_path / 'file.onnx')
    names = [part.name for part in lower_segments(model).segments]
    assert_file_is_the_network(model, path, assert_exported(model, path, names))


def test_steps_through_segments_of_several_values(tmp_path):
    x = C.sequence.input_variable((3, 6, 5), name='frames')
    y = layer(x, 8, 'one')
    head = C.layers.Dense(4, name='head')(layer(C.relu(y), 8, 'two'))
    model = trained(C.combine([C.alias(head, 'rows'), C.alias(C.tanh(y), 'maps')]))
    path, random = str(tmp_path / 'file.onnx'), np.random.RandomState(3)
    data = [random.standard_normal((5, 3, 6, 5)).astype(np.float32) for _ in range(3)]
    assert_exported(model, path, ['one_to_head'], data=(data,))
    expected = nc.graph.evaluate(model.outputs, {model.arguments[0]: data})
    for session in sessions(path):
        found = session.run(['rows', 'maps'], {'frames': np.stack(data, axis=1)})
        np.testing.assert_array_equal(found[0], np.stack(expected[0], axis=1))
        np.testing.assert_allclose(found[1], np.stack(expected[1], axis=1), rtol=1e-5, atol=1e-6)


def test_each_segment_reads_only_what_is_there_already():
    one, other = cut.CutNetwork(around()).segments
    assert (one.name, len(one.entries), len(one.exits)) == ('one_to_inside0', 1, 2)
    assert (other.name, len(other.entries), len(other.exits)) == ('inside1_to_inside2', 2, 2)


def test_a_segment_of_more_values_than_a_node_has_is_refused(tmp_path):
    x = C.input_variable((2, 3, 3), name='image')
    count = onnx_file.MOST_VALUES + 1
    ops = [
        dict(op='map', input='x', values=f'y{index}', steps=[('add', float(index))])
        for index in range(count)
    ]
    program = native.Program(ops, {'x': (2, 3, 3)}, [op['values'] for op in ops])
    wide = BinarySegmentOp([x], program.state(), [(2, 3, 3)] * count, [], 'a machine', 'wide')
    outputs = C.user_function(wide).outputs
    model = C.combine([C.plus(*outputs[:3]), C.relu(outputs[-1])])
    with pytest.raises(
        NotImplementedError, match="segment 'wide' gives 33 values, a node at most 32"
    ):
        deploy.export(model, str(tmp_path / 'file.onnx'))


@pytest.mark.parametrize('place', [0, 1, 2])
def test_what_differs_in_one_of_several_exits_is_found(place, tmp_path, monkeypatch):
    """Of the state that is written, one output is another."""
    honest, part = cut._segment, lower_segments(two_heads()).segments[0]
    wrong = dict(op='map', values='wrong', steps=[('multiply', -1.0)])
    outputs = list(part.program.outputs)
    wrong['input'], outputs[place] = outputs[place], 'wrong'
    state = native.Program(part.program.ops + [wrong], part.program.inputs, outputs).state()

    def spoiled(function):
        segment = honest(function)
        segment.state = state
        return segment

    monkeypatch.setattr(cut, '_segment', spoiled)
    with pytest.raises(deploy.ExportError, match="^segment 'one_to_second' with the library diff"):
        deploy.export(two_heads(), str(tmp_path / 'file.onnx'))
