"""The pass that puts native ops in the place of trained binary layers.

Of a block `BinaryConvolution` or `BinaryDense` only the integers, the weights' scale and the bias
change hands; everything before and after (input scale, activation, reshapes) is the trained graph
itself, so there is nothing it could compute differently.
"""
from typing import Tuple, Type

import cntk as C
import numpy as np

from .. import graph, native
from ..optimizations import binary_block
from ..optimizations.binary_kinds import DENSE
from ..optimizations.convolution_geometry import axes_of
from . import binary_dense
from .binary_convolve import BinaryConvolveOp, convolve
from .binary_dense import BinaryDenseOp
from .native_op import NativeOp

_OPS: Tuple[Type[NativeOp], ...] = (BinaryConvolveOp, BinaryDenseOp)
OPS = {op.block_op_name: op for op in _OPS}
OP_NAMES = tuple(OPS)


def lower_binary_layers(model):
    """Returns `model` on native bit convolutions and products.

    Args:
        model (cntk.Function): trained, or loaded from a file.

    Returns:
        cntk.Function: each block `BinaryConvolution` is a block `BinaryConvolveOp` of the same
        name, and each `BinaryDense` a `BinaryDenseOp`; evaluation only. `model` itself where it
        holds no such block.

    Raises:
        ValueError: such a block that this package did not make.
    """
    layers = [binary_block.BinaryLayer(block) for block in binary_block.binary_blocks(model)]
    if not layers:
        return model
    return graph.replace(model, {layer: lowered_layer(layer) for layer in layers})


def lowered_layer(layer):
    """Returns a `BinaryLayer` on the native op: a block, unapplied, with one placeholder."""
    op = native_op(layer)
    native_output = C.user_function(op)
    content = graph.substitute(layer.content, {layer.replaced: native_output.output})
    return binary_block.as_block(content, op.block_op_name, layer.name)


def native_op(layer):
    """Returns the `NativeOp` that computes `layer.replaced` of a `BinaryLayer`."""
    if layer.kind is DENSE:
        return BinaryDenseOp(
            layer.operand,
            native_state(layer),
            DENSE.input_shape(layer.core),
            DENSE.output_shape(layer.core),
            layer.name,
        )
    return BinaryConvolveOp(layer.operand, native_state(layer), axes_of(layer.core), layer.name)


def native_integers(layer):
    """Returns a function of what the native op reads, [samples, ...shape], that gives the
    integers of a `BinaryLayer`."""
    state = dict(native_state(layer), scale=None, bias=None)
    if layer.kind is DENSE:
        product = native.BinaryDense.from_state(state)
        shapes = DENSE.input_shape(layer.core), DENSE.output_shape(layer.core)
        return lambda values: binary_dense.multiply(product, values, *shapes)
    ops, axes = {}, axes_of(layer.core)
    return lambda values: convolve(ops, state, axes, values)


def native_state(layer):
    """Returns the state of the native object that computes `layer.replaced`.

    Every number in it is evaluated by CNTK, from the expressions of the training graph.
    """
    if layer.kind is DENSE:
        weights = layer.signs().reshape(-1, DENSE.outputs(layer.core))
        return native.BinaryDense(weights, layer.scale(), layer.bias(), _of_inputs(layer)).state()
    attributes = layer.core.attributes
    return native.BinaryConvolution(
        layer.signs(),
        strides=attributes['strides'][-2:],
        dilation=attributes['dilation'][-2:],
        groups=attributes['groups'],
        scale=layer.scale(),
        bias=layer.bias(),
        threshold=layer.threshold(),
    ).state()


def _of_inputs(layer):
    """Returns the threshold of each input of a Dense, float32 [inputs], or None for 0."""
    threshold = layer.threshold()
    if threshold is None:
        return None
    by_channel = threshold.reshape(DENSE.channel_shape(layer.core))
    return np.ascontiguousarray(np.broadcast_to(by_channel, DENSE.input_shape(layer.core))).ravel()
