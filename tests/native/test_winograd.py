"""Float convolutions by tiles of Winograd: the same bits on every implementation, with any number
of threads, and close to exact sums."""
import itertools

import numpy as np
import pytest

import native_program_oracle as oracle
from netopt_callbacks import native

F = np.float32
# channels, kernel, options, height and width: tiles of 4, 3 and 2 outputs a line, in strides too.
GEOMETRIES = [
    (3, (3, 3), dict(padding=((1, 1), (1, 1))), (9, 14)),
    (20, (3, 3), dict(), (6, 7)),
    (3, (7, 7), dict(strides=(2, 2), padding=((3, 3), (3, 3))), (24, 17)),
    (5, (7, 8), dict(strides=(2, 2), padding=((0, 2), (3, 1))), (13, 19)),
    (2, (5, 5), dict(padding=((2, 2), (2, 2))), (7, 9)),
    (17, (5, 9), dict(strides=(1, 2), padding=((1, 4), (0, 3))), (8, 12)),
    (3, (11, 11), dict(strides=(4, 4), padding=((2, 2), (2, 2))), (30, 23)),
    (1, (3, 3), dict(padding=((0, 2), (2, 0))), (1, 1)),
    (1, (3, 3), dict(), (3, 300)),  # more tiles than an item has
    (2, (3, 3), dict(padding=((2, 2), (9, 9))), (40, 5)),
]
FILTERS = (1, 16, 33, 70)


def layer(weights, **options):
    return dict(
        dict(op='float_convolution', input='x', values='y', weights=weights, order='winograd'),
        **options,
    )


def program_of(op, shape, implementation=None):
    return native.Program([op], dict(x=shape), ['y'], implementation=implementation)


def expected(op, x):
    return oracle.run([op], dict(x=x))['y']


@pytest.mark.parametrize('channels, kernel, options, size', GEOMETRIES, ids=str)
def test_every_bit_is_the_oracles(channels, kernel, options, size):
    random = np.random.RandomState(len(options) + channels)
    for filters, samples in zip(FILTERS, (3, 1, 2, 1)):
        weights = random.standard_normal((filters, channels) + kernel).astype(F)
        steps = [('add', random.standard_normal(filters).astype(F)), ('relu',)]
        op = layer(weights, steps=steps, **options)
        x = random.standard_normal((samples, channels) + size).astype(F)
        wanted = expected(op, x)
        for implementation, threads in itertools.product(native.implementations(), (1, 2, 5)):
            program = program_of(op, (channels,) + size, implementation)
            before = native.num_threads()
            native.set_num_threads(threads)
            try:
                found = program(x)
            finally:
                native.set_num_threads(before)
            assert oracle.same(found, wanted), (implementation, threads)
            again = native.Program.from_state(program.state(), implementation)
            assert oracle.same(again(x), wanted)


@pytest.mark.parametrize('implementation', native.implementations())
def test_what_is_not_finite_spoils_only_what_reads_it(implementation):
    """Tiles make numbers that are not finite of all their outputs; those that read none are summed
    by taps."""
    random = np.random.RandomState(0)
    weights = random.standard_normal((40, 3, 3, 3)).astype(F)
    weights[20:, :, 1] = 0
    weights[5] = 1e38  # times 10 it overflows at some places of a tile, not in each sum
    x = random.standard_normal((4, 3, 12, 13)).astype(F)
    x[0, 1, 5, 6], x[1, 2, 0, 0], x[2, 0, 11, 12] = np.inf, np.nan, -np.inf
    x[3] = random.standard_normal(x[3].shape) * 1e-39  # subnormal
    op = layer(weights, padding=((1, 1), (1, 1)))
    found = program_of(op, x.shape[1:], implementation)(x)
    assert oracle.same(found, expected(op, x))
    by_taps = program_of(dict(op, order='taps'), x.shape[1:], implementation)(x)
    assert np.array_equal(np.isfinite(found), np.isfinite(by_taps))
    odd = ~np.isfinite(by_taps)
    assert odd[:3].any() and not odd.all() and oracle.same(found[odd], by_taps[odd])


@pytest.mark.parametrize(
    'channels, kernel, stride',
    [(64, 3, 1), (256, 3, 1), (3, 7, 2), (8, 5, 1), (1, 3, 1), (1, 5, 1), (3, 3, 1)],
)
@pytest.mark.parametrize('values', ['normal', 'positive', 'far from 0', 'outlier', 'zeros'])
def test_sums_are_close_to_exact_ones(channels, kernel, stride, values):
    """Within a share of what a filter's magnitudes give of its tile's largest value everywhere."""
    random = np.random.RandomState(channels)
    weights = random.standard_normal((32, channels, kernel, kernel)).astype(F)
    x = random.standard_normal((4, channels, 24, 24)).astype(F)
    if values == 'outlier':
        x[:, :, 12, 12] = 1e4
    elif values == 'zeros':
        x[:, :, :, 4:] = 0
    elif values != 'normal':
        x = x + 100 if values == 'far from 0' else np.abs(x)
    found = program_of(layer(weights, strides=(stride, stride)), x.shape[1:])(x)
    outputs = 7 - -(-kernel // stride)
    tiles = [at // outputs * outputs * stride for at in range(found.shape[2])]
    largest = [
        [np.abs(x[:, :, y : y + 6 * stride, c : c + 6 * stride]).max(axis=(1, 2, 3)) for c in tiles]
        for y in tiles
    ]
    terms = (
        np.array(largest).transpose(2, 0, 1)[:, None]
        * np.abs(weights).sum(axis=(1, 2, 3))[:, None, None]
    )
    wrong = np.abs(found - exact(weights, x, stride))
    assert 0 < wrong.max() and (wrong <= 1e-6 * terms).all(), (wrong / terms).max()


def exact(weights, x, stride):
    size = (x.shape[2] - weights.shape[2]) // stride + 1
    total = 0
    for ky, kx in itertools.product(range(weights.shape[2]), repeat=2):
        read = x[:, :, ky::stride, kx::stride][:, :, :size, :size].astype(np.float64)
        total = total + np.einsum('nchw,fc->nfhw', read, weights[:, :, ky, kx].astype(np.float64))
    return total


def test_what_tiles_do_not_do_is_refused():
    for shape, options in (
        ((4, 3, 2, 2), {}),
        ((4, 3, 6, 6), {}),
        ((4, 3, 3, 5), {}),
        ((4, 3, 3, 3), dict(strides=(2, 2))),
        ((4, 3, 3, 3), dict(strides=(2**31 - 1, 2**31 - 1))),
        ((4, 3, 3, 3), dict(dilation=(1, 2))),
        ((4, 1, 3, 3), dict(groups=2)),
    ):
        channels = shape[1] * options.get('groups', 1)
        with pytest.raises(ValueError, match="order 'winograd' takes one group, no dilation, and"):
            program_of(layer(np.ones(shape, F), **options), (channels, 9, 9))
    with pytest.raises(ValueError, match='block must be from 0 to 0, received 1'):
        program_of(layer(np.ones((4, 3, 3, 3), F), block=1), (3, 9, 9))
