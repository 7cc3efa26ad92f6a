"""`nc.attach`: callbacks for hand-written `train_minibatch` loops.

During the run, the user's trainer becomes an object of a subclass of its own class. The subclass
notifies the engine of each minibatch. An optimization that is due is applied at the start of the
next `train_minibatch`, so that an evaluation at the end of an epoch sees the network trained in
that epoch.
"""
import atexit
import warnings
import weakref
from typing import Any, Optional, Union

import cntk as C
from cntk.io import MinibatchData
from cntk.train.training_session import DataUnit

from . import graph
from ._types import Callbacks, EpochSize, Path, Points
from .engine.callbacks import refuse_epochs_that_never_come
from .engine.engine import Engine
from .engine.exchanged import Exchanged, class_of, subclass
from .engine.schedule import Clock
from .evaluation.held_out import held_out_data, samples_of
from .lowering import Lower
from .lowering.lower import warn_of_nothing_to_lower
from .readers import readers
from .records import Result
from .trainers import directors, remember, uids

_GOES_ON = 1  # in a mask: a step of a sequence other than its first
_unfinished: 'weakref.WeakSet[Any]' = weakref.WeakSet()


def attach(
    trainer: C.Trainer,
    callbacks: Optional[Callbacks],
    epoch_size: Optional[EpochSize] = None,
    data: Any = None,
    progress_writers: Any = None,
    larger_is_better: bool = False,
    model: Optional[C.Function] = None,
    baseline: Union[Path, Points, None] = None,
) -> 'Attached':
    """Attaches callbacks to a trainer that the user's own loop drives.

        with nc.attach(trainer, callbacks=[...], epoch_size=60000, data=(x, y)) as run:
            for ...:
                trainer.train_minibatch(...)
        run.result

    Args:
        trainer (cntk.Trainer): stays the same object; the C++ trainer inside it is replaced.
        callbacks (list): `nc.Optimization` and `nc.Observer` objects.
        epoch_size (int or (int, cntk.train.DataUnit)): samples per epoch; None is one sweep, whose
            end is known only for minibatches of a CNTK minibatch source.
        data: held-out data, as in `nc.training_session`.
        progress_writers (list): the writers of a trainer built before this package was imported.
        larger_is_better (bool): direction of the metric.
        model (cntk.Function), baseline: as in `nc.training_session`.

    Returns:
        Attached: use it as a context manager, or call its `finish()`.

    Raises:
        TypeError, ValueError: an argument does not fit.
        RuntimeError: the trainer is already attached.
    """
    return Attached(
        trainer, callbacks, epoch_size, data, progress_writers, larger_is_better, model, baseline
    )


class Attached:
    """A run of callbacks on a trainer; made by `nc.attach`.

    Attributes:
        result (nc.Result): filled during the run; `finish` completes it.
    """

    def __init__(
        self,
        trainer: C.Trainer,
        callbacks: Optional[Callbacks],
        epoch_size: Optional[EpochSize],
        data: Any,
        progress_writers: Any,
        larger_is_better: bool,
        model: Optional[C.Function],
        baseline: Union[Path, Points, None],
    ) -> None:
        facts = remember.trainer(trainer, progress_writers)
        if remember.attached_to(trainer) is not None:
            raise RuntimeError(
                'this trainer is attached already: call finish() on the run that nc.attach '
                'returned first; if it was not kept, build a new cntk.Trainer over the same '
                'network and learners'
            )
        self._trainer = trainer
        self._data = held_out_data(data, facts.arguments)
        self.engine = Engine(
            trainer,
            facts,
            callbacks,
            Clock(epoch_size),
            self._data,
            larger_is_better,
            model=model,
            baseline=baseline,
        )
        clock = self.engine.clock
        refuse_epochs_that_never_come(
            self.engine.optimizations, clock, facts.learners, self.engine.workers, False
        )
        self._needs_sweeps = (
            clock.unit == DataUnit.sweep
            and any(not isinstance(callback, Lower) for callback in callbacks or ())
            or any(
                isinstance(optimization.epoch, tuple) for optimization in self.engine.optimizations
            )
        )
        self._finished = False
        self._facts = facts
        # Minibatches of C++: before the run, up to the last one seen, and those that were not seen.
        self._trained_before = self._trained = facts.minibatches
        self._unseen = 0
        warn_of_nothing_to_lower(callbacks, (model, facts.model, trainer.loss_function), 3)
        self._class = type(trainer)
        self.engine.begin()  # it may refuse the run
        self.result.awaits = 'finish() was not called'
        trainer.__class__ = subclass(Watched, self._class)
        remember.set_attached(trainer, self)
        _unfinished.add(self)

    @property
    def result(self) -> Result:
        """The `nc.Result` of the run."""
        return self.engine.result

    def __repr__(self):
        return f'<Attached: {self.result!r}>'

    def _repr_html_(self):
        return self.result._repr_html_()

    def __enter__(self) -> 'Attached':
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is None:
            self.finish()
        elif not self._finished:
            self._let_go()
            self.engine.abandon()

    def finish(self) -> Result:
        """Applies what is due at the end, exports, lowers and releases the trainer.

        Returns:
            nc.Result: also available as `result`.

        Raises:
            ValueError: an optimization never became due; `result` is filled.
            nc.LoweringError: see `nc.Lower`.
        """
        if not self._finished:
            self._let_go()
            try:
                self._complete()
            except BaseException:
                self.engine.abandon()
                raise
            self.engine.close()
        return self.result

    def current(self, function: C.Function) -> C.Function:
        """Returns a Function built over an earlier network, rebuilt over the current network.

        If `softmax_z` was built before an optimization and did not follow it, it keeps computing
        the old network. `run.current(softmax_z)` is the same Function over the current network.

        Args:
            function (cntk.Function): reads the model, the loss or the metric that the user gave to
                the trainer, as they were at any time of the run.

        Raises:
            ValueError: two of its parts have one uid, as of a network and a loaded copy of it.
        """
        replacements = {
            variable: readers.now(variable)
            for variable in _variables(function)
            if readers.now(variable) is not variable
        }
        if not replacements:
            return function
        uids.refuse_doubles(function.outputs)
        return graph.substitute(function, replacements)

    def _complete(self):
        self.start()
        if self.engine.due_at_end():
            self.engine.fire()
        self.engine.finish(self._of_the_unseen())

    def _of_the_unseen(self):
        """Returns a text about minibatches the trainer has trained without the run; None if none.

        A method that was taken from the trainer before `attach` is that of the class it had.
        """
        unseen = self._unseen + self._facts.minibatches - self._trained
        if not unseen:
            return None
        trained = self._facts.minibatches - self._trained_before
        return (
            f'the run has not seen {unseen} of the {trained} minibatches that the trainer '
            'has trained since nc.attach: a train_minibatch that was taken from the trainer before '
            '(step = trainer.train_minibatch) passes by the run, so take it after nc.attach, or '
            'call trainer.train_minibatch(...)'
        )

    def _let_go(self):
        self._finished = True
        _unfinished.discard(self)
        self._trainer.__class__ = self._class
        if remember.facts(self._trainer).original is not None:
            self._trainer.__class__ = class_of(self._trainer)
        remember.set_attached(self._trainer, None)

    # Called by the watched trainer.

    def before_minibatch(self, arguments, is_sweep_end):
        """Applies what is due before a minibatch."""
        if self._needs_sweeps and is_sweep_end is None and not _tells_sweeps(arguments):
            raise ValueError(
                'minibatches of NumPy arrays do not tell where an epoch ends: give '
                'nc.attach(..., epoch_size=...) in samples'
            )
        if self._data is not None and not self.engine.started:
            self._data.learn_size(samples_of(arguments))
        self.start()
        trained = self._facts.minibatches
        self._unseen, self._trained = self._unseen + trained - self._trained, trained
        if self.engine.due():
            workers = self.engine.workers
            workers.meet(self._trainer)
            if not workers.any(continues_sequences(arguments)):
                self.engine.fire()

    def after_minibatch(self):
        """Counts a trained minibatch."""
        self.engine.after_minibatch()

    def note_trained(self):
        """Notes that the run has seen all minibatches of C++ up to now, also one that raised."""
        self._trained = self._facts.minibatches

    def start(self):
        """Starts the run if it has not started; the first use of the trainer calls this."""
        if not self.engine.started:
            self.engine.start()


def _variables(function):
    found = list(function.outputs)
    for part in graph.walk(function, into_blocks=False):
        found.extend(part.outputs)
    return {variable.uid: variable for variable in found}.values()


def _data_of(arguments):
    """Returns (data, new-sequence flags or None) from the arguments of `train_minibatch`."""
    if (
        isinstance(arguments, tuple)
        and len(arguments) == 2
        and isinstance(arguments[1], (list, tuple))
        and all(isinstance(flag, bool) for flag in arguments[1])
    ):
        return arguments
    return arguments, None


def _tells_sweeps(arguments):
    data, _ = _data_of(arguments)
    values = list(data.values()) if isinstance(data, dict) else [data]
    return not values or any(isinstance(value, MinibatchData) for value in values)


def continues_sequences(arguments):
    """Whether a minibatch continues sequences of the previous one, whose state a new trainer lacks.

    The flags show it, or the mask of data that CNTK has cut (`truncation_length`): 2 where a
    sequence begins.
    """
    data, new = _data_of(arguments)
    if new:
        return not all(new)
    values = (
        [value for name, value in data.items() if len(getattr(name, 'dynamic_axes', (0, 0))) > 1]
        if isinstance(data, dict)
        else [data]
    )
    masks = [_mask(value) for value in values]
    return any(mask is not None and (mask[:, 0] == _GOES_ON).any() for mask in masks)


def _mask(value):
    """Returns CNTK's mask of the steps of a minibatch; None if every sequence is new and whole.

    Reading a mask unpacks the data: CNTK then no longer accepts it for an input of another shape,
    and its reader, which fills the same memory again, finds it in use. So a copy is read.
    """
    value = value.data if isinstance(value, MinibatchData) else value
    if not isinstance(value, C.cntk_py.Value):
        return None
    mask = C.cntk_py.Value.mask(C.cntk_py.Value.deep_clone(value, True))
    return None if mask is None else mask.asarray()


class Watched(Exchanged):
    """Mixin placed before the class of an attached trainer: it notifies the run of minibatches."""

    def train_minibatch(self, arguments, *rest, **options):
        run = remember.attached_to(self)
        run.before_minibatch(arguments, options.get('is_sweep_end', (rest + (None,) * 3)[2]))
        with directors.uninterrupted():
            try:
                trained = super().train_minibatch(arguments, *rest, **options)
            finally:
                run.note_trained()
            run.after_minibatch()
        return trained

    def summarize_training_progress(self):
        super().summarize_training_progress()
        remember.attached_to(self).engine.check()

    def summarize_test_progress(self):
        super().summarize_test_progress()
        remember.attached_to(self).engine.report_test('test')

    def save_checkpoint(self, filename, *rest, **options):
        remember.attached_to(self).start()
        super().save_checkpoint(filename, *rest, **options)


@atexit.register
def _warn_of_unfinished():
    for run in _unfinished:
        warnings.warn(
            'a run of nc.attach(...) was never finished: call run.finish(), or use '
            '`with nc.attach(...) as run:`; nothing was exported and nothing lowered'
        )
