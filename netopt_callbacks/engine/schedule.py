"""Counts the completed epochs of a run, and tells what is due."""
import math
import sys
import warnings

from cntk.train.training_session import DataUnit

from ..integers import plain

UNITS = DataUnit.sample, DataUnit.minibatch, DataUnit.sweep


def checked_epoch_size(epoch_size):
    """Returns (count, DataUnit) for an `epoch_size` argument.

    Args:
        epoch_size (int or (int, DataUnit)): samples, or a count of samples, minibatches or sweeps;
            None is one sweep of the source.

    Raises:
        TypeError, ValueError: it is not one of these.
    """
    if epoch_size is None:
        return 1, DataUnit.sweep
    epoch_size = plain(epoch_size)
    count, unit = (
        epoch_size
        if isinstance(epoch_size, tuple) and len(epoch_size) == 2
        else (epoch_size, DataUnit.sample)
    )
    # A DataUnit is an int to Python.
    whole = isinstance(count, int) and not isinstance(count, (bool, DataUnit))
    if not whole or not isinstance(unit, DataUnit):
        raise TypeError(
            'epoch_size must be a number of samples, a tuple (number, cntk.train.DataUnit), or '
            f'None for one sweep, got {epoch_size!r}; give for example the number of training '
            'samples'
        )
    if count < 1:
        raise ValueError(
            f'epoch_size must be 1 or more, got {epoch_size!r}; None is one sweep of the data'
        )
    return count, unit


class Clock:
    """The progress of a run: samples, minibatches and sweeps since its first minibatch.

    Epoch N is complete at the first minibatch end at or past N x epoch_size.

    Args:
        epoch_size: as `checked_epoch_size` takes it.
        max_samples (int): length of the run; None if the source decides.
        source (tuple): at most how many (samples, sweeps) the source gives, each None if not known.

    Attributes:
        base (list of int): samples, minibatches and sweeps the trainer had seen when the run began.
        seen (dict): the same for this run, by DataUnit.
    """

    def __init__(self, epoch_size=None, max_samples=None, source=(None, None)):
        self.count, self.unit = checked_epoch_size(epoch_size)
        self._source = source
        self.limit(max_samples)
        self.base = [0, 0, 0]
        self.seen = dict.fromkeys(UNITS, 0)

    def limit(self, max_samples):
        """Sets the length of the run."""
        self.max_samples = None if max_samples in (None, sys.maxsize) else max_samples

    @property
    def samples(self):
        """Samples trained in this run."""
        return self.seen[DataUnit.sample]

    @property
    def epoch(self):
        """Completed epochs."""
        return self.seen[self.unit] // self.count

    @property
    def epoch_samples(self):
        """Samples per epoch, or None if epochs are counted in another unit."""
        return self.count if self.unit == DataUnit.sample else None

    def set(self, counts):
        """Sets the progress of the run from what the trainer has seen in its life."""
        self.seen = {unit: now - base for unit, now, base in zip(UNITS, counts, self.base)}

    def warn_of_a_minibatch_above(self, samples):
        """Warns where the first minibatch of the run, of so many samples, is above a whole
        epoch."""
        if not self.samples and self.unit == DataUnit.sample and self.count < samples:
            warnings.warn(
                f'epoch_size={self.count} is less than a minibatch of {samples} samples, so each '
                'ends one epoch or more; if you mean minibatches: '
                f'epoch_size=({self.count}, cntk.train.DataUnit.minibatch)'
            )

    def advance(self, counts, samples):
        """Counts a trained minibatch.

        Args:
            counts (list of int): what the trainer has seen in its life.
            samples (int): samples of the minibatch. They are counted here if a UserLearner keeps
                CNTK's own counts from advancing.

        Returns:
            bool: whether this completed an epoch.
        """
        epoch, before = self.epoch, dict(self.seen)
        self.set(counts)
        if samples and self.samples <= before[DataUnit.sample]:
            self.seen = before
            self.seen[DataUnit.sample] += samples
            self.seen[DataUnit.minibatch] += 1
        return self.epoch > epoch

    def reached(self, epoch):
        """Whether `epoch`, an int or (int, DataUnit.sweep), is complete."""
        if isinstance(epoch, tuple):
            return self.seen[DataUnit.sweep] >= epoch[0]
        return self.epoch >= epoch

    def check(self, optimization):
        """Refuses an optimization that is due after the known end of training.

        Raises:
            ValueError: names the optimization, its epoch and the last epoch reached.
        """
        if self.max_samples == 0:
            raise ValueError(
                f'{optimization.name} needs a sample to train, and max_samples, which CNTK counts '
                'over the life of the learners, leaves this run none: give more; nc.optimize(...) '
                'changes a network without training it'
            )
        known = (
            self.max_samples is not None
            and self.unit == DataUnit.sample
            and not isinstance(optimization.epoch, tuple)
        )
        last = self.max_samples // self.count if known else None
        if known and optimization.epoch > last:
            raise ValueError(
                f'{optimization.name}(epoch={optimization.epoch}) is past the end of training: '
                'max_samples, which CNTK counts over the life of the learners, leaves this run '
                f'{self.max_samples} samples, {_epochs(self.max_samples / float(self.count))} of '
                f'epoch_size={self.count}, so {last} is the last epoch it can name; give that, or '
                'train longer'
            )
        self._check_source(optimization)

    def needs_sweeps(self, optimization):
        """Whether an optimization becomes due at the end of a sweep."""
        if isinstance(optimization.epoch, tuple):
            return optimization.epoch[0] > 0
        return self.unit == DataUnit.sweep and optimization.epoch > 0

    def _check_source(self, optimization):
        samples, sweeps = self._source
        if self.needs_sweeps(optimization):
            counted, known, unit = isinstance(optimization.epoch, tuple), sweeps, 'sweeps'
        elif self.unit == DataUnit.sample:
            counted, known, unit = False, samples, 'samples'
        else:
            return
        last = None if known is None else known if counted else known // self.count
        epoch = optimization.epoch[0] if counted else optimization.epoch
        if last is not None and epoch > last:
            raise ValueError(
                f'{optimization.name}(epoch={optimization.epoch!r}) never comes: the minibatch '
                f'source gives {known} {unit}, so {last} is the last epoch it can name; give that, '
                'or let the source give more'
            )


def _epochs(number):
    whole = int(math.floor(number))
    return f'{whole} epochs' if whole == number else f'{number:.2f} epochs'
