"""What a program should compute, one op at a time in NumPy; shares no code with the package.

Values are arrays [batch, channels, height, width]: float32, or bool for bits.
"""
import itertools
import math

import numpy as np

import native_oracle

F = np.float32


def run(ops, inputs):
    """Every value of a program, name to array, for inputs, name to float32 array of rank 2 or 4."""
    values = {name: x.reshape(x.shape + (1, 1)) if x.ndim == 2 else x for name, x in inputs.items()}
    with np.errstate(all='ignore'):
        for op in ops:
            got, bits = OPS[op['op']](op, values[op['input']], values)
            for name, array, dtype in (
                (op.get('values'), got, np.float32),
                (op.get('bits'), bits, np.bool_),
            ):
                if name is not None:
                    assert array.dtype == dtype, (op['op'], array.dtype)
                    values[name] = array
    return values


def same(a, b):
    """Equal in every bit, except that any NaN equals any other."""
    nan = np.isnan(a)
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and np.array_equal(nan, np.isnan(b))
        and np.array_equal(a.view(np.uint32)[~nan], b.view(np.uint32)[~nan])
    )


def along_channels(vector):
    return np.asarray(vector, F).reshape(1, -1, 1, 1)


def fused_multiply_add(a, b, c):
    """float32(a * b + c), rounded once: the product is exact in float64, and the sum is rounded to
    odd there, which leaves
    the rounding to float32 as if it had seen the exact sum (Boldo and Melquiond, 2008)."""
    product, c = a.astype(np.float64) * b, np.broadcast_to(c, a.shape).astype(np.float64)
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)
    even = total.view(np.int64) % 2 == 0
    odd = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where(np.isfinite(total) & (error != 0) & even, odd, total).astype(F)


def step(v, name, arguments, values):
    if name == 'multiply_value':
        return v * values[arguments[0]]
    if name == 'add_value':
        return v + values[arguments[0]]
    a, b, c = [along_channels(vector) for vector in arguments] + [None] * (3 - len(arguments))
    if name == 'multiply':
        return v * a
    if name == 'add':
        return v + a
    if name == 'normalize':
        return fused_multiply_add(v - a, b, c)
    if name == 'normalize_apart':
        return (v - a) * b + c
    if name == 'relu':
        return np.where(v < 0, F(0), v)
    if name == 'relu_halves':
        return v * F(0.5) + np.abs(v) * F(0.5)
    if name == 'relu_fused':
        return fused_multiply_add(v, F(0.5), np.abs(v) * F(0.5))
    if name == 'leaky':
        return np.where(v > 0, v, v * a)
    if name == 'clip':
        v = np.where(v < a, np.broadcast_to(a, v.shape), v)
        return np.where(v > b, np.broadcast_to(b, v.shape), v)
    raise KeyError(name)


def compared(op, v):
    if 'threshold' in op:
        threshold = along_channels(op['threshold'])
        decreasing = np.asarray(op.get('decreasing', False)).reshape(1, -1, 1, 1)
        return np.where(decreasing, v < threshold, v > threshold)
    inside = (along_channels(op['low']) <= v) & (v <= along_channels(op['high']))
    return inside ^ np.asarray(op.get('flip', False)).reshape(1, -1, 1, 1)


def ending(op, v, values):
    v = v.astype(F)
    for name, *arguments in op.get('steps', ()):
        v = step(v, name, arguments, values).astype(F)
    return v, compared(op, v) if op.get('bits') else None


def convolution(op, x, values):
    weights = op['weights']
    if op['op'] == 'dense':
        weights = weights.T.reshape((-1,) + tuple(op.get('image', (weights.shape[0], 1, 1))))
    options = {key: op[key] for key in ('strides', 'padding', 'dilation', 'groups') if key in op}
    dots = native_oracle.convolution(np.where(x, F(1), F(-1)), weights, **options)
    if 'sum_threshold' not in op:
        return ending(op, dots, values)
    threshold = op['sum_threshold'].reshape(1, -1, 1, 1)
    decreasing = np.asarray(op.get('sum_decreasing', False)).reshape(1, -1, 1, 1)
    return None, np.where(decreasing, dots < threshold, dots > threshold)


def float_convolution(op, x, values):
    """Sums in the order that the op asks for; every product is added with one rounding, or is
    rounded first."""
    weights = op['weights']
    if op['op'] == 'float_dense':
        weights = weights.T.reshape((-1,) + tuple(op.get('image', (weights.shape[0], 1, 1))))
    strides, dilation = op.get('strides', (1, 1)), op.get('dilation', (1, 1))
    padding, groups = op.get('padding', ((0, 0), (0, 0))), op.get('groups', 1)
    unpadded = x
    x = np.pad(x, ((0, 0), (0, 0)) + tuple(padding), mode='constant')
    filters, channels, kernel_h, kernel_w = weights.shape
    height = (x.shape[2] - (kernel_h - 1) * dilation[0] - 1) // strides[0] + 1
    width = (x.shape[3] - (kernel_w - 1) * dilation[1] - 1) // strides[1] + 1
    first = np.arange(filters) // (filters // groups) * channels
    if op.get('order') == 'winograd':
        plain = float_convolution(dict(op, order='taps', steps=(), bits=None), unpadded, values)[0]
        return ending(op, winograd(weights, unpadded, padding, strides, plain), values)

    def summed(blocks):
        y = None
        for terms in blocks:
            block = np.zeros((x.shape[0], filters, height, width), F)
            for c, ky, kx in terms:
                read = x[:, :, ky * dilation[0] :, kx * dilation[1] :]
                read = read[:, first + c, :: strides[0], :: strides[1]][:, :, :height, :width]
                weight = weights[:, c, ky, kx].reshape(1, -1, 1, 1)
                if op.get('rounded', False):
                    block = block + read * weight
                else:
                    block = fused_multiply_add(read, weight, block)
            y = block if y is None else y + block
        return y

    blocks = blocks_of_terms(op, channels, kernel_h, kernel_w)
    if op.get('order') != 'rest_first':
        return ending(op, summed(blocks), values)
    blocks = blocks[-1:] + blocks[:-1]
    is_last = np.arange(height * width).reshape(height, width) >= height * width // 8 * 8
    return ending(op, np.where(is_last, summed([sum(blocks, [])]), summed(blocks)), values)


def winograd(weights, x, padding, strides, plain):
    """The sums by tiles of 6 x 6 values; `plain`, which are by taps, for a tile and 16 filters of
    which one is not finite."""
    filters, channels, *kernel = weights.shape
    side = -(-kernel[0] // strides[0])
    outputs = 7 - side
    height, width = plain.shape[2:]
    down, across = -(-height // outputs), -(-width // outputs)
    places = [(tiles * outputs + side - 1) * s for tiles, s in zip((down, across), strides)]
    whole = np.zeros(x.shape[:2] + tuple(places), F)
    for y in range(places[0]):
        for column in range(places[1]):
            at = y - padding[0][0], column - padding[1][0]
            if 0 <= at[0] < x.shape[2] and 0 <= at[1] < x.shape[3]:
                whole[:, :, y, column] = x[(slice(None), slice(None)) + at]
    # A value of a tile: what one stride spans, as channels.
    whole = whole.reshape(x.shape[:2] + (places[0] // strides[0], strides[0], -1, strides[1]))
    whole = whole.transpose(0, 3, 5, 1, 2, 4).reshape((len(x), -1) + whole.shape[2:5:2])
    taps = np.zeros((filters, channels, side * strides[0], side * strides[1]))
    taps[:, :, : kernel[0], : kernel[1]] = weights
    taps = taps.reshape(filters, channels, side, strides[0], side, strides[1])
    taps = taps.transpose(0, 3, 5, 1, 2, 4).reshape(filters, -1, side, side)
    # At the points 0, 1, -1, 1/2, -2 and infinity.
    powers = np.arange(side)
    factors = [0.0**powers, 1.0**powers, -((-1.0) ** powers)]
    factors += [-16 * 0.5**powers, (-2.0) ** powers, np.arange(side) == side - 1]
    divisors = (1, 3, 3, 15, 15, 1)
    at_points = np.zeros((6, 6) + taps.shape[:2], F)
    for i, j in itertools.product(range(6), repeat=2):
        total = sum(
            factors[i][a] * factors[j][b] * taps[:, :, a, b]
            for a, b in itertools.product(range(side), repeat=2)
        )
        at_points[i, j] = total / (divisors[i] * divisors[j])
    y = np.array(plain)
    for ty, tx in itertools.product(range(down), range(across)):
        tile = whole[:, :, ty * outputs : ty * outputs + 6, tx * outputs : tx * outputs + 6]
        tile = into_points(into_points(tile.transpose(2, 3, 0, 1)).swapaxes(0, 1)).swapaxes(0, 1)
        products = np.zeros((6, 6, len(x), filters), F)
        for c in range(taps.shape[1]):
            products = fused_multiply_add(
                np.broadcast_to(tile[:, :, :, c, None], products.shape),
                at_points[:, :, None, :, c],
                products,
            )
        found = from_points(from_points(products, outputs).swapaxes(0, 1), outputs).swapaxes(0, 1)
        to = y[:, :, ty * outputs : (ty + 1) * outputs, tx * outputs : (tx + 1) * outputs]
        for sample, first in itertools.product(range(len(x)), range(0, filters, 16)):
            sums = found[:, :, sample, first : first + 16]
            if np.isfinite(sums).all():
                to[sample, first : first + 16] = sums[: to.shape[2], : to.shape[3]].transpose(
                    2, 0, 1
                )
    return y


def into_points(v):
    """Six values of a line, along the first axis, at the points of their polynomial."""

    def fused(a, b, c):
        return fused_multiply_add(np.full_like(b, a), b, c)

    even, odd = v[4] - v[2], v[3] - v[1]
    return np.array(
        [
            fused(1.5, odd, fused(-2, v[2], v[0] + v[4])),
            fused(2.5, v[3], fused(0.5, v[2], v[4] - v[1])),
            fused(-2.5, v[2], fused(0.5, v[3], v[4] + v[1])),
            fused(2, odd, even),
            fused(-0.5, odd, even),
            fused(1.5, even, fused(-2, v[3], v[1] + v[5])),
        ]
    )


def from_points(m, outputs):
    """The outputs of a line from the six products, along the first axis."""
    total, difference = m[1] + m[2], m[1] - m[2]
    y = []
    for i in range(outputs):
        first = m[0] + total if i == 0 else difference if i % 2 else total
        first = fused_multiply_add(np.full_like(first, 0.5**i), m[3], first)
        y.append(fused_multiply_add(np.full_like(first, (-2.0) ** i), m[4], first))
    y[-1] = y[-1] + m[5]
    return np.array(y)


def blocks_of_terms(op, channels, kernel_h, kernel_w):
    """Returns a list of sums, each a list of (channel, row, column), as `order` and `block` say."""
    taps = list(itertools.product(range(kernel_h), range(kernel_w)))
    size = op.get('block', 0)
    if op.get('order', 'taps') in ('channels', 'rest_first'):
        terms = [(c,) + tap for c in range(channels) for tap in taps]
        return [
            terms[at : at + (size or len(terms))] for at in range(0, len(terms), size or len(terms))
        ]
    size = size or channels
    return [
        [(c,) + tap for tap in taps for c in range(at, min(at + size, channels))]
        for at in range(0, channels, size)
    ]


def windows(op, x):
    """Of every output pixel, the values of its window: yields (y, x, array [batch, channels,
    values in row order])."""
    kernel = [size or length for size, length in zip(op['kernel'], x.shape[2:])]
    strides, padding = op.get('strides', (1, 1)), op.get('padding', ((0, 0), (0, 0)))
    sizes = [
        (x.shape[2 + axis] + sum(padding[axis]) - kernel[axis]) // strides[axis] + 1
        for axis in (0, 1)
    ]
    for oy in range(sizes[0]):
        for ox in range(sizes[1]):
            places = [
                (iy, ix)
                for iy in range(
                    oy * strides[0] - padding[0][0], oy * strides[0] - padding[0][0] + kernel[0]
                )
                for ix in range(
                    ox * strides[1] - padding[1][0], ox * strides[1] - padding[1][0] + kernel[1]
                )
                if 0 <= iy < x.shape[2] and 0 <= ix < x.shape[3]
            ]
            yield sizes, oy, ox, np.stack([x[:, :, iy, ix] for iy, ix in places], axis=2)


def pooled(op, x, dtype, reduce):
    result = None
    for sizes, oy, ox, window in windows(op, x):
        if result is None:
            result = np.zeros(x.shape[:2] + tuple(sizes), dtype)
        result[:, :, oy, ox] = reduce(window)
    return result


def maximum(window):
    best = np.full(window.shape[:2], -np.inf, F)
    for i in range(window.shape[2]):
        best = np.where(window[:, :, i] > best, window[:, :, i], best)
    return best


def average(window):
    total = np.zeros(window.shape[:2], F)
    for i in range(window.shape[2]):
        total = total + window[:, :, i]
    return total / F(window.shape[2])


def mean_abs(op, x, values):
    means = [
        F(math.fsum(map(float, np.abs(sample).ravel()))) * F(1.0 / sample.size) for sample in x
    ]
    return np.array(means, F).reshape(-1, 1, 1, 1), None


def reshape(op, x, values):
    shape = (
        np.zeros(x.shape[1:], np.bool_).reshape(op['shape']).shape
    )  # -1 of an empty batch would be ambiguous
    return x.reshape(x.shape[:1] + (shape + (1, 1) if len(shape) == 1 else shape)), None


OPS = {
    'pack': lambda op, x, values: (None, compared(op, x)),
    'map': ending,
    'convolution': convolution,
    'dense': convolution,
    'float_convolution': float_convolution,
    'float_dense': float_convolution,
    'or_pool': lambda op, x, values: (
        None,
        pooled(op, x, np.bool_, lambda window: window.any(axis=2)),
    ),
    'max_pool': lambda op, x, values: (pooled(op, x, F, maximum), None),
    'average_pool': lambda op, x, values: (pooled(op, x, F, average), None),
    'mean_abs': mean_abs,
    'reshape': reshape,
    'splice': lambda op, x, values: (
        np.concatenate([x] + [values[name] for name in op['others']], axis=1),
        None,
    ),
    'unpack': lambda op, x, values: (np.where(x, F(1), F(-1)), None),
}
