"""Training and the recovery of each optimization as curves in TensorBoard.

`docs/tensorboard.md` lists what is written, under which tag, at which step.
"""
import os
import weakref
from numbers import Integral

from ..table import Table
from .average import Average
from .base import Observer
from .event_file import EventFile, Nowhere, shown_tag, writable_folder
from .output import warn

_HELD_OUT = ('start', 'epoch', 'before', 'after', 'end')
_OPEN = weakref.WeakValueDictionary()  # real path of a folder -> the observer that writes there


class TensorBoard(Observer):
    """Writes a run for TensorBoard; every step is in samples trained.

    Look at it with `tensorboard --logdir FOLDER`. Where something cannot be written once training
    has begun (a full disk) it warns once, and training goes on.

    Args:
        logdir (str): a folder for this run alone; made where it is missing, `~` is the user's
            home. A resumed run goes on in its folder; a run from the start hides what an
            earlier one wrote there.
        every (int): minibatches per point of `train/loss` and `train/metric`, which are
            averages over all samples of these minibatches.

    Raises:
        TypeError, ValueError: an argument is not one of these.
        RuntimeError: the folder cannot be written to, now or when training starts, or then
            another observer of this process writes there.
    """

    def __init__(self, logdir, every=10):
        super().__init__()
        if not isinstance(logdir, (str, os.PathLike)):
            raise TypeError(f'TensorBoard: logdir must be a folder, got {logdir!r}')
        if not str(logdir) or '://' in str(logdir):
            raise ValueError(
                f'TensorBoard: logdir must be a folder of this machine, got {logdir!r}'
            )
        if isinstance(every, bool) or not isinstance(every, Integral):
            raise TypeError(f'TensorBoard: every must be a number of minibatches, got {every!r}')
        if every < 1:
            raise ValueError(f'TensorBoard: every must be 1 minibatch or more, got {every}')
        self.logdir = writable_folder(logdir)
        self.every = int(every)
        self._file = None
        self._window = Average()
        self._last_step = None  # of recovery/metric
        self._parameters = self._macs = None
        self._optimized_at = None
        self._tags = {}  # name of a layer -> its tag

    def close(self):
        """Closes the file and frees the folder.

        Only a plain `cntk.Trainer` leaves this to you: a session calls it when it ends.
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
        self._window = Average(run.samples)
        self._last_step = None
        self._optimized_at = None
        self._tags = {}
        # What the checkpoint had seen stays, its last point included; what was trained after
        # it is trained again.
        self._open(run.samples + 1 if run.samples else 0)
        self._parameters, self._macs = run.parameters, run.macs
        known = [step for tag, step in self._file.shown if tag == 'netopt/parameters']
        if not known:
            self._totals(run.samples)
        elif max(known) > min(known):
            self._optimized_at = max(known)

    def on_minibatch(self, samples, loss, metric):
        self._window.add(samples, loss, metric)
        if self._window.minibatches >= self.every:
            self._end_window()

    def on_evaluation(self, evaluation):
        if evaluation.kind not in _HELD_OUT:
            self._scalar(f'{evaluation.kind}/metric', evaluation.metric, evaluation.samples)
            return
        if evaluation.kind == 'before':
            self._end_window()
            self._corner(evaluation)
        self._recovery(evaluation, evaluation.samples)

    def on_optimization(self, record):
        self._end_window()
        self._optimized_at = step = record.samples
        tags = self._tags_of(record.layers)
        for tag, note in zip(tags, record.layers):
            for field in ('rank', 'energy', 'error'):
                self._scalar(f'netopt/{tag}/{field}', getattr(note, field), step)
        if step > 0:
            self._totals(step - 1)
        # A free axis leaves a number unknown: its curve ends here.
        after = record.network_after
        self._parameters, self._macs = (
            (None, None) if after is None else (after.parameters, after.macs)
        )
        self._totals(step)
        self._opened().text(f'netopt/{record.optimization}', _as_markdown(record, tags), step)

    def on_end(self, result):
        self.close()

    # The parts.

    def _open(self, first_step):
        holder = _OPEN.setdefault(os.path.realpath(self.logdir), self)
        if holder is not self:
            raise RuntimeError(
                f'TensorBoard: another observer of this process writes to {self.logdir}; give each '
                'a folder of its own, or close() the first when its training is over'
            )
        if self._file is None:
            try:
                self._file = EventFile(writable_folder(self.logdir), first_step)
            except RuntimeError:
                self._free()
                raise

    def _free(self):
        _OPEN.pop(os.path.realpath(self.logdir), None)

    def _opened(self):
        """Returns the open file; a plain trainer, which tells no start, opens it here."""
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
        if self._window.minibatches:
            self._scalar('train/loss', self._window.loss, self._window.samples)
            self._scalar('train/metric', self._window.metric, self._window.samples)
            self._window.restart()

    def _corner(self, evaluation):
        """Writes the value before a swap once more, one sample earlier.

        TensorBoard's default loader keeps only the last of several points with one step, so
        the drop would seem to begin at the epoch before. This point keeps it upright.
        """
        step = evaluation.samples - 1
        if step >= 0 and (self._last_step is None or self._last_step < step):
            self._recovery(evaluation, step)

    def _recovery(self, evaluation, step):
        self._last_step = step
        self._scalar('recovery/metric', evaluation.metric, step)
        self._scalar('recovery/drop', evaluation.drop, step)
        self._scalar('recovery/recovered', evaluation.recovered, step)

    def _tags_of(self, layers):
        """Returns a tag for each layer; no two layers of the run have the same one.

        TensorBoard allows fewer letters in a tag than CNTK in a name: 'a b' and 'a:b' are both a_b
        there.
        """
        tags = []
        for number, layer in enumerate(layers, 1):
            name = layer.name or f'layer{number}'
            if self._tags.get(name) in tags or name not in self._tags:
                taken = set(self._tags.values()) | set(tags)
                tag = shown_tag(name)
                while tag in taken:
                    tag = f'{shown_tag(name)}_{number}' if tag == shown_tag(name) else tag + '_'
                self._tags.setdefault(name, tag)
            else:
                tag = self._tags[name]
            tags.append(tag)
        return tags

    def _totals(self, step):
        self._scalar('netopt/parameters', self._parameters, step)
        self._scalar('netopt/macs', self._macs, step)


def _as_markdown(record, tags):
    """Returns a record as the text TensorBoard shows."""
    table = Table(
        'layer',
        'shape',
        'rank',
        'energy',
        'error',
        'parameters',
        'multiply-adds',
        'bits per weight',
        'left as it was',
    )
    for tag, note in zip(tags, record.layers):
        table.row(
            tag,
            'x'.join(str(side) for side in note.shape),
            note.rank,
            note.energy,
            note.error,
            (note.parameters_before, note.parameters_after),
            (note.macs_before, note.macs_after),
            note.bits_after if note.skipped is None else None,
            note.skipped,
        )
    said = [f'{record.optimization} after epoch {record.epoch} ({record.samples} samples)']
    if record.drop is not None:
        said.append(
            f'held-out metric {record.metric_before:.6g} before, {record.metric_after:.6g} right '
            f'after: drop {record.drop:.6g}'
        )
    said += [f'{tag}: {note.message}' for tag, note in zip(tags, record.layers) if note.message]
    return '\n\n'.join(said + list(record.notes) + [table.markdown()])
