"""A binary convolution to build a network with from the start."""
from numbers import Integral
from typing import Any, Callable, Tuple

import cntk as C
import numpy as np

from .._types import Shape
from .. import graph
from ..integers import plain
from .binary_block import Recipe, build


def binary_convolution(
    filter_shape: Shape,
    num_filters: int = 1,
    channels: int = 1,
    init: Any = C.glorot_uniform(),
    pad: Any = False,
    strides: Any = 1,
    name: str = 'BinaryConvolution',
) -> Callable[..., C.Function]:
    """Returns a function that applies a trainable binary convolution, as netopt's does.

    Args:
        filter_shape (tuple of int): height and width.
        num_filters (int): output channels.
        channels (int): input channels.
        init: initial value of the latent weights, a CNTK initializer, number or array
            [num_filters, channels, height, width].
        pad (bool): CNTK's automatic padding, in both directions.
        strides (int or tuple of int): for height and width.
        name (str): of the block.

    Returns:
        callable: `operand -> cntk.Function`, a block 'BinaryConvolution'; its Parameter is
        named 'filter', as netopt names it.

    Raises:
        TypeError: a size is no whole number.
        ValueError: a size is below 1, or `filter_shape` or `strides` is not for 2 axes.
    """
    what = f"binary_convolution '{name}'"
    if isinstance(strides, Integral):
        strides = (strides, strides)
    shape = (
        _sizes(what, 'num_filters', num_filters, (32,))
        + _sizes(what, 'channels', channels, (3,))
        + _sizes(what, 'filter_shape', filter_shape, (3, 3))
    )
    steps = shape[1:2] + _sizes(what, 'strides', strides, (1, 1))
    W = C.parameter(shape, init=init, dtype=np.float32, name='filter')

    def convolution(operand):
        float_convolution = C.convolution(
            W, operand, strides=steps, auto_padding=[False, pad, pad], name=name
        )
        layer = graph.layers(float_convolution)[-1]
        return build(layer, Recipe())(operand)

    return convolution


def _sizes(what: str, argument: str, given: Any, example: Tuple[int, ...]) -> Tuple[int, ...]:
    """Returns sizes as a tuple of as many ints as the example has, each 1 or more.

    CNTK ends the process where a layer has 0 filters.
    """
    sizes = plain(tuple(given)) if isinstance(given, (tuple, list)) else (plain(given),)
    right = len(sizes) == len(example)
    whole = all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    if not (right and whole and min(sizes) >= 1):
        one = len(example) == 1
        raise (ValueError if whole else TypeError)(
            '%s: %s must be %s of 1 or more, got %r; give for example %s=%r'
            % (
                what,
                argument,
                'a whole number' if one else 'two whole numbers, for height and width,',
                given,
                argument,
                example[0] if one else example,
            )
        )
    return sizes
