"""A value of a program in standard operators, and the error where there is none."""
import numpy as np


class Unwritable(ValueError):
    """A program with an op that standard operators do not give."""


class Value:
    """A value of the program: its name in the graph, [batch, channels, height, width], and the
    lengths that are known."""

    def __init__(self, name, shape):
        self.name, self.shape = name, tuple(shape)

    @property
    def size(self):
        if None in self.shape:
            raise Unwritable('it needs a fixed size')
        return int(np.prod(self.shape))
