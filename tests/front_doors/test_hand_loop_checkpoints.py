"""Checkpoints that the user's own code saves and restores, within a run and after it."""
import os
import signal

import cntk as C
import pytest

import netopt_callbacks as nc
from netopt_callbacks.engine import restores
from user_script import EPOCH, SAMPLES, Identity, Script, factor, hidden, loop


def test_checkpoint_of_a_hand_loop_is_gone_on_from(tmpdir):
    file = str(tmpdir.join('model'))

    def attached(script):
        return nc.attach(
            script.trainer,
            [
                nc.FactorDense(epoch=1, rank=4, filter_function=hidden),
                nc.BinarizeConvolution(epoch=3, filter_function=lambda layer: True),
            ],
            epoch_size=EPOCH,
            data=script.held_out,
        )

    whole = Script()
    with attached(whole) as run:
        loop(whole, 0, 10)
        whole.trainer.save_checkpoint(file, {'mine': 7})
        rest = loop(whole, 10, 30)
    resumed = Script()
    with attached(resumed) as again:
        assert resumed.trainer.restore_from_checkpoint(file)['mine'] == 7
        assert loop(resumed, 10, 30) == rest
    assert resumed.state() == whole.state()
    assert [r.to_dict() for r in again.result.records] == [r.to_dict() for r in run.result.records]


def test_checkpoint_saved_after_finish_is_gone_on_from(tmpdir):
    def attached(script):
        return nc.attach(
            script.trainer,
            [nc.FactorDense(epoch=1, rank=4, filter_function=hidden)],
            epoch_size=EPOCH,
        )

    file, early = str(tmpdir.join('model')), str(tmpdir.join('early'))
    whole = Script()
    with attached(whole) as finished:
        loop(whole, 0, 4)
        whole.trainer.save_checkpoint(early)
        loop(whole, 4, 10)
    whole.trainer.save_checkpoint(file, {'mine': 7})
    expected = whole.state()
    resumed = Script()
    with attached(resumed) as run:
        assert resumed.trainer.restore_from_checkpoint(file)['mine'] == 7
    assert resumed.state() == expected
    assert [record.samples for record in run.result.records] == [EPOCH]
    assert loop(resumed, 10, 20) == loop(whole, 10, 20)
    with pytest.raises(ValueError, match='there is none named .*nothing'):
        whole.trainer.restore_from_checkpoint(str(tmpdir.join('nothing')))
    # Back behind the swap, and forth again, on a trainer whose run is over.
    whole.trainer.restore_from_checkpoint(early)
    assert len(finished.result.records) == 1
    assert 'DenseFactored' not in [f.op_name for f in nc.graph.walk(whole.z)]
    whole.trainer.restore_from_checkpoint(file)
    assert loop(whole, 10, 20)[-1] == resumed.trainer.previous_minibatch_loss_average


def test_run_refused_before_it_began_leaves_the_checkpoints_to_the_one_before(tmpdir):
    def attached(script):
        return nc.attach(
            script.trainer,
            [nc.FactorDense(epoch=1, rank=4, filter_function=hidden)],
            epoch_size=EPOCH,
        )

    file, script, resumed = str(tmpdir.join('model')), Script(), Script()
    with attached(script):
        loop(script, 0, 10)
    with pytest.raises(ValueError, match='Changed already: DenseFactored'):
        with attached(script):
            loop(script, 10, 11)
    script.trainer.save_checkpoint(file)
    with attached(resumed):
        resumed.trainer.restore_from_checkpoint(file)
    assert resumed.state() == script.state()


class Breaks(nc.Observer):
    """Raises when the run starts."""

    def on_start(self, run):
        raise RuntimeError('at the start')


def test_checkpoint_after_a_run_whose_observer_broke_it_at_the_start(tmpdir):
    script, file = Script(), str(tmpdir.join('model'))
    with pytest.raises(RuntimeError, match='at the start'):
        with nc.attach(script.trainer, [Identity(epoch=1), Breaks()], epoch_size=EPOCH):
            loop(script, 0, 1)
    script.trainer.save_checkpoint(file)
    resumed = Script()
    with nc.attach(resumed.trainer, [Identity(epoch=1)], epoch_size=EPOCH):
        resumed.trainer.restore_from_checkpoint(file)
        loop(resumed, 0, 10)


def test_class_of_a_trainer_that_was_not_exchanged_is_its_own():
    script = Script()
    with nc.attach(script.trainer, [], epoch_size=EPOCH):
        loop(script, 0, 2)
    assert type(script.trainer) is C.Trainer


def test_ctrl_c_in_a_restore_comes_after_it(tmpdir, monkeypatch):
    script, file = Script(), str(tmpdir.join('model'))
    signal_before = signal.signal(signal.SIGINT, signal.default_int_handler)
    pressed = []
    rebuild = restores.Restores.rebuild

    def rebuilt(*arguments):
        rebuild(*arguments)
        pressed.append(os.kill(os.getpid(), signal.SIGINT))

    monkeypatch.setattr(restores.Restores, 'rebuild', rebuilt)
    try:
        with nc.attach(script.trainer, [Identity(epoch=1)], epoch_size=EPOCH) as run:
            loop(script, 0, 4)
            script.trainer.save_checkpoint(file)
            loop(script, 4, 10)
            with pytest.raises(KeyboardInterrupt):
                script.trainer.restore_from_checkpoint(file)
            assert pressed and run.engine.clock.samples == 4 * 64 and not run.result.records
            loop(script, 4, 10)
    finally:
        signal.signal(signal.SIGINT, signal_before)
    assert [record.samples for record in run.result.records] == [EPOCH]


@pytest.mark.parametrize(
    'callbacks', [[nc.Observer()], [Identity(epoch=2)]], ids=['observer', 'optimization']
)
def test_session_whose_cross_validation_goes_back_to_a_checkpoint(callbacks, tmpdir):
    """Without random state, which plain CNTK does not go back to, it goes on as plain CNTK does."""

    def trained(name, run):
        script, file, seen = Script(test=False, dropout=False), str(tmpdir.join(name)), []

        def callback(index, *rest):
            seen.append(script.trainer.total_number_of_samples_seen)
            if index == 0:
                script.trainer.save_checkpoint(file)
            if len(seen) == 3:
                script.trainer.restore_from_checkpoint(file)
            return len(seen) < 9

        source, streams = script._small(110)
        script.arguments['cv_config'] = C.CrossValidationConfig(
            source, frequency=200, callback=callback, model_inputs_to_streams=streams
        )
        run(script)
        return seen, script.outcome()

    assert trained('ours', lambda script: script.run(callbacks)) == trained(
        'plain', lambda script: script.run_plain()
    )


@pytest.mark.parametrize('said', ['after 0', 'without callbacks'])
def test_session_refuses_a_checkpoint_of_another_structure(said, tmpdir):
    class GoesBack(nc.Observer):
        def on_epoch(self, epoch, samples):
            if epoch == 1 and said == 'after 0':
                script.trainer.save_checkpoint(file)
            else:
                script.trainer.restore_from_checkpoint(file)

    script, file = Script(test=False), str(tmpdir.join('other'))
    script.trainer.save_checkpoint(file)
    with pytest.raises(
        ValueError,
        match='with %d optimizations applied, and .*other was saved %s;'
        % (said == 'after 0', said),
    ):
        script.run([Identity(epoch=1), GoesBack()])


class Mine(C.Trainer):
    """A trainer of the user's own, which keeps more with a checkpoint."""

    saved = restored = None

    def save_checkpoint(self, filename, external_state={}):
        Mine.saved = filename
        super().save_checkpoint(filename, dict(external_state, extra=3))

    def restore_from_checkpoint(self, filename):
        Mine.restored = filename
        return super().restore_from_checkpoint(filename)


def test_overridden_checkpoint_methods_go_on_being_called(tmpdir):
    file = str(tmpdir.join('saved'))

    def attached():
        script = Script()
        script.trainer = Mine(script.z, (script.loss, script.metric), script.learners)
        return script, nc.attach(
            script.trainer,
            [nc.FactorDense(epoch=1, rank=3, filter_function=hidden)],
            epoch_size=EPOCH,
        )

    script, run = attached()
    loop(script, 0, 8)
    script.trainer.save_checkpoint(file)
    run.finish()
    script, run = attached()
    assert script.trainer.restore_from_checkpoint(file)['extra'] == 3
    run.finish()
    assert Mine.saved == Mine.restored == file


def test_restore_goes_back_to_the_window_and_the_measurement_of_then(tmpdir):
    """Progress windows are not part of a checkpoint: plain CNTK goes on with the open one."""
    file = str(tmpdir.join('saved'))

    def trained(script):
        loop(script, 0, 4)
        script.trainer.save_checkpoint(file)
        loop(script, 4, 6)
        script.trainer.restore_from_checkpoint(file)
        loop(script, 4, 9)
        return script.outcome()

    bare, script = Script(dropout=False), Script(dropout=False)
    expected = trained(bare)
    with nc.attach(script.trainer, [Identity(epoch=0)], epoch_size=EPOCH, data=script.held_out):
        assert trained(script) == expected


def test_checkpoint_saved_after_a_session_that_saves_none(tmpdir):
    """And restored under callbacks of the same schedule, of another kind of loop."""
    whole, resumed, file = Script(test=False), Script(), str(tmpdir.join('model'))
    whole.run([factor()])
    whole.trainer.save_checkpoint(file)
    with nc.attach(resumed.trainer, [factor()], epoch_size=SAMPLES) as run:
        resumed.trainer.restore_from_checkpoint(file)
        assert resumed.state() == whole.state()
        assert loop(resumed, 0, 5) == loop(whole, 0, 5)
    assert [record.samples for record in run.result.records] == [
        record.samples for record in whole.session.result.records
    ]
