"""Sorts the callbacks of a run, and refuses those that do not fit it."""
from cntk.train.training_session import DataUnit

from ..lowering import Lower
from ..observers.base import Observer
from ..optimizations.base import Optimization
from ..optimizations.of_a_run import check_methods
from ..trainers import learner_facts


def listed(callbacks):
    """Returns the callbacks of a run as a list; None is an empty one.

    Raises:
        TypeError: they are no list.
    """
    if callbacks is not None and not isinstance(callbacks, (list, tuple)):
        raise TypeError(f'callbacks must be a list, got {callbacks!r}; write callbacks=[...]')
    return list(callbacks or ())


def sorted_callbacks(callbacks):
    """Returns (optimizations, observers, Lower or None) of a list of callbacks.

    Raises:
        TypeError: the list holds something else.
        ValueError: the list holds a callback twice, or two `Lower`.
        NotImplementedError, TypeError: an optimization lacks a method, see `check_methods`.
    """
    callbacks = listed(callbacks)
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
    optimizations = [callback for callback in callbacks if isinstance(callback, Optimization)]
    for optimization in optimizations:
        check_methods(optimization)
    lowers = [callback for callback in callbacks if isinstance(callback, Lower)]
    if len(lowers) > 1:
        raise ValueError(
            f'callbacks must hold at most one Lower(), got {len(lowers)}; leave one, it lowers the '
            'whole network'
        )
    return (
        optimizations,
        [
            callback
            for callback in callbacks
            if isinstance(callback, Observer) and not isinstance(callback, Lower)
        ],
        lowers[0] if lowers else None,
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
    """Marks an error that every worker raises, so that no worker has to end the others."""
    error.on_all_workers = True
    return error


def refuse_epochs_that_never_come(optimizations, clock, learners, workers, sweeps_are_reported):
    """Refuses optimizations that wait for counts that CNTK does not keep or not all workers see.

    Args:
        optimizations (list of nc.Optimization), clock (schedule.Clock), learners (list), workers:
            those of the run.
        sweeps_are_reported (bool): whether the source tells every worker where a sweep ends.

    Raises:
        ValueError: names the optimization, and the unit to count in.
    """
    for optimization in optimizations:
        sweeps = clock.needs_sweeps(optimization)
        if sweeps and learner_facts.counts_nothing(learners):
            raise ValueError(
                f'{optimization.name}(epoch={optimization.epoch!r}) would never be applied: CNTK '
                'counts no sweeps if a UserLearner is the only or the first learner: '
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
    """Raises ValueError for an observer that is already a progress writer of the trainer."""
    for observer in observers:
        if any(observer is writer for writer in writers):
            raise ValueError(
                f'{type(observer).__name__} is already a progress writer of the trainer: name it '
                'once, in callbacks'
            )


def refuse_projection(optimizations, learners):
    """Raises ValueError for `learner_state='project'` if no learner has a state to project."""
    for optimization in optimizations:
        reasons = [learner_facts.no_projection(learner) for learner in learners]
        if optimization.learner_state == 'project' and all(reasons):
            raise ValueError(
                "%s: learner_state='project', but the trainer has no learner it is "
                "defined for, it has %s: %s. Use learner_state='reset'"
                % (optimization.name, ', '.join(map(learner_facts.describe, learners)), reasons[0])
            )


def refuse_other_plans(optimizations, clock, workers):
    """Refuses a run whose workers would change their networks at different times.

    All workers call this together. `nc.attach` with observers alone may be called by one.

    Args:
        optimizations (list of nc.Optimization), clock (schedule.Clock), workers: those of the run.

    Raises:
        ValueError: on every worker.
    """
    mine = ', '.join(f'{one.name}(epoch={one.epoch!r})' for one in optimizations)
    epoch_size = f'epoch_size=({clock.count}, DataUnit.{clock.unit.name})'
    mine = f'{mine}, {epoch_size}' if mine else 'no optimization'
    main = workers.shared_text(mine)
    if workers.any(mine != main):
        others = 'another one has others' if mine == main else f'this worker has {mine}'
        raise on_all_workers(
            ValueError(
                'each worker must have the same optimizations and epochs: the main worker has '
                f'{main}, {others}; give every worker the same callbacks, only the main one '
                'notifies observers'
            )
        )
