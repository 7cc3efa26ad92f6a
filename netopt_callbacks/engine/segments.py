"""Runs CNTK's C++ training loop in segments: leaves it when an optimization is due, then reenters.

The loop cannot exchange its trainer. So `on_minibatch_end` returns False when an optimization is
due. C++ then runs the actions due after this minibatch (progress, cross-validation, checkpoint),
fetches an empty minibatch and calls again. At that point, only an exception leaves the loop without
the actions that belong to the end of training. The next segment restores a checkpoint of the
changed trainer. If nothing is due, there is one segment, and it equals CNTK's session bit for bit.
"""
import contextlib
import os
import sys
from typing import Any, NamedTuple

from cntk.train.trainer import Trainer
from cntk.train.training_session import (
    CheckpointConfig,
    CrossValidationConfig,
    DataUnit,
    TestConfig,
    TrainingSession,
    _unpack_parameter_frequency,
)

from ..checkpoints import temporary
from ..evaluation import sources
from ..graph import user_functions
from ..temporary_folder import temporary_folder
from ..trainers import directors, learner_facts, remember
from .checkpoint import FOR_NEXT_SEGMENT
from .exchanged import trained_samples

_SOURCE = 'TrainingMinibatchSource'


class Arguments(NamedTuple):
    """The arguments of `cntk.train.TrainingSession`, in its order."""

    trainer: Any
    source: Any
    size: Any
    streams: Any
    max_samples: Any
    frequency: Any
    checkpoint: Any
    cross_validation: Any
    test: Any


class Segments:
    """The segments of one run.

    Args:
        engine (engine.Engine): of the run; it applies what is due.
        learners (list of cntk.learners.Learner): the user's.
        arguments (Arguments): those of the session that the script asks for.
    """

    def __init__(self, engine, learners, arguments):
        self.engine = engine
        self.caught = None
        self._trainer = arguments.trainer
        self._source = arguments.source
        self._arguments = arguments
        self._given = remember.config(arguments.checkpoint, 'checkpoint_config')
        self._more_than_one = bool(engine.optimizations)
        # Whether a pair under the user's name only serves the next segment: CNTK itself keeps
        # numbered ones, or writes none if it counts no samples.
        self._for_next_alone = self._given['preserve_all'] or learner_facts.counts_nothing(learners)
        self._remove = ()
        self._counted = {}
        self._checkpoints_counted = None

    def to_restore(self):
        """Returns the checkpoint that the engine itself has to restore, or None."""
        if self._checkpoints is None or not self._given['restore']:
            return None
        file = self.engine.phases.find()
        if file:
            self._note_whole()
        if file == self._given['filename'] and self._checkpoints.noted(FOR_NEXT_SEGMENT):
            self._remove = (file, file + '.ckp')  # as the killed run was about to do
        return file

    def run(self, caught, device, restored):
        """Trains segment by segment, then runs the user's test.

        Args:
            caught (directors.Caught): of the run.
            device (cntk.device.DeviceDescriptor): as in `cntk.train.TrainingSession.train`.
            restored (phases.Restored): from the engine's start. The first segment restores the
                checkpoint again if it holds the current graph.
        """
        self.caught = caught
        with temporary_folder('a session with callbacks') as folder:
            folder = self.engine.workers.shared_text(folder)
            config = self._arguments.checkpoint
            if restored is not None and restored.changed:
                self._source.restore_from_checkpoint(restored.state[_SOURCE])
                config = self._save_for_next(os.path.join(folder, 'segment'))
            test = TestConfig(None) if self._more_than_one else self._arguments.test
            while not self._segment(config, test).run(device):
                self._fire()
                config = self._save_for_next(os.path.join(folder, 'segment'))
            self._all_written()
            self.engine.workers.meet(self._trainer)  # a worker may still be in its last summary
            self._fire(self.engine.due_at_end)
            if self._more_than_one:
                self._run_test(os.path.join(folder, 'test'), device)
            self.engine.report_test('test')
        caught.check()

    # Called by a segment.

    def started(self):
        """Removes the checkpoint a segment was restored from, if it served only the segment."""
        self._checkpoints_counted = None
        if self.engine.workers.is_main:
            for file in self._remove:
                if os.path.exists(file):
                    os.remove(file)
            if self._remove and self._checkpoints is not None:
                self._checkpoints.forget(FOR_NEXT_SEGMENT)
        self._remove = ()

    def checkpoint_may_come(self):
        """Keeps the previous pair if C++ may write one after this minibatch.

        In doubt it keeps the pair, since a pair kept needlessly does no harm.
        """
        keeper = self.engine.phases.keeper()
        if keeper is None or not self._given['frequency']:
            return
        counted = (
            self._trainer.total_number_of_units_seen(self._given['unit'])
            // self._given['frequency']
        )
        if counted != self._checkpoints_counted or not trained_samples(self._trainer):
            keeper.begin(self._trainer.total_number_of_samples_seen)
        self._checkpoints_counted = counted

    def checkpoint_written(self, index):
        """Checks that the pair C++ has just written is whole.

        Raises:
            RuntimeError: it is not whole, see `generations`.
        """
        keeper = self.engine.phases.keeper()
        if keeper is not None:
            keeper.done(str(index) if self._given['preserve_all'] else '')
        self._note_whole()

    def leave_at_once(self, segment):
        """Ends a segment at the minibatch just trained, if no empty minibatch may follow.

        CNTK's block momentum takes an empty minibatch for the end of all data. So the actions that
        C++ has due after this minibatch are skipped, except the progress summary, which is made
        here.
        """
        ahead, workers = self._ahead(segment), self.engine.workers
        due = self._summary_is_due()
        # If no worker has more data, C++ makes the summary.
        summarized = due and ahead.has_more
        if summarized:
            self._trainer.summarize_training_progress()
        workers.meet(self._trainer)
        if ahead.at_end(workers):
            return True
        if workers.any((due or not ahead.has_more) and not summarized):
            if summarized:
                workers.averaged(0, 0)  # the summary of the others waits for all workers
            else:
                self._trainer.summarize_training_progress()
        raise directors.EndOfSegment

    def count(self):
        """Records CNTK's counts after a minibatch at which nothing is due."""
        self._counted = {unit: self._trainer.total_number_of_units_seen(unit) for unit in DataUnit}

    def at_end(self, segment):
        """Whether the data has ended, or the segment was stopped, on every worker."""
        return self._ahead(segment).at_end(self.engine.workers)

    # The parts.

    @property
    def _checkpoints(self):
        """The folder beside the checkpoint that C++ writes; None if it writes none."""
        return self.engine.phases.checkpoints

    def _segment(self, checkpoint, test):
        return Segment(self, self._arguments._replace(checkpoint=checkpoint, test=test))

    def _fire(self, due=None):
        """Applies what is due between two segments, a safe point for Ctrl-C."""
        self.caught.check()
        if (due or self.engine.due)():
            self.engine.fire()
        self.caught.check()

    def _save_for_next(self, file):
        """Saves the changed trainer; returns the config with which the next segment restores it.

        Args:
            file (str): where to save if the user saves no checkpoints.
        """
        own = not self._given['filename']
        target = file if own else self._given['filename']
        if own or self._for_next_alone:
            self._remove = (target, target + '.ckp')
        if own:
            self._save_temporary(
                target, 'going on after an optimization, without a checkpoint_config,'
            )
            return CheckpointConfig(target, frequency=0, restore=True)
        if self._for_next_alone and self.engine.workers.is_main:
            self._checkpoints.note(FOR_NEXT_SEGMENT)
        with self.engine.phases.saving(target):
            self._save(target)
        self._note_whole()
        return CheckpointConfig(
            target,
            frequency=(self._given['frequency'], self._given['unit']),
            restore=True,
            preserve_all=self._given['preserve_all'],
        )

    def _save(self, file):
        Trainer.save_checkpoint(self._trainer, file, {_SOURCE: self._source.get_checkpoint_state()})

    def _save_temporary(self, file, what):
        is_main = self.engine.workers.is_main
        if is_main:
            temporary.room_for(
                os.path.dirname(file),
                self._trainer.loss_function,
                self._trainer.parameter_learners,
                what,
            )
        self._save(file)
        if is_main:
            temporary.check(file, what)

    def _all_written(self):
        """Checks the pair that C++ writes at the end with `preserve_all`; no other save follows."""
        keeper = self.engine.phases.keeper()
        if keeper is None:
            return
        if self._given['preserve_all'] and os.path.exists(self._given['filename']):
            keeper.done()
        keeper.settle()

    def _note_whole(self):
        """Notes that the pair under the user's name is whole, if CNTK keeps only that one."""
        if (
            self.engine.phases.optimized
            and self._checkpoints is not None
            and not self._for_next_alone
            and self.engine.workers.is_main
        ):
            self._checkpoints.note_whole()

    def _summary_is_due(self):
        frequency, unit = _unpack_parameter_frequency(self._arguments.frequency)
        if not frequency:
            return False
        return (
            self._trainer.total_number_of_units_seen(unit) // frequency
            != self._counted.get(unit, 0) // frequency
        )

    def _ahead(self, segment):
        seen, limit = self._trainer.total_number_of_samples_seen, self._arguments.max_samples
        size = segment.get_minibatch_size()
        if limit not in (None, sys.maxsize):
            size = min(size, max(0, limit - seen))
        return sources.Ahead(
            self._source, 0 if segment.stopped else size, self.engine.workers.shares(seen)
        )

    def _run_test(self, file, device):
        """Runs the user's test on the network after its last change."""
        if remember.config(self._arguments.test, 'test_config').get('source') is None:
            return
        self._save_temporary(file, 'the test of an optimized network')
        test_alone = self._arguments._replace(
            max_samples=self._trainer.total_number_of_samples_seen or self._arguments.max_samples,
            frequency=None,
            checkpoint=CheckpointConfig(file, frequency=0, restore=True),
            cross_validation=CrossValidationConfig(None),
        )
        with user_functions.cloned_sharing():  # C++ restores, too
            directors.run(self.caught, lambda: TrainingSession(*test_alone).train(device))


class Segment(TrainingSession):
    """CNTK's session, up to its end or to the next minibatch at which something is due.

    Args:
        segments (Segments): those that it belongs to.
        arguments (Arguments): its own.

    Attributes:
        stopped (bool): whether the user's cross-validation callback has ended training.
    """

    def __init__(self, segments, arguments):
        self._segments = segments
        self._first = True
        self._restoring = contextlib.ExitStack()  # C++ restores before its first minibatch
        self._due = False
        self.stopped = False
        self._left = False
        super().__init__(*arguments)

    def run(self, device):
        """Trains; returns whether training came to its end, and raises the original error."""
        with self._restoring:
            self._restoring.enter_context(user_functions.cloned_sharing())
            return directors.run(
                self._segments.caught, lambda: self.train(device), lambda: self._left
            )

    def on_minibatch_end(self):
        """Called by C++ after each minibatch; False makes it run its due actions and stop."""
        try:
            return self._goes_on()
        except directors.EndOfSegment:
            self._left = True
            raise
        except BaseException as error:
            self._keep(error)

    def _keep(self, error):
        """Leaves C++ with an exception it can carry; a SystemExit would end the process there."""
        self._segments.caught.keep(error)
        raise directors.EndOfSegment

    def _goes_on(self):
        segments, engine = self._segments, self._segments.engine
        if self._first:
            self._first = False
            self._restoring.close()
            segments.started()
        segments.caught.check()
        if self._due:
            # This is the empty minibatch. If training has come to its end, C++ ends it.
            if segments.at_end(self):
                segments.checkpoint_may_come()
                return True
            raise directors.EndOfSegment
        self._due = engine.after_minibatch()
        if engine.workers.drops_empty_minibatch:
            if self._due:
                return segments.leave_at_once(self)
            segments.count()
        segments.checkpoint_may_come()
        return not self._due

    def on_checkpoint_end(self, index):
        """Called by C++ after it has written a checkpoint."""
        try:
            self._segments.checkpoint_written(index)
        except BaseException as error:
            self._keep(error)

    def on_cross_validation_end(self, index, average_error, num_samples, num_minibatches):
        """Called by C++ after a cross-validation; the user's callback may end training."""
        try:
            engine = self._segments.engine
            cntk_tested = engine.report_test('cross_validation')
            goes_on = super().on_cross_validation_end(
                index, average_error, num_samples, num_minibatches
            )
            # The callback may have run a test; without a source, that is the cross-validation.
            engine.report_test('test' if cntk_tested else 'cross_validation')
        except BaseException as error:
            self._keep(error)
        self.stopped = self.stopped or not goes_on
        return goes_on
