"""Runs whose script restores something as its last act, as the best epoch of early stopping; and
training that a run does not see."""
import warnings

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from netopt_callbacks.evaluation.held_out import Minibatches
from user_script import EPOCH, SAMPLES, Identity, Script, factor, loop

STEPS = 5  # minibatches of an epoch


def attached(script, *callbacks):
    return nc.attach(script.trainer, list(callbacks), epoch_size=EPOCH, data=script.held_out)


def factored(script):
    return 'DenseFactored' in {part.op_name for part in nc.graph.walk(script.z)}


def error_of(script):
    return script.trainer.test_minibatch(dict(zip((script.x, script.label), script.held_out)))


def ends_with_the_best(script, best, epochs=5, file=None, callbacks=None):
    """Trains, restores the best epoch and finishes; returns (run, state restored, warnings)."""
    file = str(file)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        with attached(script, *(callbacks or [factor(epoch=2)])) as run:
            for epoch in range(1, epochs + 1):
                loop(script, (epoch - 1) * STEPS, epoch * STEPS)
                if epoch == best:
                    script.trainer.save_checkpoint(file)
            script.trainer.restore_from_checkpoint(file)
            restored = script.state()
    return run, restored, [str(one.message) for one in said if 'a restore' in str(one.message)]


@pytest.mark.parametrize('best', [1, 2])
def test_best_epoch_from_before_a_swap_is_what_the_script_gets(tmpdir, best):
    plain, file = Script(), tmpdir.join('best')
    loop(plain, 0, best * STEPS)
    expected = plain.state()
    script = Script()
    run, restored, said = ends_with_the_best(script, best, file=file)
    assert script.state() == restored == expected and not factored(script)
    (message,) = said
    assert str(file) in message and 'FactorDense(epoch=2), applied after that' in message
    result = run.result
    assert result.complete and not result.records
    values = {p.name: p.value for p in result.model.parameters}
    assert np.array_equal(values['W'], {p.name: p.value for p in script.z.parameters}['W'])


def test_best_epoch_from_after_a_swap_ends_without_a_word(tmpdir):
    script = Script()
    run, restored, said = ends_with_the_best(script, 3, file=tmpdir.join('best'))
    assert script.state() == restored and factored(script) and not said
    (record,) = run.result.records
    assert record.curve[-1] == (3 * EPOCH, error_of(script))


def test_what_was_due_and_not_applied_is_named_and_what_was_never_reached_is_an_error(tmpdir):
    script, file = Script(), tmpdir.join('best')
    with pytest.raises(
        ValueError, match=r'after 640 samples \(2 epochs\), before Identity'
    ) as error:
        with pytest.warns(UserWarning, match=r'FactorDense\(epoch=2\), due and not applied'):
            with attached(script, factor(epoch=2), Identity(epoch=7)) as run:
                loop(script, 0, STEPS)
                script.trainer.save_checkpoint(str(file))
                loop(script, STEPS, 2 * STEPS)
                script.trainer.restore_from_checkpoint(str(file))
    assert 'FactorDense' not in str(error.value) and run.result.model is not None


def test_last_epoch_restored_as_the_best_stays_as_it_is(tmpdir):
    script = Script()
    _, restored, said = ends_with_the_best(script, 2, epochs=2, file=tmpdir.join('best'))
    assert script.state() == restored and not factored(script)
    assert 'FactorDense(epoch=2), due and not applied' in said[0]


def test_training_after_the_restore_applies_what_is_due_again(tmpdir):
    whole, script, file = Script(), Script(), str(tmpdir.join('best'))
    with attached(whole, factor(epoch=2)):
        loop(whole, 0, 3 * STEPS)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', '.*a restore')
        with attached(script, factor(epoch=2)):
            loop(script, 0, 2 * STEPS)
            script.trainer.save_checkpoint(file)
            loop(script, 2 * STEPS, 4 * STEPS)
            script.trainer.restore_from_checkpoint(file)
            loop(script, 2 * STEPS, 3 * STEPS)
    assert script.state() == whole.state() and factored(script)


class Killed(Exception):
    """Ends a run where it is, as far as its checkpoints tell."""


def resumable(script, folder, kill=None):
    """A script with a checkpoint of the last epoch and one of the best, the second; returns its
    state and what it was warned of."""
    last, best = (str(folder.join(name)) for name in ('last', 'best'))
    trainer = script.trainer
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        with attached(script, factor(epoch=2)) as run:
            begin = 0
            if folder.join('last').exists():
                begin = trainer.restore_from_checkpoint(last)['epoch']
            for epoch in range(begin + 1, 5):
                loop(script, (epoch - 1) * STEPS, epoch * STEPS)
                if epoch == 2:
                    trainer.save_checkpoint(best)
                trainer.save_checkpoint(last, {'epoch': epoch})
                if epoch == kill:
                    raise Killed
            trainer.restore_from_checkpoint(best)
            if kill == 'after the restore':
                raise Killed
    named = ['FactorDense(epoch=2), applied' in str(one.message) for one in said]
    return script.state(), any(named), [record.to_dict() for record in run.result.records]


@pytest.mark.parametrize('kill', [1, 2, 3, 4, 'after the restore'])
def test_killed_and_started_again_ends_as_one_that_was_not_killed(tmpdir, kill):
    expected = resumable(Script(), tmpdir.mkdir('whole'))
    assert expected[1]
    folder = tmpdir.mkdir('killed')
    with pytest.raises(Killed):
        resumable(Script(), folder, kill)
    assert resumable(Script(), folder) == expected


def test_new_process_that_trains_nothing_applies_what_was_due_when_the_other_was_killed(tmpdir):
    whole, resumed, file = Script(), Script(), str(tmpdir.join('last'))
    with attached(whole, factor(epoch=2)):
        loop(whole, 0, 2 * STEPS)
        whole.trainer.save_checkpoint(file)
    assert factored(whole)
    with attached(resumed, factor(epoch=2)):
        resumed.trainer.save_checkpoint(str(tmpdir.join('first')))  # the run has started
        resumed.trainer.restore_from_checkpoint(file)
    assert resumed.state() == whole.state() and factored(resumed)


def test_session_that_ends_with_a_restore(tmpdir):
    script, file, kept = Script(test=False, dropout=False), str(tmpdir.join('best')), []

    def cross_validated(index, average_error, samples, minibatches):
        if index == 0:
            script.trainer.save_checkpoint(file)
            return True
        script.trainer.restore_from_checkpoint(file)
        kept.append(script.state())
        return False

    source, streams = script._small(110)
    script.arguments['cv_config'] = C.CrossValidationConfig(
        source, SAMPLES, 50, callback=cross_validated, model_inputs_to_streams=streams
    )
    with pytest.warns(UserWarning, match=r'FactorDense\(epoch=2\), due and not applied'):
        script.run([Identity(epoch=0), factor(epoch=2)], data=script.held_out)
    assert {script.state()} == set(kept) and not factored(script)  # CNTK calls it again at the end
    (record,) = script.session.result.records
    assert record.curve[-1][1] == error_of(script)


# The held-out metric of what was restored.


@pytest.mark.parametrize('epoch', [1, 9], ids=['after a swap', 'nothing applied'])
def test_metric_of_a_function_that_was_restored_is_measured_again(tmpdir, epoch):
    script, file = Script(dropout=False), str(tmpdir.join('best'))
    callbacks = [factor(epoch=epoch)] if epoch == 1 else [nc.Observer()]
    seen = []
    callbacks[-1:] += [
        type('Sees', (nc.Observer,), {'on_evaluation': lambda _, e: seen.append(e)})()
    ]
    with attached(script, *callbacks) as run:
        loop(script, 0, 2 * STEPS)
        script.z.save(file)
        at_best = error_of(script)
        loop(script, 2 * STEPS, 4 * STEPS)
        last = seen[-1].metric
        script.z.restore(file)
    assert at_best == error_of(script) != last
    assert (seen[-1].kind, seen[-1].samples, seen[-1].metric) == ('end', 4 * EPOCH, at_best)
    for record in run.result.records:
        assert record.curve[-1] == (4 * EPOCH, at_best)


def test_metric_before_a_swap_is_of_what_was_restored(tmpdir):
    script, file = Script(dropout=False), str(tmpdir.join('first'))
    with attached(script, factor(epoch=2)) as run:
        script.z.save(file)
        at_first = error_of(script)
        loop(script, 0, 2 * STEPS)
        script.z.restore(file)
    assert run.result.records[0].metric_before == at_first


def test_restore_of_another_network_measures_nothing_again(tmpdir, monkeypatch):
    script, other, file = Script(), Script(), str(tmpdir.join('other'))
    other.z.save(file)
    loaded = C.load_model(file)
    with attached(script, nc.Observer()):
        loop(script, 0, STEPS)
        monkeypatch.setattr(Minibatches, '__iter__', None)
        other.z.restore(file)
        loaded.restore(file)


# Training that the run does not see.


def test_method_taken_before_attach_is_named():
    script = Script(dropout=False)
    step, feed = script.trainer.train_minibatch, {
        script.x: script.images[:64],
        script.label: script.labels[:64],
    }
    with pytest.raises(ValueError) as error:
        with attached(script, factor(epoch=1)):
            for _ in range(6):
                step(feed)
    assert 'not seen 6 of the 6 minibatches' in str(error.value)
    assert 'take it after nc.attach' in str(error.value) and 'longer' not in str(error.value)
    with pytest.warns(UserWarning, match='not seen 2 of the 3 minibatches'):
        with attached(script, nc.Observer()):
            step(feed)
            script.trainer.train_minibatch(feed)
            step(feed)


class Twice(C.Trainer):
    """Trains each minibatch in two halves, and not if there is none."""

    def train_minibatch(self, arguments, *rest, **options):
        for half in (slice(None, None, 2), slice(1, None, 2)):
            trained = super().train_minibatch(
                {name: value[half] for name, value in arguments.items()}, *rest, **options
            )
        if not options.get('is_sweep_end', True):
            raise RuntimeError('after training')
        return trained


def test_minibatches_of_a_trainer_that_trains_them_its_own_way_count_as_seen():
    script = Script(dropout=False)
    script.trainer.__class__ = Twice
    feed = {script.x: script.images[:64], script.label: script.labels[:64]}
    with warnings.catch_warnings():
        warnings.filterwarnings('error', '.*not seen')
        with attached(script, nc.Observer()):
            script.trainer.train_minibatch(feed)
            with pytest.raises(RuntimeError, match='after training'):
                script.trainer.train_minibatch(feed, is_sweep_end=False)
            script.trainer.train_minibatch(feed)
