"""`nc.train`: `Function.train` that also accepts this package's callbacks."""
import functools
import sys
import threading
from typing import Any, Dict, Optional, Sequence, Union

import cntk as C
from cntk.internal.sanitize import _as_tuple
from cntk.io import MinibatchSource, UserMinibatchSource

from ._types import EpochSize, Path, Points
from .engine.callbacks import listed
from .integers import plain
from .observers.base import Observer
from .optimizations.base import Optimization
from .session import training_session

_lock = threading.Lock()


def train(
    criterion: C.Function,
    minibatch_source: Any,
    minibatch_size: Any = 32,
    streams: Any = None,
    model_inputs_to_streams: Optional[Dict[C.Variable, Any]] = None,
    parameter_learners: Any = [],
    callbacks: Sequence[Any] = [],
    progress_frequency: Optional[EpochSize] = None,
    max_epochs: Optional[int] = None,
    epoch_size: Optional[EpochSize] = None,
    max_samples: Optional[int] = None,
    data: Any = None,
    larger_is_better: bool = False,
    model: Optional[C.Function] = None,
    baseline: Union[Path, Points, None] = None,
) -> Any:
    """Trains a criterion as `criterion.train(...)` does, and applies optimizations.

    All arguments except the last four are those of `cntk.Function.train`, with the same defaults
    and behaviour; `callbacks` also takes `nc.Optimization` and `nc.Observer` objects.

    Args:
        criterion (cntk.Function): loss and metric.
        epoch_size (int): also the epoch that the optimizations count in. None means what it means
            to `Function.train`: the length of the first array. For sequences this is the number of
            sequences, though samples are counted against it. With `max_samples` alone, None is one
            sweep.
        data, larger_is_better, model, baseline: as in `nc.training_session`.

    Returns:
        cntk.variables.Record: the one of `Function.train`, plus `result`, an `nc.Result`.

    Raises:
        TypeError: `criterion` is no Function; `callbacks` is no list, or holds an object that
            neither CNTK nor this package knows (`Function.train` would ignore it).
        Whatever `nc.training_session` and its `train` raise. The exception, including a
            KeyboardInterrupt, has the partial result as its attribute `result`.
    """
    if not isinstance(criterion, C.Function):
        raise TypeError(
            f'criterion must be a cntk.Function, got {criterion!r}; give cntk.combine([loss, '
            'metric]), or the loss alone'
        )
    ours, theirs = _parted(callbacks)
    minibatch_size, progress_frequency, max_epochs, epoch_size, max_samples = plain(
        (minibatch_size, progress_frequency, max_epochs, epoch_size, max_samples)
    )
    counted = _epoch_size(minibatch_source, max_samples) if epoch_size is None else epoch_size
    if epoch_size is None and max_epochs is not None:
        _check_epochs(ours, max_epochs)
    sessions = []

    def session(*arguments, **options):
        sessions.append(
            training_session(
                *arguments,
                callbacks=ours,
                epoch_size=counted,
                data=data,
                larger_is_better=larger_is_better,
                model=model,
                baseline=baseline,
                **options,
            )
        )
        return sessions[0]

    try:
        summary = _train_with(
            session,
            criterion,
            minibatch_source,
            minibatch_size=minibatch_size,
            streams=streams,
            model_inputs_to_streams=model_inputs_to_streams,
            parameter_learners=parameter_learners,
            callbacks=theirs,
            progress_frequency=progress_frequency,
            max_epochs=max_epochs,
            epoch_size=epoch_size,
            max_samples=max_samples,
        )
    except BaseException as error:
        if sessions:
            error.result = sessions[0].result  # type: ignore
        raise
    return summary.updated_with(result=sessions[0].result)


def _epoch_size(source, max_samples):
    """Returns the samples per epoch as `Function.train` derives them; None if it does not."""
    if max_samples is not None or isinstance(source, (MinibatchSource, UserMinibatchSource)):
        return None
    first = _as_tuple(source)[0]
    return int(first.shape[0] if hasattr(first, 'shape') and first.shape else len(first)) or None


def _check_epochs(callbacks, max_epochs):
    for callback in callbacks:
        if (
            isinstance(callback, Optimization)
            and not isinstance(callback.epoch, tuple)
            and callback.epoch > max_epochs
        ):
            raise ValueError(
                f'{callback.name}(epoch={callback.epoch}) is after the last epoch, '
                f'max_epochs={max_epochs}; give an earlier one, or train longer'
            )


def _parted(callbacks):
    """Returns (this package's callbacks, the callbacks that `Function.train` knows)."""
    callbacks = listed(callbacks)
    ours = [callback for callback in callbacks if isinstance(callback, (Optimization, Observer))]
    theirs = [callback for callback in callbacks if callback not in ours]
    known = (C.cntk_py.ProgressWriter, C.CheckpointConfig, C.CrossValidationConfig, C.TestConfig)
    for callback in theirs:
        if not isinstance(callback, known):
            raise TypeError(
                'callbacks must be nc.Optimization, nc.Observer, progress writers, '
                f'CheckpointConfig, CrossValidationConfig or TestConfig, got {callback!r}; leave '
                'it out'
            )
    return ours, theirs


def _train_with(session, criterion, *arguments, **options):
    """Calls `Function.train` with our session in place of CNTK's.

    `Function.train` looks `training_session` up when it is called. CNTK's own function is restored
    as soon as ours has been found, so that any other training in the meantime, in a callback or on
    another thread, uses CNTK's.
    """
    module = sys.modules['cntk.train.training_session']
    me = threading.get_ident()
    waiting = [True]
    _lock.acquire()
    original = module.training_session

    def restore():
        if waiting:
            waiting.clear()
            module.training_session = original
            _lock.release()

    @functools.wraps(original)
    def found(*arguments, **options):
        if not waiting or threading.get_ident() != me:
            return original(*arguments, **options)
        restore()
        return session(*arguments, **options)

    module.training_session = found
    try:
        return criterion.train(*arguments, **options)
    finally:
        restore()
