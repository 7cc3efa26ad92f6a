"""Several runs of callbacks on one trainer, several trainers on one network, and the
checkpoints of each."""
import os

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from slices import few
from user_script import EPOCH, SAMPLES, Identity, Script, binarize, factor, loop, sgd


@pytest.mark.few(1)
@pytest.mark.parametrize(
    'callbacks, learner',
    [([nc.Observer()], None), ([], None), ([nc.Observer()], sgd)],
    ids=['observer', 'nothing', 'observer, learner of its own'],
)
def test_checkpoint_of_a_run_without_optimizations_after_one_with_them(callbacks, learner, tmpdir):
    """Its checkpoints are of the optimized network, in it and after it."""

    def optimized(script):
        return nc.attach(script.trainer, [factor(learner=learner)], epoch_size=EPOCH)

    files = [str(tmpdir.join(name)) for name in ('early', 'within', 'after')]
    whole = Script()
    with optimized(whole) as first:
        loop(whole, 0, 3)
        whole.trainer.save_checkpoint(files[0])
        loop(whole, 3, 10)
    with nc.attach(whole.trainer, callbacks, epoch_size=EPOCH) as second:
        loop(whole, 10, 14)
        whole.trainer.save_checkpoint(files[1], {'mine': 7})
        rest = loop(whole, 14, 24)
        whole.trainer.restore_from_checkpoint(files[0])  # back behind the swap
        assert 'DenseFactored' not in [f.op_name for f in nc.graph.walk(whole.z)]
        assert second.engine.clock.samples == 3 * 64  # it is further back than its start
        assert whole.trainer.restore_from_checkpoint(files[1])['mine'] == 7
        assert loop(whole, 14, 24) == rest
    whole.trainer.save_checkpoint(files[2])
    further = loop(whole, 24, 30)
    assert len(first.result.records) == 1 and not second.result.records and second.result.complete

    for file, start, expected in [(files[1], 14, rest), (files[2], 24, further)]:
        resumed = Script()
        with optimized(resumed) as run:
            resumed.trainer.restore_from_checkpoint(file)
            assert loop(resumed, start, start + len(expected) // 2) == expected
            assert run.engine.clock.samples == (start + len(expected) // 2) * 64
        assert [r.to_dict() for r in run.result.records] == [
            r.to_dict() for r in first.result.records
        ]


@pytest.mark.few(1)
@pytest.mark.parametrize('learner', [None, sgd], ids=['same learner', 'learner of its own'])
@pytest.mark.parametrize('over', [False, True], ids=['within', 'after'])
def test_checkpoint_of_before_the_first_run_is_gone_back_to(learner, over, tmpdir):
    """To the network that the user built; what is due then comes as if nothing had been applied."""

    def run(script):
        return nc.attach(script.trainer, [factor(learner=learner)], epoch_size=EPOCH)

    file, script, fresh = str(tmpdir.join('plain')), Script(dropout=False), Script(dropout=False)
    loop(script, 0, 3)
    script.trainer.save_checkpoint(file)
    before = script.state()
    attached = run(script)
    loop(script, 3, 12)
    if over:
        attached.finish()
    script.trainer.restore_from_checkpoint(file)
    assert script.state() == before and len(script.trainer.parameter_learners) == 1
    assert 'DenseFactored' not in [f.op_name for f in nc.graph.walk(script.z)]
    if over:
        assert len(attached.result.records) == 1
        attached = run(script)
    fresh.trainer.restore_from_checkpoint(file)
    with run(fresh) as expected, attached:
        assert loop(script, 3, 12) == loop(fresh, 3, 12)
    assert script.state() == fresh.state()
    assert [record.layers[0].rank for record in attached.result.records] == [4]
    assert len(expected.result.records) == 1


@pytest.mark.few(1)
@pytest.mark.parametrize('learner', [None, sgd], ids=['same learner', 'learner of its own'])
@pytest.mark.parametrize('ahead', [False, True], ids=['made after it', 'made ahead of it'])
@pytest.mark.parametrize('observed', few([True, False], True), ids=['observer', 'nothing'])
@pytest.mark.parametrize(
    'preserve_all', few([False, True], False), ids=['overwritten', 'preserved']
)
def test_session_without_optimizations_after_a_run_with_them_is_resumed(
    observed, preserve_all, ahead, learner, tmpdir
):
    callbacks = [nc.Observer()] if observed else None

    def trained(folder, samples):
        script = Script(
            folder=str(folder),
            test=False,
            checkpoint=300,
            preserve_all=preserve_all,
            max_samples=samples,
        )

        def session():
            return nc.training_session(callbacks=callbacks, epoch_size=SAMPLES, **script.arguments)

        made = session() if ahead else None
        with nc.attach(script.trainer, [factor(0, learner=learner)], epoch_size=EPOCH):
            loop(script, 0, 2)
        (made or session()).train()
        return script

    whole, cut = trained(tmpdir.mkdir('whole'), 1600), tmpdir.mkdir('cut')
    trained(cut, 2 * 64 + SAMPLES + 64)  # the end of a minibatch
    resumed = trained(cut, 1600)
    assert resumed.state() == whole.state()
    bare = Script(folder=str(cut), test=False, checkpoint=300, preserve_all=preserve_all)
    with pytest.raises(
        ValueError,
        match=r'under the optimizations FactorDense\(epoch=0\), and this script has none',
    ):
        bare.run([nc.Observer()])


def test_observer_run_saves_the_clock_of_what_it_restored(tmpdir):
    """Of a run that began earlier than the one it goes on from."""

    def optimized(script):
        return nc.attach(script.trainer, [Identity(epoch=1)], epoch_size=EPOCH)

    files = [str(tmpdir.join(name)) for name in 'ab']
    first, second, resumed = Script(), Script(), Script()
    with optimized(first):
        loop(first, 0, 8)
        first.trainer.save_checkpoint(files[0])
    loop(second, 0, 3)
    second.trainer.summarize_training_progress()
    with optimized(second):
        loop(second, 3, 10)
    with nc.attach(second.trainer, [nc.Observer()], epoch_size=EPOCH):
        second.trainer.restore_from_checkpoint(files[0])
        loop(second, 8, 10)
        second.trainer.save_checkpoint(files[1])
    with optimized(resumed) as run:
        resumed.trainer.restore_from_checkpoint(files[1])
    assert run.engine.clock.samples == 10 * 64


def test_session_made_ahead_of_a_run_that_brings_a_learner_is_resumed(tmpdir):
    def trained(folder, samples):
        script = Script(folder=str(folder), test=False, checkpoint=300, max_samples=samples)
        session = nc.training_session(callbacks=[binarize(2)], epoch_size=EPOCH, **script.arguments)
        with nc.attach(script.trainer, [factor(0, learner=sgd)], epoch_size=EPOCH):
            loop(script, 0, 2)
        session.train()
        return script

    whole, cut = trained(tmpdir.mkdir('whole'), 2000), tmpdir.mkdir('cut')
    trained(cut, 2 * 64 + SAMPLES + 64)  # the end of a minibatch
    assert trained(cut, 2000).state() == whole.state()


def test_sessions_made_ahead_of_each_other_train_what_is_there_then():
    """Each with what the one before it has left: network, learners, samples, open progress
    window."""

    def trained(ahead):
        script = Script(test=False, cross_validation=0, frequency=480)

        def session(callbacks, samples):
            return nc.training_session(
                callbacks=callbacks, epoch_size=EPOCH, **dict(script.arguments, max_samples=samples)
            )

        arguments = [
            ([factor(1, learner=sgd)], 700),
            ([binarize(1)], 2100),
            ([nc.Observer()], 2500),
        ]
        made = (session(*each) for each in arguments)
        results = []
        for one in list(made) if ahead else made:
            one.train()
            results.append(one.result)
        return script.outcome(), [[r.to_dict() for r in result.records] for result in results]

    assert trained(True) == trained(False)


def test_checkpoint_of_a_later_run_behind_which_it_went_back(tmpdir):
    """The earlier run brought a learner of its own, which the network that was gone back to
    lacks."""
    plain, later = str(tmpdir.join('plain')), str(tmpdir.join('later'))
    script = Script(dropout=False)
    script.trainer.save_checkpoint(plain)
    with nc.attach(script.trainer, [factor(learner=sgd)], epoch_size=EPOCH):
        loop(script, 0, 8)
    with nc.attach(script.trainer, [binarize(1)], epoch_size=EPOCH):
        loop(script, 8, 16)
        script.trainer.save_checkpoint(later)
        rest, state = loop(script, 16, 20), script.state()
        script.trainer.restore_from_checkpoint(plain)
        assert len(script.trainer.parameter_learners) == 1
        loop(script, 0, 2)
        script.trainer.restore_from_checkpoint(later)
        assert len(script.trainer.parameter_learners) == 2
        assert loop(script, 16, 20) == rest and script.state() == state


@pytest.mark.few(1)
@pytest.mark.parametrize('loss_of', ['a checkpoint', 'the script', 'the trainer', 'variables'])
def test_trainer_built_anew_over_the_loss_of_an_optimized_one(loss_of, tmpdir):
    """Its checkpoints are plain CNTK's, of the network as it is now: they need no folder."""
    file, marked = str(tmpdir.join('again')), str(tmpdir.join('marked'))

    def built():
        script = Script(dropout=False)
        with nc.attach(script.trainer, [factor()], epoch_size=EPOCH):
            loop(script, 0, 8)
        if loss_of == 'the trainer':
            script.loss = script.trainer.loss_function
        if loss_of == 'a checkpoint':
            script.trainer.save_checkpoint(marked)
            saved = C.load_model(marked)
            script.x, script.label = saved.arguments
            script.z, script.loss, script.metric = (
                C.combine([saved.outputs[place]]) for place in (0, 2, 4)
            )  # 1 is the label
        script.learners = [
            C.momentum_sgd(script.loss.parameters, C.learning_parameter_schedule(0.01), 0.9)
        ]
        criterion = script.loss, script.metric
        if loss_of == 'variables':
            criterion = (
                script.trainer.loss_function.output,
                script.trainer.evaluation_function.output,
            )
        script.trainer = C.Trainer(script.z, criterion, script.learners, [script.log])
        return script

    def data(script):
        return {script.x: script.images[:64], script.label: script.labels[:64]}

    whole, resumed = built(), built()
    loop(whole, 0, 3)
    whole.trainer.save_checkpoint(file)
    rest = loop(whole, 3, 8)
    loss = whole.trainer.loss_function.output
    _, values = whole.trainer.train_minibatch(data(whole), outputs=[loss])
    assert np.mean(values[loss]) == pytest.approx(whole.trainer.previous_minibatch_loss_average)
    assert not os.path.exists(file + '.netopt')
    with nc.attach(resumed.trainer, [nc.Observer()], epoch_size=EPOCH):
        resumed.trainer.restore_from_checkpoint(file)
        assert loop(resumed, 3, 8) == rest
        resumed.trainer.train_minibatch(data(resumed))
    assert resumed.state() == whole.state()


@pytest.mark.parametrize('over', [False, True], ids=['within', 'after'])
def test_trainer_goes_on_fetching_its_loss_beside_a_second_one_over_it(over):
    script = Script(dropout=False)
    data = {script.x: script.images[:64], script.label: script.labels[:64]}

    def fetched(trainer, *asked):
        for asked in asked + (trainer.loss_function.output,):
            _, values = trainer.train_minibatch(data, outputs=[asked])
            assert np.mean(values[asked]) == pytest.approx(trainer.previous_minibatch_loss_average)

    run = nc.attach(script.trainer, [factor()], epoch_size=EPOCH)
    loop(script, 0, 8)
    if over:
        run.finish()
    fetched(script.trainer, script.loss, script.loss.output)
    with pytest.raises(ValueError):
        C.Trainer(script.z, (script.loss, script.metric, script.metric), script.learners)
    second = C.Trainer(script.z, (script.loss, script.metric), sgd(script.loss.parameters))
    fetched(second)
    fetched(script.trainer, script.loss, script.loss.output)
    if not over:
        run.finish()


@pytest.mark.few(1)
@pytest.mark.parametrize('back', [0, 3])
@pytest.mark.parametrize('callbacks', [[], [factor(2)]], ids=['observer', 'optimization'])
def test_clock_goes_back_behind_the_start_of_a_run_and_forth(callbacks, back, tmpdir):
    """To a checkpoint of this run, whose epochs count from its start."""

    class Told(nc.Observer):
        def on_epoch(self, *epoch):
            told.append(epoch)

    def trained(goes_back):
        del told[:]
        script, files = Script(dropout=False), [
            str(tmpdir.join(name)) for name in ('plain', 'mine')
        ]
        loop(script, 0, back)
        script.trainer.save_checkpoint(files[0])
        loop(script, back, 5)
        with nc.attach(script.trainer, callbacks + [Told()], epoch_size=EPOCH) as run:
            loop(script, 5, 9)
            script.trainer.save_checkpoint(files[1])
            if goes_back:
                script.trainer.restore_from_checkpoint(files[0])
                assert run.engine.clock.samples == back * 64
                script.trainer.restore_from_checkpoint(files[1])
            loop(script, 9, 20)
        return run.engine.clock.seen, list(told), script.state()

    told = []
    assert trained(True) == trained(False)


def test_clock_of_observers_that_went_back_behind_their_start_goes_on_from_there(tmpdir):
    """A plain checkpoint does not tell where the run stood that saved it: the run knows."""
    plain, mine = str(tmpdir.join('plain')), str(tmpdir.join('mine'))
    script = Script(dropout=False)
    script.trainer.save_checkpoint(plain)
    loop(script, 0, 5)
    with nc.attach(script.trainer, [nc.Observer()], epoch_size=EPOCH) as run:
        loop(script, 5, 9)
        script.trainer.restore_from_checkpoint(plain)
        loop(script, 0, 8)
        assert run.engine.clock.samples == 8 * 64
        script.trainer.save_checkpoint(mine)
        script.trainer.restore_from_checkpoint(mine)
        assert run.engine.clock.samples == 8 * 64


def test_observers_of_an_optimized_trainer_go_back_to_a_plain_checkpoint(tmpdir):
    """What is saved there is of the network the run before began with, and resumed under it."""
    plain, mine = str(tmpdir.join('plain')), str(tmpdir.join('mine'))
    whole, resumed, fresh = Script(dropout=False), Script(dropout=False), Script(dropout=False)
    for script in whole, fresh:
        loop(script, 0, 2)
    whole.trainer.save_checkpoint(plain)
    with nc.attach(whole.trainer, [factor()], epoch_size=EPOCH):
        loop(whole, 2, 10)
    with nc.attach(whole.trainer, [nc.Observer()], epoch_size=EPOCH):
        whole.trainer.restore_from_checkpoint(plain)
        loop(whole, 2, 4)
        whole.trainer.save_checkpoint(mine)
    loop(fresh, 2, 4)
    with nc.attach(resumed.trainer, [factor()], epoch_size=EPOCH) as run:
        resumed.trainer.restore_from_checkpoint(mine)
        assert resumed.state() == fresh.state() == whole.state()
        loop(resumed, 4, 10)
    assert [record.samples for record in run.result.records] == [EPOCH]


def test_second_run_of_observers_is_told_of_summaries():
    class Told(nc.Observer):
        def on_training_summary(self, samples, loss, metric):
            told.append(samples)

    script, told = Script(), []
    for last in 2, 4, 6:
        with nc.attach(script.trainer, [Told()], epoch_size=EPOCH):
            loop(script, last - 2, last)
            script.trainer.summarize_training_progress()
    assert told == [128, 128, 128]  # samples of the run
