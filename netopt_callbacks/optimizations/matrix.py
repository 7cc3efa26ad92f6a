"""The weights of a Dense layer as the matrix that is factored."""
import cntk as C
import numpy as np

from . import low_rank


def check_weights(layer):
    """Raises ValueError for weights that are not there, or sparse."""
    if any(side < 0 for side in layer.W.shape):
        raise ValueError(
            f'{layer.label}: to be factored it must have weights, and their shape is not known '
            'yet; apply the model to an input_variable first'
        )
    if C.cntk_py.Parameter.value(layer.W).is_sparse():
        raise ValueError(
            f'{layer.label}: its weights must be a dense matrix, got a sparse one; make its '
            'Parameter from a NumPy array, or leave the layer out with filter_function'
        )


def matrix(layer):
    """Returns W of a layer as [inputs, outputs]."""
    check_weights(layer)
    W = layer.W.value
    if low_rank.not_finite(W):
        raise ValueError(
            f'{layer.label}: its weights must be finite, got {low_rank.not_finite(W)} NaN or '
            f'infinite of {W.size}; if training diverges, lower the learning rate, or factor at '
            'an earlier epoch'
        )
    return W.reshape(matrix_shape(layer))


def sides(layer):
    """Returns the input axes and the output axes of W."""
    shape = tuple(layer.W.shape)
    return shape[: -layer.output_rank], shape[-layer.output_rank :]


def matrix_shape(layer):
    """Returns the shape of W as a matrix, (inputs, outputs)."""
    return tuple(int(np.prod(side)) for side in sides(layer))


def smaller_side(layer):
    """Returns the smaller side of W as a matrix; below 1 where its shape is not known yet."""
    return min(matrix_shape(layer))
