"""The progress bar told of made-up runs."""
import io
import sys

import pytest

import netopt_callbacks as nc
from netopt_callbacks.observers.base import Evaluation, Run
from test_observers import factored, tell


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_where_the_output_is_no_terminal():
    out = io.StringIO()
    tell(nc.ProgressBar(out))
    # Averages over an epoch: loss (40 * 1 + 40 * 2 + 20 * 4) / 100 / epoch, metric 0.3.
    assert out.getvalue().splitlines() == [
        'epoch 1: loss 2.0000, errs 0.3000, held out 0.4000',
        'epoch 2: loss 1.0000, errs 0.3000, held out 0.1000',
        'FactorDense after epoch 2: 1 layer changed, 1 left as it was, '
        'held-out errs 0.1000 -> 0.5000 (drop 0.4000)',
        'epoch 3: loss 0.6667, errs 0.3000, held out 0.3000',
        'epoch 4: loss 0.5000, errs 0.3000, held out 0.1250',
        'cross validation: errs 0.2000',
        'test: errs 0.1500',
    ]


def test_the_bar_counts_samples_and_closes():
    out = Terminal()
    bar = nc.ProgressBar(out)
    bar.on_start(Run(epoch_size=100, max_samples=400, samples=100))
    assert (bar._bar.n, bar._bar.total) == (100, 400)
    bar.on_minibatch(140, 1.0, 0.5)
    assert bar._bar.n == 140
    bar.on_minibatch(180, 3.0, None)
    assert 'loss 2.0000, metric 0.5000' in str(bar._bar)
    assert 'epoch 2' in str(bar._bar)
    bar.on_epoch(2, 200)
    tqdm_bar = bar._bar
    bar.on_end(nc.Result())
    assert tqdm_bar.disable and 'epoch 2: loss 2.0000' in out.getvalue()
    bar.on_end(nc.Result())


@pytest.mark.parametrize(
    'samples, said',
    [
        (0, []),
        (1100, ['resumed after 1,100 samples']),
        (4000, ['resumed after 4,000 samples: nothing is left to train']),
    ],
)
def test_a_resumed_run_says_so(samples, said):
    out = io.StringIO()
    bar = nc.ProgressBar(out)
    bar.on_start(Run(epoch_size=1000, max_samples=4000, samples=samples))
    bar.on_end(nc.Result())
    assert out.getvalue().splitlines() == said


def test_a_thousand_epochs_are_not_a_thousand_lines():
    out = io.StringIO()
    bar = nc.ProgressBar(out)
    bar.on_start(Run(epoch_size=1))
    for epoch in range(1, 1001):
        bar.on_minibatch(epoch, 1.0, None)
        bar.on_epoch(epoch, epoch)
    bar.on_end(nc.Result())
    epochs = [int(line.split(':')[0].split()[1]) for line in out.getvalue().splitlines()]
    assert epochs == list(range(1, 100)) + list(range(100, 1001, 10))


def test_the_stream_is_the_one_at_the_start_of_training(monkeypatch):
    bar, out = nc.ProgressBar(), io.StringIO()
    monkeypatch.setattr(sys, 'stderr', out)
    tell(bar)
    assert 'epoch 4' in out.getvalue()


def test_what_is_no_file():
    with pytest.raises(TypeError, match='file'):
        nc.ProgressBar('progress.txt')


def test_the_bar_ends_at_the_epoch_trained_last_with_its_last_numbers():
    out = Terminal()
    tell(nc.ProgressBar(out))
    # Epoch 4 as its line has it, and the held-out metric that was measured after it.
    last = out.getvalue().rstrip('\n').splitlines()[-1].rpartition('\r')[2]
    assert last.startswith('epoch 4: 100%') and '400/400' in last
    assert last.endswith('loss 0.5000, errs 0.3000, held out 0.1250]')


def test_a_swap_takes_the_bar_away_until_training_goes_on():
    """CNTK itself prints a line when a session goes on after a swap: it must find an empty one."""
    out = Terminal()
    bar = nc.ProgressBar(out)
    bar.on_start(Run(epoch_size=100, max_samples=400))
    bar._bar.mininterval = 0
    for samples in (50, 100):
        bar.on_minibatch(samples, 1.0, 0.5)
    bar.on_evaluation(Evaluation('before', 100, 1, 0.1))
    assert shown(out) == ''
    bar.on_epoch(1, 100)
    assert shown(out).startswith('epoch 1:')
    bar.on_optimization(factored(100))
    assert shown(out) == ''
    out.write('Restoring training session from the checkpoint\n')
    bar.on_minibatch(150, 1.0, 0.5)
    assert shown(out).startswith('epoch 2:')
    bar.close()
    assert [line.split()[0] for line in screen(out)[:-1]] == [
        'epoch',
        'FactorDense',
        'Restoring',
        'epoch',
    ]


def shown(out):
    """Returns what a terminal shows in the line of the cursor."""
    return screen(out)[-1]


def screen(out):
    """Returns the lines that a terminal shows."""
    lines = []
    for line in out.getvalue().split('\n'):
        seen = ''
        for text in line.split('\r'):
            seen = text + seen[len(text) :]
        lines.append(seen.strip())
    return lines
