"""A restore that is refused, or raises half way, leaves all as if it had not been tried.

Each case is a run twice, with and without the attempt, and compared by what comes after it: losses,
parameters, learner state, random state, counts, records, and what observers and writers were told.
"""
import tempfile
import warnings

import cntk as C
import pytest

import netopt_callbacks as nc
from test_hand_loop import EPOCH, loop
from user_script import SAMPLES, Identity, Primitive, Script, hidden


def factor(epoch=1, rank=4, **options):
    return nc.FactorDense(epoch=epoch, rank=rank, filter_function=hidden, **options)


def binarize(epoch):
    return nc.BinarizeConvolution(epoch=epoch, filter_function=lambda layer: True)


def sgd(parameters):
    return C.sgd(parameters, C.learning_parameter_schedule(0.05))


class BreaksAfterIt(C.Trainer):
    """A trainer of the user's own that refuses what it has restored."""

    def restore_from_checkpoint(self, filename):
        super(BreaksAfterIt, self).restore_from_checkpoint(filename)
        raise RuntimeError('not what I want')


class Told(nc.Observer):
    """Keeps what it is told."""

    def __init__(self):
        super(Told, self).__init__()
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
    script.trainer = BreaksAfterIt(script.z, (script.loss, script.metric), script.learners, [script.log])
    script.arguments['trainer'] = script.trainer
    return script


def refused(script, *files):
    for file in files:
        with pytest.raises(RuntimeError, match='not what I want'):
            script.trainer.restore_from_checkpoint(file)


RUNS = {'observer': lambda: [nc.Observer()], 'optimization': lambda: [factor()],
        'learner of its own': lambda: [factor(learner=sgd)]}
KINDS = pytest.mark.parametrize('kind', [Script, Primitive], ids=['block dropout', 'primitive dropout'])


@pytest.mark.parametrize('at', [3, 5, 10], ids=['before a swap', 'when it is due', 'after it'])
@pytest.mark.parametrize('run', sorted(RUNS))
@KINDS
def test_restore_that_raises_half_way(kind, run, at, tmpdir):
    plain, before, after = [str(tmpdir.join(name)) for name in ('plain', 'before', 'after')]

    def trained(tried):
        script, observer = broken(kind), Told()
        script.trainer.save_checkpoint(plain)
        with nc.attach(script.trainer, RUNS[run]() + [observer], epoch_size=EPOCH,
                       data=script.held_out) as attached:
            loop(script, 0, 2)
            script.trainer.save_checkpoint(before)
            loop(script, 2, at)
            if at == 10:
                script.trainer.save_checkpoint(after)
            if tried:
                refused(script, plain, before, *([after] if at == 10 else []))
            rest = loop(script, at, 14)
        return (rest, script.state(), script.log.events, observer.told, attached.engine.clock.seen,
                [record.to_dict() for record in attached.result.records])

    assert_same(trained(True), trained(False))


def assert_same(these, those):
    # Said in a word: pytest takes minutes to explain how two outcomes differ.
    same = [this == that for this, that in zip(these, those)]
    assert all(same), same


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
                    patched.setattr(tempfile, 'tempdir', str(tmpdir.join('nothing')))
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter('always')
                    script.trainer.restore_from_checkpoint(file)
            told = [warning for warning in said if 'a copy of before could not be written' in str(warning.message)]
            assert len(told) == (not writable)
            loop(script, 3, 5)
        return script.outcome()

    assert_same(trained(True), trained(False))


OTHERS = pytest.mark.parametrize('theirs, words', [
    ('several', 'holds the state of 2 learners, and this trainer has 1'),
    ('adam', r'learner number 0 keeps arrays of shapes .*, and momentum_sgd of this one keeps')])


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

    file, other, script = str(tmpdir.join('model')), Script(learner=theirs, test=False), Script(test=False)
    for each, observer in (other, Saves()), (script, Restores()):
        observer.script = each
        if each is script:
            with pytest.raises(ValueError, match=words):
                each.run([Identity(epoch=1), observer])
        else:
            each.run([Identity(epoch=1), observer])


def test_session_of_a_trainer_that_was_attached_since_is_refused_before_it_touches_it():
    script = Script(test=False)
    session = nc.training_session(callbacks=[Identity(epoch=1)], epoch_size=SAMPLES, **script.arguments)
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
    session = nc.training_session(callbacks=[Identity(epoch=1)], epoch_size=SAMPLES, **script.arguments)
    loop(script, 0, 3)
    before = script.trainer.this
    with pytest.raises(ValueError, match='leaves this run %d samples.*0 is the last epoch' % (SAMPLES - 192)):
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


# Folders: which tells of a checkpoint.

def phase_files(folder):
    return [file for file in folder.listdir() if file.basename.startswith('phase-1.')]


def test_checkpoint_that_may_be_of_either_of_two_folders(tmpdir):
    """By name, schedule and structure; the run tells, here by the epoch its own began in."""
    states = {}
    for name, first in ('model', 0), ('model1', 2):
        script = Script(dropout=False)
        loop(script, 0, first)
        with nc.attach(script.trainer, [factor()], epoch_size=EPOCH):
            loop(script, first, first + 7)
            script.trainer.save_checkpoint(str(tmpdir.join(name)))
        states[name] = script.state()
    for name, minibatches in ('model', 7), ('model1', 7):
        for end in '', '.ckp':
            tmpdir.join(name + end).copy(tmpdir.join('model12' + end))
        again = Script(dropout=False)
        with nc.attach(again.trainer, [factor()], epoch_size=EPOCH) as run:
            again.trainer.restore_from_checkpoint(str(tmpdir.join('model12')))
            assert run.engine.clock.samples == minibatches * 64 and again.state() == states[name]


def test_folder_left_of_a_checkpoint_that_was_deleted_is_not_taken_for_the_one_of_now(tmpdir):
    """Of the same script and name; only where its run began was different."""
    def session(samples):
        script = Script(test=False, dropout=False, sweeps=30, max_samples=samples)
        script.arguments['checkpoint_config'] = C.CheckpointConfig(
            str(tmpdir.join('model')), frequency=300, preserve_all=True)
        script.run([factor(), Identity(epoch=3)])
        return script

    by_hand = Script(dropout=False)
    loop(by_hand, 0, 2)
    with nc.attach(by_hand.trainer, [factor(), Identity(epoch=3)], epoch_size=EPOCH):
        for number in range(1, 5):
            loop(by_hand, 0, 4)
            by_hand.trainer.save_checkpoint(str(tmpdir.join('model%d' % number)))
    for file in tmpdir.listdir():
        if file.isfile():
            file.remove()
    whole = session(2400)
    for file in tmpdir.listdir():
        if file.isfile() and file.basename not in ('model4', 'model4.ckp'):
            file.remove()
    resumed = session(2400)
    assert resumed.state() == whole.state()
    for mine, expected in zip(resumed.session.result.records, whole.session.result.records):
        assert mine.to_dict() == expected.to_dict()


def test_checkpoint_saved_by_hand_under_the_name_of_a_session_and_a_number(tmpdir):
    """It is of the folder of its own, although a session of that name would number its own so."""
    file = str(tmpdir.join('model7'))
    words = r'under the optimizations BinarizeConvolution\(epoch=0\), and this script'
    script = Script(test=False, dropout=False)
    with nc.attach(script.trainer, [binarize(0)], epoch_size=EPOCH):
        loop(script, 0, 4)
        script.trainer.save_checkpoint(file)
    script.arguments['checkpoint_config'] = C.CheckpointConfig(str(tmpdir.join('model')), frequency=300)
    with pytest.raises(ValueError, match=words):
        script.run([factor()])
    script.arguments['checkpoint_config'] = C.CheckpointConfig(str(tmpdir.join('model')), frequency=300,
                                                               restore=False)
    script.run([factor()])
    before = script.state()
    with pytest.raises(ValueError, match=words):
        script.trainer.restore_from_checkpoint(file)
    assert script.state() == before


def test_checkpoint_beside_the_folder_of_another_run_is_refused(tmpdir):
    """Of the same schedule, but another rank: CNTK would restore by position."""
    def saved(name, rank):
        script, file = Script(), str(tmpdir.join(name))
        with nc.attach(script.trainer, [factor(0, rank)], epoch_size=EPOCH):
            loop(script, 0, 2)
            script.trainer.save_checkpoint(file)
        return file

    file, other = saved('one', 4), saved('other', 3)
    (mine,), (theirs,) = [phase_files(tmpdir.join(name)) for name in ('one.netopt', 'other.netopt')]
    mine.write(theirs.read())
    script = Script()
    with pytest.raises(ValueError, match=r'one is not of the network that .*one\.netopt.* tells of'):
        with nc.attach(script.trainer, [factor(0)], epoch_size=EPOCH):
            script.trainer.restore_from_checkpoint(file)


@pytest.mark.parametrize('epoch', [0, 1, 2])
def test_checkpoints_that_the_user_numbers_are_of_their_own_folders(epoch, tmpdir):
    """Each is under a name of its own, `epoch1` to `epoch11`, and in the phase it was saved in."""
    def attached(script):
        return nc.attach(script.trainer, [factor(epoch)], epoch_size=EPOCH, data=script.held_out)

    whole, states = Script(), []
    with attached(whole):
        for number in range(1, 12):
            loop(whole, 5 * number - 5, 5 * number)
            whole.trainer.save_checkpoint(str(tmpdir.join('epoch%d' % number)))
            states.append((whole.state(), whole.trainer.total_number_of_samples_seen))
    again = Script()
    with attached(again) as run:
        for number in 10, 1, 11, 2:
            again.trainer.restore_from_checkpoint(str(tmpdir.join('epoch%d' % number)))
            state, samples = states[number - 1]
            assert run.engine.clock.samples == samples
            if number != epoch:         # what is due when a run starts is applied at once
                assert again.state() == state
        loop(again, 10, 12)


class Stops(nc.Observer):
    """Interrupts after a number of minibatches."""

    def __init__(self, minibatches):
        super(Stops, self).__init__()
        self._left = minibatches

    def on_minibatch(self, samples, loss, metric):
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt


def session(folder, name, stop=None, data=True, preserve_all=True, samples=2800, last=3):
    """Returns the script of a session that keeps checkpoints, stopped after some minibatches or ended."""
    script = Script(test=False, dropout=False, sweeps=30, max_samples=samples, cross_validation=0)
    script.arguments['checkpoint_config'] = C.CheckpointConfig(
        str(folder.join(name)), frequency=300, preserve_all=preserve_all)
    callbacks = [factor(), Identity(epoch=last)] + ([Stops(stop)] if stop else [])
    try:
        script.run(callbacks, data=script.held_out if data else None)
    except KeyboardInterrupt:
        assert stop
    return script


def test_backup_of_an_earlier_checkpoint_takes_no_record_from_a_later_one(tmpdir):
    """`model1` is one, and would be the name of `model10`; both are of one run."""
    ours, expected = tmpdir.mkdir('ours'), tmpdir.mkdir('expected')
    for folder in ours, expected:
        session(folder, 'model', 20, samples=4200, last=6)
        if folder is ours:
            folder.join('model.netopt').copy(folder.mkdir('model1.netopt'))
            for end in '', '.ckp':
                folder.join('model3' + end).copy(folder.join('model1' + end))
        session(folder, 'model', 37, samples=4200, last=6)
        assert folder.join('model10').check()
    records = [[record.to_dict() for record in session(folder, 'model', samples=4200, last=6).session.result.records]
               for folder in (ours, expected)]
    assert records[0] == records[1]


@pytest.mark.parametrize('preserve_all', [False, True], ids=['overwritten', 'preserved'])
def test_session_that_goes_on_from_the_checkpoint_of_another_is_resumed(preserve_all, tmpdir):
    """As CNTK does, with `model4` for `model`; nothing is measured before its own first checkpoint."""
    whole, cut = tmpdir.mkdir('whole'), tmpdir.mkdir('cut')
    for folder in whole, cut:
        session(folder, 'model4', 16, data=False, preserve_all=False)
    session(cut, 'model', 9, data=False, preserve_all=preserve_all)
    assert session(cut, 'model', data=False, preserve_all=preserve_all).state() \
        == session(whole, 'model', data=False, preserve_all=preserve_all).state()


def test_plain_checkpoint_that_was_gone_back_to_leaves_earlier_ones_their_start(tmpdir):
    plain, name = str(tmpdir.join('plain')), str(tmpdir.join('model'))
    script = Script(test=False, dropout=False, sweeps=30, max_samples=3000)
    loop(script, 0, 2)
    script.trainer.save_checkpoint(plain)
    loop(script, 2, 7)
    script.arguments['checkpoint_config'] = C.CheckpointConfig(name, frequency=300, preserve_all=True,
                                                               restore=False)
    script.run([Identity(epoch=3)])
    clocks = []
    for again in False, True:
        if again:
            script.trainer.restore_from_checkpoint(plain)
            script.trainer.save_checkpoint(name)
        other = Script(dropout=False)
        with nc.attach(other.trainer, [Identity(epoch=3)], epoch_size=SAMPLES) as run:
            other.trainer.restore_from_checkpoint(name + '0')
            clocks.append((run.engine.clock.samples, run.engine.clock.base))
            loop(other, 0, 40)
    assert clocks[0] == clocks[1] and clocks[0][1][0] == 7 * 64
