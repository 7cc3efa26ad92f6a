"""What a function of the user's can be called with."""
import inspect
from typing import Any


def takes(function: Any, arguments: int) -> bool:
    """Whether this is a function that can be called with that many arguments; of some builtins
    nobody can tell."""
    if not callable(function):
        return False
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*range(arguments))
    except TypeError:
        return False
    return True


def shown(value: Any) -> str:
    """Returns a function as its name and what it takes, anything else as its repr.

    >>> shown(lambda W, k: W), shown('4')
    ('<lambda>(W, k)', "'4'")
    """
    try:
        return f'{value.__name__}{inspect.signature(value)}'
    except (AttributeError, TypeError, ValueError):
        return repr(value)
