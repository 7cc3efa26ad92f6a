"""What the bit convolution should compute, in NumPy integers; shares no code with the package."""
import numpy as np


def signs(values, threshold=0):
    """+1 where values > threshold, -1 elsewhere (NaN included), as int64."""
    with np.errstate(invalid='ignore'):
        return np.where(values > threshold, 1, -1).astype(np.int64)


def convolution(
    x, w, strides=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1, threshold=None
):
    """Integer convolution of the signs, int64 `[batch, filters, height', width']`; padded taps
    contribute 0."""
    threshold = 0 if threshold is None else threshold[None, :, None, None]
    x = np.pad(signs(x, threshold), ((0, 0), (0, 0)) + tuple(padding), mode='constant')
    w = signs(w)
    filters, channels, kernel_h, kernel_w = w.shape
    height = (x.shape[2] - (kernel_h - 1) * dilation[0] - 1) // strides[0] + 1
    width = (x.shape[3] - (kernel_w - 1) * dilation[1] - 1) // strides[1] + 1
    y = np.zeros((x.shape[0], filters, height, width), np.int64)
    for f in range(filters):
        first = f // (filters // groups) * channels
        for ky in range(kernel_h):
            for kx in range(kernel_w):
                rows = slice(
                    ky * dilation[0], ky * dilation[0] + (height - 1) * strides[0] + 1, strides[0]
                )
                columns = slice(
                    kx * dilation[1], kx * dilation[1] + (width - 1) * strides[1] + 1, strides[1]
                )
                taps = x[:, first : first + channels, rows, columns]
                y[:, f] += np.einsum('nchw,c->nhw', taps, w[f, :, ky, kx])
    return y


def epilogue(integers, scale=None, bias=None):
    """float32(integers) * scale, rounded, + bias, rounded."""
    y = integers.astype(np.float32)
    if scale is not None:
        y = y * scale[None, :, None, None]
    if bias is not None:
        y = y + bias[None, :, None, None]
    assert y.dtype == np.float32
    return y
