"""A disk that is full or fails: the last whole checkpoint stays, one sentence says so, and the run is resumed from it.

`kill_points.cpp` lets one write of CNTK's C++ fail, as a disk does.
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

import netopt_callbacks as nc
from netopt_callbacks.engine import checkpoint, pair
from test_hand_loop import EPOCH, loop
from user_script import Identity, Script, factor

HERE = os.path.dirname(os.path.abspath(__file__))
WORDS = r'model\d* could not be written whole to the disk mounted at /.* \(.* MB free\): .*'


class Full(nc.Observer):
    """From a minibatch on, lets no file of this process grow to the size of the graph: CNTK's last write to it fails.

    One that fails before the last makes CNTK 2.7 overwrite memory of its own, and abort.
    """

    def __init__(self, minibatch, folder):
        super(Full, self).__init__()
        self._left, self._folder = minibatch, folder

    def on_minibatch(self, samples, loss, metric):
        self._left -= 1
        if self._left == 0:
            limit(max((path for path in self._folder.listdir('model*') if path.isfile()
                       and not path.basename.endswith('.ckp')), key=lambda path: path.mtime()).size())


def limit(size):
    """Lets no file grow to nearly a size: uids of another length make a graph some bytes larger."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 60, resource.RLIM_INFINITY))


@pytest.fixture
def limited():
    """Takes the limit away again; a write past it is an error, not a signal."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, handler)


def lift():
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def script(folder, preserve_all=False, sweeps=3):
    return Script(folder=str(folder), test=False, checkpoint=300, cross_validation=0, preserve_all=preserve_all,
                  sweeps=sweeps)


CALLBACKS = [lambda: factor(), lambda: Identity(epoch=2)]


def trained(folder, preserve_all=False, *observers):
    one = script(folder, preserve_all)
    one.run([make() for make in CALLBACKS] + list(observers))
    return one.state()


@pytest.fixture(scope='module')
def expected(tmpdir_factory):
    return trained(tmpdir_factory.mktemp('whole'))


def pairs(folder):
    return {path.basename: path.read_binary() for path in folder.listdir() if path.isfile()}


@pytest.mark.parametrize('preserve_all', [False, True], ids=['overwritten', 'preserved'])
@pytest.mark.parametrize('minibatch', [7, 12, 16, 30])      # with the one at 11 and 22 a swap is due
def test_disk_that_is_full_from_a_minibatch_on(minibatch, preserve_all, limited, expected, tmpdir):
    one = script(tmpdir, preserve_all)
    with pytest.raises(RuntimeError, match=WORDS + 'Make room, and go on from the one before, .*model'):
        try:
            one.run([make() for make in CALLBACKS] + [Full(minibatch, tmpdir)])
        finally:
            lift()
    result = one.session.result
    assert result.model is not None and not result.complete
    file = checkpoint.Checkpoints(str(tmpdir.join('model')), []).find()
    assert pair.fault(file) is None
    C.load_model(file)
    assert {name for name in pairs(tmpdir) if name.endswith('.tmp')} == set()
    assert trained(tmpdir, preserve_all) == expected


def test_preserved_message_names_the_newest_whole_number(limited, tmpdir):
    one = script(tmpdir, True)
    with pytest.raises(RuntimeError, match='model2 could not .*go on from the one before, .*model1$'):
        try:
            one.run([Identity(epoch=3), Full(13, tmpdir)])
        finally:
            lift()
    assert sorted(pairs(tmpdir)) == ['model0', 'model0.ckp', 'model1', 'model1.ckp']


def test_first_checkpoint_of_all(limited, tmpdir):
    script(tmpdir, True, 1).run([Identity(epoch=1)])
    size = tmpdir.join('model0').size()
    for path in tmpdir.listdir():
        path.remove()
    one = script(tmpdir)

    class FromTheStart(nc.Observer):
        def on_minibatch(self, samples, loss, metric):
            limit(size)

    with pytest.raises(RuntimeError, match=WORDS + 'There is none before it: make room, and start anew'):
        try:
            one.run([Identity(epoch=3), FromTheStart()])
        finally:
            lift()
    assert pairs(tmpdir) == {}


def test_save_by_hand_leaves_the_one_before(limited, tmpdir):
    one, file = Script(test=False), str(tmpdir.join('model'))
    with nc.attach(one.trainer, [factor()], epoch_size=EPOCH):
        loop(one, 0, 7)
        one.trainer.save_checkpoint(file)
        before, kept = pairs(tmpdir), one.state()
        loop(one, 7, 8)
        limit(os.path.getsize(file))
        with pytest.raises(RuntimeError, match=WORDS):
            try:
                one.trainer.save_checkpoint(file)
            finally:
                lift()
        assert pairs(tmpdir) == before
        one.trainer.restore_from_checkpoint(file)
        assert one.state() == kept
        one.trainer.save_checkpoint(file)


@pytest.mark.parametrize('links', [True, False], ids=['links', 'no links'])
def test_pair_of_before_is_kept_where_the_file_system_has_no_links(links, limited, monkeypatch, tmpdir):
    def refuse(*names):
        raise PermissionError(1, 'Operation not permitted')

    if not links:
        monkeypatch.setattr(os, 'link', refuse)
    one, file = Script(test=False), str(tmpdir.join('model'))
    with nc.attach(one.trainer, [factor()], epoch_size=EPOCH):
        loop(one, 0, 7)
        one.trainer.save_checkpoint(file)
        before = pairs(tmpdir)
        limit(os.path.getsize(file))
        monkeypatch.setattr(shutil, 'copyfile', _copied(shutil.copyfile))
        with pytest.raises(RuntimeError):
            try:
                one.trainer.save_checkpoint(file)
            finally:
                lift()
        assert pairs(tmpdir) == before


def _copied(copy):
    def unlimited(*names):
        now = resource.getrlimit(resource.RLIMIT_FSIZE)
        lift()
        copy(*names)
        resource.setrlimit(resource.RLIMIT_FSIZE, now)
    return unlimited


def test_folder_that_cannot_be_written_is_told_before_cntk_writes(limited, tmpdir):
    one, file = Script(test=False), str(tmpdir.join('model'))
    with nc.attach(one.trainer, [Identity(epoch=9)], epoch_size=EPOCH * 9):
        loop(one, 0, 2)
        one.trainer.save_checkpoint(file)
        before = pairs(tmpdir)
        loop(one, 2, 3)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        with pytest.raises(RuntimeError, match='beside it .* cannot be written .*, on the disk mounted at'):
            try:
                one.trainer.save_checkpoint(file)
            finally:
                lift()
        assert pairs(tmpdir) == before
        loop(one, 3, 100)


def little(folder, monkeypatch, free):
    usage = shutil.disk_usage
    monkeypatch.setattr(tempfile, 'tempdir', str(folder))
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(path)._replace(free=free))


def test_full_temporary_folder_at_a_swap(monkeypatch, tmpdir):
    """Without a checkpoint_config the changed trainer is handed over in a temporary file."""
    one = Script(test=False, cross_validation=0, sweeps=3)
    little(tmpdir, monkeypatch, 1000)
    with pytest.raises(RuntimeError, match='takes a temporary file of about .* MB in %s, and that is on the disk mounted '
                                           'at .*0.0 MB free.*TMPDIR' % tmpdir):
        one.run([make() for make in CALLBACKS])
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
    one = script(folder)
    try:
        one.run([make() for make in CALLBACKS])
        said = ''
    except RuntimeError as error:
        said = str(error)
    print('OUTCOME ' + json.dumps([said, hashlib.sha1(one.state()).hexdigest(), one.session.result.complete]))


@pytest.fixture(scope='module')
def library(tmpdir_factory):
    path = str(tmpdir_factory.mktemp('library').join('kill_points.so'))
    subprocess.check_call(['g++', '-O1', '-std=c++17', '-shared', '-fPIC', '-o', path,
                           os.path.join(HERE, 'kill_points.cpp'), '-ldl'])
    return path


def start(folder, **environment):
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([HERE, os.path.dirname(HERE)]), **environment)
    done = subprocess.run([sys.executable, '-W', 'ignore', os.path.abspath(__file__), str(folder)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    lines = [line for line in done.stdout.decode().splitlines() if line.startswith('OUTCOME')]
    return json.loads(lines[0][8:]) if lines else None


@pytest.mark.slow
@pytest.mark.parametrize('error', ['EIO', 'ENOSPC'])
@pytest.mark.parametrize('pattern', ['*/model.tmp', '*/model.ckp.tmp'])
@pytest.mark.parametrize('count', [1, 2, 3, 5, 8])
def test_write_that_fails(count, pattern, error, library, expected, tmpdir):
    outcome = start(tmpdir, LD_PRELOAD=library, NETOPT_KILL_POINT=':'.join(['write', error, str(count), pattern]))
    wanted = hashlib.sha1(expected).hexdigest()
    if outcome is not None:         # else CNTK has ended the process
        said, state, complete = outcome
        assert complete == (not said) and (state == wanted or said)
        assert not said or 'could not be written whole' in said
    said, state, complete = start(tmpdir)
    assert (said, state, complete) == ('', wanted, True)


if __name__ == '__main__':
    main(sys.argv[1])
