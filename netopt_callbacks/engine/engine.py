"""Decides when a running trainer changes, and what is recorded.

A front door (session, attach, train) notifies the engine of every trained minibatch and asks
whether something is due; it knows no schedule and keeps no record. The order of a run:

    begin            read the trainer's current state; its checkpoints belong to this run from now
        on
    start            take over or resume, first measurement, what is due at epoch 0
    after_minibatch  count, notify the observers, measure at the end of an epoch
    fire             before -> apply (see `network`) -> after -> record
    finish           export, lowering, result
    close            notify the observers that the run has ended
"""
import contextlib
import time
import warnings

from ..baseline import checked_baseline
from ..checkpoints.options import described
from ..evaluation.held_out import Minibatches
from ..evaluation.recovery import Recovery, checked_direction
from ..observers.audience import Audience
from ..observers.base import Run
from ..optimizations.of_a_run import in_order, told_apart
from ..records import Record, Result
from ..trainers import directors, learner_facts, uids
from ..trainers.distributed import Workers
from . import edits
from .callbacks import (
    refuse_lower_without_data,
    refuse_other_plans,
    refuse_projection,
    refuse_writers,
    sorted_callbacks,
)
from .exchanged import trained_averages, trained_samples
from .going_back import GoneBack
from .missed import refuse_missed
from .network import Network
from .phases import Phases


class Engine:
    """One run of one trainer under a list of callbacks.

    Args:
        trainer (cntk.Trainer): the user's; it stays the same object.
        facts (remember.TrainerFacts): what it was built with.
        callbacks (list): optimizations, observers and at most one `Lower`.
        clock (schedule.Clock): epochs of this run.
        data (held_out.Arrays or held_out.Source): held-out data, or None.
        larger_is_better (bool): direction of the metric.
        checkpoint_file (str): the user's checkpoint name; None if C++ writes no checkpoints.
        model (cntk.Function): the network the user knows, if the trainer was given only a
            criterion.
        holds_trainer (bool): whether C++'s loop holds the C++ trainer during this run.
        baseline: the argument of the front door, see `baseline.checked_baseline`.

    Attributes:
        result (Result): filled during the run.
        phases (phases.Phases): what is written beside checkpoints.
        workers (distributed.Workers): those of the run; only the main one notifies observers and
            writes.
        started (bool): whether `start` has notified the observers.

    Raises:
        TypeError, ValueError: the callbacks do not fit the run.
    """

    def __init__(
        self,
        trainer,
        facts,
        callbacks,
        clock,
        data,
        larger_is_better=False,
        checkpoint_file=None,
        holds_trainer=False,
        model=None,
        baseline=None,
    ):
        self.optimizations, observers, self._lower = sorted_callbacks(callbacks)
        refuse_lower_without_data(self._lower, data)
        refuse_writers(observers, facts.writers)
        refuse_projection(self.optimizations, facts.learners)
        if self.optimizations:
            learner_facts.check_restorable(facts.learners)
        for optimization in self.optimizations:
            clock.check(optimization)
        self.clock = clock
        self.result = Result()
        self.result.baseline = checked_baseline(baseline, data is not None)
        self.result.seconds = dict.fromkeys(
            ('held-out metric', 'optimizations', 'export and lowering', 'observers'), 0.0
        )
        self._callbacks = [described(callback) for callback in callbacks or ()]
        self.workers = Workers(facts.learners)
        self._trainer = trainer
        self._has_metric = trainer.evaluation_function is not None
        self._order = in_order(self.optimizations)
        self._data = data
        self._larger_is_better = checked_direction(larger_is_better)
        self._attends = bool(self.optimizations or observers)
        self._audience = Audience(observers if self.workers.is_main else [], self.result.seconds)
        self._network = Network(
            trainer, facts, self.workers, self._on_training_summary, self._on_test_summary, model
        )
        early = []
        self._recovery = Recovery(
            self._network, clock, data, self.result.records, early, self.result.baseline
        )
        self.phases = Phases(
            self._network,
            clock,
            self.optimizations,
            self.result.records,
            early,
            checkpoint_file,
            self._restorer,
        )
        self._tested = None
        self._unreported = None
        self._has_state = False  # whether this run has trained or restored anything
        self._gone_back = None  # the `GoneBack` of a restore, until a minibatch is trained
        self._holds_trainer = holds_trainer
        self.started = False

    # The run.

    def start(self, file=None, restore=None):
        """Takes the trainer over and applies what is due before the first minibatch.

        Args:
            file, restore: the checkpoint to resume from, as `Phases.restore` takes them.

        Returns:
            phases.Restored: None without a checkpoint.
        """
        restored = None
        if self.optimizations:
            uids.refuse_doubles(self._network.now.whole.outputs)
        self.phases.count_from(self._network.counts())
        if file:
            restored = self.phases.restore(file, restore)
            self.phases.write_missing()
            self._has_state = True
        with edits.of_the_network():
            self._network.refuse_expected(self._pending())
            if not file:
                self.phases.take_over()
                self.phases.write()
        self.result.metric_name = self._metric_name()
        self._audience.notify('on_start', self._described())
        self.started = True
        if self.due():
            self.fire()
            return restored and restored._replace(changed=True)
        if not self.clock.samples:
            self._evaluate('start')
        return restored

    def _described(self):
        totals = self._network.totals()
        return Run(
            epoch_size=self.clock.epoch_samples,
            max_samples=self.clock.max_samples,
            samples=self.clock.samples,
            metric_name=self.result.metric_name,
            has_held_out=self._data is not None,
            larger_is_better=self._larger_is_better,
            optimizations=[(o.name, o.epoch) for o in self.optimizations],
            parameters=totals.parameters,
            macs=totals.macs,
            binary_macs=totals.binary_macs,
            bytes=totals.bytes,
            callbacks=self._callbacks,
            baseline=self.result.baseline,
            learning_rates=self._network.learning_rates,
            binary_weights=self._network.binary_weights,
        )

    def restore(self, file, restore=None):
        """Restores a checkpoint into the structure it was written with: see `Phases.restore`."""
        with self._going_back(file):
            restored = self.phases.restore(file, restore)
        self.phases.write_missing()
        return restored

    def _restore_in_place(self, file, restore):
        with self._going_back(file):
            return self.phases.restore_in_place(file, restore)

    @contextlib.contextmanager
    def _going_back(self, file):
        """Context of a restore by the user's code after the start of the run."""
        clock, applied = self.clock, frozenset(self.phases.applied)
        came = GoneBack(file, clock.samples, clock.epoch, applied, frozenset(self._due()))
        yield
        self._recovery.forget()
        if self._has_state:
            self._gone_back = came.after(self._gone_back)
        self._has_state = True

    def after_minibatch(self):
        """Counts the minibatch just trained; returns whether an optimization is due.

        An empty minibatch, CNTK's end of the data, does not count, except under block momentum:
        there it tells a worker without data how far the others are.
        """
        self.check()
        samples = trained_samples(self._trainer)
        if not samples and not self.workers.drops_empty_minibatch:
            return False
        self._recovery.forget()
        self._has_state, self._gone_back = True, None
        if self._attends and self.workers.is_main:
            self.clock.warn_of_a_minibatch_above(samples)
        ended = self.clock.advance(self._network.counts(), samples)
        if samples:
            self._audience.notify(
                'on_minibatch',
                self.clock.samples,
                *trained_averages(self._trainer, self._has_metric),
            )
        due = self.due()
        if ended or due:
            self._evaluate('before' if due else 'epoch')
        if ended:
            self._audience.notify('on_epoch', self.clock.epoch, self.clock.samples)
        return due

    def due(self):
        """Whether any optimization is due now, or is applied but not yet reported."""
        return bool(self._due()) or self._unreported is not None

    def due_at_end(self):
        """Whether any optimization is due now if no minibatch is trained any more.

        If the last act of the script was to go back to a checkpoint, it gets what it restored.
        """
        return self._gone_back is None and self.due()

    def fire(self):
        """Applies every optimization that is due, by epoch, then in the order of the list.

        Raises:
            Whatever the optimization raises; the trainer is then as it was before that
                optimization.
        """
        self.workers.meet(self._trainer)
        self._report_optimization()
        if self._recovery.pending:
            self._evaluate('before')
        for index in self._due():
            self._apply(index)

    def finish(self, unseen=None):
        """Exports the model, lowers it and fills the result.

        Args:
            unseen (str): what is to be said of training that the run has not seen; None if it has
                seen all.

        Raises:
            ValueError: an optimization never became due.
            nc.LoweringError: the lowered network differs from the trained one.
        """
        self.check()
        if self._recovery.pending:
            self._evaluate('end')
        with self._spending('export and lowering'), edits.in_turn:
            self._export()
        applied, due = self.phases.applied, self._due()
        refuse_missed(self.optimizations, applied, due, self.clock, self._gone_back, unseen)
        if unseen and self._attends:
            warnings.warn(unseen)
        held_out = self._minibatches(self.result.model.arguments)
        self.result.held_out = held_out
        if self._lower is not None:
            with self._spending('export and lowering'), edits.in_turn:
                self.result.lowered, self.result.parity = self._lower.run(
                    self.result.model, self.optimizations, held_out, timed=True
                )
        self.result.complete = True

    def close(self):
        """Notifies every observer that the run has ended.

        Raises:
            The first error that an observer raises.
        """
        errors = self._end()
        for error in errors[1:]:
            warnings.warn(f'on_end of another observer raised {error!r}')
        if errors:
            raise errors[0]

    def abandon(self):
        """Ends a run after an error or an interrupt; further errors become warnings."""
        try:
            if self.result.model is None:
                self.result.model, self.result.criterion = self._network.export()
        except Exception as error:
            warnings.warn(f'the network could not be exported into result.model: {error!r}')
        for raised in self._end():
            warnings.warn(f'after the error that ended training, on_end raised {raised!r}')

    def begin(self, max_samples=None):
        """Reads the trainer's current state; it may have been trained after this engine was made.

        From now on, checkpoints of the trainer belong to this run if it has callbacks, or if an
        earlier run optimized the trainer.

        Args:
            max_samples (int): how many samples are left to train; None if the source decides.

        Raises:
            ValueError: an optimization is due after the end of training, or another worker has
                other optimizations.
        """
        if self._holds_trainer or self.optimizations:
            refuse_other_plans(self.optimizations, self.clock, self.workers)
        self._network.begin()
        self.clock.limit(max_samples)
        for optimization in self.optimizations:
            self.clock.check(optimization)
        if self._attends or self._network.facts.phases is not None:
            self.phases.own_checkpoints()

    def check(self):
        """Raises the error of an observer that C++ called; call this at a safe point."""
        self._audience.check()

    def measure_on(self, device):
        """Sets the device that evaluates held-out data; None is CNTK's default."""
        self._recovery.device = device

    def report_test(self, kind):
        """Notifies the observers of the test that CNTK has just run; the front door knows its kind.

        Args:
            kind (str): 'cross_validation' or 'test'.

        Returns:
            bool: whether there was a test.
        """
        metric, self._tested = self._tested, None
        if metric is None:
            return False
        self._audience.notify('on_evaluation', self._recovery.evaluation(kind, metric))
        return True

    # The parts.

    def _restorer(self):
        """Returns what restores for the user's code during the run: see `Phases.restorer`."""
        if self._holds_trainer:
            return self._restore_in_place
        return self.restore if self.started else self.start

    def _pending(self):
        return [
            optimization
            for index, optimization in enumerate(self.optimizations)
            if index not in self.phases.applied
        ]

    def _due(self):
        return [
            index
            for index in self._order
            if index not in self.phases.applied
            and self.clock.reached(self.optimizations[index].epoch)
        ]

    def _apply(self, index):
        optimization = self.optimizations[index]
        # CNTK turns a Ctrl-C in what it calls while it clones into a RuntimeError.
        with self._spending('optimizations'), directors.uninterrupted(), edits.of_the_network(), (
            told_apart(optimization, self.optimizations)
        ):
            change = self._network.transformed(optimization, index, self._minibatches)
        record = Record(
            optimization.name,
            self.clock.epoch,
            self.clock.samples,
            metric_before=self._recovery.metric,
            larger_is_better=self._larger_is_better,
            network_before=self._network.totals(),
            curve_before=self._recovery.curve_before(),
            options=self.phases.options[index],
        )
        with self._spending('optimizations'), directors.uninterrupted(), edits.of_the_network():
            self._network.commit(change, self.phases.next_label)
            record.layers, record.notes = change.layers, change.messages
            record.network_after = self._network.totals()
            self.phases.begin(index, record)
            self._recovery.forget()
            self._unreported = record
        if record.layers and all(layer.skipped for layer in record.layers):
            warnings.warn(
                f'{optimization.name} after {record.epoch} epochs has changed no layer: '
                + '; '.join(f'{layer.name}: {layer.skipped}' for layer in record.layers)
            )
        self._report_optimization()

    def _report_optimization(self):
        """Measures and reports the optimization applied last, if it has not been reported.

        An interrupt may have come between applying and reporting it.
        """
        record = self._unreported
        if record is None:
            return
        self._measure()
        record.metric_after, record.error_after = self._recovery.metric, self._recovery.error
        self.phases.write()
        self._unreported = None
        self._audience.notify('on_optimization', record)
        if self._data is not None:
            self._audience.notify('on_evaluation', self._recovery.evaluation('after'))

    def _export(self):
        """Exports the model; only warns if CNTK cannot clone a network that nothing changed."""
        try:
            with directors.uninterrupted():
                self.result.model, self.result.criterion = self._network.export()
        except Exception as error:
            if self.phases.applied or self._lower is not None:
                raise
            warnings.warn(
                f'result.model is None: CNTK cannot clone this network ({error!r}); a UserFunction '
                'in it needs a constructor (inputs..., name) or clone()'
            )

    @contextlib.contextmanager
    def _spending(self, on):
        """Adds the time that the block takes to `result.seconds`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.result.seconds[on] += time.perf_counter() - begin

    def _measure(self):
        with self._spending('held-out metric'):
            self._recovery.measure()

    def _minibatches(self, arguments):
        return Minibatches(self._data, arguments)

    def _evaluate(self, kind):
        if self._data is None:
            return
        self._measure()
        self.phases.write()
        self._audience.notify('on_evaluation', self._recovery.evaluation(kind))

    def __repr__(self):
        return '<Engine: {} samples, {} epochs; {} of {} optimizations applied>'.format(
            self.clock.samples, self.clock.epoch, len(self.phases.applied), len(self.optimizations)
        )

    def _repr_html_(self):
        return self.result._repr_html_()

    def _metric_name(self):
        metric = self._network.metric.output
        return metric.name or (metric.owner.op_name if metric.is_output else 'metric')

    def _end(self):
        self.result.awaits = None
        self._network.let_go()
        self.phases.end()
        return self._audience.end(self.result)

    def _on_training_summary(self, samples, loss, metric):
        self._audience.notify_from_native('on_training_summary', self.clock.samples, loss, metric)

    def _on_test_summary(self, samples, metric):
        self._tested = metric
