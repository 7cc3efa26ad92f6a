"""Which folder a checkpoint is of: named alike, numbered, left over, copied, of another run."""
import cntk as C
import pytest

import netopt_callbacks as nc
from user_script import EPOCH, SAMPLES, Identity, Script, Stops, binarize, factor, loop, sgd


def test_numbered_checkpoint_of_a_session_is_gone_back_to(tmpdir):
    """The user takes the best of those that `preserve_all` keeps."""
    script = Script(folder=str(tmpdir), test=False, checkpoint=300, preserve_all=True)
    script.run([factor()])
    files = sorted(str(file) for file in tmpdir.listdir() if str(file)[-1].isdigit())
    assert len(files) > 5
    ranks = []
    for file in files:
        script.trainer.restore_from_checkpoint(file)
        ranks.append('DenseFactored' in [f.op_name for f in nc.graph.walk(script.z)])
    assert ranks == sorted(ranks) and set(ranks) == {False, True}


def test_numbered_checkpoint_is_of_the_session_that_kept_it_not_of_one_named_alike(tmpdir):
    """`model12` is number 12 of `model`, and would be number 2 of `model1`."""

    def trained(name, learner, samples):
        script = Script(test=False, sweeps=30, max_samples=samples, dropout=False)
        script.arguments['checkpoint_config'] = C.CheckpointConfig(
            str(tmpdir.join(name)), frequency=100, preserve_all=True
        )
        script.run([factor(learner=learner)])
        return script

    def keep(*names):
        for file in tmpdir.listdir():
            if file.isfile() and file.basename not in names:
                file.remove()

    trained('model1', sgd, 800)
    keep()  # CNTK takes them for its own of `model`
    whole = trained('model', None, 1600)
    keep('model12', 'model12.ckp')
    resumed = trained('model', None, 1600)
    assert resumed.state() == whole.state()
    resumed.trainer.restore_from_checkpoint(str(tmpdir.join('model12')))  # that session is over
    by_hand = Script(dropout=False)
    with nc.attach(by_hand.trainer, [factor()], epoch_size=SAMPLES) as run:
        by_hand.trainer.restore_from_checkpoint(str(tmpdir.join('model12')))
    (record,) = run.result.records
    (expected,) = resumed.session.result.records
    assert record.curve == expected.curve[: len(record.curve)]
    expected.cut(record.curve[-1][0])
    assert record.to_dict() == expected.to_dict()


def test_finished_session_leaves_its_folder_to_its_checkpoints(tmpdir):
    """A restore by hand, of another file, after it writes nothing there."""
    plain, folder = str(tmpdir.join('plain')), tmpdir.join('model.netopt')
    script = Script(folder=str(tmpdir), test=False, checkpoint=300)
    script.trainer.save_checkpoint(plain)
    loop(script, 0, 2)
    script.run([factor()])
    before = {file.basename: file.read() for file in folder.listdir()}
    assert {name.split('.')[0] for name in before} >= {'phase-0', 'phase-1'}
    script.trainer.restore_from_checkpoint(plain)
    assert {file.basename: file.read() for file in folder.listdir()} == before


@pytest.mark.parametrize(
    'name, file, said',
    [
        ('model', 'model.netopt', 'needs a folder .*model.netopt beside it'),
        ('other/model', 'other', 'must be one under which files can be written.*Not a directory'),
        (250 * 'm', None, 'must be one under which files can be written.*File name too long'),
        (248 * 'm', None, 'must be one under which files can be written.*File name too long'),
        ('a\0b', None, 'must be one under which files can be written, got'),
    ],
    ids=['file for the folder', 'below a file', 'too long', 'too long for what is added', 'null'],
)
def test_name_that_cannot_be_written_is_refused_before_training(name, file, said, tmpdir):
    if file is not None:
        tmpdir.join(file).write('of the user')
    name = str(tmpdir) + '/' + name
    script = Script(test=False)
    script.arguments['checkpoint_config'] = C.CheckpointConfig(name, frequency=300)
    with pytest.raises(ValueError, match=f'(?s){said}.*give'):
        script.run([factor()])
    assert script.trainer.total_number_of_samples_seen == 0
    by_hand = Script(test=False)
    with nc.attach(by_hand.trainer, [factor()], epoch_size=EPOCH):
        loop(by_hand, 0, 2)
        with pytest.raises(ValueError, match=f'(?s){said}.*give'):
            by_hand.trainer.save_checkpoint(name)
        loop(by_hand, 2, 6)
    assert [one.basename for one in tmpdir.listdir()] == [file] * (file is not None)


class Noted(nc.Observer):
    """Looks for the note of a whole pair when a run starts."""

    def __init__(self, folder):
        super().__init__()
        self._note = folder.join('whole')

    def on_start(self, run):
        self.noted = self._note.check()


def test_observer_session_notes_the_whole_pair_it_goes_on_from(tmpdir):
    """Before its first checkpoint replaces that pair, which a kill may cut."""

    def trained(observer, samples):
        script = Script(folder=str(tmpdir), test=False, checkpoint=300, max_samples=samples)
        with nc.attach(script.trainer, [factor(0)], epoch_size=EPOCH):
            loop(script, 0, 2)
        script.run([observer])

    folder = tmpdir.join('model.netopt')
    trained(nc.Observer(), 2 * 64 + SAMPLES + 64)
    folder.join('whole').remove()  # as a kill just after the pair was written leaves it
    observer = Noted(folder)
    trained(observer, 1600)
    assert observer.noted


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
            str(tmpdir.join('model')), frequency=300, preserve_all=True
        )
        script.run([factor(), Identity(epoch=3)])
        return script

    by_hand = Script(dropout=False)
    loop(by_hand, 0, 2)
    with nc.attach(by_hand.trainer, [factor(), Identity(epoch=3)], epoch_size=EPOCH):
        for number in range(1, 5):
            loop(by_hand, 0, 4)
            by_hand.trainer.save_checkpoint(str(tmpdir.join(f'model{number}')))
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
    script.arguments['checkpoint_config'] = C.CheckpointConfig(
        str(tmpdir.join('model')), frequency=300
    )
    with pytest.raises(ValueError, match=words):
        script.run([factor()])
    script.arguments['checkpoint_config'] = C.CheckpointConfig(
        str(tmpdir.join('model')), frequency=300, restore=False
    )
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

    file = saved('one', 4)
    saved('other', 3)
    (mine,), (theirs,) = (phase_files(tmpdir.join(name)) for name in ('one.netopt', 'other.netopt'))
    mine.write(theirs.read())
    script = Script()
    with pytest.raises(
        ValueError, match=r'one is not of the network that .*one\.netopt.* tells of'
    ):
        with nc.attach(script.trainer, [factor(0)], epoch_size=EPOCH):
            script.trainer.restore_from_checkpoint(file)


@pytest.mark.few(1)
@pytest.mark.parametrize('epoch', [0, 1, 2])
def test_checkpoints_that_the_user_numbers_are_of_their_own_folders(epoch, tmpdir):
    """Each is under a name of its own, `epoch1` to `epoch11`, and in the phase it was saved in."""

    def attached(script):
        return nc.attach(script.trainer, [factor(epoch)], epoch_size=EPOCH, data=script.held_out)

    whole, states = Script(), []
    with attached(whole):
        for number in range(1, 12):
            loop(whole, 5 * number - 5, 5 * number)
            whole.trainer.save_checkpoint(str(tmpdir.join(f'epoch{number}')))
            states.append((whole.state(), whole.trainer.total_number_of_samples_seen))
    again = Script()
    with attached(again) as run:
        for number in 10, 1, 11, 2:
            again.trainer.restore_from_checkpoint(str(tmpdir.join(f'epoch{number}')))
            state, samples = states[number - 1]
            assert run.engine.clock.samples == samples
            if number != epoch:  # what is due when a run starts is applied at once
                assert again.state() == state
        loop(again, 10, 12)


def session(folder, name, stop=None, data=True, preserve_all=True, samples=2800, last=3):
    """Returns the script of a session that keeps checkpoints, stopped after some minibatches or
    ended."""
    script = Script(test=False, dropout=False, sweeps=30, max_samples=samples, cross_validation=0)
    script.arguments['checkpoint_config'] = C.CheckpointConfig(
        str(folder.join(name)), frequency=300, preserve_all=preserve_all
    )
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
    records = [
        [
            record.to_dict()
            for record in session(folder, 'model', samples=4200, last=6).session.result.records
        ]
        for folder in (ours, expected)
    ]
    assert records[0] == records[1]


@pytest.mark.few(1)
@pytest.mark.parametrize('preserve_all', [False, True], ids=['overwritten', 'preserved'])
def test_session_that_goes_on_from_the_checkpoint_of_another_is_resumed(preserve_all, tmpdir):
    """As CNTK does, with `model4` for `model`; nothing is measured before its own first
    checkpoint."""
    whole, cut = tmpdir.mkdir('whole'), tmpdir.mkdir('cut')
    for folder in whole, cut:
        session(folder, 'model4', 16, data=False, preserve_all=False)
    session(cut, 'model', 9, data=False, preserve_all=preserve_all)
    assert (
        session(cut, 'model', data=False, preserve_all=preserve_all).state()
        == session(whole, 'model', data=False, preserve_all=preserve_all).state()
    )


def test_plain_checkpoint_that_was_gone_back_to_leaves_earlier_ones_their_start(tmpdir):
    plain, name = str(tmpdir.join('plain')), str(tmpdir.join('model'))
    script = Script(test=False, dropout=False, sweeps=30, max_samples=3000)
    loop(script, 0, 2)
    script.trainer.save_checkpoint(plain)
    loop(script, 2, 7)
    script.arguments['checkpoint_config'] = C.CheckpointConfig(
        name, frequency=300, preserve_all=True, restore=False
    )
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
