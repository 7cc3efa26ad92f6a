"""When a running trainer changes, and what is recorded of it: one place decides.

A front door (session, attach, train) tells the engine of every trained minibatch and asks
whether something is due; it knows no schedule and keeps no record. The order of a run:

    start            take over or resume, first measurement, what is due at epoch 0
    after_minibatch  count, tell the observers, measure at the end of an epoch
    fire             before -> apply (see `network`) -> after -> record
    finish           export, lowering, result
"""
from cntk.train.training_session import DataUnit

from ..lowering import Lower
from ..observers.base import Evaluation, Observer, Run
from ..optimizations.base import Optimization
from ..records import Record, Result
from . import checkpoint
from .distributed import Workers
from .held_out import Measure, Minibatches
from .network import Network


def sorted_callbacks(callbacks):
    """Returns (optimizations, observers, Lower or None) of a list of callbacks.

    Raises:
        TypeError: something else is in the list.
        ValueError: a callback is in it twice, or there are two `Lower`.
    """
    callbacks = list(callbacks or ())
    for callback in callbacks:
        if not isinstance(callback, (Optimization, Observer)):
            hint = '; give an instance, %s(...)' % callback.__name__ \
                if isinstance(callback, type) else ''
            raise TypeError('callbacks must be nc.Optimization or nc.Observer objects, got %r%s'
                            % (callback, hint))
    if len(set(id(callback) for callback in callbacks)) != len(callbacks):
        raise ValueError('the same object is in callbacks twice')
    lowers = [callback for callback in callbacks if isinstance(callback, Lower)]
    if len(lowers) > 1:
        raise ValueError('callbacks hold %d Lower(): one lowers the whole network' % len(lowers))
    return ([callback for callback in callbacks if isinstance(callback, Optimization)],
            [callback for callback in callbacks if isinstance(callback, Observer)
             and not isinstance(callback, Lower)],
            lowers[0] if lowers else None)


class Engine(object):
    """One run of one trainer under a list of callbacks.

    Args:
        trainer (cntk.Trainer): the user's; it stays the same object.
        handed (remember.Handed): what it was built with.
        callbacks (list): optimizations, observers and at most one `Lower`.
        clock (schedule.Clock): epochs of this run.
        data (held_out.Arrays or held_out.Source): held-out data, or None.
        larger_is_better (bool): direction of the metric.
        checkpoint_file (str): the user's checkpoint name, None where C++ writes none.
        marks (bool): whether the front door saves checkpoints, so that the graph is marked.

    Attributes:
        result (Result): filled as the run goes on.
        workers (distributed.Workers): of the run; only the main one tells observers and writes.
        device (cntk.device.DeviceDescriptor): where to measure; None is CNTK's default.

    Raises:
        TypeError, ValueError: the callbacks do not fit the run.
    """

    def __init__(self, trainer, handed, callbacks, clock, data, larger_is_better=False,
                 checkpoint_file=None, marks=False):
        self.optimizations, self.observers, self._lower = sorted_callbacks(callbacks)
        self.clock = clock
        self.result = Result()
        self.device = None
        self.workers = Workers(handed.learners)
        if not self.workers.is_main:
            self.observers = []
        self._trainer = trainer
        self._handed = handed
        self._data = data
        self._larger_is_better = larger_is_better
        self._checkpoints = checkpoint.Checkpoints(
            checkpoint_file, checkpoint.schedule_of(self.optimizations)) \
            if checkpoint_file else None
        self._marks = bool(self.optimizations) and bool(checkpoint_file or marks)
        self._network = Network(trainer, handed, self.workers, self._on_training_summary,
                                self._on_test_summary)
        self._base = self._network.counts()
        self._applied = []
        self._places = None
        self._measured = None
        self._tested = None
        self._check()

    def _check(self):
        for optimization in self.optimizations:
            self.clock.check(optimization)
        if self._lower is not None and self._data is None:
            raise ValueError('Lower() compares the lowered network with the trained one on '
                             'held-out data, and this run has none: give data=(inputs, labels) '
                             'or a cross-validation source')
        for observer in self.observers:
            if any(observer is writer for writer in self._handed.writers):
                raise ValueError('%s is already a progress writer of the trainer: name it once, in '
                                 'callbacks' % type(observer).__name__)

    # The run.

    def start(self, checkpoints=None, file=None):
        """Takes the trainer over and does what is due before the first minibatch.

        Args:
            checkpoints (checkpoint.Checkpoints), file (str): the checkpoint to go on from.

        Returns:
            (the checkpoint's external state, whether the trainer's graph is another one than
            the checkpoint's): as `restore`, and also where something was due at once;
            (None, False) without a checkpoint.
        """
        if not file:
            self._check_model()
        state, other = self.restore(checkpoints, file) if file else (self._take_over(), False)
        parameters, macs = self._network.totals()
        self._tell('on_start', Run(
            epoch_size=self.clock.epoch_samples, max_samples=self.clock.max_samples,
            samples=self.clock.samples, metric_name=self._metric_name(),
            has_held_out=self._data is not None, larger_is_better=self._larger_is_better,
            optimizations=[(o.name, o.epoch) for o in self.optimizations],
            parameters=parameters, macs=macs))
        if self.due():
            self.fire()
            other = bool(file)
        elif self._data is not None and not self.clock.samples:
            self._evaluate('start')
        return state, other

    def restore(self, checkpoints, file):
        """Restores a checkpoint into the structure it was written with.

        Args:
            checkpoints (checkpoint.Checkpoints), file (str): the checkpoint.

        Returns:
            (the checkpoint's external state, whether plain CNTK wrote it, so that its graph
            is another one than the trainer's now).

        Raises:
            ValueError: the checkpoint is not of this script, or cannot be read.
        """
        saved, phase = checkpoints.load(file)
        if phase is not None:
            return self._resume(file, saved, phase), False
        state = self._network.restore_plain(file, saved)
        self._restore_clock()
        self._take_over()
        return state, True

    def find_checkpoint(self):
        """Returns the checkpoint that C++ would restore, or None; the main worker mends a torn one."""
        if self.workers.is_main:
            self._checkpoints.find()
        self.workers.barrier()
        return self._checkpoints.find()

    @property
    def checkpoints(self):
        """The folder beside the checkpoint that C++ writes; None where it writes none."""
        return self._checkpoints

    def after_minibatch(self):
        """Counts the minibatch just trained; returns whether an optimization is due.

        An empty minibatch, CNTK's end of the data, counts for nothing.
        """
        if not self._trainer.previous_minibatch_sample_count:
            return False
        self._measured = None
        ended = self.clock.advance(*self._counts())
        self._tell('on_minibatch', self.clock.samples,
                   self._trainer.previous_minibatch_loss_average,
                   self._trainer.previous_minibatch_evaluation_average
                   if self._trainer.evaluation_function is not None else None)
        due = self.due()
        if self._data is not None and (ended or due):
            self._evaluate('before' if due else 'epoch')
        if ended:
            self._tell('on_epoch', self.clock.epoch, self.clock.samples)
        return due

    def due(self):
        """Whether any optimization is due now."""
        return bool(self._due())

    def fire(self):
        """Applies every optimization that is due, in the order of the list.

        Raises:
            Whatever the optimization raises: the trainer is then as it was before it.
        """
        if self._data is not None and self._measured is None:
            self._evaluate('before')
        for index in self._due():
            self._apply(index)

    def finish(self):
        """Exports the model, lowers it and fills the result.

        Raises:
            ValueError: an optimization never became due.
            nc.LoweringError: the lowered network differs from the trained one.
        """
        if self._data is not None and self._measured is None:
            self._evaluate('end')
        self.result.model = self._network.export()
        self.result.complete = True
        pending = [o for index, o in enumerate(self.optimizations) if index not in self._applied]
        if pending:
            raise ValueError(
                'training ended after %d samples (%d epochs), before %s%s' % (
                    self.clock.samples, self.clock.epoch,
                    ', '.join('%s(epoch=%r)' % (o.name, o.epoch) for o in pending),
                    '; the source never reported the end of a sweep, so give epoch_size in samples'
                    if self.clock.unit == DataUnit.sweep and not self.clock.epoch else ''))
        if self._lower is not None:
            self.result.lowered, self.result.parity = self._lower.run(
                self.result.model, self.optimizations, self._minibatches(
                    self.result.model.arguments))

    def interrupted(self):
        """Fills the result with what there is after an error or an interrupt."""
        if self.result.model is None:
            self.result.model = self._network.export()

    def close(self):
        """Tells the observers that the run is over."""
        self._tell('on_end', self.result)

    def tell_test(self, kind):
        """Tells the observers of the test CNTK has just made; the front door knows its kind.

        Args:
            kind (str): 'cross_validation' or 'test'.
        """
        if self._tested is not None:
            metric, self._tested = self._tested, None
            self._tell('on_evaluation',
                       Evaluation(kind, self.clock.samples, self.clock.epoch, metric))

    # The parts.

    def _due(self):
        return [index for index, optimization in enumerate(self.optimizations)
                if index not in self._applied and self.clock.reached(optimization.epoch)]

    def _apply(self, index):
        optimization = self.optimizations[index]
        before = self._measured
        layers, messages = self._network.apply(
            optimization, index, self._minibatches, self._label(len(self._applied) + 1))
        self._applied.append(index)
        self._places = None
        record = Record(optimization.name, self.clock.epoch, self.clock.samples,
                        metric_before=before, layers=layers, notes=messages,
                        larger_is_better=self._larger_is_better)
        self.result.records.append(record)
        if self._data is not None:
            record.metric_after = self._measure()
            record.curve.append((self.clock.samples, record.metric_after))
        self._write_phase()
        self._tell('on_optimization', record)
        if self._data is not None:
            self._tell('on_evaluation', self._evaluation('after'))

    def _check_model(self):
        """Lets the optimizations refuse the user's model, as far as it is theirs to come."""
        order = sorted(self.optimizations, key=lambda o: (isinstance(o.epoch, tuple), o.epoch))
        for optimization in order:
            if type(optimization).check is Optimization.check:
                return
            optimization.check(self._network.whole)

    def _take_over(self):
        self._network.mark = self._label()
        self._network.take_over(opened=bool(self.optimizations))
        self._write_phase()

    def _label(self, applied=0):
        """Returns the label of a phase; None where nothing of ours is to be in a checkpoint."""
        return str(applied) if self._marks else None

    def phase(self):
        """Returns what belongs to a checkpoint of the run as it is now; None but on the main worker."""
        if not self.workers.is_main:
            return None
        if self._places is None:
            self._places = self._network.places()
        return checkpoint.Phase(
            schedule=checkpoint.schedule_of(self.optimizations), fired=list(self._applied),
            records=[record.to_dict() for record in self.result.records], base=self._base,
            unique_id=self._network.unique_id, **self._places)

    def _write_phase(self):
        if self._marks and self._checkpoints:
            phase = self.phase()
            if phase is not None:
                self._checkpoints.write(phase)

    def _resume(self, file, saved, phase):
        self._applied = list(phase.fired)
        state = self._network.resume(file, saved, phase, self.optimizations,
                                     self._label(len(self._applied)))
        self._places = phase.places()
        self._base = list(phase.base)
        self._restore_clock()
        self.result.records = checkpoint.records_of(phase, self.clock.samples)
        return state

    def _restore_clock(self):
        self.clock.advance(*(now - base for now, base in zip(self._network.counts(), self._base)))

    def _counts(self):
        """Returns samples, minibatches and sweeps of the run after a minibatch.

        A UserLearner leaves CNTK's own counts where they are; then we count ourselves.
        """
        counts = [now - base for now, base in zip(self._network.counts(), self._base)]
        if counts[0] > self.clock.samples:
            return counts
        seen = self.clock.seen
        return [seen[DataUnit.sample] + self._trainer.previous_minibatch_sample_count,
                seen[DataUnit.minibatch] + 1, seen[DataUnit.sweep]]

    def _minibatches(self, arguments):
        return Minibatches(self._data, arguments)

    def _measure(self):
        self._measured = Measure(self._network.metric)(self._data, self.device)
        return self._measured

    def _evaluate(self, kind):
        self._measure()
        self._add_point(self.clock.samples, self._measured)
        self._write_phase()
        self._tell('on_evaluation', self._evaluation(kind))

    def _add_point(self, samples, metric):
        """Appends to the curve of the latest record; a resumed run measures a point again."""
        if self.result.records:
            curve = self.result.records[-1].curve
            if curve and curve[-1][0] == samples:
                curve.pop()
            curve.append((samples, metric))

    def _evaluation(self, kind):
        latest = self.result.records[-1] if self.result.records else None
        return Evaluation(kind, self.clock.samples, self.clock.epoch, self._measured,
                          latest and latest.optimization, latest and latest.drop,
                          latest and latest.recovered)

    def _metric_name(self):
        return self._network.metric.name or self._network.metric.root_function.op_name

    def _tell(self, event, *arguments):
        for observer in self.observers:
            getattr(observer, event)(*arguments)

    def _on_training_summary(self, samples, loss, metric):
        self._tell('on_training_summary', self.clock.samples, loss, metric)

    def _on_test_summary(self, samples, metric):
        self._tested = metric
