"""`nc.attach` on hand-written loops, against the same loop on a bare trainer: as bytes."""
import os
import subprocess
import sys
import warnings

import cntk as C
import numpy as np
import pytest
from cntk.train.training_session import DataUnit

import netopt_callbacks as nc
from netopt_callbacks.trainers import distributed, remember
from paths import PYTHONPATH
from user_script import EPOCH, SAMPLES, Identity, Script, hidden, loop


@pytest.mark.few(1)
@pytest.mark.parametrize('epochs', [(0,), (1, 2, 2), (6,)], ids=str)
def test_identity_equals_the_bare_loop(epochs):
    bare = Script()
    expected = loop(bare)
    script = Script()
    script.trainer.mine = 'kept'
    trainer = type(script.trainer)
    callbacks = [Identity(epoch=epoch) for epoch in epochs]
    with nc.attach(script.trainer, callbacks, epoch_size=EPOCH, data=script.held_out) as run:
        assert loop(script) == expected
        assert isinstance(script.trainer, C.Trainer) and script.trainer.mine == 'kept'
    assert script.outcome() == bare.outcome()
    assert isinstance(script.trainer, trainer) and type(script.trainer).__name__ == 'Trainer'
    assert [record.samples for record in run.result.records] == [EPOCH * e for e in epochs]
    assert run.result.complete


@pytest.mark.parametrize('last', [30, 35], ids=['window open', 'just summarized'])
def test_trainer_tells_of_its_last_minibatch_after_a_swap_by_finish(last):
    bare = Script()
    loop(bare, 0, last)
    script = Script()
    with nc.attach(
        script.trainer, [Identity(epoch=last // 5), Identity(epoch=last // 5)], epoch_size=EPOCH
    ) as run:
        loop(script, 0, last)
        assert not run.result.records
    assert len(run.result.records) == 2
    for name in ('loss_average', 'evaluation_average', 'sample_count'):
        assert getattr(script.trainer, 'previous_minibatch_' + name) == getattr(
            bare.trainer, 'previous_minibatch_' + name
        )
    for trainer in bare.trainer, script.trainer:
        trainer.summarize_training_progress()
    assert loop(script, last, last + 9) == loop(bare, last, last + 9)
    for trainer in bare.trainer, script.trainer:
        trainer.summarize_training_progress()
    assert script.outcome() == bare.outcome()


def test_empty_minibatch_after_a_swap_by_finish_leaves_the_window_to_be_told():
    bare, script = Script(), Script()
    loop(bare, 0, 3)
    with nc.attach(script.trainer, [Identity(epoch=0)], epoch_size=EPOCH):
        loop(script, 0, 3)
    for trainer in bare.trainer, script.trainer:
        trainer.train_minibatch({})
        trainer.summarize_training_progress()
    assert script.outcome() == bare.outcome()


@pytest.mark.parametrize('learner', ['momentum_sgd', 'user'])
def test_trainer_before_a_swap_is_let_go_by_a_session_of_cntk(learner):
    """Which trains where no Python of ours but a progress writer is called."""
    bare, script = (Script(learner=learner, dropout=False, test=False) for _ in range(2))
    for each in bare, script:
        loop(each, 0, 3)
    with nc.attach(script.trainer, [Identity(epoch=0)], epoch_size=EPOCH):
        pass
    before = remember.facts(script.trainer).last
    assert before is not None
    for each in bare, script:
        each.run_plain()
    assert remember.facts(script.trainer).last is None
    assert sys.getrefcount(before) == 2
    for each in bare, script:
        with pytest.raises(RuntimeError, match='the minibatch was empty'):
            each.trainer.previous_minibatch_loss_average
    assert script.state() == bare.state()


def test_minibatches_of_a_source_tell_the_sweeps():
    script = Script(sweeps=3)
    streams = {script.x: script.source.streams['x'], script.label: script.source.streams['label']}
    with nc.attach(script.trainer, [Identity(epoch=2)]) as run:
        while True:
            minibatch = script.source.next_minibatch(64, 1, 0)
            if not minibatch:
                break
            script.trainer.train_minibatch(
                {variable: minibatch[stream] for variable, stream in streams.items()}
            )
    assert run.result.records[0].samples == 2 * SAMPLES


def test_epoch_size_is_needed_for_arrays():
    script = Script()
    run = nc.attach(script.trainer, [Identity(epoch=1)])
    with pytest.raises(ValueError, match=r'epoch_size=\.\.\.\) in samples'):
        loop(script)
    with pytest.raises(ValueError, match='before Identity'):
        run.finish()


def test_evaluation_at_the_end_of_an_epoch_sees_the_network_it_trained():
    script = Script()
    with nc.attach(
        script.trainer, [nc.FactorDense(epoch=1, rank=2, filter_function=hidden)], epoch_size=EPOCH
    ) as run:
        loop(script, 0, 5)
        assert 'DenseFactored' not in [f.op_name for f in nc.graph.walk(script.z)]
        loop(script, 5, 6)
        assert 'DenseFactored' in [f.op_name for f in nc.graph.walk(script.z)]
    assert [p.name for p in run.result.model.parameters].count('W2') == 1


def test_function_built_over_the_model_earlier_follows():
    script = Script()
    softmax = C.softmax(script.z)
    with nc.attach(
        script.trainer, [nc.FactorDense(epoch=1, rank=2, filter_function=hidden)], epoch_size=EPOCH
    ) as run:
        loop(script)
        feed = {script.x: script.images[:5]}
        right = C.softmax(script.z).eval(feed)
        assert np.array_equal(run.current(softmax).eval(feed), right)
        assert np.array_equal(softmax.eval(feed), right)


def test_an_attach_that_is_refused_leaves_the_trainer_as_it_was(monkeypatch):
    script = Script()
    kind = type(script.trainer)
    with monkeypatch.context() as patch:
        patch.setattr(distributed.Workers, 'any', lambda self, flag: True)
        with pytest.raises(ValueError, match='each worker must have the same optimizations'):
            nc.attach(script.trainer, [Identity(epoch=1)], epoch_size=EPOCH)
    assert type(script.trainer) is kind
    with nc.attach(script.trainer, [Identity(epoch=1)], epoch_size=EPOCH) as run:
        loop(script)
    assert run.result.complete


def test_plain_session_on_an_attached_trainer_is_refused():
    script = Script()
    run = nc.attach(script.trainer, [], epoch_size=EPOCH)
    with pytest.raises(RuntimeError, match='nc.training_session'):
        C.training_session(**script.arguments)
    with pytest.raises(RuntimeError, match='attached already.*finish'):
        nc.attach(script.trainer, [], epoch_size=EPOCH)
    run.finish()
    C.training_session(**script.arguments)


def test_interrupt_leaves_a_whole_trainer_and_a_partial_result():
    script = Script()
    with pytest.raises(KeyboardInterrupt):
        with nc.attach(script.trainer, [Identity(epoch=1)], epoch_size=EPOCH) as run:
            loop(script, 0, 8)
            raise KeyboardInterrupt
    assert not run.result.complete and run.result.model is not None
    assert len(run.result.records) == 1
    loop(script, 8, 9)


def test_forgotten_finish_warns_at_exit(tmpdir):
    program = tmpdir.join('program.py')
    program.write(
        'import netopt_callbacks as nc\nfrom user_script import Script\n'
        'script = Script()\nrun = nc.attach(script.trainer, [], epoch_size=10)\n'
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        stderr=subprocess.PIPE,
        universal_newlines=True,
        env=dict(os.environ, PYTHONPATH=PYTHONPATH),
    )
    assert done.returncode == 0
    assert 'never finished' in done.stderr and 'run.finish()' in done.stderr


def test_trainer_trained_with_a_hidden_dropout_is_told():
    script = Script()
    loop(script, 0, 2)
    with pytest.warns(UserWarning, match='random numbers start from the beginning'):
        with nc.attach(script.trainer, [Identity(epoch=1)], epoch_size=64):
            loop(script, 2, 5)


def test_nothing_is_said_of_a_fresh_trainer():
    script = Script()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        with nc.attach(script.trainer, [Identity(epoch=1)], epoch_size=64):
            loop(script, 0, 3)
    assert not [w for w in said if 'netopt' in w.filename]


class Log(nc.Observer):
    """Keeps the evaluations it is told."""

    def __init__(self):
        super().__init__()
        self.tests = []
        self.windows = []

    def on_evaluation(self, evaluation):
        self.tests.append((evaluation.kind, evaluation.samples))

    def on_training_summary(self, samples, loss, metric):
        self.windows.append(samples)


def test_summaries_of_the_loop_reach_observers():
    script, log = Script(), Log()
    with nc.attach(script.trainer, [log], epoch_size=EPOCH):
        loop(script, 0, 14)
    assert log.tests == [('test', 13 * 64)]
    assert log.windows == [7 * 64, 14 * 64]


def test_error_of_an_observer_told_by_cntk_comes_as_raised():
    class Broken(nc.Observer):
        def on_training_summary(self, samples, loss, metric):
            raise ZeroDivisionError('in a summary')

    script = Script()
    with pytest.raises(ZeroDivisionError, match='in a summary'):
        with nc.attach(script.trainer, [Broken()], epoch_size=EPOCH):
            loop(script, 0, 14)
    assert script.trainer.total_number_of_samples_seen == 7 * 64


def test_other_progress_writers_than_the_known_ones_are_refused():
    script = Script()
    nc.attach(script.trainer, [], epoch_size=EPOCH, progress_writers=[script.log]).finish()
    with pytest.raises(ValueError, match='are not those.*leave progress_writers out'):
        nc.attach(script.trainer, [], epoch_size=EPOCH, progress_writers=[])


def test_observers_alone_leave_the_graph_as_it_is():
    """So that a UserFunction that CNTK cannot clone can still be watched."""
    script = Script()
    before = script.loss.root_function.uid, script.z.root_function.uid
    with nc.attach(script.trainer, [Log()], epoch_size=EPOCH):
        loop(script, 0, 2)
        assert (script.loss.root_function.uid, script.z.root_function.uid) == before


def test_run_that_could_not_start_does_not_go_on_without_its_start():
    script = Script()
    none = nc.FactorDense(epoch=2, rank=3, filter_function=lambda layer: False)
    run = nc.attach(script.trainer, [none], epoch_size=EPOCH)
    for _ in range(2):
        with pytest.raises(ValueError, match='FactorDense: expected a Dense layer'):
            loop(script, 0, 1)
    assert script.trainer.total_number_of_samples_seen == 0
    with pytest.raises(ValueError):
        run.finish()


def test_epochs_in_sweeps_need_minibatches_that_tell_them():
    for options, callback in (
        (dict(epoch_size=(1, DataUnit.sweep)), Identity(epoch=1)),
        (dict(epoch_size=EPOCH), Identity(epoch=(1, DataUnit.sweep))),
    ):
        script = Script()
        run = nc.attach(script.trainer, [callback], **options)
        with pytest.raises(ValueError, match='do not tell where an epoch ends'):
            loop(script, 0, 1)
        with pytest.raises(ValueError, match='before Identity'):
            run.finish()


def test_minibatch_data_given_bare_tells_the_sweeps():
    x = C.input_variable(3, name='x')
    loss = C.reduce_sum(C.square(C.layers.Dense(3)(x) - x))
    trainer = C.Trainer(None, loss, [C.sgd(loss.parameters, 0.01)])
    source = C.io.MinibatchSourceFromData(dict(x=np.ones((10, 3), np.float32)), max_samples=20)
    with nc.attach(trainer, [Identity(epoch=1)]) as run:
        for _ in range(4):
            trainer.train_minibatch(source.next_minibatch(5)[source.streams['x']])
    assert [record.samples for record in run.result.records] == [10]


def test_swap_waits_for_new_sequences():
    """CNTK keeps the state of a truncated sequence in the trainer; a new one has lost it."""
    x, label = C.sequence.input_variable(3, name='x'), C.sequence.input_variable(2, name='label')
    z = C.layers.Sequential([C.layers.Recurrence(C.layers.RNNStep(4)), C.layers.Dense(2)])(x)
    trainer = C.Trainer(z, C.cross_entropy_with_softmax(z, label), [C.sgd(z.parameters, 0.01)])
    data = {x: np.ones((2, 4, 3), np.float32), label: np.ones((2, 4, 2), np.float32)}
    with nc.attach(trainer, [Identity(epoch=1)], epoch_size=8) as run:
        for new in (True, False, False, True, False):
            trainer.train_minibatch((data, [new, new]))
    assert [record.samples for record in run.result.records] == [24]


def test_learner_made_before_the_import_is_not_trusted_with_packed_factors():
    script = Script()
    for learner in script.learners:
        del learner.__dict__['_netopt_callbacks']
    with pytest.raises(ValueError, match='made before `import netopt_callbacks`.*learner=lambda'):
        with nc.attach(
            script.trainer,
            [nc.FactorDense(epoch=0, rank=3, filter_function=hidden)],
            epoch_size=EPOCH,
        ):
            loop(script, 0, 1)


def test_users_learner_is_given_back_as_it_was():
    script = Script(learner='user and sgd')
    user = script.learners[0]
    with nc.attach(script.trainer, [Identity(epoch=0)], epoch_size=EPOCH):
        loop(script, 0, 2)
    assert 'restore_from_checkpoint' not in user.__dict__


class Narrow(C.Trainer):
    """A trainer of the user's own that takes less, and more, than CNTK's."""

    def train_minibatch(self, arguments, outputs=None, rate=None):
        self.rate = rate
        return super().train_minibatch(arguments, outputs)

    def save_checkpoint(self, filename, note=None):
        self.note = note
        super().save_checkpoint(filename)


def test_methods_of_another_signature_get_what_they_are_given(tmpdir):
    script = Script()
    script.trainer = Narrow(script.z, (script.loss, script.metric), script.learners)
    output = script.z.output
    with nc.attach(script.trainer, [Identity(epoch=0)], epoch_size=EPOCH):
        _, values = script.trainer.train_minibatch(
            {script.x: script.images[:8], script.label: script.labels[:8]}, [output], rate=3
        )
        script.trainer.save_checkpoint(str(tmpdir.join('saved')), note='mine')
    assert (script.trainer.rate, script.trainer.note) == (3, 'mine')
    assert script.z.output in values and output in values and script.label not in values
    assert values.get(script.z.output) is values[output] and values.get(script.label) is None


def test_measurement_that_is_interrupted_is_made_up_for():
    class Once(nc.Observer):
        told = ()

        def on_optimization(self, record):
            self.told += (record,)

    script, observer = Script(), Once()
    run = nc.attach(
        script.trainer, [Identity(epoch=1), observer], epoch_size=64, data=script.held_out
    )
    loop(script, 0, 1)
    measure, left = run.engine._recovery.measure, [1]

    def interrupted():
        if left:
            left.pop()
            raise KeyboardInterrupt
        measure()

    run.engine._recovery.measure = interrupted
    with pytest.raises(KeyboardInterrupt):
        loop(script, 1, 2)
    loop(script, 1, 2)
    run.finish()
    (record,) = run.result.records
    assert observer.told == (record,)
    assert record.metric_after == record.metric_before


def test_summary_of_a_loop_that_has_not_ended_says_why():
    script = Script()
    run = nc.attach(script.trainer, [Identity(epoch=1)], epoch_size=EPOCH)
    for first, last in (0, 0), (0, 8):
        loop(script, first, last)
        assert run.result.summary().splitlines()[0] == (
            'The run has not ended: finish() was not called; this is how far it came.'
        )
    run.finish()
    assert run.result.complete and 'finish()' not in run.result.summary()
    with pytest.raises(KeyError):
        with nc.attach(script.trainer, [], epoch_size=EPOCH) as broken:
            raise KeyError('mine')
    assert broken.result.summary().startswith('The run did not come to its end;')


@pytest.mark.parametrize('minibatches', [2, 8], ids=['before its swap', 'after it'])
def test_run_that_was_not_kept_is_left_with_its_trainer(minibatches):
    """As the error says: a new Trainer over the same network and learners."""
    script, plain = Script(dropout=False), Script(dropout=False)
    nc.attach(script.trainer, [Identity(epoch=1)], epoch_size=EPOCH)
    for each in script, plain:
        loop(each, 0, minibatches)
    with pytest.raises(RuntimeError, match='if it was not kept, build a new cntk.Trainer over the'):
        nc.attach(script.trainer, [], epoch_size=EPOCH)
    left = script.trainer
    for each in script, plain:
        each.trainer = C.Trainer(each.z, (each.loss, each.metric), each.learners)
    factor = nc.FactorDense(epoch=1, rank=4, filter_function=hidden)
    with nc.attach(script.trainer, [factor], epoch_size=EPOCH) as run:
        assert loop(script, minibatches, minibatches + 5) == loop(
            plain, minibatches, minibatches + 5
        )
        loop(script, minibatches + 5, 20)
    assert run.result.complete and script.z.hidden.op_name == 'DenseFactored'
    assert remember.attached_to(left) is not None  # the new one is no detour to end the old run
