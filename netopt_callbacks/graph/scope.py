"""The part of a model that its trainer trains, where a model holds more than that.

A script evaluates other Functions over the layers of its network, and they follow every change of
it. So the engine gives an optimization one graph with all of them: the outputs of the trainer's
model, loss and metric first, then those of the others. A filter is asked about the layers of the
trainer alone.
"""
import contextlib
import threading
from typing import Any, Iterable, Iterator, Sequence

import cntk as C

from .checks import check_model

_local = threading.local()


@contextlib.contextmanager
def seen_first(outputs: Sequence[C.Variable]) -> Iterator[None]:
    """Says, meanwhile and on this thread, how many outputs of a model given to a transform are
    the trainer's."""
    before = getattr(_local, 'outputs', None)
    _local.outputs = outputs
    try:
        yield
    finally:
        _local.outputs = before


def trained_part(model: C.Function) -> Any:
    """Returns the part of a model that the trainer trains: all of it, outside of a running trainer.

    Args:
        model (cntk.Function): as given to `transform`, or a copy with the same outputs in the same
            order.
    """
    check_model('nc.graph', model)
    count = getattr(_local, 'outputs', None)
    if count is None or count >= len(model.outputs):
        return model
    return C.combine(list(model.outputs)[:count])


@contextlib.contextmanager
def trained_by(parameters: Iterable[str]) -> Iterator[None]:
    """Says, meanwhile and on this thread, which Parameters the learners of the trainer train.

    Args:
        parameters (iterable of str): their uids.
    """
    before = getattr(_local, 'trained', None)
    _local.trained = frozenset(parameters)
    try:
        yield
    finally:
        _local.trained = before


def is_trained(parameter: C.Parameter) -> bool:
    """Whether a learner of the trainer trains a Parameter; true of each outside of a running
    trainer."""
    trained = getattr(_local, 'trained', None)
    return trained is None or parameter.uid in trained
