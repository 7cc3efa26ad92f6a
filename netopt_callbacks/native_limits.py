"""What a native convolution would need for its tables, known before they are made.

Beside the weights it holds, for each way in which the padding may overlap a filter, which taps are
padded and a sum for each filter; and for each few pixels of the output what each tap reads. For the
filters of networks that is little. It grows with the square of a filter's area, and with padding
that lies outside of everything.
"""
TABLE_BYTES = 1 << 30
TABLE_SUMS = 1 << 34  # some ten seconds
OUTSIDE_PIXELS = 1 << 11  # outputs of an axis beyond the size of its image

_PIXELS_AT_ONCE, _WINDOW_BYTES = 16, 8


def refuse_geometry(filters, sides, strides, padding, dilation):
    """Raises ValueError for a convolution that no image of any size makes affordable.

    Args:
        filters (int): all of them.
        sides, strides, dilation: pairs of int, for height and width.
        padding: pair of pairs of int.
    """
    cases = 1
    for axis in (0, 1):
        extent = (sides[axis] - 1) * dilation[axis] + 1
        outside = sum(padding[axis]) - (extent - 1)
        if outside > OUTSIDE_PIXELS:
            raise ValueError(
                f'padding must be about as large as the filter at most, got {tuple(padding[axis])} '
                f'for a filter of {extent} pixels with its dilation: {outside} outputs of that '
                'axis would lie outside of any image; give up to '
                f'{(extent - 1 + OUTSIDE_PIXELS) // 2}'
            )
        # Each padded tap at either end makes another case, if an output is there for it.
        cases *= min(
            1 + sum(-(-side // strides[axis]) for side in padding[axis]),
            (sides[axis] + 1) * (sides[axis] + 2) // 2,
        )
    taps = sides[0] * sides[1]
    size, sums = cases * (taps + 4 * filters), cases * taps * filters
    if size > TABLE_BYTES or sums > TABLE_SUMS:
        raise ValueError(
            f'the filters must be small enough for tables of {TABLE_BYTES >> 20} MB and '
            f'{TABLE_SUMS:.0e} sums, got {filters} filters of {sides[0]} x {sides[1]} with padding '
            f'{tuple(map(tuple, padding))}, which need {size >> 20} MB and {sums:.0e}: leave this '
            'layer in float'
        )


def refuse_image(outputs, sides):
    """Raises ValueError for an image whose outputs would need too large a table.

    Args:
        outputs (pair of int): height and width of the result.
        sides (pair of int): of a filter.
    """
    size = (outputs[0] * outputs[1] // _PIXELS_AT_ONCE + 1) * sides[0] * sides[1] * _WINDOW_BYTES
    if size > TABLE_BYTES:
        raise ValueError(
            f'the image must be small enough for a table of {TABLE_BYTES >> 20} MB, got outputs of '
            f'{outputs[0]} x {outputs[1]} of filters of {sides[0]} x {sides[1]}, which need '
            f'{size >> 20} MB: leave this layer in float, or cut the image up'
        )
