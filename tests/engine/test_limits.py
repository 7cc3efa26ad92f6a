"""Where CNTK cannot be exact, and so we cannot: it is said before the first minibatch."""
import warnings

import cntk as C
import numpy as np
import pytest
from cntk.io import FULL_DATA_SWEEP

import netopt_callbacks as nc
from netopt_callbacks.engine import engine
from netopt_callbacks.trainers import distributed
from user_script import RATES, Identity, Log, Script
from user_sources import Images


class First(nc.Observer):
    """Keeps what had been warned of when the first minibatch was trained."""

    def __init__(self):
        super().__init__()
        self.warned = None
        self._caught = warnings.catch_warnings(record=True)

    def __enter__(self):
        self._said = self._caught.__enter__()
        warnings.simplefilter('always')
        return self

    def __exit__(self, *error):
        return self._caught.__exit__(*error)

    def on_minibatch(self, samples, loss, metric):
        if self.warned is None:
            self.warned = [str(warning.message) for warning in self._said]

    def heard(self, words):
        """Whether a warning with these words came before the first minibatch."""
        return any(words in message for message in self.warned)


def feed(script):
    return {script.x: script.images[:64], script.label: script.labels[:64]}


def in_a_session(script, callbacks):
    script.run(callbacks)


def in_a_hand_loop(script, callbacks):
    with nc.attach(script.trainer, callbacks, epoch_size=64):
        for _ in range(3):
            script.trainer.train_minibatch(feed(script))


def in_nc_train(script, callbacks):
    nc.train(
        C.combine([script.loss, script.metric]),
        (script.images, script.labels),
        minibatch_size=64,
        max_epochs=3,
        parameter_learners=script.learners,
        callbacks=[script.log] + callbacks,
    )


LOOPS = pytest.mark.parametrize('train', [in_a_session, in_a_hand_loop, in_nc_train])


# A trainer that has trained a block with random state.

TRAINED = 'random numbers start from the beginning. Attach before the first minibatch'


@pytest.mark.parametrize(
    'callbacks', [[Identity(epoch=1)], []], ids=['optimization', 'observer alone']
)
@pytest.mark.parametrize('train', [in_a_session, in_a_hand_loop])
def test_trainer_that_has_trained_a_dropout(train, callbacks):
    script = Script()
    script.trainer.train_minibatch(feed(script))
    with First() as first:
        train(script, [first] + callbacks)
    assert first.heard(TRAINED)


@pytest.mark.parametrize('train', [in_a_session, in_a_hand_loop])
def test_observers_of_a_trainer_that_had_one_leave_a_dropout_its_state(train):
    """It is as they need it: nothing is built anew."""

    def trained(again):
        script = Script(test=False)
        with nc.attach(script.trainer, [nc.Observer()], epoch_size=64):
            script.trainer.train_minibatch(feed(script))
        with First() as first:
            train(script, [first] if again else [])
        assert not [message for message in first.warned or () if 'deprecated' not in message]
        return script.outcome()

    assert trained(True) == trained(False)


@LOOPS
def test_nothing_is_said_of_a_fresh_trainer(train):
    with First() as first:
        train(Script(), [first, Identity(epoch=1)])
    assert not [message for message in first.warned if 'deprecated' not in message]


# Schedules that CNTK writes and cannot read.


def whole_sweeps(parameters):
    return C.momentum_sgd(
        parameters, C.learning_parameter_schedule(RATES, epoch_size=FULL_DATA_SWEEP), 0.9
    )


def momentum_of_whole_sweeps(parameters):
    momentum = C.momentum_schedule([0.5, 0.9], epoch_size=FULL_DATA_SWEEP)
    return C.momentum_sgd(parameters, C.learning_parameter_schedule(0.05), momentum)


def of(learner):
    """Returns a script with a learner of its own making."""
    script = Script()
    script.learners = [learner(list(script.z.parameters))]
    script.trainer = script.arguments['trainer'] = C.Trainer(
        script.z, (script.loss, script.metric), script.learners, [script.log]
    )
    return script


@LOOPS
def test_rate_of_full_data_sweeps(train):
    script = of(whole_sweeps)
    with pytest.raises(ValueError, match='(?s)momentum_sgd.*FULL_DATA_SWEEP.*leave epoch_size out'):
        train(script, [Identity(epoch=1)])
    assert script.trainer.total_number_of_samples_seen == 0
    assert not [event for event in script.log.events if event[0] != 'write']


def test_rate_of_full_data_sweeps_without_optimizations_is_left_alone():
    plain, ours = of(whole_sweeps), of(whole_sweeps)
    assert ours.run([nc.Observer()]) == plain.run_plain()


def test_momentum_of_full_data_sweeps_is_exact():
    plain, ours = of(momentum_of_whole_sweeps), of(momentum_of_whole_sweeps)
    assert ours.run([Identity(epoch=1), Identity(epoch=2)]) == plain.run_plain()


# Truncated back-propagation through time.


def recurrent(folder, truncation_length):
    """Returns (trainer, arguments of a session) of a recurrent network on 120 sequences."""
    C.cntk_py.reset_random_seed(1)
    x, label = C.sequence.input_variable(3, name='x'), C.sequence.input_variable(2, name='label')
    z = C.layers.Sequential([C.layers.Recurrence(C.layers.RNNStep(7)), C.layers.Dense(2)])(x)
    trainer = C.Trainer(
        z,
        (C.cross_entropy_with_softmax(z, label), C.classification_error(z, label)),
        [C.sgd(z.parameters, C.learning_parameter_schedule(0.05))],
        [Log()],
    )
    random, text = np.random.RandomState(5), folder.join('sequences.txt')
    text.write(
        ''.join(
            '%d |x %s |label %s\n'
            % (
                number,
                ' '.join(f'{value:g}' for value in random.rand(3)),
                random.choice(['0 1', '1 0']),
            )
            for number in range(120)
            for _ in range(random.randint(5, 12))
        )
    )
    streams = C.io.StreamDefs(
        x=C.io.StreamDef(field='x', shape=3), label=C.io.StreamDef(field='label', shape=2)
    )
    source = C.io.MinibatchSource(
        C.io.CTFDeserializer(str(text), streams), max_sweeps=3, truncation_length=truncation_length
    )
    return trainer, dict(
        trainer=trainer,
        mb_source=source,
        mb_size=32,
        model_inputs_to_streams={x: source.streams.x, label: source.streams.label},
    )


def samples_trained(folder, truncation_length, callbacks=None):
    trainer, arguments = recurrent(folder, truncation_length)
    if callbacks is None:
        C.training_session(**arguments).train()
    else:
        nc.training_session(callbacks=callbacks, epoch_size=500, **arguments).train()
    return trainer.total_number_of_samples_seen


def test_truncated_sequences(tmpdir):
    plain = samples_trained(tmpdir, 4)
    with First() as first:
        ours = samples_trained(tmpdir, 4, [first, Identity(epoch=1)])
    assert first.heard('truncation_length')
    assert ours < plain  # should CNTK ever mend this, the warning goes


def test_nothing_is_said_of_whole_sequences(tmpdir):
    with First() as first:
        ours = samples_trained(tmpdir, 0, [first, Identity(epoch=1)])
    assert not first.heard('truncation_length')
    assert ours == samples_trained(tmpdir, 0)


def test_nothing_is_said_of_truncated_sequences_without_optimizations(tmpdir):
    with First() as first:
        ours = samples_trained(tmpdir, 4, [first])
    assert not first.heard('truncation_length')
    assert ours == samples_trained(tmpdir, 4)


@pytest.mark.parametrize('source, told', [('user', True), ('user with state', False)])
def test_source_without_a_position_under_checkpoints(source, told, tmpdir):
    with First() as first:
        script = Images(source=source, sweeps=1, test=False, checkpoint=300, folder=str(tmpdir))
        script.run([Identity(epoch=1), first])
    assert first.heard('a resumed run reads its data from the beginning') == told


@pytest.mark.parametrize('dropout', [True, False])
def test_block_momentum_with_random_state(dropout, monkeypatch):
    """What the learners of several workers look like to the session, on one worker."""

    class BlockMomentum(distributed.Workers):
        def __init__(self, learners):
            super().__init__(learners)
            self.drops_empty_minibatch = True

    monkeypatch.setattr(engine, 'Workers', BlockMomentum)
    script = Script(dropout=dropout)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        nc.training_session(callbacks=[Identity(epoch=1)], **script.arguments)
    assert any('block momentum' in str(warning.message) for warning in said) == dropout
