"""A cut network rewritten to the same in operations that CNTK's exporter writes rightly."""
import cntk as C
import numpy as np

from .. import graph
from ..graph.values import content
from . import crop


EQUAL = 'netopt_equal_'  # what the name of a Greater begins with that is to be an Equal
_NORMALIZATIONS = ('LayerNormalization', 'MeanVarianceNormalization')
_OVER_ALL = {'Softmax': C.softmax, 'Hardmax': C.hardmax}


def make_ready(model):
    """Returns a network (cntk.Function) that computes the same.

    * A BatchNormalization read in two places is written twice under one name where it is a block,
        so it is opened.
    * A product with a map is written as a product of reshaped tensors under names that go with the
      map or the weights, so two that share either clash: these are reshaped here, under names of
      their own.
    * A window with negative padding goes over a crop, without padding.
    * A squeeze of all axes of length 1 is written as one of the batch, too: it is a reshape here.
    * A softmax or hardmax of a map, which CNTK takes over all of it, is written over the last axis:
      it is taken over a vector here.
    * A local_response_normalization over more channels than there are goes over a window of fewer
      in CNTK, but not where it is written: it is a 1x1 convolution here.
    """
    model = graph.opened(model, _is_to_be_rewritten)
    replacements = {
        function.outputs[0]: rewritten(function).output
        for function in graph.primitives(model)
        for rewritten in [_rewriting(function)]
        if rewritten is not None
    }
    return graph.substitute(model, replacements) if replacements else model


def _is_to_be_rewritten(function):
    if function.op_name == 'BatchNormalization' and not function.is_block:
        return True
    return _rewriting(function) is not None


def _rewriting(function):
    """Returns what rewrites a primitive or a block; None where it stays."""
    if function.op_name == 'LocalResponseNormalization':
        return _normalized_over_channels if _is_cut_off(function) else None
    if function.op_name in _TRUE_OR_NOT:
        return _true_or_not
    if function.is_block and function.op_name in _NORMALIZATIONS:
        return content
    if function.is_block:
        return None
    if _is_product_with_map(function):
        return _flattened
    if function.op_name in crop.OPS and crop.cropped_axes(function):
        return crop.on_crop
    if function.op_name == 'Squeeze':
        return _reshaped
    if function.op_name in _OVER_ALL and _has_axes(function.inputs[0]):
        return _over_all
    return None


def _has_axes(operand):
    return len(operand.shape) > 1 and C.FreeDimension not in operand.shape


def _is_product_with_map(function):
    """Whether it is times(x, W), W [...shape of x, ...outputs], x of more than one axis."""
    if function.op_name != 'Times' or function.is_block:
        return False
    operand, weights = function.inputs
    rank = len(operand.shape)
    return (
        _has_axes(operand)
        and not operand.is_sparse
        and (weights.is_parameter or weights.is_constant)
        and tuple(weights.shape[:rank]) == tuple(operand.shape)
        and len(weights.shape) > rank
    )


def _flattened(function):
    operand, weights = function.inputs
    size, outputs = int(np.prod(operand.shape)), tuple(weights.shape[len(operand.shape) :])
    flat = C.times(C.reshape(operand, size), C.reshape(weights, (size, int(np.prod(outputs)))))
    return flat if len(outputs) == 1 else C.reshape(flat, outputs)


def _reshaped(function):
    return C.reshape(function.inputs[0], function.outputs[0].shape)


def _over_all(function):
    operand = function.inputs[0]
    flat = C.reshape(operand, int(np.prod(operand.shape)))
    return C.reshape(_OVER_ALL[function.op_name](flat), operand.shape)


def _true_or_not(function):
    operands = function.inputs
    if function.is_block:
        operands = [operand for _, operand in function.block_arguments_mapping]
    return _TRUE_OR_NOT[function.op_name](function.uid, *operands)


def _equal(uid, x, y):
    return C.greater(x, y, name=EQUAL + uid)


def _above_0(x):
    return C.greater(x, 0)


# Each gives 1 or 0, and of NaN what CNTK's gives.
_TRUE_OR_NOT = {
    'Equal': _equal,
    'NotEqual': lambda uid, x, y: 1 - _equal(uid, x, y),
    'GreaterEqual': lambda uid, x, y: C.greater(x, y) + _equal(uid, x, y),
    'LessEqual': lambda uid, x, y: C.less(x, y) + _equal(uid, x, y),
    'And': lambda uid, x, y: _above_0(x) * _above_0(y),
    'Or': lambda uid, x, y: C.element_max(_above_0(x), _above_0(y)),
    'Xor': lambda uid, x, y: C.abs(_above_0(x) - _above_0(y)),
    'Not': lambda uid, x: 1 - _above_0(x),
}


def _is_cut_off(function):
    """Whether CNTK has made the window over channels shorter, as it does where there are fewer; or
    without a bias, of 0 among zeros, CNTK's is 0, and what is written NaN."""
    if not function.attributes['bias'] > 0:
        return True
    return _window_over_channels(function) != 2 * function.attributes['depthRadius'] + 1


def _window_over_channels(function):
    (convolution,) = (
        inner for inner in graph.walk(graph.body(function)) if inner.op_name == 'Convolution'
    )
    return convolution.attributes['kernelShape'][1]


def _normalized_over_channels(function):
    """x / (bias + alpha / (2 r + 1) * sum of x^2 over the window around a channel)^beta.

    The window is padded automatically: of an even one, more channels come after than before.
    """
    x, attributes = function.block_arguments_mapping[0][1], function.attributes
    place, window = np.arange(x.shape[0]), _window_over_channels(function)
    after = place - place[:, None] + (window - 1) // 2
    share = attributes['alpha'] / (2 * attributes['depthRadius'] + 1)
    weights = np.where((after >= 0) & (after < window), share, 0).astype(x.dtype)
    sums = C.convolution(C.constant(weights[:, :, None, None]), C.square(x), auto_padding=[False])
    return x / C.exp(attributes['beta'] * C.log(attributes['bias'] + sums))
