"""The bit convolution against the NumPy oracle, with ==, on every implementation this machine
can run."""
import pickle

import numpy as np
import pytest

import native_oracle
from netopt_callbacks import native

IMPLEMENTATIONS = native.implementations()


@pytest.fixture(scope='session')
def exercised(request):
    """Collects the implementations that tests have run on; the end of the run lists them."""
    names = set()
    yield names
    missing = [name for name in native.all_implementations() if name not in names]
    plugins = request.config.pluginmanager
    reporter, capture = plugins.get_plugin('terminalreporter'), plugins.get_plugin('capturemanager')
    with capture.global_and_fixture_disabled():
        reporter.write_line(
            '\nnative implementations exercised on {}: {}; not exercised: {}'.format(
                native.cpu_name(), ', '.join(sorted(names)) or 'none', ', '.join(missing) or 'none'
            )
        )


@pytest.fixture(params=native.all_implementations())
def implementation(request, exercised):
    if request.param not in IMPLEMENTATIONS:
        pytest.skip(f'this machine cannot run {request.param}')
    exercised.add(request.param)
    return request.param


def random_case(seed, shape, weight_shape):
    random = np.random.RandomState(seed)
    return random.randn(*shape).astype(np.float32), random.randn(*weight_shape).astype(np.float32)


# Wide enough for sixteen pixels in a row that meet no border, or one border alone.
@pytest.mark.parametrize('filters, groups', [(3, 1), (16, 1), (80, 1), (40, 40)])
@pytest.mark.parametrize(
    'kernel, padding',
    [((3, 3), ((1, 1), (1, 1))), ((5, 3), ((4, 0), (0, 2))), ((1, 1), ((0, 0), (0, 0)))],
)
def test_wide_images(implementation, filters, groups, kernel, padding):
    x, w = random_case(5, (2, 40, 6, 53), (filters, 40 // groups) + kernel)
    options = dict(padding=padding, groups=groups)
    y = native.BinaryConvolution(w, implementation=implementation, **options)(x)
    assert np.array_equal(y, native_oracle.convolution(x, w, **options))


@pytest.mark.parametrize('channels', [1, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 511, 512, 513])
@pytest.mark.parametrize('filters', [1, 31, 33, 64, 65, 130])
def test_channels_and_filters(implementation, channels, filters):
    x, w = random_case(channels, (1, channels, 5, 4), (filters, channels, 3, 3))
    padding = ((1, 1), (1, 1))
    y = native.BinaryConvolution(w, padding=padding, implementation=implementation)(x)
    assert y.dtype == np.float32
    assert np.array_equal(y, native_oracle.convolution(x, w, padding=padding))


@pytest.mark.parametrize('kernel', [(1, 1), (2, 2), (3, 3), (1, 7), (5, 2), (11, 11)])
@pytest.mark.parametrize('strides', [(1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize(
    'padding', [((0, 0), (0, 0)), ((1, 1), (1, 1)), ((0, 3), (2, 1)), ((5, 5), (5, 5))]
)
@pytest.mark.parametrize('dilation', [(1, 1), (2, 3)])
def test_geometry(implementation, kernel, strides, padding, dilation):
    size = [max(9, (k - 1) * d + 1) for k, d in zip(kernel, dilation)]
    x, w = random_case(7, (2, 19) + tuple(size), (9, 19) + kernel)
    options = dict(strides=strides, padding=padding, dilation=dilation)
    y = native.BinaryConvolution(w, implementation=implementation, **options)(x)
    assert np.array_equal(y, native_oracle.convolution(x, w, **options))


@pytest.mark.parametrize('height', range(1, 12))
def test_filter_sizes(implementation, height):
    x, w = random_case(height, (1, 21, 12, 12), (34, 21, height, 12 - height))
    y = native.BinaryConvolution(w, padding=((0, 2), (1, 0)), implementation=implementation)(x)
    assert np.array_equal(y, native_oracle.convolution(x, w, padding=((0, 2), (1, 0))))


@pytest.mark.parametrize(
    'groups, channels, filters', [(2, 32, 40), (3, 5, 7), (8, 1, 1), (4, 64, 16)]
)
def test_groups(implementation, groups, channels, filters):
    x, w = random_case(3, (2, groups * channels, 6, 6), (groups * filters, channels, 3, 3))
    y = native.BinaryConvolution(
        w, groups=groups, padding=((1, 1), (1, 1)), implementation=implementation
    )(x)
    assert np.array_equal(
        y, native_oracle.convolution(x, w, groups=groups, padding=((1, 1), (1, 1)))
    )


@pytest.mark.parametrize('batch', [0, 1, 2, 3, 8, 97])
@pytest.mark.parametrize('size', [(1, 1), (7, 7), (3, 17)])
def test_batches_share_tiles(implementation, batch, size):
    x, w = random_case(batch, (batch, 20) + size, (34, 20, 3, 3))
    y = native.BinaryConvolution(w, padding=((1, 1), (1, 1)), implementation=implementation)(x)
    assert y.shape == (batch, 34) + size
    assert np.array_equal(y, native_oracle.convolution(x, w, padding=((1, 1), (1, 1))))


@pytest.mark.parametrize('value', [-1, 1])
@pytest.mark.parametrize(
    'channels, kernel',
    [
        (512, (3, 3)),
        (3640, (3, 3)),
        (3641, (3, 3)),
        (32767, (1, 1)),
        (32768, (1, 1)),
        (70000, (1, 1)),
    ],
)
def test_extreme_sums_do_not_wrap(implementation, value, channels, kernel):
    x = np.ones((1, channels, 3, 3), np.float32)
    w = np.full((33, channels) + kernel, value, np.float32)
    y = native.BinaryConvolution(w, padding=((1, 1), (1, 1)), implementation=implementation)(x)
    assert np.array_equal(y, native_oracle.convolution(x, w, padding=((1, 1), (1, 1))))


# Sixteen pixels and few filters: where pixels lie in lanes, their counts are 16 bits wide up to
# 2047 words.
@pytest.mark.parametrize('value', [-1, 1])
@pytest.mark.parametrize('channels', [32 * 2046, 32 * 2046 + 1, 32 * 2048, 32 * 4096])
def test_extreme_sums_of_few_filters_do_not_wrap(implementation, value, channels):
    x = np.ones((1, channels, 4, 4), np.float32)
    w = np.full((3, channels, 1, 1), value, np.float32)
    y = native.BinaryConvolution(w, implementation=implementation)(x)
    assert np.array_equal(y, np.full((1, 3, 4, 4), value * channels))


@pytest.mark.parametrize('scaled', [False, True])
@pytest.mark.parametrize('biased', [False, True])
def test_epilogue_rounds_twice(implementation, scaled, biased):
    x, w = random_case(11, (2, 64, 9, 9), (70, 64, 3, 3))
    random = np.random.RandomState(12)
    scale = random.randn(70).astype(np.float32) if scaled else None
    bias = random.randn(70).astype(np.float32) * 100 if biased else None
    y = native.BinaryConvolution(w, scale=scale, bias=bias, implementation=implementation)(x)
    integers = native_oracle.convolution(x, w)
    assert y.tobytes() == native_oracle.epilogue(integers, scale, bias).tobytes()
    if scaled and biased:
        columns = (None, slice(None), None, None)
        fused = (integers * scale.astype(np.float64)[columns] + bias[columns]).astype(np.float32)
        assert not np.array_equal(
            y, fused
        )  # the case can tell a fused multiply-add from two roundings


def test_special_values(implementation):
    tiny = np.float32(1e-45)
    values = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, tiny, -tiny, 1, -1], np.float32)
    expected = np.array([-1, -1, 1, -1, -1, -1, 1, -1, 1, -1])
    x = np.tile(values, 5)[None, None, None, :]
    y = native.BinaryConvolution(np.ones((1, 1, 1, 1), np.float32), implementation=implementation)(
        x
    )
    assert np.array_equal(y[0, 0, 0], np.tile(expected, 5))
    weights = native.BinaryConvolution(values[:, None, None, None], implementation=implementation)
    assert np.array_equal(weights(np.ones((1, 1, 1, 1), np.float32))[0, :, 0, 0], expected)


def test_threshold_is_the_sign_of_the_difference(implementation):
    special = np.array(
        [
            np.inf,
            -np.inf,
            np.nan,
            0.0,
            -0.0,
            1e-45,
            -1e-45,
            1.2e-38,
            1.1e-38,
            3e38,
            -3e38,
            1,
            1.0000001,
        ],
        np.float32,
    )
    x, threshold = np.broadcast_arrays(special[None, :, None, None], special[:, None, None, None])
    x = np.ascontiguousarray(np.concatenate([x] * 3, axis=3).transpose(2, 0, 1, 3))
    w = np.eye(len(special), dtype=np.float32)[:, :, None, None]
    got = native.BinaryConvolution(w, threshold=special, implementation=implementation)(x)
    assert np.array_equal(got, native_oracle.convolution(x, w, threshold=special))
    with np.errstate(invalid='ignore', over='ignore'):
        difference = np.where(x - special[None, :, None, None] > 0, 1, -1)
    assert np.array_equal(native_oracle.signs(x, special[None, :, None, None]), difference)


def test_layouts_of_the_input(implementation):
    x, w = random_case(5, (3, 17, 8, 9), (20, 17, 3, 3))
    convolution = native.BinaryConvolution(w, implementation=implementation)
    expected = native_oracle.convolution(x, w)
    for view in (
        np.asfortranarray(x),
        x[:, :, ::-1].copy()[:, :, ::-1],
        np.repeat(x, 2, axis=3)[:, :, :, ::2],
        np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    ):
        assert not view.flags.c_contiguous
        before = view.copy()
        assert np.array_equal(convolution(view), expected)
        assert np.array_equal(view, before)


def test_out(implementation):
    x, w = random_case(6, (2, 16, 6, 6), (16, 16, 1, 1))
    convolution = native.BinaryConvolution(w, implementation=implementation)
    expected = native_oracle.convolution(x, w)
    guarded = np.full(expected.size + 2, 7, np.float32)
    out = guarded[1:-1].reshape(expected.shape)
    assert convolution(x, out=out) is out
    assert np.array_equal(out, expected) and guarded[0] == guarded[-1] == 7
    assert np.array_equal(convolution(x, out=x), expected)


@pytest.mark.parametrize('shape', [(3, 70, 5, 7), (1, 1, 1, 1), (0, 4, 2, 2), (5,), ()])
def test_empty_begins_a_cache_line(shape):
    arrays = [native.empty(shape) for _ in range(9)]
    for number, array in enumerate(arrays):
        assert array.shape == shape and array.dtype == np.float32 and array.flags.c_contiguous
        assert array.size == 0 or array.ctypes.data % 64 == 0
        array[...] = number
    assert all((array == number).all() for number, array in enumerate(arrays))


def test_results_begin_a_cache_line(implementation):
    for batch in range(1, 5):
        x, w = random_case(6, (batch, 3, 5, 5), (7, 3, 1, 1))
        assert native.BinaryConvolution(w, implementation=implementation)(x).ctypes.data % 64 == 0


def test_a_flipped_bit_changes_the_output(implementation):
    x, w = random_case(8, (1, 70, 5, 5), (3, 70, 3, 3))
    convolution = native.BinaryConvolution(w, implementation=implementation)
    state = convolution.state()
    state['words'][1, 2, 0, 1] ^= np.uint64(1) << np.uint64(3)
    w[1, 64 + 3, 2, 0] *= -1
    flipped = native.BinaryConvolution.from_state(state, implementation)(x)
    assert np.array_equal(flipped, native_oracle.convolution(x, w))
    assert not np.array_equal(flipped[:, 1], convolution(x)[:, 1])
    assert np.array_equal(flipped[:, [0, 2]], convolution(x)[:, [0, 2]])


def test_state_and_pickle(implementation):
    x, w = random_case(9, (2, 10, 7, 7), (6, 5, 3, 2))
    random = np.random.RandomState(1)
    options = dict(
        strides=(2, 1),
        padding=((1, 0), (2, 1)),
        dilation=(1, 2),
        groups=2,
        scale=random.randn(6).astype(np.float32),
        bias=random.randn(6).astype(np.float32),
        threshold=random.randn(10).astype(np.float32),
    )
    convolution = native.BinaryConvolution(w, implementation=implementation, **options)
    state = convolution.state()
    assert state['words'].dtype == np.uint64 and state['words'].shape == (6, 3, 2, 1)
    assert not any(
        isinstance(value, np.ndarray) and value.size == w.size for value in state.values()
    )
    for copy in (
        native.BinaryConvolution.from_state(state),
        pickle.loads(pickle.dumps(convolution)),
    ):
        assert copy(x).tobytes() == convolution(x).tobytes()


@pytest.mark.parametrize('channels', [1, 63, 64, 65, 511, 512, 513])
@pytest.mark.parametrize('batch, filters', [(1, 130), (9, 13), (65, 64)])
def test_dense(implementation, channels, batch, filters):
    random = np.random.RandomState(2)
    x, w = random.randn(batch, channels).astype(np.float32), random.randn(channels, filters).astype(
        np.float32
    )
    scale, bias = random.randn(filters).astype(np.float32), random.randn(filters).astype(np.float32)
    threshold = random.randn(channels).astype(np.float32)
    dense = native.BinaryDense(
        w, scale=scale, bias=bias, threshold=threshold, implementation=implementation
    )
    integers = native_oracle.signs(x, threshold).dot(native_oracle.signs(w))
    expected = integers.astype(np.float32) * scale + bias
    for made in (dense, pickle.loads(pickle.dumps(dense))):
        assert made(x).tobytes() == made(np.asfortranarray(x)).tobytes() == expected.tobytes()
        assert made(x[:0]).shape == (0, filters)
        out = np.empty((batch, filters), np.float32)
        assert made(x, out=out) is out and out.tobytes() == expected.tobytes()


def test_dense_with_special_thresholds(implementation):
    values = np.array(
        [np.nan, np.inf, -np.inf, 0, -0.0, 1e-45, -1e-45, 1, -1, 3.4028235e38, -3.4028235e38],
        np.float32,
    )
    x, threshold = (values[index].ravel() for index in np.indices((values.size, values.size)))
    weights = np.eye(x.size, dtype=np.float32) * 2 - 1  # +1 on the diagonal, -1 elsewhere
    dense = native.BinaryDense(weights, threshold=threshold, implementation=implementation)
    signs = native_oracle.signs(x, threshold)
    assert np.array_equal(dense(x[None])[0], (2 * signs - signs.sum()).astype(np.float32))
