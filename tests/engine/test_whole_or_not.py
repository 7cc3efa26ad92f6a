"""A change goes into the trainer whole or not at all: under errors, under Ctrl-C, on restore."""
import gc
import os
import signal
import traceback
import weakref

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from netopt_callbacks.engine import network, swap
from netopt_callbacks.readers import readers
from netopt_callbacks.trainers import windows
from user_script import SAMPLES, Identity, Script


@pytest.fixture(autouse=True)
def python_handles_ctrl_c():
    """A job that a shell starts in the background inherits SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def factor(**options):
    return nc.FactorDense(rank=3, filter_function=lambda layer: layer.name == 'hidden', **options)


def snapshot(script):
    """Returns all that a swap changes."""
    return (
        script.state(),
        script.trainer.this,
        script.trainer.loss_function.uid,
        script.z.uid,
        script.loss.uid,
        script.z.eval({script.x: script.images[:5]}).tobytes(),
    )


def train(script, last, first=0, again=()):
    """Trains minibatches; one that raises an error of `again` is trained once more.

    Returns:
        list of (Exception, bool): what was raised, and whether the trainer was as before.
    """
    raised = []
    for number in range(first, last):
        start = number * 64 % (SAMPLES - 64)
        minibatch = {
            script.x: script.images[start : start + 64],
            script.label: script.labels[start : start + 64],
        }
        before = snapshot(script)
        try:
            script.trainer.train_minibatch(minibatch)
        except again as error:
            raised.append((error, snapshot(script) == before))
            script.trainer.train_minibatch(minibatch)
    return raised


def factored(learner='momentum_sgd', again=()):
    """Returns (outcome, what was raised, the run) of a loop that factors a layer."""
    script = Script(learner=learner)
    run = nc.attach(script.trainer, [factor(epoch=1)], epoch_size=320, data=script.held_out)
    raised = train(script, 12, again=again)
    run.finish()
    return script.outcome(), raised, run


def once(original, action):
    """Returns a method that does `action` the first time it has run."""
    actions = [action]

    def method(self, *arguments):
        value = original(self, *arguments)
        if actions:
            actions.pop()()
        return value

    return method


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def fail():
    raise MemoryError('in the middle of a swap')


@pytest.mark.few(1)
@pytest.mark.parametrize('learner', ['momentum_sgd', 'adam'])
def test_swap_that_fails_late_leaves_no_trace(learner, monkeypatch):
    """Learners are rebuilt and the script's Functions exchanged when it fails."""
    expected, _, _ = factored(learner)
    monkeypatch.setattr(readers.Readers, 'follow', once(readers.Readers.follow, fail))
    outcome, [(error, intact)], run = factored(learner, again=MemoryError)
    assert intact and outcome == expected and len(run.result.records) == 1


@pytest.mark.few(1)
@pytest.mark.parametrize(
    'owner, method, intact',
    [(readers.Readers, 'follow', False), (network.Network, 'transformed', True)],
)
def test_ctrl_c_around_a_swap_loses_and_doubles_nothing(owner, method, intact, monkeypatch):
    """It waits for the end of a swap that has begun to change the trainer."""
    expected, _, _ = factored()
    monkeypatch.setattr(owner, method, once(getattr(owner, method), ctrl_c))
    outcome, raised, run = factored(again=KeyboardInterrupt)
    assert [was for _, was in raised] == [intact]
    assert outcome == expected and len(run.result.records) == 1


def test_ctrl_c_while_cntk_trains_comes_after_the_minibatch(monkeypatch):
    monkeypatch.setattr(
        windows.Tracker,
        'on_write_training_update',
        once(windows.Tracker.on_write_training_update, ctrl_c),
    )
    script = Script()
    run = nc.attach(script.trainer, [factor(epoch=1)], epoch_size=320, data=script.held_out)
    with pytest.raises(KeyboardInterrupt):
        train(script, 12)
    assert run.engine.clock.samples == script.trainer.total_number_of_samples_seen == 64
    train(script, 12, first=1)
    run.finish()
    assert script.outcome() == factored()[0]


@pytest.mark.parametrize('when', ['before the first minibatch', 'during the run', 'after it'])
def test_restore_of_the_script_goes_straight_to_the_exchange(when, tmpdir, monkeypatch):
    """A checkpoint from before the swap, then one from after it."""
    files = [str(tmpdir.join(name)) for name in ('before', 'after')]
    script = Script(test=False)
    with nc.attach(script.trainer, [factor(epoch=1)], epoch_size=128):
        for file in files:
            train(script, 3)
            script.trainer.save_checkpoint(file)
    depths = []

    def exchange(*given, **options):
        owners = [frame.filename for frame in traceback.extract_stack()]
        depths.append(sum(os.path.dirname(nc.__file__) in owner for owner in owners))
        return exchanged(*given, **options)

    exchanged = swap.exchange
    if when != 'after it':
        script = Script(test=False)
        run = nc.attach(script.trainer, [factor(epoch=1)], epoch_size=128)
    if when == 'during the run':
        train(script, 1)
    monkeypatch.setattr(swap, 'exchange', exchange)
    for file in files:
        script.trainer.restore_from_checkpoint(file)
    assert len(depths) >= 2 and max(depths) <= 5
    if when != 'after it':
        run.finish()


def test_restore_that_fails_leaves_the_trainer_as_it_was(tmpdir):
    script = Script()
    file = str(tmpdir.join('saved'))
    with nc.attach(script.trainer, [factor(epoch=0)], epoch_size=320):
        train(script, 3)
        script.trainer.save_checkpoint(file)
    with open(file + '.ckp', 'rb+') as stream:
        stream.truncate(os.path.getsize(file + '.ckp') // 2)
    script = Script()
    with nc.attach(script.trainer, [factor(epoch=0)], epoch_size=320):
        before = script.state(), script.trainer.loss_function.uid, script.trainer.this
        with pytest.raises(ValueError, match='saved cannot be read'):
            script.trainer.restore_from_checkpoint(file)
        assert before == (script.state(), script.trainer.loss_function.uid, script.trainer.this)
        train(script, 2)


def test_second_run_trains_what_the_first_gave_a_learner_of_its_own():
    script = Script()
    make = lambda parameters: C.sgd(parameters, C.learning_parameter_schedule(0.05))
    with nc.attach(script.trainer, [factor(epoch=0, learner=make)], epoch_size=320):
        train(script, 3)
    before = {p.name: p.value for p in script.z.parameters if p.name in ('W1', 'W2')}
    assert len(before) == 2
    with nc.attach(script.trainer, [Identity(epoch=0)], epoch_size=320):
        train(script, 3)
    after = {p.name: p.value for p in script.z.parameters if p.name in before}
    assert all((before[name] != after[name]).any() for name in before)
    assert len(script.trainer.parameter_learners) == 2


def test_progress_window_is_carried_from_one_run_to_the_next():
    bare = Script(log=5)
    script = Script(log=5)
    train(bare, 14)
    bare.trainer.summarize_training_progress()
    with nc.attach(script.trainer, [Identity(epoch=0)], epoch_size=320):
        train(script, 7)
    with nc.attach(script.trainer, [Identity(epoch=0)], epoch_size=320):
        train(script, 14, first=7)
        script.trainer.summarize_training_progress()
    assert script.outcome() == bare.outcome()


def test_window_that_was_open_before_the_first_attach_is_told():
    script = Script(dropout=False)
    train(script, 3)
    with pytest.warns(UserWarning, match='summarize_training_progress'):
        with nc.attach(script.trainer, [Identity(epoch=0)], epoch_size=320):
            train(script, 1)


def test_nothing_of_ours_is_kept_alive_by_the_trainer():
    script = Script()
    data = tuple(np.array(array) for array in script.held_out)
    with nc.attach(script.trainer, [factor(epoch=0)], epoch_size=320, data=data) as run:
        train(script, 2)
    engine = weakref.ref(run.engine)
    del run
    gc.collect()
    assert engine() is None


def test_scripts_are_let_go_with_all_that_runs_made_of_them():
    """With a progress window open at the end, too: CNTK holds a trainer's progress writers for
    ever."""

    def run_once():
        script = Script(test=False, cross_validation=0, frequency=10**6, log=0)
        trainer = weakref.ref(script.trainer)
        with nc.attach(script.trainer, [factor(epoch=1)], epoch_size=320):
            train(script, 12)
        kept = script.z.output
        assert kept.shape == (5,)
        return trainer

    def variables():
        gc.collect()
        return sum(isinstance(one, C.Variable) for one in gc.get_objects())

    run_once()
    before = variables()
    trainers = [run_once() for _ in range(3)]
    assert variables() == before
    assert [trainer() for trainer in trainers] == [None] * 3
