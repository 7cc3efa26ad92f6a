"""The layers and poolings of a trained graph as ops of a program, and what of them is none."""
import numpy as np

from .. import graph
from ..optimizations.binary_kinds import DENSE
from ..optimizations.convolution_geometry import Axis, axes_of, is_computed_wrongly
from .flat import fixed_value
from .nodes import Unsupported


def terms(layer):
    """Returns of how many +-1 each integer of a BinaryLayer is the sum, at most."""
    weights = layer.kind.weights_of(layer.core).shape
    return int(np.prod(weights)) // layer.kind.outputs(layer.core)


def convolution(node, layer, bits):
    weights, core = layer.signs(), node.function
    attributes = core.attributes
    axes = axes_of(core)
    if len(bits.shape) != 3 or max(axis.dilation for axis in axes) > 1:
        raise Unsupported(node, "CNTK's CPU has no dilated convolution to compare with")
    groups = attributes['groups']
    if bits.inverted is not None:
        signs = np.where(bits.inverted, -1, 1).astype(np.float32).reshape(groups, 1, -1, 1, 1)
        weights = (weights.reshape((groups, -1) + weights.shape[1:]) * signs).reshape(weights.shape)
    return dict(
        op='convolution',
        input=bits.name,
        weights=np.ascontiguousarray(weights),
        strides=tuple(axis.stride for axis in axes),
        groups=groups,
        padding=_padding(node, axes, bits.shape[1:]),
    )


def dense(node, layer, bits):
    refuse_any_size(node, node.inputs[0])
    inputs, outputs = DENSE.input_shape(layer.core), DENSE.output_shape(layer.core)
    size = int(np.prod(inputs))
    if len(outputs) != 1 or tuple(node.inputs[0].shape) != inputs or size != np.prod(bits.shape):
        raise Unsupported(
            node,
            f'a Dense from {inputs} to {outputs}, applied to {node.inputs[0].shape}, is not '
            'supported in programs',
        )
    weights = layer.signs().reshape(size, -1)
    if bits.inverted is not None:
        signs = np.where(bits.inverted, -1, 1).astype(np.float32)
        weights = weights * np.repeat(signs, size // len(signs))[:, None]
    image = tuple(bits.shape) + (1, 1) * (len(bits.shape) == 1)
    return dict(op='dense', input=bits.name, weights=np.ascontiguousarray(weights), image=image)


def can_be_compared(node):
    """Returns whether CNTK can evaluate a float layer apart from the rest, for the gate to compare
    it alone: it is not inside a block inside a block, nor in one that reads more than one value."""
    function = node.unit.function
    inside = graph.functions(graph.body(function).outputs) if function.is_block else [function]
    return len(node.unit.inputs) == 1 and any(other.uid == node.function.uid for other in inside)


def check_can_be_compared(node):
    """Raises Unsupported of a float layer that the gate cannot compare alone."""
    if not can_be_compared(node):
        raise Unsupported(
            node,
            f"a float layer of the block '{node.unit.name}' is not one that can be compared alone",
        )


def float_convolution(node):
    if node.function.attributes['transpose'] or node.operands[0][1].fixed is False:
        raise Unsupported(
            node,
            'a transposed convolution, or one of weights that are computed, is not supported in '
            'programs',
        )
    axes, shape = axes_of(node.function), node.inputs[0].shape
    weights, groups = fixed_value(node.fixed[0]), node.function.attributes['groups']
    if (
        weights.ndim != 4
        or len(shape) != 3
        or node.function.attributes['autoPadding'][0]
        or shape[0] != weights.shape[1] * groups
    ):
        raise Unsupported(
            node,
            f'a convolution of weights {weights.shape} over {shape} is not supported in '
            'programs',
        )
    if max(axis.dilation for axis in axes) > 1:
        raise Unsupported(node, "CNTK's CPU has no dilated convolution to compare with")
    if is_computed_wrongly(node.function):
        raise Unsupported(node, "CNTK's CPU computes this convolution in groups wrongly")
    return dict(
        op='float_convolution',
        weights=np.ascontiguousarray(weights),
        strides=tuple(axis.stride for axis in axes),
        groups=groups,
        padding=_padding(node, axes, shape[1:]),
    )


def float_dense(node):
    refuse_any_size(node, node.inputs[0])
    weights, shape = fixed_value(node.fixed[0]), node.inputs[0].shape
    if node.operands[0][1].fixed or weights.shape[:-1] != shape:
        raise Unsupported(
            node, f'a product of weights {weights.shape} with {shape} is not supported in programs'
        )
    image = tuple(shape) + (1, 1) * (len(shape) == 1)
    return dict(
        op='float_dense',
        weights=np.ascontiguousarray(weights.reshape(-1, weights.shape[-1])),
        image=image,
    )


def pooling(node):
    """Returns the kernel, strides and padding of a pooling for the size that it reads."""
    attributes, shape = node.function.attributes, node.inputs[0].shape
    if len(shape) != 3 or attributes['ceilOutDim'] or attributes['includePad']:
        raise Unsupported(
            node,
            'its pooling is not supported in programs (input %s, ceil_out_dim %s, include_pad %s)'
            % (shape, attributes['ceilOutDim'], attributes['includePad']),
        )

    def both(name):
        numbers = attributes[name]
        return tuple(numbers[-2:]) if len(numbers) > 1 else tuple(numbers) * 2

    window = both('poolingWindowShape')
    axes = [
        Axis(*numbers)
        for numbers in zip(
            window, both('strides'), (1, 1), both('autoPadding'), both('lowerPad'), both('upperPad')
        )
    ]
    outputs = tuple(axis.outputs(size) if size > 0 else size for axis, size in zip(axes, shape[1:]))
    if len(attributes['poolingWindowShape']) != 2 or outputs != node.output.shape[1:]:
        raise Unsupported(node, 'its pooling goes over the channels too')
    return dict(
        kernel=window,
        strides=tuple(axis.stride for axis in axes),
        padding=_padding(node, axes, shape[1:]),
    )


def refuse_any_size(node, value):
    """Refuses a node that a program computes for one size of images, where the size is free.

    Raises:
        Unsupported: it is.
    """
    if value.is_free:
        raise Unsupported(node, f'{node.op_name} over images of free size stays in CNTK')


def _padding(node, axes, sizes):
    padding = tuple(
        axis.padding(size) if size > 0 else axis.padding_of_any_size()
        for axis, size in zip(axes, sizes)
    )
    if None in padding:
        raise Unsupported(node, 'its automatic padding depends on the size of the image')
    if min(min(sides) for sides in padding) < 0:
        # What CNTK does not read after the last place is not read by a program either.
        padding = tuple((lower, max(upper, 0)) for lower, upper in padding)
        if min(lower for lower, _ in padding) < 0:
            raise Unsupported(node, 'it does not read the first pixels')
    return padding
