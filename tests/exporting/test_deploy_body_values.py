"""Programs of several inputs and outputs in ONNX Runtime, with the library and in standard
operators, against the oracle of programs; nodes and inputs that do not fit them."""
import numpy as np
import pytest

onnx = pytest.importorskip('onnx', reason='the onnx package is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

from onnx import TensorProto, helper  # noqa: E402

import native_program_cases as cases  # noqa: E402
import native_program_oracle as oracle  # noqa: E402
from netopt_callbacks import native, onnx_file  # noqa: E402
from test_deploy_body import ROWS, fed, model_of, same_but_for_zeros, session_of  # noqa: E402


def program_of_several(seed, first=None):
    """(ops, inputs, outputs, values) of a random program of two inputs, and of two or three
    outputs, of which one may be there twice. `values` are the inputs, by name."""
    random = np.random.RandomState(seed)
    shape = (int(random.choice(cases.CHANNELS)),) + tuple(int(s) for s in random.randint(1, 8, 2))
    other = [(shape[0], 1, 1), (1,) + shape[1:], shape][seed % 3]
    builder = cases.Builder(random, shape, other)
    builder.add(
        dict(op='map', input='x', values='both', steps=[('add_value', 'other'), ('relu',)]), shape
    )
    if first:
        cases.ROWS[first](builder)
    for _ in range(random.randint(1, 8)):
        cases.ROWS[ROWS[random.randint(len(ROWS))]](builder)
    given = sorted(set(builder.shapes) - set(builder.inputs))
    outputs = [str(name) for name in random.choice(given, 2 + seed % 2)]
    batch = random.randint(1, 4)
    values = {
        name: cases.special(random, (batch,) + tuple(read), 0.02)
        for name, read in builder.inputs.items()
    }
    return builder.ops, builder.inputs, outputs, values


def assert_in_every_form(state, values, expected):
    """That a program gives these arrays: with the library, in standard operators, and as the
    function of a node."""
    for with_library, function in ((True, False), (False, False), (False, True)):
        model = model_of(state, with_library, function=function)
        found = session_of(model, with_library).run(None, fed(*values))
        same = oracle.same if with_library else same_but_for_zeros
        assert len(found) == len(expected)
        for one, wanted in zip(found, expected):
            one = one.reshape(one.shape + (1, 1)) if one.ndim == 2 else one
            assert same(one, wanted), (with_library, function)


@pytest.mark.parametrize('first', ROWS)
def test_every_op_among_several_inputs_and_outputs(first):
    for seed in range(6):
        ops, inputs, outputs, values = program_of_several(seed, first)
        computed = oracle.run(ops, values)
        state = native.Program(ops, inputs, outputs).state()
        assert_in_every_form(state, values.values(), [computed[name] for name in outputs])


def test_outputs_that_are_read_inside_or_given_twice():
    random = np.random.RandomState(5)
    values = {
        'x': random.randn(3, 6).astype(np.float32),
        'z': random.randn(3, 6, 4, 5).astype(np.float32),
        'unread': random.randn(3, 2, 2, 2).astype(np.float32),
    }
    ops = [
        dict(op='map', input='z', values='sum', steps=[('add_value', 'x')]),
        dict(op='pack', input='sum', bits='b', threshold=0.0),
        dict(op='unpack', input='b', values='signs'),
        dict(op='average_pool', input='sum', values='mean', kernel=(0, 0)),
        dict(op='reshape', input='mean', values='flat', shape=(-1,)),
    ]
    outputs = ['sum', 'signs', 'sum', 'flat', 'mean', 'flat']
    inputs = {name: value.shape[1:] for name, value in values.items()}
    program = native.Program(ops, inputs, outputs)
    computed = oracle.run(ops, values)
    assert_in_every_form(program.state(), values.values(), [computed[name] for name in outputs])
    ranks = [value.ndim for value in program(*values.values())]
    assert ranks == [4, 4, 4, 2, 4, 2]
    for with_library in (True, False):
        found = session_of(model_of(program.state(), with_library), with_library)
        assert [value.ndim for value in found.run(None, fed(*values.values()))] == ranks


def sums_of(count):
    """(state, values, expected) of a program of so many inputs, and as many outputs: twice the
    first one, with the second, and so on."""
    random = np.random.RandomState(count)
    names = [f'in{index}' for index in range(count)]
    ops, before = [], 'in0'
    for index, name in enumerate(names):
        steps = [('add_value', name)]
        ops.append(dict(op='map', input=before, values=f'sum{index}', steps=steps))
        before = f'sum{index}'
    values = [random.randint(-9, 9, (2, 3, 2, 2)).astype(np.float32) for _ in names]
    program = native.Program(ops, {name: (3, 2, 2) for name in names}, [op['values'] for op in ops])
    return program.state(), values, list(np.cumsum(values, axis=0) + values[0])


@pytest.mark.parametrize('count', [2, 31, onnx_file.MOST_VALUES])
def test_a_node_of_up_to_32_inputs_and_outputs(count):
    state, values, expected = sums_of(count)
    assert_in_every_form(state, values, expected)


def test_a_batch_of_none_of_several_inputs():
    state, values, expected = sums_of(3)
    found = session_of(model_of(state, True), True).run(None, fed(*[value[:0] for value in values]))
    assert [value.shape for value in found] == [(0, 3, 2, 2)] * 3


# Changes to the node of a program of three inputs and three outputs, and what the library says.
_HAS = 'the program of a segment has 3 inputs and 3 outputs, its node has '
WRONG_COUNTS = [
    (lambda node: node.input.pop(), _HAS + '2 inputs beside the state and 3 outputs'),
    (lambda node: node.output.pop(), _HAS + '3 inputs beside the state and 2 outputs'),
    (lambda node: node.input.append('x0'), _HAS + '4 inputs beside the state and 3 outputs'),
    (lambda node: node.output.append('y3'), _HAS + '3 inputs beside the state and 4 outputs'),
    (
        lambda node: [node.input.pop(), node.input.pop(), node.output.pop(), node.output.pop()],
        _HAS + '1 input beside the state and 1 output',
    ),
]
LEFT_OUT = [
    (lambda node: node.input.__setitem__(2, ''), 'a tensor is missing'),
    (lambda node: node.output.__setitem__(1, ''), 'output y1 of a segment is missing'),
]


def changed(model, change):
    """A model with another node, and the outputs of that."""
    (node,) = model.graph.node
    change(node)
    del model.graph.output[:]
    model.graph.output.extend(
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in node.output
            if name
        ]
    )
    return model


@pytest.mark.parametrize('change, said', WRONG_COUNTS + LEFT_OUT)
def test_a_node_of_other_inputs_or_outputs_than_its_program_is_refused(change, said):
    state, values, _ = sums_of(3)
    with pytest.raises(Exception, match=said):
        session_of(changed(model_of(state, True), change), True).run(None, fed(*values))


def test_inputs_that_do_not_fit_are_refused_with_a_sentence_that_names_them():
    state, values, _ = sums_of(3)
    session = session_of(model_of(state, True, [(None,) * 3] * 3), True)
    session.run(None, fed(*values))
    x0, x1, x2 = values
    for wrong, said in (
        (
            [x0, x1, x2[:, :2]],
            r'input x2 of a segment is float32 \[batch, 3, height, width\], .* 2]',
        ),
        ([x0, x1[:1], x2], 'input x1 of a segment has a batch of 1, x0 one of 2'),
        ([x0[:0], x1, x2], 'input x1 of a segment has a batch of 2, x0 one of 0'),
        ([x0, x1, x2[:, :, :1]], 'input 2 has 1 x 2 pixels'),
    ):
        with pytest.raises(Exception, match=said):
            session.run(None, fed(*wrong))
    flat = session_of(model_of(state, True, [(None,) * 3, (None,), (None,) * 3]), True)
    with pytest.raises(Exception, match='input x1 of a segment is float32'):
        flat.run(None, fed(x0, x1[:, :, 0, 0], x2))
