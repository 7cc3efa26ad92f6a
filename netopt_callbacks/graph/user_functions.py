"""Clones of UserFunctions that compute what the original computes.

CNTK clones a UserFunction by calling its class with the new inputs and its name. A class whose
constructor takes more than that is not cloned at all, or is without the options it was made with,
and nobody is told. While the engine edits a graph, a class that has no `clone` of its own is cloned
by its attributes instead.
"""
import contextlib
import functools
import threading
from typing import Iterator

from cntk.ops.functions import UserFunction

_local = threading.local()


@contextlib.contextmanager
def cloned_whole() -> Iterator[None]:
    """Lets UserFunctions keep their attributes in the clones that are made meanwhile on this
    thread."""
    before = getattr(_local, 'whole', False)
    _local.whole = True
    try:
        yield
    finally:
        _local.whole = before


def _clone_whole(function, inputs):
    """Returns a UserFunction of the same class over other inputs, with the attributes of the
    original."""
    copy = type(function).__new__(type(function))
    copy.__dict__.update(
        (name, value) for name, value in function.__dict__.items() if name != 'this'
    )
    UserFunction.__init__(
        copy, list(inputs), function.as_numpy, dict(function.attributes) or None, function.name
    )
    return copy


def _kept(clone):
    @functools.wraps(clone)
    def method(self, cloned_inputs):
        return (
            _clone_whole(self, cloned_inputs)
            if getattr(_local, 'whole', False)
            else clone(self, cloned_inputs)
        )

    return method


UserFunction.clone = _kept(UserFunction.clone)
