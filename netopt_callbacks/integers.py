"""Integers as Python's own: CNTK's C++ takes no NumPy integer, and neither does JSON."""
import numpy as np


def plain(value):
    """Returns a NumPy integer as an int, also those in a tuple as (2, cntk.train.DataUnit.sweep);
    else the value.

    >>> import numpy
    >>> plain((numpy.int64(2), 'sweep')), plain(True), plain(None)
    ((2, 'sweep'), True, None)
    """
    if type(value) is tuple:
        return tuple(plain(part) for part in value)
    return int(value) if isinstance(value, np.integer) else value
