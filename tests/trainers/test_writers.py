"""The user's progress writers get every event, in every window, after a swap as before it."""
import io
import re
import sys

import cntk as C
import pytest
from cntk import cntk_py
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import netopt_callbacks as nc
from slices import few
from user_script import SAMPLES, Identity, Script

EPOCHS = (0, 1, 2, 2)


def identities():
    return [Identity(epoch=epoch) for epoch in EPOCHS]


def trained(writer, callbacks, *more):
    """Trains with writers beside the script's own; with plain CNTK where callbacks are None."""
    script = Script()
    script.trainer = C.Trainer(
        script.z, (script.loss, script.metric), script.learners, [script.log, writer] + list(more)
    )
    script.arguments['trainer'] = script.trainer
    if callbacks is None:
        script.run_plain()
    else:
        script.run(callbacks, data=script.held_out)
    return script


# CNTK's ProgressPrinter.


def printer(path, **options):
    return C.logging.ProgressPrinter(tag='Training', num_epochs=4, log_to_file=str(path), **options)


def without_times(text):
    return re.sub(r'\d+\.\d+s|\( *\d+\.\d+ samples/s\)', 'TIME', text)


def masked(path):
    """Returns what a ProgressPrinter wrote, without its times and its own path."""
    return without_times(path.read().replace(str(path), 'PATH'))


@pytest.mark.few(3)
@pytest.mark.parametrize(
    'options',
    few(
        [
            dict(freq=1),
            dict(freq=5),
            dict(freq=0),
            dict(freq=7, first=3),
            dict(freq=None),
            dict(freq=3, test_freq=1),
        ],
        dict(freq=0),
        dict(freq=7, first=3),
        dict(freq=3, test_freq=1),
    ),
    ids=str,
)
def test_progress_printer_prints_the_same(options, tmpdir):
    plain, ours = tmpdir.join('plain'), tmpdir.join('ours')
    trained(printer(plain, **options), None)
    trained(printer(ours, **options), identities())
    assert masked(ours) == masked(plain)
    assert 'Finished Evaluation [11]' in masked(plain)


def test_progress_printer_prints_the_same_on_the_screen(capfd):
    said = []
    for callbacks in (None, identities()):
        trained(C.logging.ProgressPrinter(freq=5), callbacks)
        said.append(without_times(capfd.readouterr().out))
    assert said[0] == said[1]
    assert len(re.findall('^ Minibatch', said[0], re.MULTILINE)) == 5  # one in each whole 500


def test_progress_printer_prints_the_same_in_function_train(tmpdir):
    for how, callbacks, name in ((C.Function.train, [], 'plain'), (nc.train, identities(), 'ours')):
        script = Script()
        how(
            C.combine([script.loss, script.metric]),
            (script.images, script.labels),
            minibatch_size=64,
            max_epochs=3,
            parameter_learners=script.learners,
            callbacks=[printer(tmpdir.join(name), freq=5)] + callbacks,
        )
    assert masked(tmpdir.join('ours')) == masked(tmpdir.join('plain'))
    assert masked(tmpdir.join('plain')).count('Finished Epoch[') == 3


# CNTK's TensorBoardProgressWriter.


def points(folder):
    """Returns {tag: [(step, value)]} of a folder, with TensorBoard's own reader."""
    reader = EventAccumulator(str(folder), size_guidance={'scalars': 0})
    reader.Reload()
    return {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)]
        for tag in reader.Tags()['scalars']
    }


def board(folder, frequency):
    return C.logging.TensorBoardProgressWriter(freq=frequency, log_dir=str(folder))


@pytest.mark.few(1)
@pytest.mark.parametrize('frequency', [1, 4])
def test_cntks_tensorboard_writer_writes_the_same(frequency, tmpdir):
    for name, callbacks in (('plain', None), ('ours', identities())):
        writer = board(tmpdir.mkdir(name), frequency)
        trained(writer, callbacks)
        writer.close()
    plain = points(tmpdir.join('plain'))
    assert points(tmpdir.join('ours')) == plain
    assert len(plain['minibatch/avg_loss']) == 4 * 11 // frequency
    assert len(plain['summary/avg_loss']) == 6  # every 500 of 2800 samples, and the rest


def test_it_goes_on_after_the_network_changed_beside_our_own(tmpdir):
    theirs, ours = tmpdir.mkdir('theirs'), tmpdir.mkdir('ours')
    writer = board(theirs, 1)
    trained(
        writer,
        [
            nc.FactorDense(epoch=1, rank=3, filter_function=lambda b: b.name == 'hidden'),
            nc.TensorBoard(ours, every=1),
        ],
    )
    writer.close()
    losses = points(theirs)['minibatch/avg_loss']
    assert [step for step, _ in losses] == list(range(1, 45))
    # The same numbers as ours, which count in samples; CNTK's are differences of float32 sums.
    for (_, mine), (_, cntks) in zip(points(ours)['train/loss'], losses):
        assert mine == pytest.approx(cntks, rel=1e-3)


# Our observers as ordinary progress writers.


@pytest.mark.parametrize(
    'callbacks', [None, identities()], ids=['plain CNTK', 'under optimizations']
)
def test_our_observers_as_writers_of_a_plain_trainer(callbacks, tmpdir):
    """In CNTK's session they log what a trainer tells: every loss, and tests at the samples so far.

    TensorBoard keeps float32, so a value may be off by 6e-8 of itself.
    """
    out = io.StringIO()
    writer, bar = nc.TensorBoard(tmpdir, every=1), nc.ProgressBar(out)
    script = trained(writer, callbacks, bar)
    writer.close()
    bar.close()
    found = points(tmpdir)
    updates = [event for event in script.log.events if event[0] == 'update']
    assert sorted(found) == [
        'test/metric',
        'train/loss',
        'train/metric',
        'train/samples_per_second',
    ]
    assert found['train/loss'] == [
        (samples[1], pytest.approx((loss[1] - loss[0]) / (samples[1] - samples[0]), rel=1e-6))
        for samples, loss in told(updates)
    ]
    assert len(found['train/loss']) == len(found['train/metric']) == 44
    tests = [event for event in script.log.events if event[0] == 'test summary']
    assert [value for _, value in found['test/metric']] == [
        pytest.approx(event[4] / event[1], rel=1e-6) for event in tests
    ]
    assert len(tests) == 11
    lines = out.getvalue().splitlines()
    assert sum(line.startswith('test: metric ') for line in lines) == 11
    assert [line.split(':')[0] for line in lines if ' samples: loss ' in line] == [
        f'{samples} samples' for samples in (512, 1020, 1528, 2040, 2548, 2800)
    ]


def told(updates):
    """Yields (samples so far, before and after; sums of the loss, before and after) of each
    update."""
    seen = 0
    for _, samples, _, loss, _ in updates:
        count = samples[1] - samples[0]
        yield (seen, seen + count), loss
        seen += count


# Writers of the user's own.


class Summaries(cntk_py.ProgressWriter):
    """Overrides what its user wants to know, and nothing else."""

    def __init__(self):
        super().__init__(sys.maxsize, 0, sys.maxsize, 0, sys.maxsize, 0)
        self.__disown__()
        self.found = []

    def on_write_training_summary(self, samples, updates, summaries, loss, metric, milliseconds):
        self.found.append((samples, updates, summaries, loss, metric))


def test_writer_that_overrides_only_one_method():
    plain, ours = Summaries(), Summaries()
    trained(plain, None)
    trained(ours, identities())
    assert ours.found == plain.found and len(plain.found) == 6


class Doubled(Summaries):
    """Overrides a method of a writer of the user's own, and calls it."""

    def on_write_training_summary(self, *values):
        super().on_write_training_summary(*values)
        self.found.append('doubled')


def test_writer_that_derives_from_a_writer():
    plain, ours = Doubled(), Doubled()
    trained(plain, None)
    trained(ours, identities())
    assert ours.found == plain.found and plain.found.count('doubled') == 6


def test_nothing_needs_naming_twice():
    """A writer of the trainer that is also given as progress_writers= is told once."""
    plain, script = Script(), Script()
    plain.run_plain()
    script.run([Identity(epoch=1)], progress_writers=[script.log])
    assert script.log.events == plain.log.events
    assert [event[0] for event in plain.log.events].count('update') == 4 * SAMPLES // 64 + 1
