"""Shows a progress bar of the run, and a line for each epoch and each optimization."""
import io
import sys
from typing import Any

from tqdm import tqdm

from .average import Average
from .base import Observer
from .output import TextOutput


class ProgressBar(Observer):
    """Shows a run as one tqdm bar, in samples; as lines of text if the output is not a terminal.

    It prints a line for every epoch up to the 99th, every 10th up to the 999th and so on, and for
    every optimization, cross-validation and test. If the output fails (a closed terminal, a full
    disk), it warns once and training continues.

    Args:
        file: an open text file to write to; None is `sys.stderr` as it is when training starts.

    Raises:
        TypeError: `file` is not an open text file.
    """

    def __init__(self, file: Any = None) -> None:
        super().__init__()
        if file is not None and (
            not hasattr(file, 'write') or isinstance(file, (io.RawIOBase, io.BufferedIOBase))
        ):
            raise TypeError(f'ProgressBar: file must be an open text file or None, got {file!r}')
        self._given = file
        self._file = self._bar = None
        self._plain = True
        self._metric_name = 'metric'
        self._epoch = 0
        self._average = Average()
        self._loss = self._metric = self._held_out = None

    def close(self) -> None:
        """Closes the bar.

        Call it yourself only with a plain `cntk.Trainer`; a session calls it when it ends.
        """
        if self._bar is not None:
            self._bar.set_postfix_str(self._numbers(), refresh=False)
            self._file.attempt(self._bar.close)
        self._file = self._bar = None

    # The events.

    def on_start(self, run):
        self.close()
        self._plain = False
        self._metric_name = run.metric_name
        self._loss = self._metric = self._held_out = None
        self._epoch = run.samples // run.epoch_size if run.epoch_size else 0
        self._average = Average(run.samples)
        self._open(run.samples, run.max_samples)
        if run.samples:
            nothing_left = run.max_samples and run.samples >= run.max_samples
            self._line(
                f'resumed after {run.samples:,} samples'
                + (': nothing is left to train' if nothing_left else '')
            )

    def on_minibatch(self, samples, loss, metric):
        self._average.add(samples, loss, metric)
        self._loss, self._metric = self._average.loss, self._average.metric
        self._open()
        if self._bar is not None:
            self._name_epoch()
            self._bar.set_postfix_str(self._numbers(), refresh=False)
            self._file.attempt(self._bar.update, samples - self._bar.n)

    def on_evaluation(self, evaluation):
        if evaluation.kind in ('cross_validation', 'test'):
            self._line(
                '{}: {} {:.4f}'.format(
                    evaluation.kind.replace('_', ' '), self._metric_name, evaluation.metric
                )
            )
        else:
            self._held_out = evaluation.metric
        if evaluation.kind == 'before':
            self._clear()

    def on_epoch(self, epoch, samples):
        self._epoch = epoch
        if epoch % _epochs_per_line(epoch) == 0:
            self._line(f'epoch {epoch}: {self._numbers()}')
        self._average.restart()

    def on_optimization(self, record):
        self._held_out = record.metric_after
        self._line(_sentence(record, self._metric_name))
        self._clear()

    def on_training_summary(self, samples, loss, metric):
        if self._plain:  # a plain trainer reports no epochs, only summaries
            self._line(f'{samples} samples: loss {loss:.4f}, metric {metric:.4f}')
            self._average.restart()

    def on_end(self, result):
        self.close()

    # The parts.

    def _open(self, samples=0, total=None):
        if self._file is not None:
            return
        self._file = TextOutput(sys.stderr if self._given is None else self._given, 'ProgressBar')
        if self._file.isatty():
            self._file.attempt(self._show, samples, total)

    def _show(self, samples, total):
        self._bar = tqdm(
            total=total,
            initial=samples,
            file=self._file,
            unit='sample',
            unit_scale=True,
            dynamic_ncols=True,
        )
        self._name_epoch()

    def _line(self, text):
        self._open()
        if self._bar is not None:
            self._file.attempt(tqdm.write, text, self._file)
        else:
            self._file.write(text + '\n')
            self._file.flush()

    def _clear(self):
        """Hides the bar until the next minibatch, since CNTK prints lines of its own at a swap."""
        if self._bar is not None:
            self._file.attempt(self._bar.clear)

    def _name_epoch(self):
        if not self._plain:
            self._bar.set_description_str('epoch %d' % (self._epoch + 1), refresh=False)

    def _numbers(self):
        """Returns the averages of the current or last epoch, and the latest held-out metric."""
        numbers = [
            ('loss', self._loss),
            (self._metric_name, self._metric),
            ('held out', self._held_out),
        ]
        return ', '.join('%s %.4f' % pair for pair in numbers if pair[1] is not None)


def _epochs_per_line(epoch):
    """Returns 1 below epoch 100, 10 below 1000, and so on.

    This gives at most 99 lines, then 90 for each power of ten.
    """
    return 10 ** max(0, len(str(epoch)) - 2)


def _sentence(record, metric_name):
    """Describes an optimization in one line."""
    changed = sum(layer.skipped is None for layer in record.layers)
    said = '%s after epoch %d: %d layer%s changed' % (
        record.optimization,
        record.epoch,
        changed,
        '' if changed == 1 else 's',
    )
    if changed < len(record.layers):
        said += ', %d left as %s' % (
            len(record.layers) - changed,
            'it was' if len(record.layers) - changed == 1 else 'they were',
        )
    if record.drop is not None:
        said += ', held-out {} {:.4f} -> {:.4f} (drop {:.4f})'.format(
            metric_name, record.metric_before, record.metric_after, record.drop
        )
    return said
