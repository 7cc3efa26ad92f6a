"""What a product or a convolution applies to data: a Parameter, a Constant, or what is computed of
them."""
from typing import List

import cntk as C
import numpy as np

from . import blocks


def operand(core):
    """Returns (the weights that a times or convolution applies to data, the Function that reads
    them), or (None, None)."""
    if core.is_block or len(core.inputs) != 2:
        return None, None
    if core.op_name == 'Times':
        data, weights = core.inputs
        if not len(weights.shape) > core.attributes['outputRank']:
            return None, None
    else:
        weights, data = core.inputs
        if core.attributes['transpose']:
            return None, None
    if data.is_parameter or data.is_constant:
        return None, None
    if core.op_name == 'Convolution' and weights.is_output and weights.owner.op_name == 'Reshape':
        # `cntk.convolution(W, x, reduction_rank=0)` gives both a channel axis.
        return weights.owner.inputs[0], weights.owner
    return weights, core


def weights_of(core):
    """Returns the Parameter a times or convolution applies to data, or None."""
    weights, reader = operand(core)
    return parameter_of(reader, weights) if weights is not None and weights.is_parameter else None


def any_weights(core):
    """Returns the one Parameter whose values, or an expression over them, are applied to data,
    or None."""
    weights, _ = operand(core)
    if weights is None or not weights.is_output:
        return weights_of(core)
    expression = C.as_composite(weights.owner)
    if expression.arguments or expression.placeholders:
        return None
    read = [parameter for parameter in expression.parameters if parameter.shape == weights.shape]
    return read[0] if len(read) == 1 else None


def constant_weights(core: C.Function) -> List[C.Constant]:
    """Returns the Constants that the weights a times or convolution applies to data are computed
    of, W first; [] where they are computed of anything else, too.

    Args:
        core (cntk.Function): any.
    """
    if core.op_name not in blocks.LAYERS.values():
        return []
    weights, reader = operand(core)
    if weights is None or not (weights.is_constant or weights.is_output):
        return []
    if weights.is_constant:
        return [leaf for leaf in reader.constants if leaf.uid == weights.uid and leaf.shape]
    expression = C.as_composite(weights.owner)
    if expression.arguments or expression.placeholders or expression.parameters:
        return []
    size = np.prod(weights.shape)
    leaves = [leaf for leaf in expression.constants if leaf.shape]
    # A mask is a Constant of as many numbers, too; CNTK's layers call their weights W.
    found = sorted(leaves, key=lambda leaf: (np.prod(leaf.shape) != size, leaf.name != 'W'))
    return found if found and np.prod(found[0].shape) == size else []


def named_b(block):
    return next((parameter for parameter in block.parameters if parameter.name == 'b'), None)


def parameter_of(function, variable):
    """Returns an input of `function` as the cntk.Parameter it is (`inputs` gives plain
    Variables)."""
    return next(parameter for parameter in function.parameters if parameter.uid == variable.uid)
