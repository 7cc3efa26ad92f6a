"""Segments that read several values and give several leave CNTK."""
import base64
import json

import cntk as C
import numpy as np
import pytest

pytest.importorskip('onnx', reason='the onnx package is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

from netopt_callbacks import deploy, native, onnx_file  # noqa: E402
from netopt_callbacks.exporting import cut  # noqa: E402
from netopt_callbacks.lowering import binary_segment  # noqa: E402


class Segment(C.ops.functions.UserFunction):
    """Any program as a Function, saved as BinarySegmentOp is.

    Args:
        operands (list of cntk.Variable): with a batch, with or without steps.
        program (native.Program)
        shapes (list of tuple): of its outputs in the network.
    """

    def __init__(self, operands, program, shapes, name):
        super().__init__(list(operands), as_numpy=True, name=name)
        self.program, self.shapes = program, [tuple(shape) for shape in shapes]

    def infer_outputs(self):
        axes = self.inputs[0].dynamic_axes
        return [C.output_variable(shape, np.float32, axes) for shape in self.shapes]

    def clone(self, inputs):
        return Segment(inputs, self.program, self.shapes, self.name)

    def serialize(self):
        return {
            'program': base64.b64encode(self.program.state()).decode('ascii'),
            'description': json.dumps({'machine': 'a machine'}),
        }

    def forward(self, arguments, outputs=None, device=None, outputs_to_retain=None):
        arguments = arguments if len(self.inputs) > 1 else [arguments]
        if not isinstance(arguments[0], list):
            found = self._run(arguments)
        else:  # of sequences
            samples = [self._run(steps) for steps in zip(*arguments)]
            found = [list(values) for values in zip(*samples)]
        if len(self.shapes) == 1:
            return None, found[0]
        for output, value in zip(self.outputs, found):
            outputs[output] = value
        return None

    def _run(self, arguments):
        shapes = [tuple(shape) for shape in self.program.inputs]
        rows = [
            np.ascontiguousarray(value.reshape((-1,) + shape), np.float32)
            for value, shape in zip(arguments, shapes)
        ]
        found = self.program(*rows)
        return [
            value.reshape((-1,) + shape)
            for value, shape in zip(found if len(self.shapes) > 1 else [found], self.shapes)
        ]


Segment.__module__ = binary_segment.__name__  # by which a saved segment is known


def convolution(random, read, gives, filters, channels):
    weights = random.standard_normal((filters, channels, 3, 3)).astype(np.float32)
    return dict(op='convolution', input=read, weights=weights, padding=((1, 1), (1, 1)), **gives)


def trunk_ops(channels):
    random = np.random.RandomState(1)
    return [
        dict(op='pack', input='x', bits='b', threshold=0.0),
        convolution(random, 'b', dict(values='y', bits='c', threshold=1.0), 7, channels),
        dict(op='unpack', input='c', values='signs'),
        dict(op='average_pool', input='y', values='mean', kernel=(0, 0)),
    ]


def trunk(operand, channels, name, sides=(6, 5)):
    """Gives two values: bits of a convolution as a map, and the means of what they are bits of."""
    ops = trunk_ops(channels) + [dict(op='reshape', input='mean', values='flat', shape=(-1,))]
    program = native.Program(ops, {'x': (channels,) + sides}, ['signs', 'flat'])
    return Segment([operand], program, [(7,) + sides, (7,)], name)


def join(map_of, row, name, sides=(6, 5)):
    """Reads a map and a row, and gives a map, a row and the map again."""
    ops = [
        dict(op='map', input='map', values='sum', steps=[('add_value', 'row')]),
        dict(op='pack', input='sum', bits='b', threshold=0.5),
        convolution(np.random.RandomState(2), 'b', dict(values='y'), 4, 7),
        dict(op='max_pool', input='y', values='most', kernel=(0, 0)),
        dict(op='reshape', input='most', values='flat', shape=(-1,)),
    ]
    program = native.Program(ops, {'map': (7,) + sides, 'row': (7,)}, ['y', 'flat', 'y'])
    shapes = [(4,) + sides, (4,), (4,) + sides]
    return Segment([map_of, row], program, shapes, name)


def applied(function):
    return C.user_function(function).outputs


def two_heads():
    """What the trunk gives is read by a segment at once, by another through float layers, and by
    the network; two segments read one Variable; and an input is read by a segment."""
    x = C.input_variable((3, 6, 5), name='image')
    signs, flat = applied(trunk(x, 3, 'trunk'))
    y, row, _ = applied(join(signs, flat, 'first'))
    scaled = C.tanh(flat) * C.constant(0.3)
    _, other, again = applied(join(signs, scaled, 'second'))
    head = C.layers.Dense(5, name='float')(again)
    return C.combine([C.alias(row + other, 'rows'), C.alias(head, 'head'), C.alias(y, 'map')])


def of_both_inputs():
    image = C.input_variable((7, 6, 5), name='image')
    row = C.input_variable(7, name='row')
    y, flat, _ = applied(join(image, row, 'only'))
    return C.combine([C.alias(C.relu(y), 'map'), C.alias(flat, 'flat')])


def shape_other_than_the_program_s():
    """An output that the program gives as [batch, 7], and the network has as [7, 1, 1]."""
    x = C.input_variable((3, 6, 5), name='image')
    function = trunk(x, 3, 'trunk')
    function.shapes[1] = (7, 1, 1)
    signs, mean = applied(function)
    return C.combine([C.alias(signs * mean, 'product'), C.alias(mean + 1, 'mean')])


def unread():
    """Of what a segment gives, one output is read by nothing."""
    x = C.input_variable((3, 6, 5), name='image')
    signs, flat = applied(trunk(x, 3, 'trunk'))
    return C.layers.Dense(3, name='float')(flat)


NETWORKS = [
    (two_heads, ['trunk', 'first', 'second']),
    (of_both_inputs, ['only']),
    (shape_other_than_the_program_s, ['trunk']),
    (unread, ['trunk']),
]


def assert_exported(model, path, segments, data=None):
    exported = deploy.export(model, path, data=data)
    assert sorted(exported.segments) == sorted(segments)
    assert exported.comparison.segments == len(segments) and exported.comparison.tied == 0
    return exported


def sessions(path):
    return [deploy.session(path), onnxruntime.InferenceSession(path)]


@pytest.mark.parametrize(
    'make, segments', NETWORKS, ids=lambda value: getattr(value, '__name__', '')
)
def test_segments_of_several_values_are_exported(make, segments, tmp_path):
    model, path = make(), str(tmp_path / 'file.onnx')
    exported = assert_exported(model, path, segments)
    for batch in (1, 3):
        random = np.random.RandomState(batch)
        feed = {
            argument: random.standard_normal((batch,) + argument.shape).astype(np.float32)
            for argument in model.arguments
        }
        expected = model.eval(feed)
        expected = expected if isinstance(expected, dict) else {model.outputs[0]: expected}
        for session in sessions(path):
            found = session.run(
                exported.outputs, {argument.name: value for argument, value in feed.items()}
            )
            for output, value in zip(model.outputs, found):
                np.testing.assert_allclose(value, expected[output], rtol=1e-4, atol=1e-5)


def test_steps_through_segments_of_several_values(tmp_path):
    x = C.sequence.input_variable((3, 6, 5), name='frames')
    signs, flat = applied(trunk(x, 3, 'trunk'))
    y, row, _ = applied(join(signs, flat, 'join'))
    model = C.combine([C.alias(row, 'rows'), C.alias(y, 'maps')])
    path, random = str(tmp_path / 'file.onnx'), np.random.RandomState(3)
    data = [random.standard_normal((5, 3, 6, 5)).astype(np.float32) for _ in range(3)]
    assert_exported(model, path, ['trunk', 'join'], data=(data,))
    expected = model.eval({model.arguments[0]: data})
    for session in sessions(path):
        found = session.run(['rows', 'maps'], {'frames': np.stack(data, axis=1)})
        for output, value in zip(model.outputs, found):
            np.testing.assert_array_equal(value, np.stack(expected[output], axis=1))


def test_each_segment_reads_only_what_is_there_already():
    segments = cut.CutNetwork(two_heads()).segments
    assert [(len(each.entries), len(each.exits)) for each in segments] == [(1, 2), (2, 3), (2, 3)]
    assert segments[0].name == 'trunk'
    (signs,) = {segment.entries[0].uid for segment in segments[1:]}
    assert signs == segments[0].exits[0].uid


def test_a_segment_of_more_values_than_a_node_has_is_refused(tmp_path):
    x = C.input_variable((2, 3, 3), name='image')
    count = onnx_file.MOST_VALUES + 1
    ops = [
        dict(op='map', input='x', values=f'y{index}', steps=[('add', float(index))])
        for index in range(count)
    ]
    program = native.Program(ops, {'x': (2, 3, 3)}, [op['values'] for op in ops])
    outputs = applied(Segment([x], program, [(2, 3, 3)] * count, 'wide'))
    model = C.combine([C.plus(*outputs[:3]), C.relu(outputs[-1])])
    with pytest.raises(
        NotImplementedError, match="segment 'wide' gives 33 values, a node at most 32"
    ):
        deploy.export(model, str(tmp_path / 'file.onnx'))


@pytest.mark.parametrize('place', [0, 1])
def test_what_differs_in_one_of_several_exits_is_found(place, tmp_path, monkeypatch):
    """Of the state that is written, one output is negated."""
    honest, read, wrong = cut._segment, ['signs', 'mean'], ['signs', 'mean']
    wrong[place] = 'wrong'

    def spoiled(function):
        segment = honest(function)
        ops = trunk_ops(3) + [
            dict(op='map', input=read[place], values='wrong', steps=[('multiply', -1.0)])
        ]
        ops.append(dict(op='reshape', input=wrong[1], values='flat', shape=(-1,)))
        program = native.Program(ops, {'x': (3, 6, 5)}, [wrong[0], 'flat'])
        segment.state = program.state()
        return segment

    monkeypatch.setattr(cut, '_segment', spoiled)
    x = C.input_variable((3, 6, 5), name='image')
    signs, flat = applied(trunk(x, 3, 'trunk'))
    model = C.combine([C.alias(C.relu(signs), 'signs'), C.alias(flat, 'flat')])
    with pytest.raises(deploy.ExportError, match="^segment 'trunk' with the library differs"):
        deploy.export(model, str(tmp_path / 'file.onnx'))
