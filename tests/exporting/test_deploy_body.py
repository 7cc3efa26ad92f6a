"""Programs in ONNX Runtime, with the library and in standard operators, against the oracle of
programs."""
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

onnx = pytest.importorskip('onnx', reason='the onnx package is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import native_program_cases as cases  # noqa: E402
import native_program_oracle as oracle  # noqa: E402
from netopt_callbacks import deploy, native, native_program_state  # noqa: E402
from netopt_callbacks.exporting import body  # noqa: E402
from netopt_callbacks.native_program_read import description_of  # noqa: E402

# The other two have sums of another order in standard operators: test_deploy_floats.
ROWS = sorted(set(cases.ROWS) - {'float_convolution', 'float_dense'})


def random_program(seed, first=None, rows=ROWS):
    """(ops, inputs, output, x) of a random program of one input."""
    random = np.random.RandomState(seed)
    channels = int(random.choice(cases.CHANNELS))
    builder = cases.Builder(
        random, (channels,) + tuple(int(side) for side in random.randint(1, 10, 2))
    )
    if first:
        cases.ROWS[first](builder)
    for _ in range(random.randint(1, 8)):
        cases.ROWS[rows[random.randint(len(rows))]](builder)
    outputs = [op['values'] for op in builder.ops if op.get('values')]
    if not outputs:
        bits = builder.ops[-1]['bits']
        builder.add(dict(op='unpack', input=bits, values='last'), builder.bits[bits])
        outputs = ['last']
    x = cases.special(random, (random.randint(1, 4),) + tuple(builder.inputs['x']), 0.02)
    return builder.ops, builder.inputs, outputs[-1], x


def fed(*values):
    """What a model of `model_of` reads."""
    return {f'x{index}': value for index, value in enumerate(values)}


def model_of(state, with_library, shapes=None, name='Segment7', state_array=None, function=False):
    """A model of one segment: x0, x1, ... -> y0, y1, ...

    Its node comes with the function of its name where `function` is True.
    """
    array = np.frombuffer(state, np.uint8) if state_array is None else state_array
    description = description_of(state)
    shapes = shapes or [read.shape for read in description.inputs]
    xs = [f'x{index}' for index in range(len(shapes))]
    ys = [f'y{index}' for index in range(len(description.outputs))]
    nodes = (
        [helper.make_node(name, ['state'] + xs, ys, 'segment', domain='netopt')]
        if with_library or function
        else body.nodes(state, xs, 'state', ys, 'segment/')
    )
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        'graph',
        [value(x, TensorProto.FLOAT, ['batch'] + list(shape)) for x, shape in zip(xs, shapes)],
        [value(y, TensorProto.FLOAT, None) for y in ys],
        [numpy_helper.from_array(array, 'state')],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid('', body.OPSET), helper.make_opsetid('netopt', 1)]
    )
    model.ir_version = 7
    if function:
        model.functions.extend([body.function(name, state)])
        model.ir_version = 8
    return model


def session_of(model, with_library, threads=1):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    if with_library:
        options.register_custom_ops_library(deploy.library())
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=['CPUExecutionProvider']
    )


def same_but_for_zeros(found, expected):
    """Equal, NaN with NaN; the sign of a zero is left open."""
    return (
        found.shape == expected.shape
        and ((found == expected) | (np.isnan(found) & np.isnan(expected))).all()
    )


@pytest.mark.parametrize('first', ROWS)
def test_every_op_gives_the_oracle_s_bits_in_either_form(first):
    for seed in range(12):
        ops, inputs, output, x = random_program(seed, first)
        expected = oracle.run(ops, {'x': x})[output]
        state = native.Program(ops, inputs, [output]).state()
        for with_library in (True, False):
            found = session_of(model_of(state, with_library), with_library).run(None, {'x0': x})[0]
            found = found.reshape(found.shape + (1, 1)) if found.ndim == 2 else found
            if with_library:
                assert oracle.same(found, expected), (seed, ops)
            else:
                assert same_but_for_zeros(found, expected), (seed, ops)


def test_an_average_over_a_padded_window_of_the_image_s_size():
    keys = dict(kernel=(2, 3), strides=(2, 3), padding=((1, 0), (0, 0)))
    ops = [dict(op='average_pool', input='x', values='y', **keys)]
    x = np.random.RandomState(0).randn(2, 3, 2, 3).astype(np.float32)
    state = native.Program(ops, {'x': (3, 2, 3)}, ['y']).state()
    found = session_of(model_of(state, False), False).run(None, {'x0': x})[0]
    assert oracle.same(found, oracle.run(ops, {'x': x})['y'])


def test_no_operator_reads_a_shape_from_a_constant_itself():
    # In a function, ONNX Runtime 1.14 would end the process.
    rows = sorted(cases.ROWS)
    programs = [random_program(seed, first)[:3] for first in rows for seed in range(6)]
    programs.append(([dict(op='map', input='x', values='y', steps=[('relu',)])], {'x': (4,)}, 'y'))
    read = set()
    for ops, inputs, output in programs:
        nodes = body.function('Segment0', native.Program(ops, inputs, [output]).state()).node
        constants = {node.output[0] for node in nodes if node.op_type == 'Constant'}
        for node in nodes:
            if node.op_type in ('Pad', 'Reshape', 'Slice', 'Unsqueeze'):
                assert not constants.intersection(node.input[1:]), (ops, node)
                read.add(node.op_type)
    assert len(read) == 3


def near_the_middle(offsets):
    """Returns (ops, x): a fused multiply-add a channel, rounded wrongly where it is rounded twice.

    (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24 is the middle of two float32 numbers, and float64 loses what
    is added to it.
    """
    number, channels = np.float32(1 + 2.0**-12), len(offsets)
    step = 'normalize', 0.0, np.full(channels, number), np.array(offsets, np.float32)
    ops = [dict(op='map', input='x', values='y', steps=[step])]
    return ops, np.full((1, channels, 1, 1), number)


def test_a_fused_multiply_add_is_rounded_once_where_twice_is_wrong():
    offsets = [2.0**-60, -(2.0**-60), 0, 2.0**-70]
    ops, x = near_the_middle(offsets)
    expected = oracle.run(ops, {'x': x})['y']
    twice = (x.astype(np.float64) ** 2 + np.array(offsets).reshape(1, 4, 1, 1)).astype(np.float32)
    assert not np.array_equal(twice, expected)
    state = native.Program(ops, {'x': (4, 1, 1)}, ['y']).state()
    for with_library in (True, False):
        found = session_of(model_of(state, with_library), with_library).run(None, {'x0': x})[0]
        assert oracle.same(found, expected), with_library


def test_the_reader_reads_what_the_writer_wrote():
    for seed in range(40):
        ops, inputs, output, _ = random_program(seed)
        state = native_program_state.state_of(ops, inputs, [output])
        description = description_of(state)
        assert [tuple(read.shape) for read in description.inputs] == [
            tuple(shape) for shape in inputs.values()
        ]
        assert len(description.ops) == len(ops)
        given = [
            number
            for op in description.ops
            for number in (op.values, op.bits)
            if number is not None
        ]
        assert given == list(range(1, 1 + len(given)))
        for op in description.ops:
            for name, place in op.places.items():
                if not isinstance(op.fields[name], str):
                    data = op.fields[name].tobytes()
                    assert state[place : place + len(data)] == data


def test_a_batch_of_any_size_and_none():
    ops, inputs, output, x = random_program(3, 'convolution')
    state = native.Program(ops, inputs, [output]).state()
    session = session_of(model_of(state, True), True, threads=2)
    whole = session.run(None, {'x0': np.concatenate([x] * 20)})[0]
    assert oracle.same(whole, np.concatenate([session.run(None, {'x0': x})[0]] * 20))
    assert session.run(None, {'x0': x[:0]})[0].shape == (0,) + whole.shape[1:]


def test_the_threads_of_a_session_share_what_takes_long():
    """The first calls are timed in one thread; an op that takes long is shared out after them."""
    random = np.random.RandomState(4)
    weights = np.where(random.standard_normal((64, 64, 3, 3)) > 0, 1, -1).astype(np.float32)
    ops = [
        dict(op='pack', input='x', threshold=0.0, bits='b'),
        dict(op='convolution', input='b', weights=weights, padding=((1, 1), (1, 1)), values='y'),
    ]
    program = native.Program(ops, dict(x=(64, 112, 112)), ['y'])
    x = random.standard_normal((1, 64, 112, 112)).astype(np.float32)
    session = session_of(model_of(program.state(), True), True, threads=2)
    for _ in range(8):
        assert oracle.same(session.run(None, {'x0': x})[0], program(x))


@pytest.mark.parametrize(
    'change, said',
    [
        (lambda state: state[:-1], 'bytes follow its head'),
        (lambda state: state[:8] + b'\x09' + state[9:], 'version 9'),
        (lambda state: state[:-1] + bytes([state[-1] ^ 1]), 'checksum'),
        (lambda state: b'', 'not the state of a program'),
    ],
)
def test_a_state_that_is_none_is_refused_with_a_sentence(change, said):
    ops, inputs, output, x = random_program(1, 'convolution')
    state = native.Program(ops, inputs, [output]).state()
    array = np.frombuffer(change(state), np.uint8)
    with pytest.raises(Exception, match=said):
        session_of(model_of(state, True, state_array=array), True).run(None, {'x0': x})


def test_a_state_that_does_not_fit_its_node_is_refused_with_a_sentence():
    ops, inputs, output, x = random_program(1, 'convolution')
    state = native.Program(ops, inputs, [output]).state()
    wrong = np.zeros((1, x.shape[1] + 1) + x.shape[2:], np.float32)
    session = session_of(model_of(state, True, [wrong.shape[1:]]), True)
    with pytest.raises(Exception, match='input x0 of a segment is float32'):
        session.run(None, {'x0': wrong})
    flat = session_of(model_of(state, True, [(7,)]), True)
    with pytest.raises(Exception, match='input x0 of a segment is float32'):
        flat.run(None, {'x0': np.zeros((1, 7), np.float32)})


def test_one_session_from_several_threads_and_after_a_fork():
    ops, inputs, output, x = random_program(2, 'convolution')
    program = native.Program(ops, inputs, [output])
    session = session_of(model_of(program.state(), True), True)
    batches = [np.concatenate([x] * count) for count in range(1, 9)]
    expected = [program(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(
            pool.map(lambda batch: session.run(None, {'x0': batch})[0], batches * 10), expected * 10
        ):
            assert oracle.same(found, wanted)
    child = os.fork()
    if child == 0:
        os._exit(0 if oracle.same(session.run(None, {'x0': x})[0], expected[0]) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_sessions_that_come_and_go():
    ops, inputs, output, x = random_program(2, 'convolution')
    program = native.Program(ops, inputs, [output])
    model = model_of(program.state(), True)
    for _ in range(30):
        session = session_of(model, True)
        assert oracle.same(session.run(None, {'x0': x})[0], program(x))
        del session
