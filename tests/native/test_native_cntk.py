"""The bit convolution's integers equal CNTK's own float convolution of +-1 data, wherever
CNTK's CPU can compute it."""
import numpy as np
import pytest

from netopt_callbacks import native

C = pytest.importorskip('cntk')


def cntk_convolution(x, w, strides, padding):
    """CNTK's convolution of x `[batch, channels, height, width]`, padded by CNTK itself, per
    side."""
    image = C.input_variable(x.shape[1:])
    padded = C.pad(image, [(0, 0)] + list(padding)) if np.any(padding) else image
    return C.convolution(C.constant(w), padded, strides=strides, auto_padding=[False]).eval(
        {image: x}
    )


@pytest.mark.few(30)
@pytest.mark.parametrize('channels, filters', [(1, 1), (3, 5), (64, 64), (65, 33), (512, 16)])
@pytest.mark.parametrize('kernel', [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize('strides', [(1, 1), (2, 1)])
@pytest.mark.parametrize('padding', [((0, 0), (0, 0)), ((1, 1), (1, 1)), ((0, 2), (1, 0))])
def test_explicit_padding(channels, filters, kernel, strides, padding):
    random = np.random.RandomState(channels)
    x = np.where(random.rand(2, channels, 9, 8) > 0.5, 1, -1).astype(np.float32)
    w = np.where(random.rand(filters, channels, *kernel) > 0.5, 1, -1).astype(np.float32)
    expected = cntk_convolution(x, w, strides, padding)
    for name in native.implementations():
        got = native.BinaryConvolution(w, strides=strides, padding=padding, implementation=name)(x)
        assert np.array_equal(got, expected), name


@pytest.mark.parametrize('channels', [16, 63, 128])
def test_auto_padding(channels):
    random = np.random.RandomState(channels)
    x = np.where(random.rand(1, channels, 7, 7) > 0.5, 1, -1).astype(np.float32)
    w = np.where(random.rand(20, channels, 3, 3) > 0.5, 1, -1).astype(np.float32)
    image = C.input_variable(x.shape[1:])
    expected = C.convolution(C.constant(w), image, auto_padding=[False, True, True]).eval(
        {image: x}
    )
    for name in native.implementations():
        got = native.BinaryConvolution(w, padding=((1, 1), (1, 1)), implementation=name)(x)
        assert np.array_equal(got, expected), name


def test_threshold_equals_the_sign_of_cntk_s_difference():
    """`x - shift > 0` in CNTK's float32 and `x > shift` here: the same bit, infinities included."""
    values = np.array(
        [np.inf, -np.inf, 0, -0.0, 1e-30, 1.0000001e-30, 3e38, -3e38, 1, 1.0000001, -5], np.float32
    )
    x, shift = (np.ascontiguousarray(a.ravel()) for a in np.meshgrid(values, values))
    image = C.input_variable(x.shape)
    bits = C.greater(image - C.constant(shift), 0).eval({image: x[None]})[0]
    got = native.BinaryConvolution(
        np.eye(len(x), dtype=np.float32)[:, :, None, None], threshold=shift
    )
    ours = got(x[None, :, None, None])[0, :, 0, 0]
    signs = np.where(x > shift, 1, -1)
    assert np.array_equal(ours, np.array([-(signs.sum() - s) + s for s in signs]))
    assert np.array_equal(bits, signs > 0)
