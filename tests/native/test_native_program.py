"""nc.native.Program against a NumPy oracle, with ==, on every implementation."""
import re

import numpy as np
import pytest

import native_program_cases as cases
import native_program_oracle as oracle
from netopt_callbacks import native
from netopt_callbacks.native_program_state import OPS

F = np.float32
IMPLEMENTATIONS = native.implementations()


def observed(builder):
    """The ops with an unpack of every bit value, so that every value is an output; and the
    names of all of these."""
    ops = builder.ops + [
        dict(op='unpack', input=name, values='seen_' + name) for name in sorted(builder.bits)
    ]
    names = sorted(name for name in builder.shapes if name not in builder.inputs)
    return ops, names + ['seen_' + name for name in sorted(builder.bits)]


def check(builder, batch, share=0.05, implementations=IMPLEMENTATIONS):
    """Every value seen, and then one value alone: the others' memory is used again then."""
    inputs = {
        name: cases.special(builder.random, (batch,) + shape, share)
        for name, shape in builder.inputs.items()
    }
    ops, names = observed(builder)
    values = oracle.run(ops, inputs)
    last = (
        names[-1]
        if 'seen_' + str(builder.ops[-1].get('bits')) == names[-1]
        else builder.ops[-1].get('values') or names[-1]
    )
    shapes = {name: shape[:1] + (None, None) for name, shape in builder.inputs.items()}
    for name in implementations:
        got = native.Program(ops, shapes, names, implementation=name)(*inputs.values())
        for value, array in zip(names, got if len(names) > 1 else [got]):
            expected = values[value]
            assert oracle.same(array.reshape(expected.shape), expected), (name, value, builder.ops)
        alone = native.Program(ops, builder.inputs, [last], implementation=name)
        assert oracle.same(alone(*inputs.values()).reshape(values[last].shape), values[last]), (
            name,
            last,
            builder.ops,
        )


def test_every_op_has_a_row():
    assert set(cases.ROWS) == set(OPS) == set(oracle.OPS)


@pytest.mark.parametrize('name', sorted(cases.ROWS))
@pytest.mark.parametrize('batch', [0, 1, 2, 17])
def test_op(name, batch):
    for seed in range(12):
        random = np.random.RandomState(seed)
        check(cases.random_program(random, 1, first=name), batch)


@pytest.mark.parametrize('seed', range(60))
def test_random_program(seed):
    random = np.random.RandomState(1000 + seed)
    check(
        cases.random_program(random, int(random.randint(3, 12))), int(random.choice([1, 2, 3, 5]))
    )


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(20))
def test_many_random_programs(seed):
    for part in range(25):
        random = np.random.RandomState(100000 + 25 * seed + part)
        check(
            cases.random_program(random, int(random.randint(3, 20))),
            int(random.choice([1, 2, 7, 16, 64])),
        )


@pytest.mark.parametrize('channels', [1, 3, 31, 63, 64, 65, 513])
@pytest.mark.parametrize('size', [(1, 1), (7, 7), (56, 56)])
def test_sizes(channels, size):
    random = np.random.RandomState(channels + size[0])
    builder = cases.Builder(random, (channels,) + size)
    cases.pack(builder)
    weights = random.randn(33, channels, 3, 3).astype(F)
    threshold = random.randint(-20, 20, 33)
    builder.add(
        dict(
            op='convolution',
            input='b0',
            weights=weights,
            padding=((1, 1), (1, 1)),
            bits='b1',
            sum_threshold=threshold,
        ),
        (33,) + size,
    )
    builder.add(
        dict(
            op='convolution',
            input='b1',
            weights=random.randn(20, 33, 1, 1).astype(F),
            bits='b2',
            values='v2',
            steps=[
                ('normalize', 1.5, random.randn(20).astype(F), random.randn(20).astype(F)),
                ('relu',),
            ],
            threshold=0.5,
        ),
        (20,) + size,
    )
    check(builder, 1 if size[0] > 7 else 3)


@pytest.mark.parametrize('length', [3640, 3641, 10922, 10923, 33000])
def test_sums_beyond_int16(length):
    """Where thresholds no longer fit int16 sums, and where the sums themselves do not."""
    random = np.random.RandomState(length)
    weights = np.ones((length, 40), F)
    weights[random.rand(*weights.shape) < 0.1] = -1
    x = np.ones((3, length), F)
    x[1] = -1
    for threshold in (
        length,
        length - 1,
        -length,
        -length - 1,
        length // 2,
        -(2**31),
        2**31 - 1,
    ):
        op = dict(
            op='dense',
            input='b',
            weights=weights,
            sum_threshold=np.full(40, threshold),
            bits='c',
            sum_decreasing=np.arange(40) % 2 == 0,
        )
        ops = [
            dict(op='pack', input='x', bits='b', threshold=0.0),
            op,
            dict(op='unpack', input='c', values='y'),
        ]
        expected = oracle.run(ops, dict(x=x))['y'][:, :, 0, 0]
        for name in IMPLEMENTATIONS:
            assert np.array_equal(
                native.Program(ops, dict(x=(length,)), ['y'], implementation=name)(x), expected
            ), name


@pytest.fixture
def threads():
    """Returns what sets the number of threads, which share all work, however little."""
    before = native.num_threads(), native.least_shared_seconds()
    native.set_least_shared_seconds(0)
    yield native.set_num_threads
    native.set_num_threads(before[0])
    native.set_least_shared_seconds(before[1])


@pytest.mark.parametrize('count', [2, 3, 8])
def test_threads(threads, count):
    for seed in range(8):
        for batch in (1, 2, 7, 24):
            threads(count)
            check(
                cases.random_program(
                    np.random.RandomState(seed), 8, size=(24, 17) if seed < 2 else None
                ),
                batch,
                implementations=IMPLEMENTATIONS[:1],
            )


@pytest.mark.parametrize('batch', [1, 2, 9])
def test_calls_that_time_the_ops_and_calls_after_them(threads, batch):
    """An op that takes long is shared out from the fifth call on, one that does not is not."""
    threads(2)
    native.set_least_shared_seconds(100e-6)
    random = np.random.RandomState(5)
    ops = [
        dict(
            op='float_convolution',
            input='x',
            weights=random.standard_normal((64, 16, 3, 3)).astype(F),
            padding=((1, 1), (1, 1)),
            values='y',
        ),
        dict(op='max_pool', input='y', kernel=(2, 2), strides=(2, 2), values='z'),
    ]
    program = native.Program(ops, dict(x=(16, 40, 40)), ['z'])
    x = cases.special(random, (batch, 16, 40, 40), 0.01)
    first, *others = [program(x) for _ in range(8)]
    for other in others:
        assert oracle.same(other, first)
    threads(1)
    assert oracle.same(native.Program(ops, dict(x=(16, 40, 40)), ['z'])(x), first)


@pytest.mark.parametrize('seconds', [-1, float('nan')])
def test_a_least_time_that_is_none(seconds):
    with pytest.raises(ValueError, match='seconds must be at least 0, got'):
        native.set_least_shared_seconds(seconds)


def test_fused_multiply_add_of_the_oracle():
    """The oracle's own arithmetic, against exact fractions."""
    from fractions import Fraction

    random = np.random.RandomState(3)
    a, b, c = (
        cases.special(random, (4000,), 0) * F(10) ** random.randint(-20, 18, 4000).astype(F)
        for _ in range(3)
    )
    c[::3] = -(a * b)[::3]
    with np.errstate(all='ignore'):
        got = oracle.fused_multiply_add(a, b, c)
    for i in range(4000):
        if not np.isfinite([a[i], b[i], c[i]]).all():
            continue
        exact = Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(c[i]))
        if abs(exact) > Fraction(3.4e38):
            continue
        neighbours = [got[i], np.nextafter(got[i], F(np.inf)), np.nextafter(got[i], F(-np.inf))]
        distances = [abs(Fraction(float(n)) - exact) for n in neighbours if np.isfinite(n)]
        assert distances[0] == min(distances)


@pytest.mark.parametrize('size', [(8, 9), (3, 150), (70, 5)], ids=str)
@pytest.mark.parametrize(
    'channels, kernel, options',
    [
        (3, (7, 7), dict(strides=(2, 2), padding=((3, 2), (3, 2)))),
        (9, (2, 7), dict(padding=((0, 1), (2, 1)))),
        (10, (2, 7), dict(padding=((0, 1), (2, 1)))),
        (1, (1, 3), dict(padding=((0, 0), (5, 4)))),
        (4, (3, 2), dict(dilation=(2, 1), strides=(1, 3), padding=((2, 2), (1, 0)))),
        (4, (2, 3), dict(dilation=(1, 2))),
        (4, (3, 3), dict(groups=2, padding=((1, 1), (1, 1)))),
    ],
    ids=str,
)
def test_tiles_of_float_convolutions(channels, kernel, options, size):
    # Tiles inside the image and across its borders, parts of a row and several rows; five padded
    # columns hold taps that are all outside.
    random = np.random.RandomState(3)
    x = random.standard_normal((2, channels) + size).astype(F)
    weights = random.standard_normal((18, channels // options.get('groups', 1)) + kernel).astype(F)
    ops = [
        dict(
            op='float_convolution',
            input='x',
            values='y',
            weights=weights,
            steps=[('add', 0.5)],
            **options,
        )
    ]
    expected = oracle.run(ops, dict(x=x))['y']
    for name in IMPLEMENTATIONS:
        assert oracle.same(
            native.Program(ops, dict(x=x.shape[1:]), ['y'], implementation=name)(x), expected
        ), name


def padded_at_once(channels, kernel, **options):
    weights = np.ones((1, channels) + kernel, F)
    return dict(op='float_convolution', input='x', values='y', weights=weights, **options)


LARGE = 1 << 15


@pytest.mark.parametrize(
    'op',
    [
        padded_at_once(1, (2, 2), dilation=(LARGE, LARGE), padding=((LARGE, 0), (LARGE, 0))),
        padded_at_once(
            256,
            (2, 1),
            strides=(1, 1 << 30),
            dilation=(1 << 30, 1),
            padding=((1 << 29, 1 << 29), (1 << 29, 1 << 29)),
        ),
    ],
    ids=['copy', 'distance'],
)
def test_a_padding_larger_than_a_program_takes(op):
    with pytest.raises(ValueError, match='larger than a program takes'):
        native.Program([op], dict(x=(op['weights'].shape[1], 4, 4)), ['y'])


def test_a_copy_holds_no_rows_that_no_output_reads():
    op = padded_at_once(1, (1, 1), strides=(2048, 1), padding=((0, 1), (0, 0)))
    program = native.Program([op], dict(x=(1, 4, 1)), ['y'])
    x = np.arange(8, dtype=F).reshape(2, 1, 4, 1)
    assert np.array_equal(program(x), x[:, :, :1])


@pytest.mark.parametrize('columns', [1, 3, 16, 70])
@pytest.mark.parametrize('channels', [1, 5, 16, 70, 150])
@pytest.mark.parametrize('kind', ['max_pool', 'average_pool'])
def test_windows_of_pooling(kind, channels, columns):
    random = np.random.RandomState(4)
    x = cases.special(random, (2, channels, 5, columns), 0.1)
    width = min(3, columns)
    pool = dict(kernel=(2, width), strides=(1, 2), padding=((1, 0), (width - 1, 0)))
    ops = [dict(op=kind, input='x', values='y', **pool)]
    expected = oracle.run(ops, dict(x=x))['y']
    for name in IMPLEMENTATIONS:
        program = native.Program(ops, dict(x=x.shape[1:]), ['y'], implementation=name)
        assert oracle.same(program(x), expected), name


@pytest.mark.parametrize(
    'order, block, rounded',
    [
        ('taps', 1, False),
        ('taps', 4, False),
        ('taps', 5, True),
        ('taps', 0, True),
        ('channels', 0, False),
        ('channels', 11, False),
        ('channels', 11, True),
        ('rest_first', 0, True),
        ('rest_first', 11, True),
        ('rest_first', 9, False),
    ],
)
@pytest.mark.parametrize(
    'options',
    [
        dict(strides=(2, 1), padding=((1, 1), (2, 0))),
        dict(groups=2, padding=((1, 1), (1, 1))),
        dict(dilation=(2, 1)),
        dict(padding=((0, 0), (0, 0)), whole=True),
    ],
    ids=str,
)
def test_orders_of_float_sums(order, block, rounded, options):
    random = np.random.RandomState(3)
    options = dict(options)
    side = (3, 2) if options.pop('whole', False) else (8, 9)  # the kernel is the image
    x = random.standard_normal((3, 12) + side).astype(F)
    weights = random.standard_normal((70, 12 // options.get('groups', 1), 3, 2)).astype(F)
    op = dict(op='float_convolution', input='x', values='y', weights=weights, **options)
    ordered = dict(op, order=order, block=block, rounded=rounded)
    expected = oracle.run([ordered], dict(x=x))['y']
    assert not oracle.same(oracle.run([op], dict(x=x))['y'], expected)
    for name in IMPLEMENTATIONS:
        program = native.Program([ordered], dict(x=x.shape[1:]), ['y'], implementation=name)
        assert oracle.same(program(x), expected), name
        assert oracle.same(native.Program.from_state(program.state(), name)(x), expected), name


@pytest.mark.parametrize('height, width', [(1, 66), (2, 67), (1, 131), (13, 5), (3, 3), (9, 64)])
def test_last_pixels_have_one_sum(height, width):
    """Also where they begin inside a tile of 64 pixels, or lie in two; what follows the sum is that
    of their own pixels."""
    random = np.random.RandomState(height * width)
    x = random.standard_normal((2, 4, height, width)).astype(F)
    layer = dict(
        input='x',
        op='float_convolution',
        padding=((1, 1), (1, 1)),
        order='rest_first',
        block=7,
        rounded=True,
    )
    ops = [
        dict(layer, values='a', weights=random.standard_normal((20, 4, 3, 3)).astype(F)),
        dict(
            layer,
            weights=random.standard_normal((20, 4, 3, 3)).astype(F),
            steps=[('add_value', 'a')],
            values='y',
            bits='b',
            threshold=np.zeros(20, F),
        ),
        dict(op='unpack', input='b', values='signs'),
    ]
    expected = oracle.run(ops, dict(x=x))
    in_blocks = oracle.run([dict(op, order='channels') for op in ops[:1]], dict(x=x))['a']
    rest = height * width % 8
    assert not rest or (expected['a'] != in_blocks)[..., -1, -rest:].any()
    for name in IMPLEMENTATIONS:
        program = native.Program(ops, dict(x=x.shape[1:]), ['y', 'signs'], implementation=name)
        for found, wanted in zip(program(x), (expected['y'], expected['signs'])):
            assert oracle.same(found, wanted), name


@pytest.mark.parametrize(
    'keys, expected',
    [
        (dict(order='rows'), "order must be one of 'taps', 'channels', 'winograd', 'rest_first'"),
        (dict(order='rest_first', block=73), 'block must be from 0 to 72, received 73'),
        (dict(rounded=1), 'rounded must be True or False, received 1'),
        (dict(order='winograd', rounded=True), "order 'winograd' does not take rounded=True"),
        (dict(block=13), 'block must be from 0 to 12, received 13'),
        (dict(order='channels', block=-1), 'block must be from 0 to 72, received -1'),
        (dict(block=1.5), 'block must be an integer'),
    ],
    ids=str,
)
def test_orders_that_are_none(keys, expected):
    op = dict(
        op='float_convolution', input='x', values='y', weights=np.ones((2, 12, 3, 2), F), **keys
    )
    with pytest.raises((TypeError, ValueError), match=re.escape(expected)):
        native.Program([op], dict(x=(12, 8, 9)), ['y'])
