"""What a native convolution would need for its tables, known before they are made.

Beside the weights it holds, for each way in which the padding may overlap a filter, which taps are padded and a
sum for each filter; and for each few pixels of the output what each tap reads. For the filters of networks that
is little. It grows with the square of a filter's area, and with padding that lies outside of everything.
"""
TABLE_BYTES = 1 << 30
TABLE_SUMS = 1 << 34        # some ten seconds
OUTSIDE_PIXELS = 1 << 11    # outputs of an axis beyond the size of its image

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
                'padding must be about as large as the filter at most, got %s for a filter of %d pixels with its '
                'dilation: %d outputs of that axis would lie outside of any image; give up to %d'
                % (tuple(padding[axis]), extent, outside, (extent - 1 + OUTSIDE_PIXELS) // 2))
        # Each padded tap at either end makes another case, if an output is there for it.
        cases *= min(1 + sum(-(-side // strides[axis]) for side in padding[axis]),
                     (sides[axis] + 1) * (sides[axis] + 2) // 2)
    taps = sides[0] * sides[1]
    size, sums = cases * (taps + 4 * filters), cases * taps * filters
    if size > TABLE_BYTES or sums > TABLE_SUMS:
        raise ValueError(
            'the filters must be small enough for tables of %d MB and %.0e sums, got %d filters of %d x %d with '
            'padding %s, which need %d MB and %.0e: leave this layer in float'
            % (TABLE_BYTES >> 20, TABLE_SUMS, filters, sides[0], sides[1], tuple(map(tuple, padding)),
               size >> 20, sums))


def refuse_image(outputs, sides):
    """Raises ValueError for an image whose outputs would need too large a table.

    Args:
        outputs (pair of int): height and width of the result.
        sides (pair of int): of a filter.
    """
    size = (outputs[0] * outputs[1] // _PIXELS_AT_ONCE + 1) * sides[0] * sides[1] * _WINDOW_BYTES
    if size > TABLE_BYTES:
        raise ValueError('the image must be small enough for a table of %d MB, got outputs of %d x %d of filters of '
                         '%d x %d, which need %d MB: leave this layer in float, or cut the image up'
                         % (TABLE_BYTES >> 20, outputs[0], outputs[1], sides[0], sides[1], size >> 20))
