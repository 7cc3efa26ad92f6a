"""A run that is killed and started again against one that is not: as bytes.

The script runs in processes of its own, since only a new process has forgotten everything.
"""
import json
import os
import subprocess
import sys

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from netopt_callbacks.engine import checkpoint
from paths import PYTHONPATH
from user_script import KILLED, LEARNERS, SAMPLES, Identity, Killer, Script, Stops, hidden

HERE = os.path.dirname(os.path.abspath(__file__))

PLANS = {
    'none': lambda: [],
    'identity': lambda: [Identity(epoch=1), Identity(epoch=2)],
    'factor': lambda: [nc.FactorDense(epoch=1, rank=4, filter_function=hidden), Identity(epoch=2)],
    'factor and binarize': lambda: [
        nc.FactorDense(epoch=1, rank=4, filter_function=hidden),
        nc.BinarizeConvolution(epoch=2, filter_function=lambda layer: True),
    ],
    'own learner': lambda: [
        nc.FactorDense(
            epoch=1,
            rank=4,
            filter_function=hidden,
            learner=lambda p: C.adam(p, C.learning_parameter_schedule(0.01), 0.9),
        ),
        Identity(epoch=2),
    ],
}


def main(folder, plan, learner, preserve_all, kill):
    """Runs the script in `folder`; prints what it leaves."""
    script = Script(
        learner=learner,
        checkpoint=300,
        preserve_all=preserve_all == 'True',
        folder=folder,
        test=False,
        cross_validation=0,
    )
    script.run(PLANS[plan]() + [Killer(int(kill))], data=script.held_out)
    records = [record.to_dict() for record in script.session.result.records]
    print('OUTCOME ' + json.dumps([script.state().hex(), records]))


def run(folder, plan='factor', learner='momentum_sgd', preserve_all=False, kill=0):
    """Runs `main` in a new process; returns its outcome, or None where it was killed."""
    command = [
        sys.executable,
        '-W',
        'ignore',
        os.path.join(HERE, 'test_resume.py'),
        str(folder),
        plan,
        learner,
        str(preserve_all),
        str(kill),
    ]
    environment = dict(os.environ, PYTHONPATH=PYTHONPATH)
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        universal_newlines=True,
    )
    if done.returncode == KILLED:
        return None
    assert done.returncode == 0, done.stderr[-3000:]
    return next(line for line in done.stdout.splitlines() if line.startswith('OUTCOME'))


def killed_and_resumed(folder, kills, **options):
    for kill in kills:
        assert run(folder, kill=kill, **options) is None
    return run(folder, **options)


@pytest.mark.few(1)
# Minibatches of 64 of 700 samples: epoch 1 ends with the 11th, epoch 2 with the 22nd.
@pytest.mark.parametrize(
    'plan, kills',
    [('factor and binarize', (8,)), ('factor and binarize', (14, 13)), ('own learner', (16,))],
)
def test_killed_and_resumed_equals_never_killed(plan, kills, tmpdir):
    assert killed_and_resumed(tmpdir.mkdir('killed'), kills, plan=plan) == run(
        tmpdir.mkdir('whole'), plan=plan
    )


@pytest.mark.slow
@pytest.mark.parametrize('preserve_all', [False, True])
@pytest.mark.parametrize('plan', sorted(set(PLANS) - {'none'}))
def test_killed_anywhere(plan, preserve_all, tmpdir):
    whole = run(tmpdir.mkdir('whole'), plan=plan, preserve_all=preserve_all)
    for kill in (3, 10, 11, 12, 21, 22, 23, 30, 43):
        assert (
            killed_and_resumed(
                tmpdir.mkdir(f'killed {kill}'), (kill,), plan=plan, preserve_all=preserve_all
            )
            == whole
        ), kill


# The plan for a learner that cannot be rebuilt over factors, or holds none of the factored layers.
PLAN_OF = {'sgd and user with state': 'own learner', 'part': 'identity'}
WITHOUT_STATE = ('user', 'user and sgd')  # refused, see below


@pytest.mark.slow
@pytest.mark.parametrize('learner', sorted(set(LEARNERS) - set(WITHOUT_STATE)))
def test_killed_and_resumed_for_every_learner(learner, tmpdir):
    plan = PLAN_OF.get(learner, 'factor and binarize')
    assert killed_and_resumed(tmpdir.mkdir('killed'), (16, 13), plan=plan, learner=learner) == run(
        tmpdir.mkdir('whole'), plan=plan, learner=learner
    )


def test_a_learner_that_keeps_what_is_retired_is_resumed(tmpdir):
    ended = []
    for _ in range(2):
        script = Script(
            learner='sgd and user with state',
            checkpoint=300,
            folder=str(tmpdir),
            test=False,
            cross_validation=0,
        )
        script.run(PLANS['own learner'](), data=script.held_out)
        ended.append((script.state(), [str(r) for r in script.session.result.records]))
    assert ended[0] == ended[1] and len(ended[0][1]) == 2


@pytest.mark.parametrize('learner', WITHOUT_STATE)
def test_learner_without_state_is_refused_before_training(learner, tmpdir):
    Script(learner=learner).trainer.save_checkpoint(str(tmpdir.join('model')))
    script = Script(learner=learner, checkpoint=300, folder=str(tmpdir))
    with pytest.raises(ValueError, match='Halves cannot resume from a checkpoint.*restore_from'):
        script.run([Identity(epoch=1)])
    assert not script.log.events


def test_checkpoint_of_plain_cntk_is_gone_on_from(tmpdir):
    """Trained for two epochs without callbacks, then attached: as if nothing had happened."""
    options = dict(test=False, cross_validation=0, dropout=False)
    _, whole = Script(**options).run_plain()
    options.update(checkpoint=SAMPLES, folder=str(tmpdir))
    Script(max_samples=2 * SAMPLES, **options).run_plain()
    resumed = Script(**options)
    resumed.run([Identity(epoch=3)])
    assert [record.samples for record in resumed.session.result.records] == [3 * SAMPLES]
    assert resumed.state() == whole


class Broken(nc.Optimization):
    """Raises where a transform would return."""

    def transform(self, model):
        raise KeyError('broken')


def test_checkpoint_of_plain_cntk_survives_a_kill_in_its_first_replacement(tmpdir):
    options = dict(test=False, cross_validation=0, checkpoint=SAMPLES, folder=str(tmpdir))
    Script(max_samples=2 * SAMPLES, **options).run_plain()
    with pytest.raises(KeyError):
        Script(**options).run([Broken(epoch=2)])
    for name in ('model', 'model.ckp'):  # both unlinked, none renamed yet
        tmpdir.join(name).move(tmpdir.join(name + '.tmp'))
    file = str(tmpdir.join('model'))
    assert checkpoint.Checkpoints(file, []).find() == file
    assert tmpdir.join('model.ckp').check()


@pytest.mark.parametrize('cut', ['both .tmp', 'graph unlinked', 'both unlinked', 'one renamed'])
def test_pair_torn_by_a_kill_is_completed(cut, tmpdir):
    """CNTK's order: write both .tmp, unlink both, rename both."""
    file = str(tmpdir.join('model'))
    for name, content in (
        (file, 'old'),
        (file + '.ckp', 'old'),
        (file + '.tmp', 'new'),
        (file + '.ckp.tmp', 'new'),
    ):
        with open(name, 'w') as stream:
            stream.write(content)
    if cut != 'both .tmp':
        os.remove(file)
    if cut in ('both unlinked', 'one renamed'):
        os.remove(file + '.ckp')
    if cut == 'one renamed':
        os.rename(file + '.tmp', file)
    checkpoint.complete(file, existed=True)
    expected = 'old' if cut == 'both .tmp' else 'new'
    assert [open(name).read() for name in (file, file + '.ckp')] == [expected, expected]
    assert sorted(os.listdir(str(tmpdir))) == ['model', 'model.ckp']


def test_first_checkpoint_half_written_is_none(tmpdir):
    file = str(tmpdir.join('model'))
    for name in ('model.tmp', 'model.ckp.tmp'):
        tmpdir.join(name).write('half')
    checkpoint.complete(file, existed=False)
    assert checkpoint.newest(file) is None
    # CNTK does not truncate model.ckp.tmp when it writes it again: a longer one would shine
    # through.
    assert not os.listdir(str(tmpdir))


def test_checkpoint_that_the_user_removed_stays_removed(tmpdir):
    file = str(tmpdir.join('model'))
    checkpoint.complete(file, existed=True)
    assert not os.listdir(str(tmpdir))


def test_first_checkpoint_half_written_after_the_user_removed_the_last(tmpdir):
    file = str(tmpdir.join('model'))
    checkpoints = checkpoint.Checkpoints(file, [])
    for name in ('model', 'model.ckp'):
        tmpdir.join(name).write('whole')
    checkpoints.note_whole()
    for name in ('model', 'model.ckp'):
        tmpdir.join(name).remove()
    assert checkpoints.find() is None  # the run starts anew ...
    for name in ('model.tmp', 'model.ckp.tmp'):
        tmpdir.join(name).write('half')  # ... and is killed here
    assert checkpoints.find() is None


def test_newest_is_what_cntk_restores(tmpdir):
    file = str(tmpdir.join('model'))
    assert checkpoint.newest(file) is None
    for name in (
        'model2',
        'model10',
        'model2.ckp',
        'model10.ckp',
        'model11',
        'modelx',
        'modelx.ckp',
    ):
        tmpdir.join(name).write('')
    assert checkpoint.newest(file) == file + '10'
    tmpdir.join('model').write('')
    assert checkpoint.newest(file) == file


class TestRefusals:
    """A checkpoint that does not fit: a clear error, and nothing is overwritten."""

    @pytest.fixture(scope='class')
    def written(self, tmpdir_factory):
        folder = tmpdir_factory.mktemp('written')
        Script(checkpoint=300, folder=str(folder), sweeps=2, test=False).run(PLANS['factor']()[:1])
        return folder

    def refused(self, written, tmpdir, words, callbacks, change=None, **options):
        folder = tmpdir.join('copy')
        written.copy(folder)
        if change:
            change(folder)
        before = {path.basename: path.read_binary() for path in folder.visit() if path.isfile()}
        script = Script(checkpoint=300, folder=str(folder), sweeps=2, test=False, **options)
        with pytest.raises(ValueError, match=words):
            script.run(callbacks)
        after = {path.basename: path.read_binary() for path in folder.visit() if path.isfile()}
        after.pop(checkpoint.WHOLE, None)  # an empty note that the pair is whole
        before.pop(checkpoint.WHOLE, None)
        assert after == before

    def test_other_schedule(self, written, tmpdir):
        self.refused(
            written,
            tmpdir,
            r'FactorDense\(epoch=1\).*this script has Identity\(epoch=1\)',
            [Identity(epoch=1)],
        )

    def test_no_callbacks(self, written, tmpdir):
        self.refused(written, tmpdir, 'this script has none', [])

    def test_other_script(self, written, tmpdir):
        self.refused(
            written,
            tmpdir,
            'another script|written by a script',
            PLANS['factor']()[:1],
            learner='part',
        )

    def test_folder_lost(self, written, tmpdir):
        self.refused(
            written,
            tmpdir,
            'keep the folder',
            PLANS['factor']()[:1],
            lambda folder: folder.join('model.netopt').remove(),
        )

    # A missing graph is no checkpoint to CNTK.
    @pytest.mark.parametrize(
        'name, left',
        [(name, left) for name in ('model', 'model.ckp') for left in (0, 0.5, 0.99, 'garbage')]
        + [('model.ckp', None)],
    )
    def test_file_of_the_pair_damaged(self, written, tmpdir, name, left):
        def damage(folder):
            content = folder.join(name).read_binary()
            if left is None:
                folder.join(name).remove()
            else:
                folder.join(name).write_binary(
                    b'garbage' * 9 if left == 'garbage' else content[: int(len(content) * left)]
                )

        self.refused(written, tmpdir, 'cannot be read', PLANS['factor']()[:1], damage)

    def test_records_corrupt(self, written, tmpdir):
        def corrupt(folder):
            for file in folder.join('model.netopt').listdir():
                if file.basename.startswith('phase-1.'):
                    file.write('{')

        self.refused(
            written, tmpdir, r'phase-1\..*json.*cannot be read', PLANS['factor']()[:1], corrupt
        )


def test_resumed_run_repeats_no_dropout_mask(tmpdir):
    """Plain CNTK forgets the random state of cntk.layers.Dropout; under an optimization it
    stays."""
    _, whole = Script(test=False, cross_validation=0).run_plain()
    ends = {}
    for kind, callbacks in (('plain', None), ('ours', [Identity(epoch=0)])):
        options = dict(
            checkpoint=SAMPLES, folder=str(tmpdir.mkdir(kind)), test=False, cross_validation=0
        )
        for limit in (2 * SAMPLES, None):
            script = Script(max_samples=limit, **options)
            if callbacks is None:
                script.run_plain()
            else:
                script.run([Identity(epoch=0)])
        ends[kind] = script.state()
    assert ends['ours'] == whole
    assert ends['plain'] != whole  # should CNTK ever mend this, the blocks need no opening


class Reordered(nc.Optimization):
    """Lets the loss read the labels before the images."""

    def transform(self, model):
        (label,) = (argument for argument in model.arguments if argument.name == 'label')
        first = C.reduce_sum(C.element_times(label, 0))
        outputs = list(model.outputs)
        outputs[-2] = C.plus(first, outputs[-2], name='loss').output
        return C.combine(outputs)


def test_resume_where_a_transform_changed_the_order_of_the_arguments(tmpdir):
    callbacks = lambda: [Reordered(epoch=1), Identity(epoch=3)]
    whole = Script(test=False, cross_validation=0, dropout=False)
    whole.run(callbacks(), data=whole.held_out)
    order = [argument.name for argument in whole.trainer.loss_function.arguments]
    assert order == ['label', 'x']
    options = dict(
        test=False, cross_validation=0, dropout=False, checkpoint=SAMPLES, folder=str(tmpdir)
    )
    script = Script(**options)
    with pytest.raises(KeyboardInterrupt):
        script.run(callbacks() + [Stops(24)], data=script.held_out)
    script = Script(**options)
    script.run(callbacks(), data=script.held_out)
    assert script.state() == whole.state()


class Log(nc.Observer):
    """Keeps when it was told what."""

    def __init__(self):
        super().__init__()
        self.events = []

    def on_start(self, run):
        self.events.append(('start', run.samples))

    def on_epoch(self, epoch, samples):
        self.events.append(('epoch', epoch, samples))

    def on_evaluation(self, evaluation):
        self.events.append((evaluation.kind, evaluation.samples, evaluation.metric))


def test_observers_alone_know_where_a_resumed_run_stands(tmpdir):
    whole, first, second = Log(), Log(), Log()
    options = dict(test=False, cross_validation=0, dropout=False)
    script = Script(**options)
    script.run([whole], data=script.held_out)
    options.update(checkpoint=SAMPLES, folder=str(tmpdir))
    script = Script(max_samples=2 * SAMPLES, **options)
    script.run([first], data=script.held_out)
    resumed = Script(**options)
    resumed.run([second], data=resumed.held_out)
    assert second.events[0] == ('start', 2 * SAMPLES)
    assert first.events + second.events[1:] == whole.events
    plain = Script(test=False, cross_validation=0, dropout=False).run_plain()
    assert resumed.state() == plain[1]


def test_newest_checkpoint_keeps_its_name(tmpdir):
    for name in ('c007', 'c007.ckp', 'c3', 'c3.ckp', 'c12'):
        tmpdir.join(name).write('')
    assert checkpoint.newest(str(tmpdir.join('c'))) == str(tmpdir.join('c007'))


def test_user_learner_alone_cannot_tell_where_a_checkpoint_stands(tmpdir):
    class Restorable(type(Script(learner='user').learners[0])):
        def create_checkpoint(self):
            return C.cntk_py.Dictionary()

        def restore_from_checkpoint(self, state):
            pass

    def attached():
        script = Script(learner='user')
        learner = Restorable(list(script.z.parameters))
        trainer = C.Trainer(script.z, (script.loss, script.metric), [learner])
        return script, trainer, nc.attach(trainer, [Identity(epoch=1)], epoch_size=64)

    file = str(tmpdir.join('saved'))
    script, trainer, run = attached()
    for _ in range(2):
        trainer.train_minibatch({script.x: script.images[:64], script.label: script.labels[:64]})
    trainer.save_checkpoint(file)
    run.finish()
    script, trainer, run = attached()
    with pytest.raises(
        ValueError, match='counts none where a UserLearner is the only or the first'
    ):
        trainer.restore_from_checkpoint(file)


def test_numbers_of_numpy_may_stand_in_a_note(tmpdir):
    class Notes(nc.Optimization):
        def transform(self, model):
            return nc.Transformed(
                model,
                [
                    nc.LayerNote(
                        'all',
                        shape=np.array([2, 3]),
                        rank=np.int64(2),
                        energy=np.float32(0.5),
                        parameters_before=np.int32(6),
                        message=ValueError('said'),
                    )
                ],
            )

    script = Script(
        test=False, cross_validation=0, sweeps=1, checkpoint=SAMPLES, folder=str(tmpdir)
    )
    script.run([Notes(epoch=0)], data=script.held_out)
    (note,) = script.session.result.records[0].layers
    assert (note.rank, note.energy, note.message) == (2, 0.5, 'said')
    (phase,) = (
        file
        for file in tmpdir.join('model.netopt').listdir()
        if file.basename.startswith('phase-1.')
    )
    assert json.loads(phase.read())


if __name__ == '__main__':
    main(*sys.argv[1:])
