"""Dilated binary convolutions as undilated ones, so that CNTK's CPU can evaluate a trained
network."""
import cntk as C
import numpy as np

from .. import graph
from ..optimizations import binary_block
from ..optimizations.binary_kinds import CONVOLUTION


def without_dilation(model):
    """Returns `model` with its dilated binary convolutions written without dilation; for comparing
    only.

    CNTK's CPU has no dilated convolution ("not yet implemented"). A filter of k taps with dilation
    d is one of (k - 1) d + 1 taps, of which those in between are 0: the same sums, padding and
    output size.

    Args:
        model (cntk.Function): left as it is.

    Returns:
        cntk.Function: the same blocks `BinaryConvolution`, with the signs of the weights as a
        Constant; `model` itself where nothing is dilated.
    """
    layers = [binary_block.BinaryLayer(block) for block in binary_block.binary_blocks(model)]
    dilated = [
        layer
        for layer in layers
        if layer.kind is CONVOLUTION and max(layer.core.attributes['dilation']) > 1
    ]
    if not dilated:
        return model
    return graph.replace(model, {layer: _undilated(layer) for layer in dilated})


def _undilated(layer):
    attributes = layer.core.attributes
    data = layer.core.inputs[1]
    weights = C.constant(spread(layer.signs(), attributes['dilation'][-2:]))
    core = C.convolution(
        weights,
        data,
        strides=attributes['strides'],
        groups=attributes['groups'],
        auto_padding=attributes['autoPadding'],
    )
    content = graph.substitute(layer.content, {layer.core.outputs[0]: core.output})
    return binary_block.as_block(content, layer.kind.op_name, layer.name)


def spread(weights, dilation):
    """Returns filters with zeros between their taps.

    Args:
        weights (array): [filters, channels, height, width].
        dilation (sequence of int): for height and width.

    Returns:
        array: [filters, channels, (height - 1) * dilation[0] + 1, (width - 1) * dilation[1] + 1].
    """
    extents = [(side - 1) * step + 1 for side, step in zip(weights.shape[2:], dilation)]
    wide = np.zeros(weights.shape[:2] + tuple(extents), weights.dtype)
    wide[:, :, :: dilation[0], :: dilation[1]] = weights
    return wide
