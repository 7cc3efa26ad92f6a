"""Measures the held-out metric of a run, and its recovery after each optimization."""
import numpy as np

from ..observers.base import Evaluation
from .held_out import Measure


class Recovery:
    """Measures the current network, and keeps the curve of the latest record.

    Args:
        network (network.Network): of the run.
        clock (schedule.Clock): of the run.
        data (held_out.Arrays or held_out.Source): None measures nothing.
        records (list of nc.Record): those of the run; the engine appends to it.
        early (list of (int, float)): the curve before the first of them; filled in place.
        baseline (nc.Baseline): of a run without optimizations, or None.

    Attributes:
        metric (float): of the current network; None if it has not been measured since its last
            change.
        error (float): its standard error; None if it is not known.
        device (cntk.device.DeviceDescriptor): where to measure; None is CNTK's default.
    """

    def __init__(self, network, clock, data, records, early, baseline=None):
        self._network = network
        self._clock = clock
        self._data = data
        self._records = records
        self._early = early
        self._baseline = baseline
        self.metric = self.error = None
        self.device = None
        self._restored = 0  # the same of the `TrainerFacts` when the metric was measured
        self._of = self._built = None  # the network that was measured last, and its Measure

    @property
    def pending(self):
        """Whether there is held-out data and the current network has not been measured.

        `Function.restore` changes the network without a word to the run.
        """
        measured = self.metric is not None and self._restored == self._network.facts.restored
        return self._data is not None and not measured

    def forget(self):
        """Notes that the network has changed since the last measurement."""
        self.metric = self.error = None

    def measure(self):
        """Measures, and appends to the curve of the latest record; does nothing without data.

        A resumed run measures a point again; the new value replaces the old one.
        """
        if self._data is None:
            return
        measure, self._restored = self._measure(), self._network.facts.restored
        self.metric = measure(self._data, self.device)
        self.error = measure.error
        samples = self._clock.samples
        if self._records:
            self._records[-1].measured(samples, self.metric, self._clock.epoch)
        else:
            self._early[:] = [point for point in self._early if point[0] < samples]
            self._early.append((samples, self.metric))

    def curve_before(self):
        """Returns the curve since the latest optimization, or since the start, as a list."""
        return list(self._records[-1].curve if self._records else self._early)

    def _measure(self):
        """Returns the Measure of the current network.

        It is built once for each network, since CNTK releases its memory late.
        """
        of = self._network.now.whole  # reading a Function's outputs creates Functions
        if self._of is not of or not self._built.repeats:
            self._of, self._built = of, Measure(self._network.metric)
        return self._built

    def evaluation(self, kind, metric=None):
        """Returns the current `Evaluation`; `metric` is given if CNTK measured it."""
        if metric is not None:
            return Evaluation(kind, self._clock.samples, self._clock.epoch, metric)
        latest = self._records[-1] if self._records else None
        return Evaluation(
            kind,
            self._clock.samples,
            self._clock.epoch,
            self.metric,
            latest and latest.optimization,
            latest and latest.drop,
            latest and latest.recovered,
            latest and latest.worst and latest.worst[1],
            latest and self._epochs(latest),
            self._baseline and self._baseline.at(self._clock.samples),
        )

    def _epochs(self, record):
        """Returns the epochs to recovery, or those so far."""
        epochs = record.epochs_to_recover
        return self._clock.epoch - record.epoch if epochs is None else epochs


def checked_direction(larger_is_better):
    """Returns `larger_is_better` as a bool.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(larger_is_better, (bool, np.bool_)):
        raise TypeError(
            f'larger_is_better must be True or False, got {larger_is_better!r}; give True for an '
            'accuracy, and leave it out for an error or a loss'
        )
    return bool(larger_is_better)
