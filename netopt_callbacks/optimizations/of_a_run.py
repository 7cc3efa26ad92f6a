"""What a run asks of its optimizations: that it can call them, and their order."""
from typing import List, Sequence

from ..signatures import shown, takes
from .base import Optimization


def check_methods(optimization: Optimization) -> None:
    """Refuses an optimization whose methods a run could not call.

    Raises:
        NotImplementedError: it does not define `transform`.
        TypeError: a method takes other arguments than that of `Optimization`.
    """
    if getattr(optimization.transform, '__func__', None) is Optimization.transform:
        optimization.transform(None)  # which says what is missing
    for name, arguments in (
        ('check', ('model',)),
        ('prepare', ('model', 'minibatches')),
        ('transform', ('model',)),
        ('lower', ('model',)),
    ):
        method = getattr(optimization, name)
        if not takes(method, len(arguments)):
            raise TypeError(
                f'{optimization.name}: {name} must take {" and ".join(arguments)}, got '
                f'{shown(method)}; write def {name}(self, {", ".join(arguments)})'
            )


def in_order(optimizations: Sequence[Optimization]) -> List[int]:
    """Returns the indices of optimizations in the order applied: by epoch, then as listed."""
    return sorted(
        range(len(optimizations)),
        key=lambda index: (
            isinstance(optimizations[index].epoch, tuple),
            optimizations[index].epoch,
        ),
    )
