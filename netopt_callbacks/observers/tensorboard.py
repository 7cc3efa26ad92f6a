"""Writes training and the recovery from each optimization as curves for TensorBoard.

`docs/tensorboard.md` lists what is written, with tags and steps.
"""
import os
import time
import weakref
from typing import Any
from numbers import Integral

import numpy as np

from .._types import Path
from . import cards, pictures, tags
from .average import Average
from .base import Observer
from .event_file import EventFile, Nowhere, shown_tag, writable_folder
from .output import warn

_HELD_OUT = ('start', 'epoch', 'before', 'after', 'end')
_OF_CNTK = {'cross_validation': 'test/cross_validation', 'test': 'test/metric'}
_OPEN: 'weakref.WeakValueDictionary[Any, Any]' = (
    weakref.WeakValueDictionary()
)  # real path of a folder -> the observer that writes there


class TensorBoard(Observer):
    """Writes a run for TensorBoard; every step is in samples trained.

    View it with `tensorboard --logdir FOLDER`. If a write fails after training has begun (a full
    disk), it warns once and training continues.

    Args:
        logdir (str): a folder for this run alone; created at once if missing, `~` is the user's
            home. A resumed run continues in its folder. A run from the start hides what an earlier
            run wrote there.
        every (int): minibatches per point of `train/loss` and `train/metric`, which are averages
            over all samples of these minibatches.

    Raises:
        TypeError, ValueError: an argument is not one of these.
        RuntimeError: the folder cannot be written to, now or when training starts; or another
            observer of this process writes there when training starts.
    """

    def __init__(self, logdir: Path, every: int = 10) -> None:
        super().__init__()
        if not isinstance(logdir, (str, os.PathLike)):
            raise TypeError(f'TensorBoard: logdir must be a folder, got {logdir!r}')
        if not str(logdir) or '://' in str(logdir) or '\0' in str(logdir):
            raise ValueError(
                f'TensorBoard: logdir must be a folder of this machine, got {logdir!r}'
            )
        if isinstance(every, bool) or not isinstance(every, Integral):
            raise TypeError(f'TensorBoard: every must be a number of minibatches, got {every!r}')
        if every < 1:
            raise ValueError(f'TensorBoard: every must be 1 minibatch or more, got {every}')
        self.logdir = writable_folder(logdir)
        self.every = int(every)
        self._file: Any = None
        self._held: Any = None  # its key in _OPEN, while the file is open
        self._begin(None)

    def _begin(self, run):
        """Resets the observer for a run; None is a plain trainer, which reports no run."""
        self._run = run
        self._describe = tags.Descriptions(run)
        self._window = Average(run.samples if run else 0)
        self._speed = Speed()
        self._last_step = None  # of recovery/metric
        self._size = None  # of the network: an object with the fields of a `Totals`
        self._optimized_at = None
        self._tags = {}  # name of a layer -> its tag
        self._signs = {}  # tag of a 1-bit layer -> its signs at the last point, packed
        self._hparams_end = None

    def close(self) -> None:
        """Closes the file and releases the folder.

        Call it yourself only with a plain `cntk.Trainer`; a session calls it when it ends.
        """
        if self._file is not None:
            self._end_window()
            if self._optimized_at is not None and self._optimized_at < self._window.samples:
                self._totals(self._window.samples)
            file, self._file = self._file, None
            self._free()
            file.close()

    # The events.

    def on_start(self, run):
        self._begin(run)
        # Points up to and including the checkpoint's last one stay; later ones are trained again.
        self._open(run.samples + 1 if run.samples else 0)
        self._file.write(tags.layout(), 0)
        before, self._hparams_end = tags.hparams(run)
        for each in before:
            self._file.write(each, 0)
        self._file.text('netopt/plan', cards.plan(run), run.samples)
        self._size = run
        known = [step for tag, step in self._file.shown if tag == 'size/parameters']
        if not known:
            self._totals(run.samples)
        elif max(known) > min(known):
            self._optimized_at = max(known)
        self._speed.go_on()

    def on_minibatch(self, samples, loss, metric):
        self._speed.trained(samples - self._window.samples)
        self._window.add(samples, loss, metric)
        if self._window.minibatches >= self.every:
            self._end_window()

    def on_epoch(self, epoch, samples):
        self._weights(samples)
        self._speed.go_on()

    def on_evaluation(self, evaluation):
        if evaluation.kind in _HELD_OUT:
            if evaluation.kind == 'before':
                self._end_window()
                self._corner(evaluation)
            self._recovery(evaluation, evaluation.samples)
        else:
            self._scalar(_OF_CNTK[evaluation.kind], evaluation.metric, evaluation.samples)
        self._speed.go_on()

    def on_optimization(self, record):
        self._end_window()
        self._optimized_at = step = record.samples
        names = self._tags_of(record.layers)
        if step > 0:
            self._totals(step - 1)
        # A free axis makes a number unknown: its curve ends here.
        self._size = record.network_after
        self._totals(step)
        for name, note in zip(names, record.layers):
            if note.singular_values is not None and note.rank is not None:
                picture = pictures.singular_values(note.singular_values, note.rank)
                self._opened().picture(f'singular_values/{name}', picture, step)
        card = cards.of_optimization(record, names)
        self._opened().text(f'netopt/{record.optimization}', card, step)
        self._weights(step, known=False)
        self._speed.go_on()

    def on_end(self, result):
        if self._file is not None and self._run is not None:
            self._end_window()
            self._file.text('netopt/result', cards.of_result(result), self._window.samples)
            if result.complete:
                self._file.write(self._hparams_end, self._window.samples)
        self.close()

    # The parts.

    def _open(self, first_step):
        folder = os.path.realpath(self.logdir)
        if _OPEN.setdefault(folder, self) is not self:
            raise RuntimeError(
                f'TensorBoard: another observer of this process writes to {self.logdir}; give each '
                'a folder of its own, or close() the first when its training is over'
            )
        if self._file is None:
            self._held = folder
            try:
                self._file = EventFile(writable_folder(self.logdir), first_step, self._describe)
            except RuntimeError:
                self._free()
                raise

    def _free(self):
        _OPEN.pop(self._held, None)

    def _opened(self):
        """Returns the open file; opens it here for a plain trainer, which reports no start."""
        if self._file is None:
            try:
                self._open(0)
            except RuntimeError as error:
                if isinstance(error.__cause__, OSError):
                    warn(f'{error}. Training goes on, and is not written')
                    self._file = Nowhere()
                else:
                    raise
        return self._file

    def _scalar(self, tag, value, step):
        if value is not None:
            self._opened().scalar(tag, value, step)

    def _end_window(self):
        if not self._window.minibatches:
            return
        step = self._window.samples
        self._scalar('train/loss', self._window.loss, step)
        self._scalar('train/metric', self._window.metric, step)
        if self._run is not None:
            for number, rate in enumerate(self._run.learning_rates()):
                self._scalar(
                    'train/learning_rate' + (f'/{number + 1}' if number else ''), rate, step
                )
        self._scalar('train/samples_per_second', self._speed.of_window(), step)
        self._window.restart()

    def _corner(self, evaluation):
        """Writes the value before a swap a second time, one sample earlier.

        If several points have the same step, TensorBoard's default loader keeps only the last.
        Without this point, the drop would seem to begin at the previous epoch.
        """
        step = evaluation.samples - 1
        if step >= 0 and (self._last_step is None or self._last_step < step):
            self._recovery(evaluation, step)

    def _recovery(self, evaluation, step):
        self._last_step = step
        self._scalar('recovery/metric', evaluation.metric, step)
        self._scalar('recovery/baseline', evaluation.baseline, step)
        self._scalar('recovery/drop', evaluation.drop, step)
        self._scalar('recovery/recovered', evaluation.recovered, step)
        self._scalar('recovery/worst', evaluation.worst, step)
        self._scalar('recovery/epochs', evaluation.epochs, step)

    def _weights(self, step, known=True):
        """Writes the distribution of the latent weights of the 1-bit layers, and their sign flips.

        Sign flips are counted since the previous point. Without `known`, only layers that have just
        become 1-bit are written.
        """
        if self._run is None:
            return
        weights = self._run.binary_weights()
        for tag, (_, latent) in zip(self._tags_of_names([name for name, _ in weights]), weights):
            before, signs = self._signs.get(tag), np.packbits(latent > 0)
            if before is not None and not known:
                continue
            self._opened().histogram(f'weights/{tag}/latent', latent, step)
            self._scalar(f'weights/{tag}/outside_window', np.mean(np.abs(latent) > 1), step)
            if before is not None and before.size == signs.size:
                flipped = np.unpackbits(before ^ signs).sum() / latent.size
                self._scalar(f'weights/{tag}/flip_ratio', flipped, step)
            self._signs[tag] = signs

    def _tags_of(self, layers):
        return self._tags_of_names([layer.name for layer in layers])

    def _tags_of_names(self, names):
        """Returns a tag for the name of each layer; no two layers of the run have the same one.

        TensorBoard allows fewer characters in a tag than CNTK in a name: 'a b' and 'a:b' both
        become a_b.
        """
        found = []
        for number, name in enumerate(names, 1):
            name = name or f'layer{number}'
            if self._tags.get(name) in found or name not in self._tags:
                taken = set(self._tags.values()) | set(found)
                tag = shown_tag(name)
                while tag in taken:
                    tag = f'{shown_tag(name)}_{number}' if tag == shown_tag(name) else tag + '_'
                self._tags.setdefault(name, tag)
            else:
                tag = self._tags[name]
            found.append(tag)
        return found

    def _totals(self, step):
        if self._size is None:
            return
        self._scalar('size/parameters', self._size.parameters, step)
        self._scalar('size/bytes', self._size.bytes, step)
        macs, binary = self._size.macs, self._size.binary_macs
        if macs is not None and binary is not None:
            self._scalar('size/float_multiply_adds', macs - binary, step)
            self._scalar('size/binary_multiply_adds', binary, step)


class Speed:
    """Samples per second of a window.

    Only the time from `go_on` or a minibatch to the next minibatch counts.
    """

    def __init__(self):
        self._samples, self._seconds, self._since = 0, 0.0, None

    def trained(self, samples):
        """Adds a minibatch; one whose start is unknown does not count."""
        now = time.perf_counter()
        if self._since is not None:
            self._samples += samples
            self._seconds += now - self._since
        self._since = now

    def go_on(self):
        """Excludes the time since the last minibatch, which was not training."""
        self._since = time.perf_counter()

    def of_window(self):
        """Returns the speed and opens the next window; None if no minibatch counted."""
        speed = self._samples / self._seconds if self._seconds else None
        self._samples, self._seconds = 0, 0.0
        return speed
