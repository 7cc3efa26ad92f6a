"""`nc.training_session`: CNTK's own training session, with callbacks.

CNTK's C++ TrainingSession is the loop. It cannot exchange its trainer, so where something is
due the loop is left and the next `Segment` goes on from a checkpoint of the trainer as it is
then. With nothing due there is one segment, and it is CNTK's session to the last bit.
"""
import os
import sys
import tempfile
import warnings
from typing import Any, Dict, Optional, Union

import cntk as C
from cntk.train.trainer import Trainer
from cntk.train.training_session import (
    CheckpointConfig,
    CrossValidationConfig,
    DataUnit,
    TestConfig,
    TrainingSession,
    _unpack_parameter_frequency,
)

from ._types import Callbacks, EpochSize, Path, Points
from .engine import directors, learners as learner_facts, random_state, remember, sources, temporary
from .engine.callbacks import refuse_epochs_that_never_come
from .engine.checkpoint import HANDED_OVER
from .engine.engine import Engine
from .engine.exchanged import trained_samples
from .engine.held_out import held_out
from .engine.schedule import Clock
from .engine.segment import Segment
from .integers import plain
from .records import Result

_SOURCE = 'TrainingMinibatchSource'


def training_session(
    trainer: C.Trainer,
    mb_source: Any,
    mb_size: Any,
    model_inputs_to_streams: Optional[Dict[C.Variable, Any]],
    progress_frequency: Optional[EpochSize] = None,
    max_samples: Optional[int] = None,
    checkpoint_config: Optional[C.CheckpointConfig] = None,
    cv_config: Optional[C.CrossValidationConfig] = None,
    test_config: Optional[C.TestConfig] = None,
    callbacks: Optional[Callbacks] = None,
    epoch_size: Optional[EpochSize] = None,
    data: Any = None,
    progress_writers: Any = None,
    larger_is_better: bool = False,
    model: Optional[C.Function] = None,
    baseline: Union[Path, Points, None] = None,
) -> 'Session':
    """Creates a training session that optimizes the network while it trains.

    The first nine arguments are those of `cntk.training_session`, with its defaults and its
    behaviour. Without callbacks the session is CNTK's.

    Args:
        trainer (cntk.Trainer): stays the same object; its inside is exchanged.
        mb_source, mb_size, model_inputs_to_streams, progress_frequency, max_samples,
            checkpoint_config, cv_config, test_config: as in `cntk.training_session`.
        callbacks (list): `nc.Optimization` and `nc.Observer` objects.
        epoch_size (int or (int, cntk.train.DataUnit)): samples per epoch, in which the
            optimizations' `epoch` counts; None is one sweep of `mb_source`.
        data: held-out data for recovery, calibration and the parity gate: NumPy arrays in the
            order of the criterion's arguments, or a minibatch source. None takes the source
            of `cv_config`.
        progress_writers (list): those of a trainer built before the import of this package.
        larger_is_better (bool): direction of the metric, the criterion's second output.
        model (cntk.Function): the network for `result.model`, where the trainer was given only a
            criterion and several Functions of the script read it.
        baseline (str or list): the held-out metric of a run without optimizations, to be shown
            beside that of this run: the folder that `nc.TensorBoard` wrote of it, or a list of
            (samples, metric).

    Returns:
        Session: call `train()` once, then read `result`.

    Raises:
        TypeError, ValueError: an argument does not fit, before training starts.
    """
    return Session(
        trainer,
        mb_source,
        plain(mb_size),
        model_inputs_to_streams,
        plain(progress_frequency),
        plain(max_samples),
        checkpoint_config,
        cv_config,
        test_config,
        callbacks,
        plain(epoch_size),
        data,
        progress_writers,
        larger_is_better,
        model,
        baseline,
    )


class Session:
    """A training session with callbacks; made by `nc.training_session`.

    Attributes:
        trainer (cntk.Trainer): the user's.
        result (nc.Result): filled by `train`, also by one that is interrupted or fails.
    """

    def __init__(
        self,
        trainer: C.Trainer,
        mb_source: Any,
        mb_size: Any,
        model_inputs_to_streams: Optional[Dict[C.Variable, Any]],
        progress_frequency: Optional[EpochSize],
        max_samples: Optional[int],
        checkpoint_config: Optional[C.CheckpointConfig],
        cv_config: Optional[C.CrossValidationConfig],
        test_config: Optional[C.TestConfig],
        callbacks: Optional[Callbacks],
        epoch_size: Optional[EpochSize],
        data: Any,
        progress_writers: Any,
        larger_is_better: bool,
        model: Optional[C.Function],
        baseline: Union[Path, Points, None],
    ) -> None:
        self.trainer = trainer
        self.caught: Any = None
        self._trained = False
        self._max_samples = max_samples
        self._frequency = progress_frequency
        self._size = mb_size
        self._checkpoint = checkpoint_config or CheckpointConfig(None)
        self._given = remember.config(self._checkpoint, 'checkpoint_config')
        self._cross_validation = cv_config or CrossValidationConfig(None)
        self._test = test_config or TestConfig(None)
        handed = remember.trainer(trainer, progress_writers)
        self._source, self._streams = TrainingSession._sanitize_minibatch_source(
            mb_source, model_inputs_to_streams, trainer.loss_function
        )
        remember.config(self._test, 'test_config')
        self._segment(self._checkpoint, self._test)  # CNTK's own checks, before training
        cross_validation = remember.config(cv_config, 'cv_config')
        self.engine = Engine(
            trainer,
            handed,
            callbacks,
            Clock(epoch_size, self._samples_left(), self._source_length()),
            held_out(data, handed.arguments, self._streams, cross_validation, mb_size),
            larger_is_better,
            self._given['filename'],
            holds_trainer=True,
            model=model,
            baseline=baseline,
        )
        refuse_epochs_that_never_come(
            self.engine.optimizations,
            self.engine.clock,
            handed.learners,
            self.engine.workers,
            sources.tells_all_workers_of_sweeps(self._source),
        )
        self._needs_segments = bool(self.engine.optimizations)
        # Whether a pair of the user's name is only what one segment hands to the next: CNTK
        # itself keeps others, or writes none where it counts no samples.
        self._hands_over_only = self._given['preserve_all'] or learner_facts.counts_nothing(
            handed.learners
        )
        if self._needs_segments:
            sources.refuse_half_position(self._source)
            self._warn_of_what_is_not_exact()
        self._remove = ()
        self._counted: Dict[Any, int] = {}
        self._checkpoints_counted = None

    def __repr__(self):
        return f'<Session: {self.result!r}>'

    def _repr_html_(self):
        return self.result._repr_html_()

    def _samples_left(self):
        """Returns how many samples the run trains: CNTK counts `max_samples` over the learners'
        life.

        Where a checkpoint may be restored, that life begins anew with it.
        """
        if (
            self._max_samples in (None, sys.maxsize)
            or self._given['filename']
            and self._given['restore']
        ):
            return self._max_samples
        return max(0, self._max_samples - self.trainer.total_number_of_samples_seen)

    def _source_length(self):
        """Returns at most how many (samples, sweeps) are trained, by what the source gives and
        max_samples."""
        restores = bool(self._given['filename'] and self._given['restore'])
        samples, sweeps = sources.length(self._source, anew=restores)
        once, limit = sources.sweep_of(self._source), self._samples_left()
        if sweeps is None and once and limit not in (None, sys.maxsize):
            sweeps = -(-limit // once)
        return samples, sweeps

    def _warn_of_what_is_not_exact(self):
        if remember.truncated(self._source):
            warnings.warn(
                'this source cuts its sequences (truncation_length), and where an '
                'optimization is due it is restored to its position: CNTK then drops the '
                'sequences it has begun, so some samples are not trained',
                stacklevel=4,
            )
        if self.engine.workers.drops_empty_minibatch and random_state.has_state(
            self.trainer.loss_function
        ):
            warnings.warn(
                'block momentum synchronizes at every save, and a swap saves: with random '
                'state in the network (Dropout is such) the run after it is not that of '
                'plain CNTK, bit for bit',
                stacklevel=4,
            )
        if self._given['filename'] and not sources.has_position(self._source):
            warnings.warn(
                f'the minibatch source {type(self._source).__name__} keeps no position in a '
                'checkpoint, so a resumed run begins its data anew: override '
                'get_checkpoint_state() and restore_from_checkpoint(state)',
                stacklevel=4,
            )

    @property
    def result(self) -> Result:
        """The `nc.Result` of the run."""
        return self.engine.result

    def train(self, device: Optional[C.DeviceDescriptor] = None) -> None:
        """Trains to the end, applying what is due on the way.

        Args:
            device (cntk.device.DeviceDescriptor): as in `cntk.train.TrainingSession.train`.

        Raises:
            RuntimeError: the session was trained before.
            Whatever an optimization, an observer, a progress writer, a minibatch source or a
            cross-validation callback raises, as it was raised; `result` is then partial.
        """
        if self._trained:
            raise RuntimeError(
                'this session has been trained: a session trains once, make a new '
                'one with nc.training_session(...) to train on'
            )
        remember.refuse_attached(self.trainer)
        self._trained = True
        self.engine.measure_on(device)
        with directors.guarded() as self.caught:
            try:
                self.engine.serve(self._samples_left())
                self.engine.phases.lock(self._given['filename'])
                restored = self.engine.start(self._to_restore())
                self.caught.check()
                self._run(device, restored)
                self.engine.finish()
            except BaseException as error:
                if self.engine.workers.count > 1 and not getattr(error, 'on_all_workers', False):
                    self.engine.workers.end_all()
                self.engine.abandon()
                raise
            self.engine.close()

    @property
    def _checkpoints(self):
        """The folder beside the checkpoint that C++ writes; None where it writes none."""
        return self.engine.phases.checkpoints

    def _to_restore(self):
        """Returns the checkpoint the engine has to restore itself, or None."""
        if self._checkpoints is None or not self._given['restore']:
            return None
        file = self.engine.phases.find()
        if file:
            self._note_whole()
        if file == self._given['filename'] and self._checkpoints.noted(HANDED_OVER):
            self._remove = (file, file + '.ckp')  # as the run that was killed was about to do
        return file

    def _run(self, device, restored):
        """Trains, segment after segment; the first restores the checkpoint, if it can, itself."""
        with tempfile.TemporaryDirectory(prefix='netopt_callbacks-') as folder:
            folder = self.engine.workers.shared_text(folder)
            config = self._checkpoint
            if restored is not None and restored.changed:
                self._source.restore_from_checkpoint(restored.state[_SOURCE])
                config = self._hand_over(os.path.join(folder, 'segment'))
            test = TestConfig(None) if self._needs_segments else self._test
            while not self._segment(config, test).run(self.caught, device):
                self._fire()
                config = self._hand_over(os.path.join(folder, 'segment'))
            self._all_written()
            self.engine.workers.meet(self.trainer)  # one may still be in its last summary
            self._fire()
            if self._needs_segments:
                self._run_test(os.path.join(folder, 'test'), device)
            self.engine.tell_test('test')
        self.caught.check()

    def _fire(self):
        """Applies what is due between two segments, which is a safe point for Ctrl-C."""
        self.caught.check()
        if self.engine.due():
            self.engine.fire()
        self.caught.check()

    def _segment(self, checkpoint, test):
        return Segment(
            self,
            self.trainer,
            self._source,
            self._size,
            self._streams,
            self._max_samples,
            self._frequency,
            checkpoint,
            self._cross_validation,
            test,
        )

    def _hand_over(self, file):
        """Saves the changed trainer; returns the config with which the next segment restores it.

        Args:
            file (str): where to, in case the user saves no checkpoints.
        """
        own = not self._given['filename']
        target = file if own else self._given['filename']
        if not own and self._hands_over_only and self.engine.workers.is_main:
            self._checkpoints.note(HANDED_OVER)
        if own:
            self._save_temporary(
                target, 'going on after an optimization, without a checkpoint_config,'
            )
        else:
            with self.engine.phases.saving(target):
                self._save(target)
            self._note_whole()
        if own or self._hands_over_only:
            self._remove = (target, target + '.ckp')
        if own:
            return CheckpointConfig(target, frequency=0, restore=True)
        return CheckpointConfig(
            target,
            frequency=(self._given['frequency'], self._given['unit']),
            restore=True,
            preserve_all=self._given['preserve_all'],
        )

    def _save(self, file):
        Trainer.save_checkpoint(self.trainer, file, {_SOURCE: self._source.get_checkpoint_state()})

    def _save_temporary(self, file, what):
        is_main = self.engine.workers.is_main
        if is_main:
            temporary.room_for(
                os.path.dirname(file),
                self.trainer.loss_function,
                self.trainer.parameter_learners,
                what,
            )
        self._save(file)
        if is_main:
            temporary.check(file, what)

    def segment_started(self):
        """Removes the checkpoint the segment was restored from, where the user has none such."""
        self._checkpoints_counted = None
        if self.engine.workers.is_main:
            for file in self._remove:
                if os.path.exists(file):
                    os.remove(file)
            if self._remove and self._checkpoints is not None:
                self._checkpoints.forget(HANDED_OVER)
        self._remove = ()

    def checkpoint_may_come(self):
        """Keeps the pair of before where C++ may write one after this minibatch: always, rather
        than not once."""
        keeper = self.engine.phases.keeper()
        if keeper is None or not self._given['frequency']:
            return
        counted = (
            self.trainer.total_number_of_units_seen(self._given['unit']) // self._given['frequency']
        )
        if counted != self._checkpoints_counted or not trained_samples(self.trainer):
            keeper.begin(self.trainer.total_number_of_samples_seen)
        self._checkpoints_counted = counted

    def checkpoint_written(self, index):
        """Makes sure that the pair C++ has just written is whole.

        Raises:
            RuntimeError: it is not, see `generations`.
        """
        keeper = self.engine.phases.keeper()
        if keeper is not None:
            keeper.done(str(index) if self._given['preserve_all'] else '')
        self._note_whole()

    def _all_written(self):
        """Makes sure of the pair that C++ writes of the end where it keeps all; no other save
        comes."""
        keeper = self.engine.phases.keeper()
        if keeper is None:
            return
        if self._given['preserve_all'] and os.path.exists(self._given['filename']):
            keeper.done()
        keeper.settle()

    def _note_whole(self):
        """Notes that a pair of the user's name is whole, where CNTK keeps but that one."""
        if (
            self.engine.phases.optimized
            and self._checkpoints is not None
            and not self._hands_over_only
            and self.engine.workers.is_main
        ):
            self._checkpoints.note_whole()

    def leave_at_once(self, segment):
        """Ends a segment on the minibatch just trained, where an empty one may not follow.

        CNTK's block momentum takes the empty minibatch for the end of all data. So the actions
        that C++ has due after this minibatch are left out, but for the progress summary, which
        is made here.
        """
        ahead, workers = self._ahead(segment), self.engine.workers
        due = self._summary_is_due()
        # Where nobody has more, C++ makes the summary.
        summarized = due and ahead.has_more
        if summarized:
            self.trainer.summarize_training_progress()
        workers.meet(self.trainer)
        if ahead.at_end(workers):
            return True
        if workers.any((due or not ahead.has_more) and not summarized):
            if summarized:
                workers.averaged(0, 0)  # the others' summary waits for all
            else:
                self.trainer.summarize_training_progress()
        raise directors.EndOfSegment

    def _summary_is_due(self):
        frequency, unit = _unpack_parameter_frequency(self._frequency)
        if not frequency:
            return False
        return (
            self.trainer.total_number_of_units_seen(unit) // frequency
            != self._counted.get(unit, 0) // frequency
        )

    def count(self):
        """Notes CNTK's counts after a minibatch that nothing is due at."""
        self._counted = {unit: self.trainer.total_number_of_units_seen(unit) for unit in DataUnit}

    def at_end(self, segment):
        """Whether the training data has come to its end, or the segment was stopped, on every
        worker."""
        return self._ahead(segment).at_end(self.engine.workers)

    def _ahead(self, segment):
        seen, limit = self.trainer.total_number_of_samples_seen, self._max_samples
        size = segment.get_minibatch_size()
        if limit not in (None, sys.maxsize):
            size = min(size, max(0, limit - seen))
        return sources.Ahead(
            self._source, 0 if segment.stopped else size, self.engine.workers.shares(seen)
        )

    def _run_test(self, file, device):
        """Runs the user's test on the network as it is after the last change."""
        if remember.config(self._test, 'test_config').get('source') is None:
            return
        self._save_temporary(file, 'the test of an optimized network')
        config = CheckpointConfig(file, frequency=0, restore=True)
        segment = TrainingSession(
            self.trainer,
            self._source,
            self._size,
            self._streams,
            self.trainer.total_number_of_samples_seen or self._max_samples,
            None,
            config,
            CrossValidationConfig(None),
            self._test,
        )
        directors.run(self.caught, lambda: segment.train(device))
