"""The point in time of an optimization."""
from enum import Enum
from typing import Any

from .._types import Epoch
from ..integers import plain


def checked_epoch(owner: str, epoch: Epoch) -> Epoch:
    """Returns `epoch` as given once it is known to be a legal point in time."""
    epoch = count = plain(epoch)
    if isinstance(epoch, (tuple, list)) and epoch and all(map(_is_count, epoch)):
        raise ValueError(
            f'{owner}: epoch must be one number of completed epochs, got {epoch!r}; make one '
            f'{owner} for each epoch: for two epochs make two {owner}'
        )
    if isinstance(epoch, tuple):
        if len(epoch) != 2 or getattr(epoch[1], 'name', None) != 'sweep':
            raise ValueError(
                f'{owner}: epoch as a tuple must be (number, cntk.train.DataUnit.sweep), got '
                f'{epoch!r}; samples and minibatches belong into epoch_size'
            )
        count = epoch[0]
    if isinstance(count, float):
        raise TypeError(
            f'{owner}: epoch must be a whole number of completed epochs, got {epoch!r}; for a '
            'finer schedule make epoch_size smaller'
        )
    if not _is_count(count):
        raise TypeError(
            f'{owner}: epoch must be a whole number of completed epochs, an int, got {epoch!r}; '
            'give for example epoch=2'
        )
    if count < 0:
        raise ValueError(
            f'{owner}: epoch counts completed epochs, so it must be 0 or more, got {epoch!r}; 0 is '
            'before the first minibatch'
        )
    return epoch


def _is_count(value: Any) -> bool:
    """Whether a value is a number of epochs; a DataUnit is an int to Python."""
    return isinstance(value, int) and not isinstance(value, (bool, Enum))
