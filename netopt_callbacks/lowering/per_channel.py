"""Which element-wise operations do the same to each pixel of a channel: those that are read off on
one pixel for all."""
import numpy as np


def why_not(op_name, value, computed, fixed, attributes):
    """Returns why an element-wise operation does not do the same to each pixel; None where it does.

    Args:
        op_name (str): of the operation.
        value (tuple of int): the shape that it reads, [channels, height, width] or [channels].
        computed (tuple of int): the shape that it computes.
        fixed (list of tuple of int): the shapes of its other operands, as it reads them.
        attributes (dict): of the Function.
    """
    if len(value) not in (1, 3):
        return f'its {op_name} reads a value of shape {value}'
    if computed != value:
        return f'its {op_name} computes another shape than it reads'
    if op_name == 'BatchNormalization':
        if len(value) == 3 and not attributes['spatial']:
            return 'its BatchNormalization has statistics for each pixel'
        if any(np.prod(shape) != value[0] for shape in fixed[:4]):
            return 'its BatchNormalization has no statistics per channel'
        return None
    for shape in fixed:
        if np.prod(shape) != 1 and shape != value[:1] + (1,) * (len(value) - 1):
            return (
                f'an operand of its {op_name} is not one number per channel: its shape is {shape}'
            )
    return None
