"""Keeps the constructor arguments that CNTK objects do not return.

A `cntk.Trainer` returns neither its progress writers nor the Function objects it was given, a
`CheckpointConfig` none of its arguments, a learner none of its options. The engine needs them to
build the next trainer. So the import of the package calls `install`, which wraps the constructors;
the functions below return what was kept.
"""
import functools
import inspect
import weakref
from typing import Any

import cntk as C
from cntk import cntk_py
from cntk.io import INFINITELY_REPEAT, MinibatchSource
from cntk.ops.functions import Function
from cntk.train.trainer import Trainer
from cntk.train.training_session import TrainingSession

from . import evaluators, uids

ATTRIBUTE = '_netopt_callbacks'
_CONSTRUCTOR = '_netopt_callbacks_constructor'
_RUN = '_netopt_callbacks_run'

# By identity. Not a WeakSet: another thread may add a trainer while we look through them, and only
# `valuerefs` is one step for all threads.
_trainers: 'weakref.WeakValueDictionary[int, Any]' = weakref.WeakValueDictionary()


class TrainerFacts:
    """What a Trainer was constructed with.

    Attributes:
        model (cntk.Function): the user's own object, or None.
        criterion (tuple of cntk.Function): the user's own objects: one Function with one or two
            outputs, or loss and metric.
        learners (list of cntk.learners.Learner): the user's own objects and, after a run, those
            that `learner=` of its optimizations made.
        writers (list of cntk_py.ProgressWriter): the user's own objects.
        arguments (list of cntk.Variable): the criterion's, in the order of the user's graph; those
            of the metric alone come last.
        tracker (windows.Tracker): the engine's own writer, from the first run on.
        state (state.State): what the trainer is built from now.
        label (str): the label in its checkpoints, see `mark`; None for plain ones.
        original (state.Original): of the trainer before its first exchange; None until then.
        states (dict): the States that are kept, by the number at which their uids begin.
        last (SwigPyObject): the C++ trainer that trained last, while the current one has not
            trained, see `exchanged`; None once it has.
        last_tested (SwigPyObject): the C++ trainer that tested last, while a test window is open
            and the current one has not tested; else None.
        restored (int): how often `Function.restore` has changed values that the trainer reads.
        minibatches (int): how many it has trained, counted as Python calls C++.
        asked (dict): the `state.identity` of each output that a minibatch has asked for, in order;
            the values are None.
        random (tuple): the random state of its own, while the current C++ trainer has not compiled
            its network, see `own_random_state`; None if no other Trainer can change it.
        phases (phases.Phases): those that a save or restore by the user's code belongs to: those of
            the current run, or of the last run that optimized the trainer; None before the first.
        follower (restores.Restores): of a trainer that followed a change of another one; else None.
    """

    def __init__(self, trainer, model, criterion, learners, writers):
        self.model = model
        self.criterion = tuple(part for part in criterion if part is not None)
        self.learners = _as_list(learners)
        self.writers = _as_list(writers)
        self.arguments = _arguments(trainer)
        self.tracker = None
        self.state = None
        self.label = None
        self.original = None
        self.states = {}
        self.last = self.last_tested = None
        self.restored = self.minibatches = 0
        self.asked = {}
        self.random = None
        self.phases = self.follower = None


def _arguments(trainer):
    arguments = _inputs(trainer.loss_function)
    known = {argument.uid for argument in arguments}
    if trainer.evaluation_function is not None:
        arguments += [
            argument
            for argument in _inputs(trainer.evaluation_function)
            if argument.uid not in known
        ]
    return arguments


def _inputs(function):
    """Returns the arguments of a Function.

    The arguments of a Function that is not a composite may be outputs of other Functions, so it is
    wrapped in one.
    """
    return list((function if function.is_composite else C.combine(function.outputs)).arguments)


def _as_list(value):
    """Returns `value` as CNTK's Trainer reads it: None is an empty list, one is a list of one."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _remember_trainer(construct):
    @functools.wraps(construct)
    def constructor(self, model, criterion, parameter_learners, progress_writers=None):
        parts = tuple(criterion) if isinstance(criterion, (tuple, list)) else (criterion,)
        for writer in _as_list(progress_writers):
            if not getattr(type(writer), 'works_in_cntks_train', True):
                raise TypeError(
                    f'progress_writers of a Trainer takes no {type(writer).__name__}; give it as '
                    'callbacks=[...] of nc.training_session, nc.attach or nc.train'
                )
        construct(self, model, criterion, parameter_learners, progress_writers)
        setattr(
            self, ATTRIBUTE, TrainerFacts(self, model, parts, parameter_learners, progress_writers)
        )
        _trainers[id(self)] = self

    return constructor


def native_trainer(*arguments):
    """Returns a Trainer built by CNTK's own constructor; its arguments are not kept."""
    trainer = Trainer.__new__(Trainer)
    getattr(Trainer, _CONSTRUCTOR)(trainer, *arguments)
    return trainer


def _remember_config(construct, names):
    @functools.wraps(construct)
    def constructor(self, *args):
        construct(self, *args)
        setattr(self, ATTRIBUTE, dict(zip(names, args)))

    return constructor


def _remember_learner(create):
    @functools.wraps(create)
    def factory(*args, **options):
        learner = create(*args, **options)
        # The update function of C.universal reads the Parameters; if it were kept, it would count
        # as a Function of the script.
        setattr(
            learner,
            ATTRIBUTE,
            (create.__name__, args[:1] if create.__name__ == 'universal_learner' else args),
        )
        return learner

    return factory


def _remember_truncation(construct):
    signature = inspect.signature(construct)

    @functools.wraps(construct)
    def constructor(self, *args, **options):
        construct(self, *args, **options)
        given = signature.bind(self, *args, **options).arguments
        setattr(self, ATTRIBUTE, dict(given))

    return constructor


def _remember_session(construct):
    """Wraps a session's constructor; it refuses an attached trainer."""
    signature = inspect.signature(construct)

    @functools.wraps(construct)
    def constructor(self, trainer, *args, **options):
        if isinstance(trainer, Trainer):
            refuse_attached(trainer)
        construct(self, trainer, *args, **options)
        given = signature.bind(self, trainer, *args, **options).arguments
        setattr(self, ATTRIBUTE, given['checkpoint_config'])

    return constructor


def _refusing_ours(train):
    """Wraps `Function.train` to refuse the callbacks that it would silently ignore."""

    @functools.wraps(train)
    def method(self, *arguments, **options):
        given = inspect.signature(train).bind_partial(self, *arguments, **options).arguments
        for callback in given.get('callbacks') or ():
            kind = callback if isinstance(callback, type) else type(callback)
            if not getattr(kind, 'works_in_cntks_train', True):
                raise TypeError(
                    f"criterion.train is CNTK's own and takes no {kind.__name__}; call "
                    'netopt_callbacks.train(criterion, ...) with the same arguments'
                )
        return train(self, *arguments, **options)

    return method


def refuse_attached(trainer):
    """Refuses to train in a session a trainer that `nc.attach` watches.

    Raises:
        RuntimeError: the trainer is attached.
    """
    if attached_to(trainer) is not None:
        raise RuntimeError(
            'this trainer is under nc.attach(...), which sees the minibatches of a '
            'hand-written loop only: finish() that run, and give the callbacks to '
            'nc.training_session(..., callbacks=[...]) or nc.train(...)'
        )


def attached_to(trainer):
    """Returns the `nc.attach` run of a trainer, or None."""
    return trainer.__dict__.get(_RUN)


def set_attached(trainer, run):
    """Records the `nc.attach` run of a trainer; None ends it."""
    setattr(trainer, _RUN, run)


_CHECKPOINT = ('filename', 'frequency', 'unit', 'restore', 'preserve_all')
_CROSS_VALIDATION = ('source', 'minibatch_size', 'frequency', 'unit', 'max_samples', 'streams')
_TEST = ('source', 'minibatch_size', 'streams')
# By the argument of a session.
_CONFIGS = {
    'checkpoint_config': cntk_py.CheckpointConfig,
    'cv_config': cntk_py.CrossValidationConfig,
    'test_config': cntk_py.TestConfig,
}


def install():
    """Wraps CNTK's constructors; a second call does nothing."""
    if hasattr(Trainer, _CONSTRUCTOR):
        return
    setattr(Trainer, _CONSTRUCTOR, Trainer.__init__)
    Trainer.__init__ = _remember_trainer(Trainer.__init__)
    MinibatchSource.__init__ = _remember_truncation(MinibatchSource.__init__)
    TrainingSession.__init__ = _remember_session(TrainingSession.__init__)
    Function.train = _refusing_ours(Function.train)
    evaluators.install()
    Function.load = staticmethod(uids.outnumbering(Function.load))
    for config, names in (
        (cntk_py.CheckpointConfig, _CHECKPOINT),
        (cntk_py.CrossValidationConfig, _CROSS_VALIDATION),
        (cntk_py.TestConfig, _TEST),
    ):
        config.__init__ = _remember_config(config.__init__, names)
    for name in dir(cntk_py):
        if name.endswith('_learner') or name == 'quantized_mpicommunicator':
            setattr(cntk_py, name, _remember_learner(getattr(cntk_py, name)))


def trainer(trainer, progress_writers=None):
    """Returns the `TrainerFacts` of a Trainer.

    Args:
        trainer (cntk.Trainer): the user's trainer.
        progress_writers (list): the writers of a trainer built before the import.

    Raises:
        TypeError: `trainer` is not a Trainer.
        ValueError: the trainer was built before the import and no writers are named, or the named
            writers are not those it has.
    """
    if not isinstance(trainer, Trainer):
        raise TypeError(
            f'trainer must be a cntk.Trainer, got {trainer!r}; build one with cntk.Trainer(model, '
            '(loss, metric), learners)'
        )
    facts = trainer.__dict__.get(ATTRIBUTE)
    if facts is not None:
        if progress_writers is not None and not _same(_as_list(progress_writers), facts.writers):
            raise ValueError(
                f'progress_writers={_as_list(progress_writers)!r} are not those this Trainer was '
                f'built with, {facts.writers!r}: its writers are known and stay, so leave '
                'progress_writers out, and give new observers as callbacks'
            )
        return facts
    if progress_writers is None:
        raise ValueError(
            'this Trainer was built before `import netopt_callbacks`, and CNTK does not say which '
            'progress writers it has. Import netopt_callbacks first, or name the writers: '
            'progress_writers=[...] (an empty list if it has none)'
        )
    facts = TrainerFacts(
        trainer,
        trainer.model,
        (trainer.loss_function, trainer.evaluation_function),
        trainer.parameter_learners,
        progress_writers,
    )
    setattr(trainer, ATTRIBUTE, facts)
    _trainers[id(trainer)] = trainer
    return facts


def trainers():
    """Returns the live Trainers whose constructor arguments are known."""
    live = [reference() for reference in _trainers.valuerefs()]
    return [one for one in live if one is not None and ATTRIBUTE in one.__dict__]


def facts(trainer):
    """Returns the `TrainerFacts` of a trainer that is already known."""
    return trainer.__dict__[ATTRIBUTE]


def _same(these, those):
    return len(these) == len(those) and all(a is b for a, b in zip(these, those))


def config(config, what):
    """Returns the arguments of a CheckpointConfig, CrossValidationConfig or TestConfig.

    Returns:
        dict: as C++ got them; None if `config` is None.

    Raises:
        TypeError: it is no such config.
        ValueError: the config was built before the import.
    """
    if config is None:
        return None
    kind = _CONFIGS[what]
    if not isinstance(config, kind):
        raise TypeError(
            f'{what} must be a cntk.{kind.__name__}, got {config!r}; write '
            f'{what}=cntk.{kind.__name__}(...)'
        )
    arguments = config.__dict__.get(ATTRIBUTE)
    if arguments is None:
        raise ValueError(
            f'{what} was built before `import netopt_callbacks`, and CNTK does not give '
            'its arguments back: import netopt_callbacks first'
        )
    return arguments


def checkpoint_name(session):
    """Returns the name that a `TrainingSession` restores; None without one, or if not known."""
    config = session.__dict__.get(ATTRIBUTE)
    return None if config is None else config.__dict__.get(ATTRIBUTE, {}).get('filename')


def truncated(source):
    """Whether a minibatch source cuts sequences for truncated back-propagation through time."""
    return bool(source.__dict__.get(ATTRIBUTE, {}).get('truncation_length'))


def length(source):
    """Returns (samples, sweeps) that a minibatch source of CNTK gives, each None if not known."""
    given = source.__dict__.get(ATTRIBUTE, {})
    samples, sweeps = given.get('max_samples', INFINITELY_REPEAT), given.get(
        'max_sweeps', INFINITELY_REPEAT
    )
    return tuple(
        count if isinstance(count, int) and 0 < count < INFINITELY_REPEAT else None
        for count in (samples, sweeps)
    )


def learner(learner):
    """Returns (name of the CNTK factory of a learner or communicator, its arguments).

    It is (None, ()) if they are not known.
    """
    return learner.__dict__.get(ATTRIBUTE, (None, ()))
