"""Where a float convolution is faster by tiles of Winograd (`native/contract.h`), which multiply
less and add more.

A rough count of vector operations, of one tile and 16 filters, with what the memory takes.
"""
import numpy as np

from .layer_ops import float_convolution

_PLACES = 36  # of a tile, a product each
_OUT = 270  # from the products of a tile to its outputs
_IN = 340  # from 16 values of a tile to its places
_BEYOND_CACHE = 384  # a tile alone, a channel: of weights that no second-level cache holds
_CACHE_BYTES = 1 << 20
_MOST_TILES = 64  # that weights are read for at once
_LEAST_GAIN = 1.3


def pays(node):
    """Returns whether a float convolution is to be done by tiles.

    Args:
        node (Node): of an input of fixed size, or not.

    Raises:
        Unsupported: a convolution that programs cannot do at all.
    """
    op = float_convolution(node)
    if node.inputs[0].is_free or op['groups'] > 1:
        return False
    filters, channels = op['weights'].shape[:2]
    kernel, strides = op['weights'].shape[2:], op['strides']
    sides = {-(-length // stride) for length, stride in zip(kernel, strides)}
    if len(sides) > 1 or not sides <= {3, 4, 5}:
        return False
    outputs = 7 - sides.pop()
    height, width = node.function.shape[1:]
    tiles = -(-height // outputs) * -(-width // outputs)
    units = -(-filters // 16)
    own = channels * strides[0] * strides[1]  # channels of a tile
    by_tiles = _PLACES * own + _OUT
    by_tiles += _IN * strides[0] * -(-channels * strides[1] // 16) / units
    if _PLACES * own * 16 * units * 4 > _CACHE_BYTES:
        by_tiles += _BEYOND_CACHE * own / min(tiles, _MOST_TILES)
    by_taps = height * width / tiles * np.prod(kernel) * channels
    return by_taps >= _LEAST_GAIN * by_tiles
