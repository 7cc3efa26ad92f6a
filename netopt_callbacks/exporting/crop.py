"""Where the windows of a convolution or a pooling lie, and the same on a crop of what it reads.

CNTK's automatic padding leaves out the outermost pixels where the stride is beyond the window: its
padding is negative there, which ONNX has no form for. A 1x1 convolution with stride 2, the shortcut
of a ResNet, is the one that is met.
"""
import cntk as C

from ..optimizations.convolution_geometry import Axis

OPS = ('Convolution', 'Pooling')


def operand(function):
    """Returns what the windows of a Convolution or Pooling go over."""
    return function.inputs[1 if function.op_name == 'Convolution' else 0]


def automatic_axes(function):
    """Returns {place: Axis} of the axes that are padded automatically; places count from the end,
    -1 is the last one."""
    attributes = function.attributes
    window = (
        attributes['poolingWindowShape']
        if function.op_name == 'Pooling'
        else function.inputs[0].shape
    )
    rank = min(len(operand(function).shape), len(window))
    automatic = _for_each(attributes['autoPadding'], rank, False)
    strides = _for_each(attributes['strides'], rank, 1)
    dilation = _for_each(attributes.get('dilation', (1,)), rank, 1)
    return {
        place: Axis(window[place], strides[place], dilation[place], True)
        for place in range(-rank, 0)
        if automatic[place]
    }


def _for_each(values, rank, others):
    """One value for each axis; CNTK takes a single one for all."""
    values = list(values) * (rank if len(values) == 1 else 1)
    return ([others] * rank + values)[-rank:]


def cropped_axes(function):
    """Returns {place: Axis} of the axes with negative padding; a pooling that rounds its size up
    has none.

    Of an axis of free size where that is known: a window of 1 with a stride of 1 or 2 leaves out
    what is behind its last place, if anything.
    """
    sides = operand(function).shape
    if function.attributes.get('ceilOutDim'):
        return {}
    return {
        place: axis
        for place, axis in automatic_axes(function).items()
        if (
            axis.extent == 1 and axis.stride <= 2
            if sides[place] == C.FreeDimension
            else min(axis.padding(sides[place])) < 0
        )
    }


def can_be_cropped(function):
    """Whether `on_crop` gives the same."""
    attributes = function.attributes
    return not (
        attributes.get('transpose') or any(attributes['lowerPad']) or any(attributes['upperPad'])
    )


def on_crop(function):
    """Returns the same Convolution or Pooling (cntk.Function) without padding on the axes of
    `cropped_axes`, over a crop of what it reads."""
    attributes, data = function.attributes, operand(function)
    automatic = list(attributes['autoPadding'])
    automatic *= len(data.shape) if len(automatic) == 1 else 1
    for place, axis in cropped_axes(function).items():
        data = crop(data, place, axis, at_both_ends=False)
        automatic[place] = False
    strides = attributes['strides']
    if function.op_name == 'Pooling':
        return C.pooling(
            data,
            attributes['poolingType'],
            attributes['poolingWindowShape'],
            strides,
            automatic,
        )
    return C.convolution(
        function.inputs[0],
        data,
        strides,
        auto_padding=automatic,
        dilation=attributes['dilation'],
        groups=attributes['groups'],
    )


def crop(variable, place, axis, at_both_ends=True):
    """Returns what an `Axis` reads of a Variable at a place. Without padding no filter reaches
    what is left at the upper end."""
    size = variable.shape[place]
    first, end = axis.read(size) if size != C.FreeDimension else (0, None)
    if not first and not at_both_ends:
        return variable
    return C.slice(variable, len(variable.shape) + place, first, end).output
