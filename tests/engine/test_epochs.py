"""Where epochs end: as CNTK counts, under distributed learners too; and those that never come,
told before training."""
import warnings

import cntk as C
import numpy as np
import pytest
from cntk.train.distributed import data_parallel_distributed_learner
from cntk.train.training_session import DataUnit

import netopt_callbacks as nc
from netopt_callbacks.engine import callbacks
from netopt_callbacks.engine.schedule import Clock
from netopt_callbacks.evaluation import sources
from netopt_callbacks.hand_loop import continues_sequences
from user_script import SAMPLES, Identity, Script, loop


def in_epochs(epoch_size, callback, distributed=False, **options):
    script = Script(sweeps=3, test=False, cross_validation=0, **options)
    if distributed:
        script.trainer = C.Trainer(
            script.z,
            (script.loss, script.metric),
            [
                data_parallel_distributed_learner(
                    C.sgd(script.z.parameters, C.learning_parameter_schedule(0.05))
                )
            ],
        )
        script.arguments['trainer'] = script.trainer
    script.run([callback], epoch_size=epoch_size)
    return script.session.result.records


@pytest.mark.few(1)
@pytest.mark.parametrize(
    'epoch_size, samples',
    [(None, 2 * SAMPLES), ((1, DataUnit.sweep), 2 * SAMPLES), ((4, DataUnit.minibatch), 8 * 64)],
)
def test_distributed_learner_counts_by_the_learner_in_it(epoch_size, samples):
    (record,) = in_epochs(epoch_size, Identity(epoch=2), distributed=True)
    assert record.samples == samples
    assert in_epochs(epoch_size, Identity(epoch=2))[0].samples == samples


def never(epoch_size, epoch, **options):
    """Returns what is said of an epoch that never comes, before anything is trained."""
    heard = []

    class First(nc.Observer):
        def on_minibatch(self, samples, loss, metric):
            heard.append(samples)

    script = Script(test=False, cross_validation=0, **options)
    with pytest.raises(ValueError) as error:
        script.run([Identity(epoch=epoch), First()], epoch_size=epoch_size)
    assert not heard
    return str(error.value)


@pytest.mark.parametrize(
    'epoch_size, epoch, words',
    [
        (SAMPLES, 4, r'gives %d samples, so 3 is the last' % (3 * SAMPLES)),
        (None, 4, 'gives 3 sweeps, so 3 is the last'),
        ((2, DataUnit.sweep), 2, 'gives 3 sweeps, so 1 is the last'),
        (SAMPLES, (4, DataUnit.sweep), 'gives 3 sweeps, so 3 is the last'),
    ],
)
def test_epoch_behind_the_end_of_the_source(epoch_size, epoch, words):
    assert words in never(epoch_size, epoch, sweeps=3)


def test_epoch_behind_the_end_of_a_text_source(tmpdir):
    assert 'gives 3 sweeps, so 3 is the last' in never(
        None, 4, source='ctf', sweeps=3, folder=str(tmpdir)
    )


@pytest.mark.parametrize('epoch_size, epoch', [(None, 5), (SAMPLES, (5, DataUnit.sweep))])
def test_sweep_behind_max_samples(epoch_size, epoch):
    assert 'gives 4 sweeps, so 4 is the last' in never(epoch_size, epoch, source='arrays', sweeps=4)


@pytest.mark.parametrize('epoch_size, epoch', [(None, 1), (SAMPLES, (1, DataUnit.sweep))])
def test_sweeps_under_a_users_learner(epoch_size, epoch):
    assert 'no sweeps if a UserLearner is the only or the first' in never(
        epoch_size, epoch, learner='user'
    )


def test_last_epoch_of_a_source_comes():
    assert [record.epoch for record in in_epochs(SAMPLES, Identity(epoch=3))] == [3]
    assert [record.epoch for record in in_epochs(None, Identity(epoch=3))] == [3]


def test_sequences_are_counted_in_steps():
    rows = [np.zeros((length, 2), np.float32) for length in (3, 1, 4)]
    typed = C.layers.typing.Sequence[C.layers.typing.Tensor[2]]
    for passes, expected in (8, (8, 1)), (17, (17, 3)), (C.io.INFINITELY_REPEAT, (None, None)):
        source = C.io.MinibatchSourceFromData(dict(x=(rows, typed)), max_samples=passes)
        assert sources.length(source) == expected
    assert sources.sweep_of(source) == 8


class Workers:
    """What is asked of the workers of a run."""

    def __init__(self, count=2, block_momentum=False):
        self.count, self.drops_empty_minibatch = count, block_momentum


@pytest.mark.parametrize(
    'epoch_size, epoch, block_momentum, told, refused',
    [
        (None, 1, False, False, True),
        (None, 1, False, True, False),
        (None, 1, True, True, True),
        (None, 0, True, False, False),
        (100, (1, DataUnit.sweep), False, False, True),
        (100, (0, DataUnit.sweep), True, False, False),
        (100, 1, True, False, False),
        ((3, DataUnit.minibatch), 1, False, False, False),
        ((3, DataUnit.minibatch), 1, True, False, True),
    ],
)
def test_epochs_that_workers_count_apart(epoch_size, epoch, block_momentum, told, refused):
    arguments = (
        [Identity(epoch=epoch)],
        Clock(epoch_size),
        [None],
        Workers(2, block_momentum),
        told,
    )
    if not refused:
        callbacks.refuse_epochs_that_never_come(*arguments)
        return
    with pytest.raises(
        ValueError, match='must come on all workers at once.*give epoch_size in samples'
    ):
        callbacks.refuse_epochs_that_never_come(*arguments)


def test_error_after_training_leaves_the_model():
    """A source of the user's own does not tell how much it gives."""

    class Unknown(C.io.MinibatchSourceFromData):
        pass

    script = Script(test=False, cross_validation=0)
    source = Unknown(
        dict(
            x=(script.images, C.layers.typing.Tensor[1, 6, 6]),
            label=(script.labels, C.layers.typing.Tensor[5]),
        ),
        max_samples=SAMPLES,
    )
    streams = {script.x: source.streams['x'], script.label: source.streams['label']}
    with pytest.raises(ValueError, match='training ended after 700 samples'):
        script.run([Identity(epoch=2)], mb_source=source, model_inputs_to_streams=streams)
    result = script.session.result
    assert not result.complete and result.model.eval(
        {result.model.arguments[0]: script.images[:1]}
    ).shape == (1, 5)


@pytest.mark.parametrize('callbacks', [[], None, [nc.Lower()]])
def test_attach_needs_no_epoch_size_where_nothing_counts_epochs(callbacks):
    script = Script(dropout=False)
    with nc.attach(script.trainer, callbacks, data=(script.images[:9], script.labels[:9])) as run:
        script.trainer.train_minibatch(
            {script.x: script.images[:8], script.label: script.labels[:8]}
        )
    assert run.result.complete


class Cut:
    """Truncated sequences of a text source, in a loop of the user's own."""

    def __init__(self, folder, lengths=(12,) * 6):
        C.cntk_py.reset_random_seed(0)
        file, random = str(folder.join('data.txt')), np.random.RandomState(0)
        with open(file, 'w') as stream:
            for number, length in enumerate(lengths):
                for _ in range(length):
                    stream.write(
                        '%d\t|x %s |y %s\n'
                        % (
                            number,
                            ' '.join(f'{v:.3f}' for v in random.rand(5)),
                            ' '.join(f'{v:.3f}' for v in random.rand(3)),
                        )
                    )
        self.x, self.y = C.sequence.input_variable(5, name='x'), C.sequence.input_variable(
            3, name='y'
        )
        z = C.layers.Sequential([C.layers.Recurrence(C.layers.LSTM(3)), C.layers.Dense(3)])(self.x)
        self.trainer = C.Trainer(
            z,
            (C.cross_entropy_with_softmax(z, self.y), C.classification_error(z, self.y)),
            [C.sgd(z.parameters, C.learning_parameter_schedule(0.05))],
        )
        self.source = C.io.MinibatchSource(
            C.io.CTFDeserializer(
                file,
                C.io.StreamDefs(
                    x=C.io.StreamDef(field='x', shape=5), y=C.io.StreamDef(field='y', shape=3)
                ),
            ),
            randomize=False,
            max_sweeps=2,
            truncation_length=3,
        )

    def minibatches(self):
        streams = {self.x: self.source.streams['x'], self.y: self.source.streams['y']}
        while True:
            minibatch = self.source.next_minibatch(6, streams)
            if not minibatch:
                return
            yield minibatch

    def losses(self, form=lambda minibatch: minibatch):
        found = []
        for minibatch in self.minibatches():
            self.trainer.train_minibatch(form(minibatch))
            found.append(self.trainer.previous_minibatch_loss_average)
        return found


@pytest.mark.parametrize(
    'form',
    [dict, lambda minibatch: {key: data.data for key, data in minibatch.items()}],
    ids=['minibatch data', 'Values'],
)
def test_swap_waits_for_new_sequences_of_a_source_that_cuts_them(form, tmpdir):
    plain = Cut(tmpdir).losses(form)
    script = Cut(tmpdir)
    with nc.attach(script.trainer, [Identity(epoch=1), Identity(epoch=5)], epoch_size=9) as run:
        assert script.losses(form) == plain
    # Two sequences of 12 samples at once, in pieces of 3: new ones after each 24 samples.
    assert [record.samples for record in run.result.records] == [24, 48]


def test_minibatches_that_go_on_with_sequences(tmpdir):
    assert [continues_sequences(minibatch) for minibatch in Cut(tmpdir).minibatches()][:9] == [
        False,
        True,
        True,
        True,
        False,
        True,
        True,
        True,
        False,
    ]
    whole = C.Value.create(
        C.sequence.input_variable(2), [np.zeros((3, 2), np.float32), np.zeros((1, 2), np.float32)]
    )
    assert not continues_sequences({1: whole}) and not continues_sequences({1: np.zeros((3, 2))})


def test_a_reader_may_fill_again_what_a_script_still_holds(tmpdir):
    """CNTK's reader fills the memory of an earlier minibatch, which must not be in use by us.

    Sparse sequences, larger minibatch by minibatch, all of which the script holds.
    """
    path = tmpdir.join('sequences.txt')
    lines = [(0, 3, 7), (0, 2, 8), (1, 4, 7), (1, 5, 8), (1, 3, 6), (1, 1, 2)]
    path.write(''.join('%d\t|S0 %d:1\t|S1 %d:1\n' % line for line in lines))
    stream = lambda field: C.io.StreamDef(field=field, shape=10, is_sparse=True)

    def losses(callbacks, sizes):
        source = C.io.MinibatchSource(
            C.io.CTFDeserializer(str(path), C.io.StreamDefs(x=stream('S0'), y=stream('S1'))),
            randomize=False,
        )
        x, y = C.sequence.input_variable(10), C.sequence.input_variable(10)
        z = C.plus(x, C.reduce_sum(C.parameter(10, init=1)))
        criterion = C.cross_entropy_with_softmax(z, y), C.classification_error(z, y)
        learner = C.sgd(z.parameters, C.learning_parameter_schedule_per_sample(0.1))
        trainer = C.Trainer(z, criterion, [learner])
        run, held, found = nc.attach(trainer, callbacks, epoch_size=1), [], []
        for size in sizes:
            held.append(source.next_minibatch(size, {x: source.streams.x, y: source.streams.y}))
            trainer.train_minibatch(held[-1])
            found.append(trainer.previous_minibatch_loss_average)
        run.finish()
        return found

    for sizes in 3 * [(1, 1, 9, 30, 60), (1, 1, 1, 9, 30, 60), (4, 4, 9, 30)]:
        assert losses([Identity(epoch=1)], sizes) == losses([], sizes)


def trained_in(door, epoch_size):
    """Trains minibatches of 64 in a session or a loop of one's own; returns the samples at the
    change after 2 epochs, and what is said of epochs."""
    script, change = Script(sweeps=2, test=False, cross_validation=0), Identity(epoch=2)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always')
        if door == 'session':
            script.run([change], epoch_size=epoch_size)
            result = script.session.result
        else:
            with nc.attach(script.trainer, [change], epoch_size=epoch_size) as run:
                loop(script, last=20)
            result = run.result
    said = [str(one.message) for one in heard if 'epoch_size' in str(one.message)]
    return result.records[0].samples, said


@pytest.mark.parametrize('door', ['session', 'loop'])
def test_an_epoch_below_one_minibatch_is_told_once_with_what_counts_minibatches(door):
    samples, (said,) = trained_in(door, 5)
    assert samples == 64
    assert said.startswith('epoch_size=5 is less than a minibatch of 64 samples')
    advice = said.split('if you mean minibatches: epoch_size=')[1]
    meant = eval(advice, {'cntk': C})
    assert trained_in(door, meant) == (2 * 5 * 64, [])
    assert trained_in(door, 64) == (2 * 64, [])
