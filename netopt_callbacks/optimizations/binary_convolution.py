"""A binary convolution to build a network with from the start."""
from numbers import Integral
from typing import Any, Callable

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
        ValueError: `filter_shape` or `strides` is not for 2 axes.
    """
    strides = plain((strides, strides) if isinstance(strides, Integral) else tuple(strides))
    filter_shape, num_filters, channels = plain((tuple(filter_shape), num_filters, channels))
    if len(filter_shape) != 2 or len(strides) != 2:
        raise ValueError(
            f"binary_convolution '{name}': filter_shape and strides must be for height and width, "
            f"got {filter_shape!r} and {strides!r}; give for example filter_shape=(3, 3), "
            "strides=(1, 1)"
        )
    W = C.parameter(
        (num_filters, channels, *filter_shape), init=init, dtype=np.float32, name='filter'
    )

    def convolution(operand):
        float_convolution = C.convolution(
            W, operand, strides=(channels,) + strides, auto_padding=[False, pad, pad], name=name
        )
        layer = graph.layers(float_convolution)[-1]
        return build(layer, Recipe())(operand)

    return convolution
