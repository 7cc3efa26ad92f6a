"""Carries open progress windows over a swap to the next C++ trainer.

CNTK's trainer sums loss and metric over a window in accumulators of its own; a progress writer
keeps the number of samples and takes the sums from the trainer. A new trainer starts its sums at
zero, so a writer with an open window would report too little. `Tracker` knows the sums at every
minibatch. `carry` keeps adding to them, in the same float type and order as C++, until the window
is summarized.
"""
import sys
import weakref

import numpy as np
from cntk import cntk_py

from . import remember


class Tracker(cntk_py.ProgressWriter):
    """The engine's own progress writer: the open window's sums, and CNTK's summaries.

    It stays in the trainer between two runs, so that the second run knows the window too. In any
    loop, it also releases the C++ trainer from before a swap once the next one has trained.

    Args:
        facts (remember.TrainerFacts): of the trainer.
        dtype (numpy.dtype): type of the loss, in which C++ accumulates.

    Attributes:
        sums ((float, float)): of loss and metric over the open window; None if no window is open.
        tested (float): sum of the metric over the open test window; None if no window is open.
    """

    def __init__(self, facts, dtype):
        super().__init__(1, 0, 1, 0, sys.maxsize, 0)
        self.__disown__()
        self.dtype = dtype
        self.sums = self.tested = None
        self._handed = weakref.ref(facts)  # weak, since C++ holds this object forever
        self.listen()

    def listen(self, on_training_summary=None, on_test_summary=None):
        """Sets who is notified of summaries.

        Args:
            on_training_summary, on_test_summary (callable): get (samples, loss, metric) and
                (samples, metric), averages per sample. They must not raise, since an error that
                leaves a director is lost.
        """
        self._training_summary = on_training_summary
        self._test_summary = on_test_summary

    @property
    def open(self):
        """The sums of the open windows: that of training, and that of a test."""
        return self.sums, self.tested

    def on_write_training_update(self, samples, updates, aggregate_loss, aggregate_metric):
        self.sums = (aggregate_loss[1], aggregate_metric[1])
        facts = self._handed()
        if facts is not None:
            facts.last = None  # it holds the memory of the previous network

    def on_write_training_summary(
        self, samples, updates, summaries, aggregate_loss, aggregate_metric, elapsed_milliseconds
    ):
        self.sums = None
        if samples and self._training_summary is not None:
            self._training_summary(samples, aggregate_loss / samples, aggregate_metric / samples)

    def on_write_test_summary(
        self, samples, updates, summaries, aggregate_metric, elapsed_milliseconds
    ):
        self.tested = None
        if samples and self._test_summary is not None:
            self._test_summary(samples, aggregate_metric / samples)

    def on_training_update_end(self):
        """Called by C++ after each minibatch."""

    def on_write_test_update(self, samples, updates, aggregate_metric):
        self.tested = aggregate_metric[1]
        facts = self._handed()
        if facts is not None:
            facts.last_tested = None

    def on_write_distributed_sync_update(self, samples, updates, aggregate_metric):
        """Called by C++ after a synchronization."""

    def write(self, key, value):
        """Called by learners."""


class _OpenWindow:
    """One writer's open window after a swap; its methods pass the right sums to the writer."""

    METHODS = ('on_write_training_update', 'on_training_update_end', 'on_write_training_summary')

    def __init__(self, writer, trainer, sums, dtype, reported, averaged):
        self._averaged = averaged
        self._writer = writer
        self._trainer = weakref.ref(trainer)  # weak, since CNTK holds the writer forever
        self._loss, self._metric = (dtype.type(value) for value in sums)
        self._dtype = dtype
        self._added = False
        self.reported = reported
        for name in self.METHODS:
            setattr(writer, name, getattr(self, name))

    def _add(self):
        """Adds the minibatch just trained, once, as C++ does: in the type of the loss.

        The average times the count, both doubles, rounds to exactly the float32 sum that the
        average was made from: their quotient carries 29 bits more than it needs.
        """
        if self._added:
            return
        trainer = self._trainer()
        count = trainer.previous_minibatch_sample_count
        loss = self._dtype.type(trainer.previous_minibatch_loss_average * count)
        self._loss = self._dtype.type(self._loss + loss)
        if trainer.evaluation_function is not None:
            metric = self._dtype.type(trainer.previous_minibatch_evaluation_average * count)
            self._metric = self._dtype.type(self._metric + metric)
        self._added = True

    def on_write_training_update(self, samples, updates, aggregate_loss, aggregate_metric):
        self._add()
        since = self.reported or (aggregate_loss[0], aggregate_metric[0])
        self.reported = (float(self._loss), float(self._metric))
        type(self._writer).on_write_training_update(
            self._writer,
            samples,
            updates,
            (since[0], self.reported[0]),
            (since[1], self.reported[1]),
        )

    def on_training_update_end(self):
        self._add()
        self._added = False
        type(self._writer).on_training_update_end(self._writer)

    def on_write_training_summary(
        self, samples, updates, summaries, aggregate_loss, aggregate_metric, elapsed_milliseconds
    ):
        self.close()
        loss, metric = self._averaged(self._loss, self._metric)
        type(self._writer).on_write_training_summary(
            self._writer,
            samples,
            updates,
            summaries,
            float(loss),
            float(metric),
            elapsed_milliseconds,
        )

    def close(self):
        """Gives the writer its own methods back."""
        for name in self.METHODS:
            self._writer.__dict__.pop(name, None)


class _OpenTestWindow:
    """One writer's open test window after a swap in a user's loop; adds the sum before the swap.

    CNTK adds the minibatches one by one. Here, their sum after the swap is added in one step. The
    result is the same for counts, such as errors; otherwise it differs by the rounding of another
    order of additions.
    """

    METHODS = ('on_write_test_update', 'on_write_test_summary')

    def __init__(self, writer, trainer, before, dtype, reported):
        self._writer = writer
        self._trainer = weakref.ref(trainer)  # weak, as in _OpenWindow
        self._before = dtype.type(before)
        self._dtype = dtype
        self.reported = reported
        for name in self.METHODS:
            setattr(writer, name, getattr(self, name))

    def _whole(self, since_swap):
        return float(self._dtype.type(self._before + self._dtype.type(since_swap)))

    def on_write_test_update(self, samples, updates, aggregate_metric):
        since = aggregate_metric[0] if self.reported is None else self.reported
        self.reported = self._whole(aggregate_metric[1])
        type(self._writer).on_write_test_update(
            self._writer, samples, updates, (since, self.reported)
        )

    def on_write_test_summary(
        self, samples, updates, summaries, aggregate_metric, elapsed_milliseconds
    ):
        self.close()
        tested_since = remember.facts(self._trainer()).last_tested is None
        type(self._writer).on_write_test_summary(
            self._writer,
            samples,
            updates,
            summaries,
            self._whole(aggregate_metric if tested_since else 0),
            elapsed_milliseconds,
        )

    def close(self):
        """Gives the writer its own methods back."""
        for name in self.METHODS:
            self._writer.__dict__.pop(name, None)


class _Once:
    """Averages over the workers once for all writers, since their sums are the same."""

    def __init__(self, averaged):
        self._averaged, self._values = averaged, None

    def __call__(self, loss, metric):
        if self._values is None:
            self._values = self._averaged(loss, metric)
        return self._values


def _taken_back(kind, writer):
    """Closes a writer's open window of one kind; returns it, or None."""
    opened = getattr(writer.__dict__.get(kind.METHODS[0]), '__self__', None)
    if opened is not None:
        opened.close()
    return opened


def carry(writers, trainer, sums, dtype, averaged):
    """Continues the open window of each writer on a trainer whose own sums start at zero.

    Args:
        writers (list of cntk_py.ProgressWriter): all writers of the trainer.
        trainer (cntk.Trainer): after the swap.
        sums: those of the open windows, as `Tracker.open` returned them before the swap; None for
            one that has just been summarized, so that there is nothing to carry.
        dtype (numpy.dtype): type of the loss.
        averaged (callable): (loss, metric) to what CNTK makes of it over all workers for a summary.
    """
    trained, tested = sums
    once = _Once(averaged)
    for writer in writers:
        opened = _taken_back(_OpenTestWindow, writer)
        if tested is not None:
            _OpenTestWindow(writer, trainer, tested, np.dtype(dtype), opened and opened.reported)
        opened = _taken_back(_OpenWindow, writer)
        if trained is not None:
            _OpenWindow(writer, trainer, trained, np.dtype(dtype), opened and opened.reported, once)
