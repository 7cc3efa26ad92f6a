"""nc.native.Program as its callers see it: arrays, errors, pointers, threads, forks."""
import os
import threading

import numpy as np
import pytest

import native_program_oracle as oracle
from netopt_callbacks import native

F = np.float32
RANDOM = np.random.RandomState(5)
WEIGHTS = RANDOM.randn(20, 6, 3, 3).astype(F)
X = RANDOM.randn(3, 6, 8, 9).astype(F)
OPS = [
    dict(op='pack', input='x', bits='b', threshold=0.0),
    dict(
        op='convolution',
        input='b',
        weights=WEIGHTS,
        values='y',
        bits='c',
        steps=[('multiply', 0.5), ('relu',)],
        threshold=RANDOM.randn(20).astype(F),
    ),
    dict(op='unpack', input='c', values='z'),
]


def program(ops=OPS, inputs=None, outputs=('y',), **options):
    return native.Program(
        ops, dict(x=(6, None, None)) if inputs is None else inputs, list(outputs), **options
    )


def expected(x, name='y'):
    return oracle.run(OPS, dict(x=x))[name]


def test_one_output_and_several():
    y = program()(X)
    assert y.dtype == np.float32 and y.shape == (3, 20, 6, 7) and np.array_equal(y, expected(X))
    both = program(outputs=['z', 'y'])(X)
    assert (
        isinstance(both, tuple)
        and np.array_equal(both[0], expected(X, 'z'))
        and np.array_equal(both[1], y)
    )


def test_results_are_fresh():
    made = program()
    first = made(X)
    before = first.copy()
    assert not np.may_share_memory(first, made(-X)) and np.array_equal(first, before)


def test_out():
    made = program(outputs=['y', 'z'])
    out = [np.empty((3, 20, 6, 7), F), np.empty((3, 20, 6, 7), F)]
    assert (
        made(X, out=out) is out
        and np.array_equal(out[0], expected(X))
        and np.array_equal(out[1], expected(X, 'z'))
    )
    single = np.empty((3, 20, 6, 7), F)
    assert program()(X, out=single) is single and np.array_equal(single, expected(X))
    for bad in (np.empty((3, 20, 6, 6), F), np.empty((3, 20, 7, 6), F).transpose(0, 1, 3, 2)):
        with pytest.raises(ValueError, match='out'):
            program()(X, out=bad)
    with pytest.raises(TypeError, match='out'):
        program()(X, out=np.empty((3, 20, 6, 7)))
    with pytest.raises(ValueError, match='2 outputs'):
        made(X, out=single)
    with pytest.raises(ValueError, match='share memory'):
        made(X, out=[single, single])
    read_only = np.empty((3, 20, 6, 7), F)
    read_only.flags.writeable = False
    with pytest.raises(ValueError):
        program()(X, out=read_only)


def test_out_may_be_the_input():
    same = program([dict(op='map', input='x', values='y', steps=[('add', 1.0)])])
    x = X.copy()
    assert same(x, out=x) is x and np.array_equal(x, X + 1)


def test_arrays_that_are_not_contiguous():
    assert np.array_equal(program()(np.asfortranarray(X)), expected(X))
    assert np.array_equal(
        program()(X[:, :, ::2, ::-1]), expected(np.ascontiguousarray(X[:, :, ::2, ::-1]))
    )


def test_sizes_change_and_come_back():
    made = program()
    for size in (8, 5, 3, 8, 11, 4, 6, 7, 8, 5):
        x = RANDOM.randn(2, 6, size, size + 1).astype(F)
        assert np.array_equal(made(x), expected(x))


@pytest.mark.parametrize(
    'x, error, message',
    [
        (X.astype(np.float64), TypeError, 'float32'),
        (X.tolist(), TypeError, 'float32'),
        (X[0], ValueError, 'rank'),
        (X[:, :5], ValueError, r'expected \[batch, 6, height, width\]'),
        (X[:, :, :2], ValueError, 'op 1 .convolution.'),
        (X[:, :, :0], ValueError, 'larger than|not fit'),
    ],
)
def test_bad_input(x, error, message):
    with pytest.raises(error, match=message):
        program()(x)


def test_inputs_of_rank_one_and_of_fixed_size():
    dense = program(
        [
            dict(op='pack', input='x', bits='b', threshold=0.0),
            dict(op='dense', input='b', weights=WEIGHTS.reshape(20, 54).T.copy(), values='y'),
        ],
        dict(x=(54,)),
    )
    x = RANDOM.randn(4, 54).astype(F)
    assert (
        dense(x).shape == (4, 20)
        and dense.inputs == [(54,)]
        and dense.output_shapes((4, 54)) == [(4, 20)]
    )
    fixed = program(inputs=dict(x=(6, 8, 9)))
    assert fixed.inputs == [(6, 8, 9)] and np.array_equal(fixed(X), expected(X))
    with pytest.raises(ValueError, match='8 x 9'):
        fixed(X[:, :, :7])
    with pytest.raises(ValueError, match=r'op 1 \(convolution\)'):  # found when it is made
        program(inputs=dict(x=(6, 2, 9)))


def test_inputs_must_agree():
    both = program(
        [dict(op='map', input='x', values='y', steps=[('add_value', 'w')])],
        dict(x=(6, None, None), w=(6, None, None)),
    )
    assert np.array_equal(both(X, X), X + X)
    with pytest.raises(ValueError, match='batch'):
        both(X, X[:2])
    with pytest.raises(ValueError, match='adds or multiplies'):
        both(X, X[:, :, :4])
    with pytest.raises(TypeError, match='2 inputs'):
        both(X)


def ops_with(index, **changes):
    ops = [dict(op) for op in OPS]
    ops[index].update(changes)
    return [{key: value for key, value in op.items() if value is not None} for op in ops]


@pytest.mark.parametrize(
    'index, changes, error, message',
    [
        (0, dict(op='sign'), ValueError, 'no such op; known: pack'),
        (0, dict(input='w'), ValueError, "reads 'w'"),
        (0, dict(bits=None), ValueError, 'gives bits'),
        (0, dict(values='v'), ValueError, 'gives bits'),
        (0, dict(threshold=None), ValueError, 'need threshold'),
        (0, dict(threshold=np.nan), ValueError, 'NaN'),
        (0, dict(threshold=np.zeros(6)), TypeError, 'float32'),
        (0, dict(threshold=np.zeros(5, F)), ValueError, '5 numbers, expected'),
        (0, dict(decreasing=np.zeros(6)), TypeError, 'bool'),
        (0, dict(kernel=(1, 1)), ValueError, 'unknown keys kernel'),
        (0, dict(bits='x'), ValueError, 'given twice'),
        (1, dict(input='x'), ValueError, 'reads bits'),
        (1, dict(weights=WEIGHTS.astype(np.float64)), TypeError, 'weights'),
        (1, dict(weights=WEIGHTS[:0]), ValueError, 'weights'),
        (
            1,
            dict(weights=WEIGHTS[:, :5].copy()),
            ValueError,
            'reads 6 channels, its weights expect 5',
        ),
        (1, dict(strides=(0, 1)), ValueError, 'strides'),
        (1, dict(padding=(1, 1)), TypeError, 'padding'),
        (1, dict(groups=3), ValueError, 'groups|expect'),
        (1, dict(steps=[('exp',)]), ValueError, 'step 0'),
        (1, dict(steps=[('relu', 1.0)]), ValueError, '1 arguments, expected 0'),
        (1, dict(steps=[('multiply', np.ones(3, F))]), ValueError, '3 numbers, expected 1 or 20'),
        (1, dict(steps=[('multiply', True)]), TypeError, 'step 0'),
        (1, dict(steps=[('add_value', 'q')]), ValueError, "reads 'q'"),
        (1, dict(steps=[('add_value', 'b')]), ValueError, 'reads floats'),
        (1, dict(sum_threshold=np.zeros(20)), ValueError, 'integers'),
        (1, dict(sum_threshold=np.zeros(3, int)), ValueError, 'shape'),
        (2, dict(input='y'), ValueError, 'reads bits'),
        (2, dict(values=None), ValueError, 'gives values'),
    ],
)
def test_bad_ops(index, changes, error, message):
    with pytest.raises(error, match=r'op %d \(.*(%s)' % (index, message)):
        program(ops_with(index, **changes), inputs=dict(x=(6, 8, 9)))


@pytest.mark.parametrize(
    'options, error',
    [
        (dict(inputs={}), TypeError),
        (dict(inputs=dict(x=(6, 8))), ValueError),
        (dict(inputs=dict(x=(0, 8, 8))), ValueError),
        (dict(outputs=[]), ValueError),
        (dict(outputs=['q']), ValueError),
        (dict(outputs=['b']), ValueError),
        (dict(outputs=['x']), ValueError),
        (dict(ops=['pack']), TypeError),
        (dict(implementation='sse9'), ValueError),
    ],
)
def test_bad_arguments(options, error):
    with pytest.raises(error):
        program(**options)


def test_run_at_addresses():
    made = program(outputs=['y', 'z'], inputs=dict(x=(6, 8, 9)))
    results = [np.full((3, 20, 6, 7), 7, F) for _ in range(2)]
    addresses = [result.ctypes.data for result in results]
    made.run_at([X.ctypes.data], addresses, 3)
    assert np.array_equal(results[0], expected(X)) and np.array_equal(results[1], expected(X, 'z'))
    results[0][...] = 7
    made.run_at([X.ctypes.data], addresses, 1)
    assert np.array_equal(results[0][:1], expected(X)[:1]) and np.all(results[0][1:] == 7)
    made.run_at([0], [0, 0], 0)
    program().run_at([X.ctypes.data], addresses[:1], 3, sizes=[(8, 9)])
    for arguments in (
        ([X.ctypes.data], addresses[:1], 1),
        ([0], addresses, 1),
        ([X.ctypes.data], [0, 0], 1),
        ([X.ctypes.data], addresses, -1),
        ([X.ctypes.data], addresses, 1, [(8, 8)]),
    ):
        with pytest.raises(ValueError):
            made.run_at(*arguments)


def test_many_threads_call_one_program():
    made, failures = program(), []
    inputs = [RANDOM.randn(2, 6, size, 9).astype(F) for size in (5, 8, 5, 11)]

    def work(x):
        wanted = expected(x)
        for _ in range(30):
            if not np.array_equal(made(x), wanted):
                failures.append(x.shape)

    threads = [threading.Thread(target=work, args=(x,)) for x in inputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_after_a_fork():
    made = program()
    made(X)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(made(X), expected(X)) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_the_smallest_number_is_positive():
    tiny = np.full((1, 6, 3, 3), 1e-45, F)
    assert program()(tiny).tobytes() == expected(tiny).tobytes()
    assert np.array_equal(expected(tiny), expected(np.ones_like(tiny)))
