"""Small networks with convolutions, and a NumPy oracle of a binary layer, for the tests."""
import cntk as C
import numpy as np

from netopt_callbacks.optimizations.binarize_convolution import binarize_convolution


def convolutions(
    names=('first', 'second', 'third'), shape=(2, 9, 9), filters=4, classes=3, **options
):
    """Returns (input, network): 3x3 convolutions with ReLU, then a Dense 'classify'."""
    features = C.input_variable(shape, name='features')
    layers = [
        C.layers.Convolution2D(
            (3, 3), filters, pad=True, activation=C.relu, init_bias=0.1, name=name, **options
        )
        for name in names
    ]
    layers.append(C.layers.Dense(classes, name='classify'))
    return features, C.layers.Sequential(layers)(features)


def binarized(model, **options):
    return binarize_convolution(model, lambda layer: layer.name != 'first', **options).model


def same_bits(one, other):
    return np.array_equal(np.asarray(one).view(np.uint32), np.asarray(other).view(np.uint32))


def images(shape, samples=7, seed=0):
    """Returns float32 [samples, ...shape] of both signs, with zeros among them."""
    values = np.random.RandomState(seed).randn(samples, *shape).astype(np.float32)
    values[np.abs(values) < 0.1] = 0
    return values


def parameter_values(model):
    return {parameter.uid: parameter.value.copy() for parameter in model.parameters}


def blocks(model, op_name):
    """Returns the blocks of an op name on the model's own level, as netopt's tests look for
    them."""
    return C.logging.graph.depth_first_search(
        model,
        lambda node: type(node) == C.Function and node.is_block and node.op_name == op_name,
        depth=0,
    )


def signs(values):
    return np.where(values > 0, 1, -1)


def padded_same(values, side):
    """Returns images with (side - 1) // 2 zeros before and side // 2 after, for stride 1."""
    around = ((side - 1) // 2, side // 2)
    return np.pad(values, ((0, 0), (0, 0), around, around), mode='constant')


def binary_layer(x, W, b=0, weight_scale='channel', input_scale='sample', shift=None, relu=True):
    """Returns what a padded binary layer with stride 1 computes, in float64."""
    u = np.asarray(x, np.float64)
    if shift is not None:
        u = (x - shift).astype(np.float64)
    taps = padded_same(signs(u), W.shape[2])
    height, width = x.shape[2:]
    y = np.zeros((len(x), len(W), height, width))
    for row in range(W.shape[2]):
        for column in range(W.shape[3]):
            window = taps[:, :, row : row + height, column : column + width]
            y += np.tensordot(window, signs(W)[:, :, row, column], axes=([1], [1])).transpose(
                0, 3, 1, 2
            )
    if weight_scale == 'channel':
        y *= np.abs(W).mean(axis=(1, 2, 3), dtype=np.float64)[:, None, None]
    elif weight_scale == 'layer':
        y *= np.abs(W).mean(dtype=np.float64)
    if input_scale == 'sample':
        y *= np.abs(u).mean(axis=(1, 2, 3))[:, None, None, None]
    y += b
    return np.maximum(y, 0) if relu else y


def dense_layers(names=('first', 'second', 'last'), shape=(12,), width=8, classes=3, **options):
    """Returns (input, network): Dense layers with ReLU, the last without."""
    features = C.input_variable(shape, name='features')
    layers = [
        C.layers.Dense(width, activation=C.relu, init_bias=0.1, name=name, **options)
        for name in names[:-1]
    ]
    layers.append(C.layers.Dense(classes, name=names[-1]))
    return features, C.layers.Sequential(layers)(features)


def binary_product(u, W):
    """Returns the integers of a binary Dense, sign(u) sign(W), for u [samples, mapped...,
    inputs...], int64.

    Args:
        W (array): [inputs..., outputs...]; u ends in its input axes.
    """
    inputs = next(rank for rank in range(1, W.ndim) if u.shape[u.ndim - rank :] == W.shape[:rank])
    rows = signs(u).astype(np.int64).reshape(u.shape[: u.ndim - inputs] + (-1,))
    columns = signs(W).astype(np.int64).reshape(rows.shape[-1], -1)
    return rows.dot(columns).reshape(rows.shape[:-1] + W.shape[inputs:])


def binary_dense(
    x, W, b=0, weight_scale='channel', input_scale='sample', shift=0, gain=1, offset=0
):
    """Returns what a binary Dense without activation computes, in float64."""
    u = (x - np.asarray(shift, np.float32)).astype(np.float64)
    y = binary_product(u, W).astype(np.float64)
    outputs = W.ndim - next(
        rank for rank in range(1, W.ndim) if u.shape[u.ndim - rank :] == W.shape[:rank]
    )
    if weight_scale == 'channel':
        y *= np.abs(W).mean(axis=tuple(range(W.ndim - outputs)), dtype=np.float64)
    elif weight_scale == 'layer':
        y *= np.abs(W).mean(dtype=np.float64)
    y *= gain
    if input_scale == 'sample':
        y *= np.abs(u).reshape(len(u), -1).mean(axis=1).reshape((-1,) + (1,) * (y.ndim - 1))
    return y + offset + b
