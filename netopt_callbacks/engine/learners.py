"""Learners of a running trainer: what they can train, and their state."""
import contextlib

import numpy as np
from cntk import cntk_py
from cntk.internal import map_if_possible
from cntk.learners import UserLearner
from cntk.train.distributed import DistributedLearner
from cntk.train.training_session import DataUnit

from . import remember

STATE = 'smoothed_gradients'


def parameters_of(learners):
    """Returns the Parameters the learners train, in learner order."""
    return [parameter for learner in learners for parameter in _parameters(learner)]


def _parameters(learner):
    """Returns a learner's Parameters.

    Those of a UserLearner and of a distributed learner CNTK gives unmapped, by a method.
    """
    if not callable(learner.parameters):
        return learner.parameters
    parameters = learner.parameters()
    map_if_possible(parameters)
    return parameters


def _forgets(learner):
    """Whether a UserLearner leaves `restore_from_checkpoint` to CNTK, whose own one raises."""
    return isinstance(learner, UserLearner) \
        and type(learner).restore_from_checkpoint is UserLearner.restore_from_checkpoint


def keep_state(learners):
    """Lets a UserLearner without `restore_from_checkpoint` pass a restore of what it just saved.

    A swap restores the trainer from a checkpoint of itself; the learner object has its state.
    """
    for learner in learners:
        if _forgets(learner):
            learner.restore_from_checkpoint = lambda checkpoint: None


def let_go(learners):
    """Takes back what `keep_state` did."""
    for learner in learners:
        if _forgets(learner):
            learner.__dict__.pop('restore_from_checkpoint', None)


def check_restorable(learners):
    """Refuses a learner that CNTK cannot restore from its own state, as every change has to.

    Raises:
        ValueError: names the learner and the schedule that is known to be such.
    """
    for learner in map(_innermost, learners):
        if isinstance(learner, (UserLearner, DistributedLearner)):
            continue
        try:
            learner.restore_from_checkpoint(learner.create_checkpoint())
        except RuntimeError as error:
            raise ValueError('CNTK cannot restore the learner %s from its own state (%s), which an '
                             'optimization needs. A schedule with epoch_size=cntk.io.FULL_DATA_SWEEP '
                             'is such: leave epoch_size out, and its values are of one sweep each'
                             % (describe(learner), str(error).split('\n')[0]))


def check_resumable(learners):
    """Refuses to resume a learner that cannot be restored.

    Raises:
        ValueError: names the learner and what it lacks.
    """
    for learner in learners:
        if _forgets(learner):
            raise ValueError('the learner %s cannot go on from a checkpoint: a UserLearner needs '
                             'create_checkpoint() and restore_from_checkpoint(checkpoint) of its '
                             'own for that' % type(learner).__name__)


def any_distributed(learners):
    """Whether any learner is one of CNTK's for several workers."""
    return any(isinstance(learner, DistributedLearner) for learner in learners)


def counts_nothing(learners):
    """Whether CNTK counts no samples under these learners: it asks the first, a UserLearner."""
    return isinstance(learners[0], UserLearner)


def counts(trainer, learners, units):
    """Returns what a trainer has seen in its life, in each unit.

    A distributed learner counts samples alone; minibatches and sweeps are counted by the one in it.
    """
    first = _innermost(learners[0])
    if first is learners[0]:
        return [trainer.total_number_of_units_seen(unit) for unit in units]
    return [{DataUnit.sample: trainer.total_number_of_units_seen(DataUnit.sample),
             DataUnit.minibatch: first.total_number_of_minibatches_seen(),
             DataUnit.sweep: first.total_number_of_sweeps_seen()}[unit] for unit in units]


def owners(learners):
    """Returns {uid of a Parameter: the learner that trains it}."""
    return {parameter.uid: learner for learner in learners for parameter in _parameters(learner)}


def _innermost(learner):
    """Returns the learner that a distributed learner wraps, or the learner itself."""
    name, arguments = remember.learner(learner)
    while name and 'distributed' in name:
        learner = next(a for a in arguments if isinstance(a, cntk_py.Learner))
        name, arguments = remember.learner(learner)
    return learner


def _options(arguments):
    for argument in arguments:
        if hasattr(argument, 'gradient_clipping_threshold_per_sample'):
            return argument
    return None


def couples_elements(learner):
    """Says why a learner treats the elements of one Parameter together, or returns None.

    Such a learner trains two matrices packed into the storage of one otherwise than it would
    train them apart: CNTK's adagrad and rmsprop divide by an average over the Parameter
    (`need_ave_multiplier`), clipping by norm takes the norm of the Parameter, and noise is
    drawn for all its elements at once.
    """
    inner = _innermost(learner)
    name, arguments = remember.learner(inner)
    if name is None and not isinstance(inner, UserLearner):
        return 'it was made before `import netopt_callbacks`, so that its options are not known ' \
               '(import netopt_callbacks first)'
    if name in ('ada_grad_learner', 'rmsprop_learner'):
        averages = [argument for argument in arguments if isinstance(argument, bool)]
        if averages and averages[0]:
            return '%s with need_ave_multiplier=True scales all elements of a Parameter by one ' \
                   'average' % ('adagrad' if name == 'ada_grad_learner' else 'rmsprop')
    options = _options(arguments)
    if options is None:
        return None
    if np.isfinite(options.gradient_clipping_threshold_per_sample) \
            and not options.gradient_clipping_with_truncation:
        return 'gradient clipping by norm takes the norm of a whole Parameter'
    if options.gaussian_noise_injection_std_dev[0]:
        return 'gaussian noise injection draws one noise for a whole Parameter'
    return None


def describe(learner):
    """Returns a learner as an error names it."""
    name, _ = remember.learner(_innermost(learner))
    return name[:-len('_learner')] if name else type(learner).__name__


def shares_count(learner):
    """Whether the learner keeps one `smoothed_count` for all its Parameters."""
    name, _ = remember.learner(_innermost(learner))
    return name in ('adam_learner', 'fsada_grad_learner', 'rmsprop_learner')


def no_projection(learner):
    """Says why a learner's state of W cannot become that of W1 and W2, or returns None.

    The gradient G of W gives W1 the gradient G W2^T and W2 the gradient W1^T G, so a smoothed
    gradient, a sum of gradients, maps the same way. A mean of squares does not.
    """
    name, _ = remember.learner(_innermost(learner))
    if name in ('sgd_learner', 'momentum_sgd_learner', 'nesterov_learner'):
        return None
    return 'only the smoothed gradient of sgd, momentum_sgd and nesterov maps through W ~ W1 W2, ' \
           'the squares that adaptive learners keep do not'


def check_states(saved, learners):
    """Refuses, before CNTK has restored half of it, a checkpoint of learners that are not these.

    Of a distributed or a user's learner CNTK alone can tell.

    Args:
        saved (checkpoint.Saved): what is to be restored.
        learners (list of cntk.learners.Learner): those it is to be restored into.

    Raises:
        ValueError: says what differs.
    """
    if len(saved.learners) != len(learners):
        raise ValueError('the checkpoint %s holds the state of %d learners, and this trainer has %d: build it '
                         'with the same learners' % (saved.file, len(saved.learners), len(learners)))
    for number, (state, learner) in enumerate(zip(saved.learners, learners)):
        if isinstance(learner, (UserLearner, DistributedLearner)) or STATE not in state.keys():
            continue
        theirs = [np.shape(gradient) for gradient in state[STATE]]
        mine = [np.shape(gradient) for gradient in learner.create_checkpoint()[STATE]]
        if theirs[:len(mine)] != mine:
            raise ValueError('the checkpoint %s was written by a trainer whose learner number %d keeps arrays '
                             'of shapes %s, and %s of this one keeps %s: build it with the same learners'
                             % (saved.file, number, theirs, describe(learner), mine))


def rewrite_state(learners, edits, undo):
    """Rewrites the smoothed gradients of some Parameters, through CNTK's own checkpoint.

    Args:
        learners (list of cntk.learners.Learner): of the trainer.
        edits (dict): Parameter uid to a function that gets the smoothed gradients as an array
            of shape [blocks, elements of the Parameter], in the Parameter's row-major order
            (sgd keeps no block, momentum one, adam and adadelta two, rmsprop three), and
            returns what is to stand there.
        undo (contextlib.ExitStack): gets what puts the old ones back.
    """
    before = {}
    for learner in learners:
        if isinstance(learner, UserLearner) \
                or not any(parameter.uid in edits for parameter in _parameters(learner)):
            continue
        learner = _innermost(learner)
        checkpoint = learner.create_checkpoint()
        if STATE not in checkpoint.keys():
            continue
        gradients = checkpoint[STATE]
        for index, parameter in enumerate(learner.parameters):
            value = np.asarray(gradients[index])
            size = int(np.prod(parameter.shape))
            if parameter.uid not in edits or value.size < size:
                continue
            before[parameter.uid] = value.reshape(-1, size).copy()
            edited = edits[parameter.uid](before[parameter.uid].copy())
            gradients[index] = np.ascontiguousarray(edited, value.dtype).reshape(value.shape)
        checkpoint[STATE] = gradients
        undo.callback(rewrite_state, [learner], {uid: lambda blocks, old=old: old
                                                 for uid, old in before.items()},
                      contextlib.ExitStack())
        learner.restore_from_checkpoint(checkpoint)
