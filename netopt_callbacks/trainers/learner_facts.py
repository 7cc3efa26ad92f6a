"""Tells what the learners of a trainer train, rebuilds them, and carries their state over.

CNTK builds a learner over a fixed list of Parameters. If an optimization retires some and adds
others, the learner is rebuilt: the factory that made it is called with the new list. The new
learner gets the old one's state, with the smoothed gradients of the Parameters that stay, and takes
its place inside the user's own object.
"""
from typing import Any, NamedTuple, Optional

import numpy as np
from cntk import cntk_py
from cntk.internal import map_if_possible
from cntk.internal.utils import _to_cntk_dict_value
from cntk.learners import UserLearner
from cntk.train.distributed import DistributedLearner
from cntk.train.training_session import DataUnit

from . import remember

STATE = 'smoothed_gradients'
_BLOCK_STATE = 'blockLevelSmoothedGradient'


class Trained(NamedTuple):
    """A learner of a trainer."""

    learner: cntk_py.Learner  # the user's own object
    parameters: tuple  # what it trains
    made_by: Optional[int]  # index of the optimization whose `learner=` made it
    state: Any = None  # its checkpoint, if it has synchronized for the change under way


def trained_by(learners):
    """Returns the `Trained` of each of the user's learners as they are now."""
    return tuple(Trained(learner, tuple(parameters_of([learner])), None) for learner in learners)


def parameters_of(learners):
    """Returns the Parameters the learners train, in learner order."""
    return [parameter for learner in learners for parameter in _parameters(learner)]


def _parameters(learner):
    """Returns a learner's Parameters.

    For a UserLearner or a distributed learner, CNTK returns them unmapped, by a method.
    """
    if not callable(learner.parameters):
        return learner.parameters
    parameters = learner.parameters()
    map_if_possible(parameters)
    return parameters


def trains(learner, parameters):
    """Whether a learner trains exactly these Parameters, in this order.

    Variables compare by their C++ objects, since a loaded Variable has the uid of the saved one.
    """
    return list(_parameters(learner)) == list(parameters)


def describe_parameter(parameter):
    """Describes a Parameter for an error message."""
    return f'{parameter.name or parameter.uid} of shape {tuple(parameter.shape)}'


def describe(learner):
    """Describes a learner for an error message."""
    name, _ = remember.learner(_innermost(learner))
    return name[: -len('_learner')] if name else type(learner).__name__


# What a learner can do.


def _forgets(learner):
    """Whether a UserLearner only has CNTK's own `restore_from_checkpoint`, which raises."""
    return (
        isinstance(learner, UserLearner)
        and type(learner).restore_from_checkpoint is UserLearner.restore_from_checkpoint
    )


def keep_state(learners):
    """Makes a UserLearner without `restore_from_checkpoint` accept a restore of its own state.

    A swap restores the trainer from a checkpoint of itself; the learner object still has its state.
    """
    for learner in learners:
        if _forgets(learner):
            learner.restore_from_checkpoint = lambda checkpoint: None


def let_go(learners):
    """Undoes `keep_state`."""
    for learner in learners:
        if _forgets(learner):
            learner.__dict__.pop('restore_from_checkpoint', None)


def check_restorable(learners):
    """Refuses a learner that CNTK cannot restore from its own state, which every change needs.

    Raises:
        ValueError: names the learner and the schedule known to cause this.
    """
    for learner in map(_innermost, learners):
        if isinstance(learner, (UserLearner, DistributedLearner)):
            continue
        try:
            learner.restore_from_checkpoint(learner.create_checkpoint())
        except RuntimeError as error:
            raise ValueError(
                'CNTK cannot restore the learner %s from its own state (%s), which an '
                'optimization needs. A schedule with epoch_size=cntk.io.FULL_DATA_SWEEP '
                'is such: leave epoch_size out, and its values are of one sweep each'
                % (describe(learner), str(error).split('\n')[0])
            )


def check_resumable(learners):
    """Refuses to resume a learner that cannot be restored.

    Raises:
        ValueError: names the learner and what it lacks.
    """
    for learner in learners:
        if _forgets(learner):
            raise ValueError(
                f'the learner {type(learner).__name__} cannot resume from a checkpoint: a '
                'UserLearner needs create_checkpoint() and restore_from_checkpoint(checkpoint) of '
                'its own for that'
            )


def any_distributed(learners):
    """Whether any learner is one of CNTK's for several workers."""
    return any(isinstance(learner, DistributedLearner) for learner in learners)


def counts_nothing(learners):
    """Whether CNTK counts no samples with these learners: it asks the first, a UserLearner."""
    return isinstance(learners[0], UserLearner)


def counts(trainer, learners, units):
    """Returns what a trainer has seen in its life, in each unit.

    A distributed learner counts only samples; the learner inside it counts minibatches and sweeps.
    """
    first = _innermost(learners[0])
    if first is learners[0]:
        return [trainer.total_number_of_units_seen(unit) for unit in units]
    return [
        {
            DataUnit.sample: trainer.total_number_of_units_seen(DataUnit.sample),
            DataUnit.minibatch: first.total_number_of_minibatches_seen(),
            DataUnit.sweep: first.total_number_of_sweeps_seen(),
        }[unit]
        for unit in units
    ]


def shares_count(learner):
    """Whether the learner keeps one `smoothed_count` for all its Parameters."""
    name, _ = remember.learner(_innermost(learner))
    return name in ('adam_learner', 'fsada_grad_learner', 'rmsprop_learner')


def no_projection(learner):
    """Returns why a learner's state of W cannot become that of W1 and W2, or None.

    The gradient G of W gives W1 the gradient G W2^T and W2 the gradient W1^T G, so a smoothed
    gradient, a sum of gradients, maps the same way. A mean of squares does not.
    """
    name, _ = remember.learner(_innermost(learner))
    if name in ('sgd_learner', 'momentum_sgd_learner', 'nesterov_learner'):
        return None
    return (
        'only the smoothed gradient of sgd, momentum_sgd and nesterov maps through W ~ W1 W2, '
        'the squares that adaptive learners keep do not'
    )


def not_rebuilt(learner):
    """Returns why a learner cannot be rebuilt over other Parameters, or None."""
    if isinstance(learner, UserLearner):
        return (
            None
            if callable(getattr(learner, 'rebuilt', None))
            else 'a UserLearner needs a method rebuilt(parameters) for that, which returns a '
            'learner of these Parameters'
        )
    name, arguments = remember.learner(learner)
    if name is None:
        return 'it was made before `import netopt_callbacks`, so that how it was made is not known'
    if name == 'universal_learner':
        return 'the update function of C.universal is built into it'
    wrapped = _wrapped(learner)
    if isinstance(wrapped, UserLearner):
        return 'a UserLearner under a distributed learner cannot be exchanged'
    return None if wrapped is None else not_rebuilt(wrapped)


def _wrapped(learner):
    """Returns the learner that a distributed learner wraps, or None."""
    name, arguments = remember.learner(learner)
    if name and 'distributed' in name:
        return next(a for a in arguments if isinstance(a, cntk_py.Learner))
    return None


def _innermost(learner):
    """Returns the learner that a distributed learner wraps, or the learner itself."""
    while _wrapped(learner) is not None:
        learner = _wrapped(learner)
    return learner


# Rebuilding.


def rebuild(trained, begin_with, undo):
    """Rebuilds a learner over the Parameters of a `Trained`; it keeps the state of those that stay.

    Args:
        trained (Trained): its learner may train other Parameters now.
        begin_with (dict): Parameter uid to the array its smoothed gradient begins with; zero if it
            is missing and the learner has not trained the Parameter yet.
        undo (contextlib.ExitStack): receives what makes the learner train the old ones again.

    Returns:
        cntk.learners.Learner: the same object; a UserLearner may return another.
    """
    learner = trained.learner
    if trains(learner, trained.parameters):
        return learner
    if isinstance(learner, UserLearner):
        return _rebuilt_by_user(learner, list(trained.parameters), undo)
    _rebuild_native(learner, list(trained.parameters), begin_with, undo, trained.state)
    return learner


def _rebuilt_by_user(learner, parameters, undo):
    undo.callback(setattr, learner, 'this', learner.this)
    new = learner.rebuilt(parameters)
    if not isinstance(new, UserLearner) or not trains(new, parameters):
        raise ValueError(
            f'rebuilt(parameters) of the learner {type(learner).__name__} must return a '
            f'UserLearner over exactly the Parameters it is given, got {new!r}'
        )
    return new


def _rebuild_native(learner, parameters, begin_with, undo, state=None):
    """Puts a C++ learner over other Parameters into `learner`, and into the one it wraps."""
    name, arguments = remember.learner(learner)
    wrapped = _wrapped(learner)
    before = list(_parameters(learner))
    state = learner.create_checkpoint() if state is None else state
    if wrapped is not None:
        _rebuild_native(wrapped, parameters, begin_with, undo)
        arguments = [_made_anew(argument) for argument in arguments]
    else:
        arguments = (parameters,) + tuple(arguments[1:])
    new = getattr(cntk_py, name)(*arguments)
    if learner._options().keys():  # its only option: how the script has set it, not as it was made
        new.minibatch_size = learner.minibatch_size
    places = {parameter: place for place, parameter in enumerate(before)}
    if wrapped is not None:
        new.restore_from_checkpoint(_distributed_state(state, wrapped, parameters, places))
    else:
        if STATE in state.keys():
            state[STATE] = _carried(
                state[STATE], new.create_checkpoint()[STATE], parameters, places, begin_with
            )
        new.restore_from_checkpoint(state)
    for attribute in ('this', remember.ATTRIBUTE):
        undo.callback(setattr, learner, attribute, getattr(learner, attribute))
        setattr(learner, attribute, getattr(new, attribute))


def _made_anew(argument):
    """Returns an argument for a rebuilt distributed learner.

    A 1-bit communicator is rebuilt too, since it relies on its old gradients.
    """
    name, arguments = remember.learner(argument) if hasattr(argument, '__dict__') else (None, ())
    return getattr(cntk_py, name)(*arguments) if name == 'quantized_mpicommunicator' else argument


def _carried(old, fresh, parameters, places, begin_with):
    """Returns the smoothed gradients for a new list of Parameters."""
    result = []
    for parameter, zeros in zip(parameters, fresh):
        value = (
            old[places[parameter]] if parameter in places else begin_with.get(parameter.uid, zeros)
        )
        # `ascontiguousarray` would add an axis to an array without axes, such as plain sgd's.
        result.append(np.array(value, np.asarray(zeros).dtype, order='C').reshape(np.shape(zeros)))
    return result


def _distributed_state(state, wrapped, parameters, places):
    """Returns the state of a distributed learner whose inner learner is already rebuilt.

    The state is assembled from its parts, since CNTK does not accept them as the Python values that
    it returns.
    """
    keys = list(state.keys())
    if _BLOCK_STATE not in keys:
        return _local_state(state['totalNumberOfSamplesSeen'], wrapped)
    new = cntk_py.Dictionary()
    new['base'] = cntk_py.DictionaryValueFromDict(
        _local_state(state['base']['totalNumberOfSamplesSeen'], wrapped)
    )
    new['localTotalNumSamplesSeen'] = _count(state['localTotalNumSamplesSeen'])
    fresh = [np.zeros(parameter.shape, parameter.dtype) for parameter in parameters]
    new[_BLOCK_STATE] = _to_cntk_dict_value(
        _carried(state[_BLOCK_STATE], fresh, parameters, places, {})
    )
    return new


def _local_state(samples, wrapped):
    state = cntk_py.Dictionary()
    state['totalNumberOfSamplesSeen'] = _count(samples)
    state['localLearners'] = cntk_py.DictionaryValueFromDict(wrapped.create_checkpoint())
    return state


def _count(number):
    return cntk_py.DictionaryValue(cntk_py.SizeTWrapper(number))


def projected(learner, parameter, projection, added):
    """Returns {uid: initial smoothed gradient} of the Parameters that replace one.

    Args:
        learner (cntk.learners.Learner): trains `parameter`; must allow projection, see
            `no_projection`.
        parameter (cntk.Parameter): the one to be retired.
        projection (callable): see `nc.Replaced`.
        added (sequence of cntk.Parameter): in the order of the projection.
    """
    inner = _innermost(learner)
    place = [p.uid for p in _parameters(inner)].index(parameter.uid)
    gradient = np.asarray(inner.create_checkpoint()[STATE][place])
    if gradient.size != int(np.prod(parameter.shape)):  # plain sgd keeps none
        return {}
    return {
        new.uid: value for new, value in zip(added, projection(gradient.reshape(parameter.shape)))
    }


# Checkpoints.


def check_states(saved, trained):
    """Refuses a checkpoint of other learners, before CNTK has restored half of it.

    Only CNTK can check a distributed or a user's learner.

    Args:
        saved (checkpoint.Saved): the checkpoint to restore.
        trained (sequence of Trained): the learners to restore it into, and what they will train.

    Raises:
        ValueError: says what differs.
    """
    if len(saved.learners) != len(trained):
        raise ValueError(
            f'the checkpoint {saved.file} holds the state of {len(saved.learners)} learners, and '
            f'this trainer has {len(trained)}: build it with the same learners'
        )
    for number, (state, one) in enumerate(zip(saved.learners, trained)):
        learner, parameters = one.learner, one.parameters
        if isinstance(learner, (UserLearner, DistributedLearner)) or STATE not in state.keys():
            continue
        theirs = [np.shape(gradient) for gradient in state[STATE]]
        mine = _state_shapes(learner, parameters)
        if mine is not None and theirs[: len(mine)] != mine:
            raise ValueError(
                f'the checkpoint {saved.file} was written by a trainer whose learner number '
                f'{number} keeps arrays of shapes {theirs}, and {describe(learner)} of this one '
                f'keeps {mine}: build it with the same learners'
            )


def _state_shapes(learner, parameters):
    """Returns the shapes of a learner's smoothed gradients over these Parameters, or None."""
    now = learner.create_checkpoint()[STATE]
    if trains(learner, parameters):
        return [np.shape(gradient) for gradient in now]
    name, arguments = remember.learner(learner)
    if name is None or name == 'universal_learner':
        return None
    other = getattr(cntk_py, name)(list(parameters), *arguments[1:])
    return [np.shape(gradient) for gradient in other.create_checkpoint()[STATE]]
