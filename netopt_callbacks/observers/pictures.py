"""Draws pictures with NumPy alone and encodes them as PNG files."""
import struct
import zlib

import numpy as np

WIDTH, HEIGHT, MARGIN = 640, 320, 24
_WHITE, _GREY, _TAKEN, _LEFT_OUT, _LINE = (
    np.array(colour, np.uint8)
    for colour in ((255, 255, 255), (225, 225, 225), (31, 119, 180), (190, 205, 220), (214, 39, 40))
)


def singular_values(values, rank):
    """Returns a bar chart of singular values: uint8 [HEIGHT, WIDTH, 3].

    The bars show the values as fractions of the largest, largest first. Values within the rank are
    dark, the others are light. A red line follows the last value within the rank. Grey lines are at
    0, 1/4, 1/2, 3/4 and 1.

    Args:
        values (array): singular values, largest first.
        rank (int): how many of them were kept.
    """
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    picture[:] = _WHITE
    inside = picture[MARGIN:-MARGIN, MARGIN:-MARGIN]
    rows, columns = inside.shape[:2]
    for quarter in range(5):
        inside[min(rows - 1, round(rows * quarter / 4))] = _GREY
    shares = np.asarray(values, np.float64) / (max(values) or 1)
    bars = np.arange(columns) * len(shares) // columns
    heights = np.round(shares[bars] * rows).astype(int)
    filled = np.arange(rows)[:, np.newaxis] >= rows - heights
    gaps = (np.diff(bars, append=len(shares)) > 0) & (columns >= 4 * len(shares))
    filled &= ~gaps
    inside[filled & (bars < rank)] = _TAKEN
    inside[filled & (bars >= rank)] = _LEFT_OUT
    behind = min(columns - 1, int(np.searchsorted(bars, rank)))
    inside[:, max(0, behind - 1) : behind + 1] = _LINE
    return picture


def png(picture):
    """Encodes a picture, uint8 [height, width, 3], as a PNG file (ISO/IEC 15948).

    The file has 8 bits per channel and no filter.
    """
    height, width = picture.shape[:2]
    lines = np.zeros((height, 1 + 3 * width), np.uint8)  # each line begins with its filter: 0
    lines[:, 1:] = picture.reshape(height, -1)
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        for kind, data in (
            (b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)),
            (b'IDAT', zlib.compress(lines.tobytes(), 9)),
            (b'IEND', b''),
        )
    )
