"""Defines `Observer`, the base class of all that watches a run without changing it."""
import sys
from typing import TYPE_CHECKING

from cntk import cntk_py

if TYPE_CHECKING:
    from ..records import Record, Result


class Run:
    """Facts about a run, which an observer receives once, when training starts.

    Attributes:
        epoch_size (int): samples per epoch; None if epochs are sweeps of a source whose size is
            unknown until its first sweep has ended.
        max_samples (int): samples of the whole run; None if not known.
        samples (int): samples already trained when this run starts (more than 0 after a resume).
        metric_name (str): name of the criterion's second output, or 'metric'.
        has_held_out (bool): whether the held-out metric will be measured.
        larger_is_better (bool): direction of the metric.
        optimizations (list of (str, int or tuple of int)): name and epoch of each, as given and in
            order; a tuple for one that is applied several times.
        parameters, macs, binary_macs, bytes (int): weights, multiply-adds per sample, the 1-bit
            ones among them, and bytes of the whole network when this run starts; None if not
            counted.
        callbacks (list of (str, dict)): class name and options, as text, of each callback.
        baseline (nc.Baseline): the held-out metric of a run without optimizations, or None.
        learning_rates (callable): returns a list of the current learning rate of each learner.
        binary_weights (callable): returns (name, array) of each 1-bit layer of the current network:
            a copy of its latent weights, scaled to the straight-through window |w| <= 1.
    """

    def __init__(
        self,
        epoch_size=None,
        max_samples=None,
        samples=0,
        metric_name='metric',
        has_held_out=False,
        larger_is_better=False,
        optimizations=(),
        parameters=None,
        macs=None,
        binary_macs=None,
        bytes=None,
        callbacks=(),
        baseline=None,
        learning_rates=list,
        binary_weights=list,
    ):
        self.epoch_size = epoch_size
        self.max_samples = max_samples
        self.samples = samples
        self.metric_name = metric_name
        self.has_held_out = has_held_out
        self.larger_is_better = larger_is_better
        self.optimizations = list(optimizations)
        self.parameters = parameters
        self.macs = macs
        self.binary_macs = binary_macs
        self.bytes = bytes
        self.callbacks = list(callbacks)
        self.baseline = baseline
        self.learning_rates = learning_rates
        self.binary_weights = binary_weights


class Evaluation:
    """One measurement of the metric on data that is not trained on.

    Attributes:
        kind (str): 'start', 'epoch', 'before', 'after' or 'end' for the engine's measurements on
            the held-out data; 'cross_validation' or 'test' for those of CNTK's session.
        samples (int): samples trained when it was measured.
        epoch (int): completed epochs.
        metric (float): average per sample.
        optimization (str): the latest optimization applied (at 'after' the one just applied, at
            'before' the previous one), or None.
        drop (float): after - before of the latest optimization (sign reversed if larger is better);
            None before the first optimization.
        recovered (float): (after - now) / (after - before) of the latest optimization, 1 if nothing
            was lost; None before the first, or if its drop may be chance.
        worst (float): worst metric since the latest optimization; None before the first.
        epochs (int): completed epochs from the latest optimization to the first measurement as good
            as before it, or so far if there is none; None before the first.
        baseline (float): metric of the run without optimizations after the same number of samples,
            or None.
    """

    def __init__(
        self,
        kind,
        samples,
        epoch,
        metric,
        optimization=None,
        drop=None,
        recovered=None,
        worst=None,
        epochs=None,
        baseline=None,
    ):
        self.kind = kind
        self.samples = samples
        self.epoch = epoch
        self.metric = metric
        self.optimization = optimization
        self.drop = drop
        self.recovered = recovered
        self.worst = worst
        self.epochs = epochs
        self.baseline = baseline


class Observer(cntk_py.ProgressWriter):
    """Base class of observers: override the events you want.

    The order of the events in the training loop::

        on_start(run)
        on_evaluation('start')
        for each minibatch:
            for each optimization that is due:
                on_optimization(record)
                on_evaluation('after')
            train
            on_minibatch(samples, loss, metric)
            at the end of an epoch, or if an optimization is due now:
                on_evaluation('before' if one is due, else 'epoch')
            at the end of an epoch:
                on_epoch(epoch, samples)
        on_evaluation('end') if the network has not been measured since its last change
        on_end(result)

    CNTK's own actions add: on_training_summary(samples, loss, metric) at each progress window,
    on_evaluation('cross_validation') and on_evaluation('test').

    +-------------------+------------------------------------------------------------+
    | event             | arguments                                                  |
    +===================+============================================================+
    | `on_start`        | `run`: a `Run`                                             |
    +-------------------+------------------------------------------------------------+
    | `on_minibatch`    | `samples` trained so far (int); `loss`, `metric`: averages |
    |                   | per sample of this minibatch (float; metric may be None)   |
    +-------------------+------------------------------------------------------------+
    | `on_epoch`        | `epoch` completed (int), `samples` (int)                   |
    +-------------------+------------------------------------------------------------+
    | `on_evaluation`   | `evaluation`: an `Evaluation`                              |
    +-------------------+------------------------------------------------------------+
    | `on_optimization` | `record`: an `nc.Record`; `metric_after` is already known  |
    +-------------------+------------------------------------------------------------+
    | `on_training_-    | `samples` trained so far (int); `loss`, `metric`: averages |
    | summary`          | per sample of the window (float)                           |
    +-------------------+------------------------------------------------------------+
    | `on_end`          | `result`: an `nc.Result`                                   |
    +-------------------+------------------------------------------------------------+

    An observer cannot change training: its return values are ignored. If it raises, training ends
    with that error and its own traceback.

    It is also a `cntk.logging.ProgressWriter`. In a plain `cntk.Trainer(...,
    progress_writers=[observer])` it receives the events a trainer knows: `on_minibatch`,
    `on_training_summary`, and `on_evaluation` of kind 'test'.

    Attributes:
        freq (int): minibatches per update, as in CNTK's own writers; `cntk.Function.train` reads it
            from the first of its `callbacks`.
    """

    freq = 1

    def __init__(self) -> None:
        super().__init__(1, 0, sys.maxsize, 0, sys.maxsize, 0)
        self.__disown__()
        self._plain_samples = 0

    def on_start(self, run: Run) -> None:
        """Training is about to start, or to resume from a checkpoint."""

    def on_minibatch(self, samples: int, loss: float, metric: float) -> None:
        """A minibatch has been trained."""

    def on_epoch(self, epoch: int, samples: int) -> None:
        """An epoch is complete."""

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """The metric has been measured on data that is not trained on."""

    def on_optimization(self, record: 'Record') -> None:
        """An optimization has been applied."""

    def on_training_summary(self, samples: int, loss: float, metric: float) -> None:
        """CNTK has summarized a progress window: averages per sample over the window."""

    def on_end(self, result: 'Result') -> None:
        """Training has ended, possibly by an error or an interrupt: release what you hold."""

    # CNTK's trainer calls these methods of a progress writer; they become the events above.

    def on_write_training_update(self, samples, updates, aggregate_loss, aggregate_metric):
        count = samples[1] - samples[0]
        if not count:
            return  # the empty minibatch at the end of a distributed worker's data
        self._plain_samples += count
        self.on_minibatch(
            self._plain_samples,
            (aggregate_loss[1] - aggregate_loss[0]) / count,
            (aggregate_metric[1] - aggregate_metric[0]) / count,
        )

    def on_training_update_end(self):
        """Called by CNTK after every minibatch; `on_minibatch` has already reported it."""

    def on_write_training_summary(
        self, samples, updates, summaries, aggregate_loss, aggregate_metric, elapsed_milliseconds
    ):
        if samples:
            self.on_training_summary(
                self._plain_samples, aggregate_loss / samples, aggregate_metric / samples
            )

    def on_write_test_summary(
        self, samples, updates, summaries, aggregate_metric, elapsed_milliseconds
    ):
        if samples:
            self.on_evaluation(
                Evaluation('test', self._plain_samples, None, aggregate_metric / samples)
            )

    def on_write_test_update(self, samples, updates, aggregate_metric):
        """Called by CNTK during a test; the summary of the test is the event."""

    def on_write_distributed_sync_update(self, samples, updates, aggregate_metric):
        """Called by CNTK after a distributed synchronization."""

    def write(self, key, value):
        """Called by learners for hyperparameters, which are not events."""
