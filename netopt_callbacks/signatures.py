"""What a function of the user's can be called with."""
import inspect
from typing import Any, Callable


def takes(function: Callable[..., Any], arguments: int) -> bool:
    """Whether a function can be called with that many arguments; of some builtins nobody can
    tell."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*range(arguments))
    except TypeError:
        return False
    return True
