"""A restore that is refused, or raises half way, leaves all as if it had not been tried.

Each case is a run twice, with and without the attempt, and compared by what comes after it: losses,
parameters, learner state, random state, counts, records, and what observers and writers were told.
"""
import tempfile
import warnings

import cntk as C
import pytest

import netopt_callbacks as nc
from slices import few
from user_script import EPOCH, SAMPLES, Identity, Primitive, Script, factor, loop, sgd


class BreaksAfterIt(C.Trainer):
    """A trainer of the user's own that refuses what it has restored."""

    def restore_from_checkpoint(self, filename):
        super().restore_from_checkpoint(filename)
        raise RuntimeError('not what I want')


class Told(nc.Observer):
    """Keeps what it is told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def on_minibatch(self, samples, loss, metric):
        self.told.append((samples, loss, metric))

    def on_epoch(self, epoch, samples):
        self.told.append(('epoch', epoch, samples))

    def on_evaluation(self, evaluation):
        self.told.append((evaluation.kind, evaluation.samples, evaluation.metric))

    def on_optimization(self, record):
        self.told.append((record.optimization, record.samples))


def broken(kind):
    """Returns a script whose trainer raises in every restore."""
    script = kind(test=False)
    script.trainer = BreaksAfterIt(
        script.z, (script.loss, script.metric), script.learners, [script.log]
    )
    script.arguments['trainer'] = script.trainer
    return script


def refused(script, *files):
    for file in files:
        with pytest.raises(RuntimeError, match='not what I want'):
            script.trainer.restore_from_checkpoint(file)


RUNS = {
    'observer': lambda: [nc.Observer()],
    'optimization': lambda: [factor()],
    'learner of its own': lambda: [factor(learner=sgd)],
}


KINDS = pytest.mark.parametrize(
    'kind', few([Script, Primitive], Script), ids=['block dropout', 'primitive dropout']
)


@pytest.mark.few(3)
@pytest.mark.parametrize('at', [3, 5, 10], ids=['before a swap', 'when it is due', 'after it'])
@pytest.mark.parametrize('run', sorted(RUNS))
@KINDS
def test_restore_that_raises_half_way(kind, run, at, tmpdir):
    plain, before, after = (str(tmpdir.join(name)) for name in ('plain', 'before', 'after'))

    def trained(tried):
        script, observer = broken(kind), Told()
        script.trainer.save_checkpoint(plain)
        with nc.attach(
            script.trainer, RUNS[run]() + [observer], epoch_size=EPOCH, data=script.held_out
        ) as attached:
            loop(script, 0, 2)
            script.trainer.save_checkpoint(before)
            loop(script, 2, at)
            if at == 10:
                script.trainer.save_checkpoint(after)
            if tried:
                refused(script, plain, before, *([after] if at == 10 else []))
            rest = loop(script, at, 14)
        return (
            rest,
            script.state(),
            script.log.events,
            observer.told,
            attached.engine.clock.seen,
            [record.to_dict() for record in attached.result.records],
        )

    assert_same(trained(True), trained(False))


def assert_same(these, those):
    # Said in a word: pytest takes minutes to explain how two outcomes differ.
    same = [this == that for this, that in zip(these, those)]
    assert all(same), same


@pytest.mark.few(1)
@pytest.mark.parametrize('run', sorted(RUNS))
@KINDS
def test_restore_that_raises_before_the_run_has_begun(kind, run, tmpdir):
    file = str(tmpdir.join('model'))

    def trained(tried):
        script, observer = broken(kind), Told()
        script.trainer.save_checkpoint(file)
        loop(script, 0, 4)
        with nc.attach(script.trainer, RUNS[run]() + [observer], epoch_size=EPOCH) as attached:
            if tried:
                refused(script, file)
            rest = loop(script, 4, 14)
        return rest, script.state(), script.log.events, observer.told, attached.engine.clock.seen

    assert_same(trained(True), trained(False))


@pytest.mark.few(1)
@pytest.mark.parametrize('run', sorted(RUNS))
@KINDS
def test_restore_that_raises_while_a_session_trains(kind, run, tmpdir):
    file = str(tmpdir.join('model'))

    class Tries(nc.Observer):
        seen = 0

        def on_minibatch(self, samples, loss, metric):
            self.seen += 1
            if self.seen == 20:
                self.script.trainer.save_checkpoint(file)
            elif self.seen == 23 and self.tried:
                refused(self.script, file)

    def trained(tried):
        script, observer = broken(kind), Tries()
        observer.script, observer.tried = script, tried
        script.run(RUNS[run]() + [observer])
        assert observer.seen > 23
        return script.outcome()

    assert_same(trained(True), trained(False))


@pytest.mark.few(1)
@pytest.mark.parametrize('run', sorted(RUNS))
def test_restore_goes_on_where_no_copy_of_before_can_be_written(run, tmpdir, monkeypatch):
    """As CNTK's does, which needs none; it is said."""
    file = str(tmpdir.join('model'))

    def trained(writable):
        script = Script(dropout=False)
        with nc.attach(script.trainer, RUNS[run](), epoch_size=EPOCH):
            loop(script, 0, 3)
            script.trainer.save_checkpoint(file)
            loop(script, 3, 5)
            with monkeypatch.context() as patched:
                if not writable:
                    patched.setattr(tempfile, 'tempdir', str(tmpdir.ensure('a file')))
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter('always')
                    script.trainer.restore_from_checkpoint(file)
            told = [
                warning
                for warning in said
                if 'a copy of its state could not be written' in str(warning.message)
            ]
            assert len(told) == (not writable)
            loop(script, 3, 5)
        return script.outcome()

    assert_same(trained(True), trained(False))


OTHERS = pytest.mark.parametrize(
    'theirs, words',
    [
        ('several', 'holds the state of 2 learners, and this trainer has 1'),
        ('adam', r'learner number 0 keeps arrays of shapes .*, and momentum_sgd of this one keeps'),
    ],
)


@pytest.mark.few(3)
@OTHERS
@pytest.mark.parametrize('saved', ['plain', 'under it'])
@pytest.mark.parametrize('run', ['observer', 'optimization'])
def test_checkpoint_of_other_learners(run, saved, theirs, words, tmpdir):
    """CNTK alone overwrites the Parameters before it raises."""
    file = str(tmpdir.join('model'))
    other = Script(learner=theirs)
    with nc.attach(other.trainer, RUNS[run]() if saved == 'under it' else [], epoch_size=EPOCH):
        loop(other, 0, 8)
        other.trainer.save_checkpoint(file)

    def trained(tried):
        script = Script()
        with nc.attach(script.trainer, RUNS[run](), epoch_size=EPOCH):
            loop(script, 0, 8)
            if tried:
                before = script.state(), script.trainer.this
                with pytest.raises(ValueError, match=words):
                    script.trainer.restore_from_checkpoint(file)
                assert (script.state(), script.trainer.this) == before
            return loop(script, 8, 14), script.outcome()

    assert_same(trained(True), trained(False))


@pytest.mark.few(1)
@OTHERS
def test_checkpoint_of_other_learners_while_a_session_trains(theirs, words, tmpdir):
    """Of the same structure, so that nothing else tells."""

    class Saves(nc.Observer):
        def on_epoch(self, epoch, samples):
            if epoch == 2:
                self.script.trainer.save_checkpoint(file)

    class Restores(nc.Observer):
        def on_epoch(self, epoch, samples):
            if epoch == 2:
                self.script.trainer.restore_from_checkpoint(file)

    file, other, script = (
        str(tmpdir.join('model')),
        Script(learner=theirs, test=False),
        Script(test=False),
    )
    for each, observer in (other, Saves()), (script, Restores()):
        observer.script = each
        if each is script:
            with pytest.raises(ValueError, match=words):
                each.run([Identity(epoch=1), observer])
        else:
            each.run([Identity(epoch=1), observer])


def test_session_of_a_trainer_that_was_attached_since_is_refused_before_it_touches_it():
    script = Script(test=False)
    session = nc.training_session(
        callbacks=[Identity(epoch=1)], epoch_size=SAMPLES, **script.arguments
    )
    with nc.attach(script.trainer, [nc.Observer()], epoch_size=EPOCH):
        before = script.state(), script.trainer.this
        with pytest.raises(RuntimeError, match='under nc.attach'):
            session.train()
        assert (script.state(), script.trainer.this) == before
        loop(script, 0, 2)
    session.train()
    assert len(session.result.records) == 1


def test_session_of_a_trainer_that_has_trained_on_since_says_what_it_cannot_reach():
    script = Script(test=False, max_samples=SAMPLES)
    session = nc.training_session(
        callbacks=[Identity(epoch=1)], epoch_size=SAMPLES, **script.arguments
    )
    loop(script, 0, 3)
    before = script.trainer.this
    with pytest.raises(
        ValueError, match='leaves this run %d samples.*0 is the last epoch' % (SAMPLES - 192)
    ):
        session.train()
    assert script.trainer.this is before


def test_checkpoint_of_fewer_outputs(tmpdir):
    script, file = Script(), str(tmpdir.join('model'))
    script.trainer.save_checkpoint(str(tmpdir.join('other')))
    script.z.save(file)
    tmpdir.join('other.ckp').copy(tmpdir.join('model.ckp'))
    with nc.attach(script.trainer, [nc.Observer()], epoch_size=EPOCH):
        with pytest.raises(ValueError, match='written by another network'):
            script.trainer.restore_from_checkpoint(file)
