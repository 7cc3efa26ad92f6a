"""What a run asks of its optimizations: that it can call them, their order, which one it was."""
import contextlib
from typing import Iterator, List, Sequence

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


@contextlib.contextmanager
def told_apart(optimization: Optimization, optimizations: Sequence[Optimization]) -> Iterator[None]:
    """Context in which an error of an optimization says which one of its class it is about.

    It begins with `FactorDense(epoch=2)` where the run has two of that class, and names an earlier
    optimization that has changed a layer likewise.

    Args:
        optimization (nc.Optimization): what is called meanwhile.
        optimizations (sequence of nc.Optimization): those of the run.
    """
    try:
        yield
    except (TypeError, ValueError, NotImplementedError) as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (_told_apart(error.args[0], optimization, optimizations),)
        raise


def _told_apart(message, optimization, optimizations):
    ordered = [optimizations[index] for index in in_order(optimizations)]
    earlier = ordered[: next(i for i, one in enumerate(ordered) if one is optimization)]
    for name in {one.name for one in earlier}:
        titles = ' or '.join(_title(one) for one in earlier if one.name == name)
        message = message.replace(f'changed by {name}:', f'changed by {titles}:')
    name, title = optimization.name, _title(optimization)
    if sum(one.name == name for one in optimizations) < 2 or message.startswith(title):
        return message
    return title + (message[len(name) :] if message.startswith(name + ':') else ': ' + message)


def _title(optimization):
    return f'{optimization.name}(epoch={optimization.epoch!r})'
