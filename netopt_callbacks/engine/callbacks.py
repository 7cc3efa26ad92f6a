"""The callbacks of a run: sorted, described, and refused where they do not fit it."""
import inspect
import os

from cntk.train.training_session import DataUnit

from ..lowering import Lower
from ..observers.base import Observer
from ..optimizations.base import Optimization
from . import learner_facts


def sorted_callbacks(callbacks):
    """Returns (optimizations, observers, Lower or None) of a list of callbacks.

    Raises:
        TypeError: something else is in the list.
        ValueError: a callback is in it twice, or there are two `Lower`.
    """
    if callbacks is not None and not isinstance(callbacks, (list, tuple)):
        raise TypeError(f'callbacks must be a list, got {callbacks!r}; write callbacks=[...]')
    callbacks = list(callbacks or ())
    for callback in callbacks:
        if not isinstance(callback, (Optimization, Observer)):
            hint = (
                f'give an instance, {callback.__name__}(...)'
                if isinstance(callback, type)
                else "CNTK's own progress writers go to the Trainer"
            )
            raise TypeError(
                f'callbacks must be nc.Optimization or nc.Observer objects, got {callback!r}; '
                f'{hint}'
            )
    for index, callback in enumerate(callbacks):
        if any(callback is earlier for earlier in callbacks[:index]):
            raise ValueError(
                f'callbacks must be different objects, got the same {type(callback).__name__} '
                'twice; make another one for the other epoch'
            )
    lowers = [callback for callback in callbacks if isinstance(callback, Lower)]
    if len(lowers) > 1:
        raise ValueError(
            f'callbacks must hold at most one Lower(), got {len(lowers)}; leave one, it lowers the '
            'whole network'
        )
    return (
        [callback for callback in callbacks if isinstance(callback, Optimization)],
        [
            callback
            for callback in callbacks
            if isinstance(callback, Observer) and not isinstance(callback, Lower)
        ],
        lowers[0] if lowers else None,
    )


def described(callback):
    """Returns (class name, {option: value as text}) of a callback: what its constructor takes and
    the object or its `options` has under the same name."""
    options = {}
    for name in inspect.signature(type(callback).__init__).parameters:
        for holder in (callback, getattr(callback, 'options', None)):
            if name != 'self' and hasattr(holder, name):
                options[name] = _shown(getattr(holder, name))
                break
    return type(callback).__name__, options


def _shown(value):
    """Returns an option as text: a function by its name and where it is written."""
    code = getattr(value, '__code__', None)
    if code is None:
        return repr(value)
    return f'{value.__name__} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})'


def in_order(optimizations):
    """Returns the places of optimizations in the order they are applied: by epoch, then as
    listed."""
    return sorted(
        range(len(optimizations)),
        key=lambda index: (
            isinstance(optimizations[index].epoch, tuple),
            optimizations[index].epoch,
        ),
    )


def refuse_lower_without_data(lower, data):
    """Raises ValueError for a `Lower` in a run without held-out data."""
    if lower is not None and data is None:
        raise ValueError(
            'Lower() compares the lowered network with the trained one on '
            'held-out data, and this run has none: give data=(inputs, labels) '
            'or a cross-validation source'
        )


def on_all_workers(error):
    """Marks an error that every worker raises alike: none has to be ended by the others."""
    error.on_all_workers = True
    return error


def refuse_epochs_that_never_come(optimizations, clock, learners, workers, sweeps_are_reported):
    """Refuses optimizations that wait for what CNTK does not count or not every worker learns.

    Args:
        optimizations (list of nc.Optimization), clock (schedule.Clock), learners (list), workers:
        of the run.
        sweeps_are_reported (bool): whether the source tells every worker where a sweep ends.

    Raises:
        ValueError: names the optimization, and what to count in.
    """
    for optimization in optimizations:
        sweeps = clock.needs_sweeps(optimization)
        if sweeps and learner_facts.counts_nothing(learners):
            raise ValueError(
                f'{optimization.name}(epoch={optimization.epoch!r}) must have epochs that come, '
                'and CNTK counts no sweeps where a UserLearner is the only or the first learner: '
                'give epoch_size in samples, or put a learner of CNTK first'
            )
        if workers.count == 1 or optimization.epoch in (0, (0, DataUnit.sweep)):
            continue
        if (
            sweeps
            and not sweeps_are_reported
            or workers.drops_empty_minibatch
            and (sweeps or clock.unit != DataUnit.sample)
        ):
            raise ValueError(
                f'{optimization.name}(epoch={optimization.epoch!r}) must come on all workers at '
                'once, and CNTK counts sweeps, and under block momentum minibatches, on each '
                'worker alone: give epoch_size in samples'
            )


def refuse_writers(observers, writers):
    """Raises ValueError for an observer that is a progress writer of the trainer already."""
    for observer in observers:
        if any(observer is writer for writer in writers):
            raise ValueError(
                f'{type(observer).__name__} is already a progress writer of the trainer: name it '
                'once, in callbacks'
            )


def refuse_projection(optimizations, learners):
    """Raises ValueError for `learner_state='project'` where no learner has such a state."""
    for optimization in optimizations:
        reasons = [learner_facts.no_projection(learner) for learner in learners]
        if optimization.learner_state == 'project' and all(reasons):
            raise ValueError(
                "%s: learner_state='project', but the trainer has no learner it is "
                "defined for, it has %s: %s. Use learner_state='reset'"
                % (optimization.name, ', '.join(map(learner_facts.describe, learners)), reasons[0])
            )
