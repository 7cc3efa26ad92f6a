"""A disk that is full or fails: the last whole checkpoint stays, a sentence says so, and the run is
resumed from it.

`kill_points.cpp` lets one write of CNTK's C++ fail, as a disk does: one of the graph makes CNTK 2.7
overwrite its own memory, and abort; one of the learners' state it does not notice.
"""
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings

import cntk as C
import pytest

import kill_points
import netopt_callbacks as nc
from netopt_callbacks.checkpoints import pair
from netopt_callbacks.checkpoints.generations import Generations
from netopt_callbacks.engine import checkpoint
from paths import PYTHONPATH
from user_script import EPOCH, Identity, Script, factor, loop, saving

WORDS = r'model\d* could not be written whole to the disk mounted at /.* \(.* MB free\): .*'


@pytest.fixture
def cut(monkeypatch):
    """Returns what lets a file of a pair end early, as a write that failed leaves it: in this
    process, for one save."""

    def after(saves, end, share):
        done, left = Generations.done, [saves]

        def torn(self, file, otherwise):
            left[0] -= 1
            if left[0] == 0:
                os.truncate(file + end, int(os.path.getsize(file + end) * share))
            done(self, file, otherwise)

        monkeypatch.setattr(Generations, 'done', torn)

    return after


@pytest.fixture
def limited():
    """Takes the limit away again; a write past it is an error, not a signal. CNTK, whose writes
    may abort, writes nothing."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield
    lift()
    signal.signal(signal.SIGXFSZ, handler)


def lift():
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


CALLBACKS = [lambda: factor(), lambda: Identity(epoch=2)]


def trained(folder, preserve_all=False, *observers):
    one = saving(folder, preserve_all)
    one.run([make() for make in CALLBACKS] + list(observers))
    return one.state()


@pytest.fixture(scope='module')
def expected(tmpdir_factory):
    return trained(tmpdir_factory.mktemp('whole'))


def pairs(folder):
    return {path.basename: path.read_binary() for path in folder.listdir() if path.isfile()}


CUT = pytest.mark.parametrize(
    'saves, end, share', [(2, '', 0.5), (3, '.ckp', 0.99), (5, '', 0), (7, '.ckp', 0)]
)


@pytest.mark.few(2)
@CUT
@pytest.mark.parametrize('preserve_all', [False, True], ids=['overwritten', 'preserved'])
def test_checkpoint_that_is_not_whole(preserve_all, saves, end, share, cut, expected, tmpdir):
    """The third and the sixth are what one segment hands to the next."""
    one = saving(tmpdir, preserve_all)
    cut(saves, end, share)
    with pytest.raises(
        RuntimeError, match=WORDS + 'Make room, and resume from the one before, .*model'
    ):
        one.run([make() for make in CALLBACKS])
    result = one.session.result
    assert result.model is not None and not result.complete
    file = checkpoint.Checkpoints(str(tmpdir.join('model')), []).find()
    assert pair.fault(file) is None
    C.load_model(file)
    assert {name for name in pairs(tmpdir) if name.endswith('.tmp')} == set()
    assert not {path.basename for path in tmpdir.join('model.netopt').listdir()} & {
        'previous',
        'writing',
        'lock',
    }
    assert trained(tmpdir, preserve_all) == expected


def test_preserved_message_names_the_newest_whole_number(cut, tmpdir):
    one = saving(tmpdir, True)
    cut(3, '', 0.3)
    with pytest.raises(
        RuntimeError, match='model2 could not .*resume from the one before, .*model1$'
    ):
        one.run([Identity(epoch=3)])
    assert sorted(pairs(tmpdir)) == ['model0', 'model0.ckp', 'model1', 'model1.ckp']


def test_last_of_all_where_all_are_kept(cut, tmpdir):
    """CNTK writes it after the last call of `on_checkpoint_end`."""
    one = saving(tmpdir, True, 1)
    cut(4, '.ckp', 0.5)
    with pytest.raises(
        RuntimeError, match='model could not .*resume from the one before, .*model2$'
    ):
        one.run([Identity(epoch=0)])
    assert 'model' not in pairs(tmpdir) and 'model2' in pairs(tmpdir)


def test_first_checkpoint_of_all(cut, tmpdir):
    one = saving(tmpdir)
    cut(1, '', 0.7)
    with pytest.raises(
        RuntimeError,
        match=WORDS + 'There is none before it: make room, and start from the beginning',
    ):
        one.run([Identity(epoch=3)])
    assert pairs(tmpdir) == {}


@pytest.mark.parametrize('links', [True, False], ids=['links', 'no links'])
def test_save_by_hand_leaves_the_one_before(links, cut, monkeypatch, tmpdir):
    """Also where the file system has no links."""

    def refuse(*names):
        raise PermissionError(1, 'Operation not permitted')

    if not links:
        monkeypatch.setattr(os, 'link', refuse)
    one, file = Script(test=False), str(tmpdir.join('model'))
    with nc.attach(one.trainer, [factor()], epoch_size=EPOCH):
        loop(one, 0, 7)
        one.trainer.save_checkpoint(file)
        before, kept = pairs(tmpdir), one.state()
        loop(one, 7, 9)
        cut(1, '.ckp', 0.5)
        with pytest.raises(
            RuntimeError, match=WORDS + 'Make room, and resume from the one before, .*model$'
        ):
            one.trainer.save_checkpoint(file)
        assert pairs(tmpdir) == before
        one.trainer.restore_from_checkpoint(file)
        assert one.state() == kept
        one.trainer.save_checkpoint(file)


def test_folder_that_cannot_be_written_is_told_before_cntk_writes(limited, tmpdir):
    one, file = Script(test=False), str(tmpdir.join('model'))
    with nc.attach(one.trainer, [Identity(epoch=1)], epoch_size=EPOCH):
        loop(one, 0, 2)
        one.trainer.save_checkpoint(file)
        before = pairs(tmpdir)
        loop(one, 2, 3)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        with pytest.raises(
            RuntimeError, match='beside it .* cannot be written .*, on the disk mounted at'
        ):
            try:
                one.trainer.save_checkpoint(file)
            finally:
                lift()
        assert pairs(tmpdir) == before
        loop(one, 3, 6)


def little(folder, monkeypatch, free):
    usage = shutil.disk_usage
    monkeypatch.setattr(tempfile, 'tempdir', str(folder))
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(path)._replace(free=free))


def test_full_temporary_folder_at_a_swap(monkeypatch, tmpdir):
    """Without a checkpoint_config the changed trainer is handed over in a temporary file."""
    one = Script(test=False, cross_validation=0, sweeps=3)
    little(tmpdir, monkeypatch, 1000)
    with pytest.raises(
        RuntimeError,
        match=f'takes a temporary file of about .* MB in {tmpdir}, and that is on the disk mounted '
        'at .*0.0 MB free.*TMPDIR',
    ):
        one.run([make() for make in CALLBACKS])
    assert not one.session.result.complete and one.session.result.model is not None


class Removing(nc.Observer):
    """Removes the temporary folder during the first epoch, as a cleaner of /tmp does."""

    def __init__(self, folder, leave=None):
        super().__init__()
        self.folder, self.leave = folder, leave

    def on_minibatch(self, samples, loss, metric):
        if samples <= 64:
            self.folder.remove()
            if self.leave is not None:
                self.folder.write(self.leave)


@pytest.mark.parametrize('callbacks', [[], CALLBACKS], ids=['none', 'two'])
def test_temporary_folder_that_is_removed_during_a_run(callbacks, monkeypatch, tmpdir):
    """The changed trainer, its random state and what a restore needs are handed over in others."""

    def trained(*observers):
        one = Script(test=True, cross_validation=0, sweeps=3)
        one.run([make() for make in callbacks] + list(observers))
        return one.outcome()

    whole = trained()
    folder = tmpdir.mkdir('temporary')
    monkeypatch.setattr(tempfile, 'tempdir', str(folder))
    assert trained(Removing(folder)) == whole
    assert not callbacks or folder.listdir() == []


def test_temporary_folder_that_cannot_be_made_again(monkeypatch, tmpdir):
    one, folder = Script(test=False, cross_validation=0, sweeps=3), tmpdir.mkdir('temporary')
    monkeypatch.setattr(tempfile, 'tempdir', str(folder))
    with pytest.raises(
        RuntimeError, match=f'takes a temporary file, and no folder .*{folder}.*TMPDIR'
    ):
        one.run([make() for make in CALLBACKS] + [Removing(folder, 'a file')])
    assert not one.session.result.complete and one.session.result.model is not None


def test_full_temporary_folder_at_a_restore(monkeypatch, tmpdir):
    one, file = Script(test=False), str(tmpdir.join('model'))
    with nc.attach(one.trainer, [factor()], epoch_size=EPOCH):
        loop(one, 0, 7)
        one.trainer.save_checkpoint(file)
        state = one.state()
        loop(one, 7, 9)
        with monkeypatch.context() as patched, warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            little(tmpdir.mkdir('temporary'), patched, 1000)
            one.trainer.restore_from_checkpoint(file)
        assert any('takes a temporary file of about' in str(warning.message) for warning in said)
        assert one.state() == state


# A write that fails, at each of the calls CNTK makes.


def main(folder):
    """Trains in `folder`; prints how it ended, and what is left."""
    one = saving(folder)
    try:
        one.run([make() for make in CALLBACKS])
        said = ''
    except RuntimeError as error:
        said = str(error)
    print(
        'OUTCOME '
        + json.dumps([said, hashlib.sha1(one.state()).hexdigest(), one.session.result.complete])
    )


@pytest.fixture(scope='module')
def library(tmpdir_factory):
    return kill_points.compiled(tmpdir_factory.mktemp('library'))


def start(folder, **environment):
    environment = dict(os.environ, PYTHONPATH=PYTHONPATH, **environment)
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', os.path.abspath(__file__), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    lines = [line for line in done.stdout.decode().splitlines() if line.startswith('OUTCOME')]
    return json.loads(lines[0][8:]) if lines else None


@pytest.mark.slow
@pytest.mark.parametrize('error', ['EIO', 'ENOSPC'])
@pytest.mark.parametrize('pattern', ['*/model.tmp', '*/model.ckp.tmp'])
@pytest.mark.parametrize('count', [1, 2, 3, 5, 8])
def test_write_that_fails(count, pattern, error, library, expected, tmpdir):
    outcome = start(
        tmpdir,
        LD_PRELOAD=library,
        NETOPT_KILL_POINT=':'.join(['write', error, str(count), pattern]),
    )
    wanted = hashlib.sha1(expected).hexdigest()
    if outcome is not None:  # else CNTK has ended the process
        said, state, complete = outcome
        assert complete == (not said) and (state == wanted or said)
        assert not said or 'could not be written whole' in said
    said, state, complete = start(tmpdir)
    assert (said, state, complete) == ('', wanted, True)


if __name__ == '__main__':
    main(sys.argv[1])
