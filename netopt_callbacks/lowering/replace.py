"""The pass that puts native ops in the place of trained binary convolutions.

Of a block `BinaryConvolution` only the integers, the weights' scale and the bias change hands;
everything before and after (input scale, activation, reshapes) is the trained graph itself, so there
is nothing it could compute differently.
"""
import cntk as C

from .. import graph, native
from ..optimizations import binary_block
from ..optimizations.convolution_geometry import axes_of
from .binary_convolve import OP_NAME, BinaryConvolveOp


def lower_binary_convolutions(model):
    """Returns `model` on native bit convolutions.

    Args:
        model (cntk.Function): trained, or loaded from a file.

    Returns:
        cntk.Function: each block `BinaryConvolution` is a block `BinaryConvolveOp` of the same name;
        evaluation only. `model` itself where it holds no such block.

    Raises:
        ValueError: a block `BinaryConvolution` that this package did not make.
    """
    layers = [binary_block.BinaryLayer(block) for block in binary_block.binary_blocks(model)]
    if not layers:
        return model
    return graph.replace(model, {layer: lowered_layer(layer) for layer in layers})


def lowered_layer(layer):
    """Returns a `BinaryLayer` on the native op: a block, unapplied, with one placeholder."""
    op = BinaryConvolveOp(layer.operand, native_state(layer), axes_of(layer.core), layer.name)
    native_output = C.user_function(op)
    content = graph.substitute(layer.content, {layer.replaced: native_output.output})
    return binary_block.as_block(content, OP_NAME, layer.name)


def native_state(layer):
    """Returns the state of the `nc.native.BinaryConvolution` that computes `layer.replaced`.

    Every number in it is evaluated by CNTK, from the expressions of the training graph.
    """
    attributes = layer.core.attributes
    return native.BinaryConvolution(
        layer.signs(), strides=attributes['strides'][-2:], dilation=attributes['dilation'][-2:],
        groups=attributes['groups'], scale=layer.scale(), bias=layer.bias(),
        threshold=layer.threshold()).state()
