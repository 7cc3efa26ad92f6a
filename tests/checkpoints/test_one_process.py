"""Two processes under one checkpoint name: the second is told before anything is written."""
import os
import signal
import subprocess
import sys

import cntk as C
import pytest

import netopt_callbacks as nc
from netopt_callbacks.checkpoints.lock import Lock
from paths import CLONE
from user_script import EPOCH, Identity, Script, factor, loop

HOLDS = '''
import os, sys, time
sys.path.insert(0, %r)
import importlib.util
spec = importlib.util.spec_from_file_location('lock', %r)
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)
held = lock.Lock(*sys.argv[1:3])
try:
    held.take()
    print('HELD' if held._owner else 'SHARED', flush=True)
except RuntimeError as error:
    print(error, flush=True)
if sys.argv[3:] == ['forks'] and os.fork() == 0:
    time.sleep(600)
sys.stdin.read()
held.release()
''' % (
    CLONE,
    os.path.join(CLONE, 'netopt_callbacks', 'checkpoints', 'lock.py'),
)


class Other:
    """Another process that takes the lock, where it can, until it is ended; it has no CNTK."""

    def __init__(self, file, *options, **environment):
        self.process = subprocess.Popen(
            [sys.executable, '-c', HOLDS, file, file + '.netopt'] + list(options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            universal_newlines=True,
            env=dict(os.environ, **environment),
        )
        self.said = self.process.stdout.readline().strip()

    def end(self, how=None):
        if how is not None:
            self.process.send_signal(how)
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def listed(folder):
    return {path.relto(folder): path.read_binary() for path in folder.visit() if path.isfile()}


@pytest.fixture
def other(tmpdir):
    """Holds the lock of `model`."""
    process = Other(str(tmpdir.join('model')))
    assert process.said == 'HELD'
    yield process
    if process.process.returncode is None:
        process.end()


def test_session_is_told_before_anything_is_written(other, tmpdir):
    script = Script(folder=str(tmpdir), test=False, checkpoint=300, cross_validation=0)
    before = listed(tmpdir)
    with pytest.raises(
        RuntimeError,
        match=f'process {other.process.pid} on .* is training under the checkpoint name '
        '.*model.*nothing was written',
    ):
        script.run([factor()])
    assert listed(tmpdir) == before and script.trainer.total_number_of_samples_seen == 0
    assert not script.session.result.complete


def test_hand_loop_is_told_before_its_checkpoint_is_touched(other, tmpdir):
    script, file = Script(test=False), str(tmpdir.join('model'))
    with nc.attach(script.trainer, [Identity(epoch=1)], epoch_size=EPOCH):
        loop(script, 0, 2)
        with pytest.raises(RuntimeError, match='is training under the checkpoint name'):
            script.trainer.save_checkpoint(file)
        assert not os.path.exists(file)
        script.trainer.save_checkpoint(str(tmpdir.join('another')))
        other.end()
        script.trainer.save_checkpoint(file)
        second = Other(file)
        assert 'is training under' in second.said
        second.end()
        loop(script, 2, 6)
    last = Other(file)
    assert last.said == 'HELD'  # the run is over
    last.end()


@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGTERM, None])
def test_lock_of_a_process_that_has_ended_is_none(how, tmpdir):
    file = str(tmpdir.join('model'))
    first = Other(file)
    first.end(how)
    assert os.path.exists(file + '.netopt/lock') == (how is not None)
    second = Other(file)
    assert second.said == 'HELD'
    second.end()


def test_child_of_a_process_that_was_killed_does_not_hold_it(tmpdir):
    file = str(tmpdir.join('model'))
    first = Other(file, 'forks')
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    second = Other(file)
    assert second.said == 'HELD'
    second.end()


def test_workers_of_one_job_share_it(tmpdir):
    file = str(tmpdir.join('model'))
    first = Other(file, PMIX_NAMESPACE='17')
    shares, refused = Other(file, PMIX_NAMESPACE='17'), Other(file, PMIX_NAMESPACE='18')
    assert (first.said, shares.said) == ('HELD', 'SHARED') and 'is training under' in refused.said
    for process in shares, refused, first:
        process.end()


def test_two_runs_of_one_process(tmpdir):
    first, second = (
        Lock(str(tmpdir.join('model')), str(tmpdir.join('model.netopt'))) for _ in range(2)
    )
    first.take()
    with pytest.raises(RuntimeError, match='this process is training under'):
        second.take()
    second.take(shared=True)
    second.release()  # it is not its own
    outer = Other(str(tmpdir.join('model')))
    assert f'process {os.getpid()} on' in outer.said
    outer.end()
    first.release()
    assert not tmpdir.join('model.netopt').check()
    second.take()
    second.release()


def test_folder_that_cannot_be_made_is_no_error_of_the_lock(tmpdir):
    tmpdir.join('file').write('')
    lock = Lock('file/model', str(tmpdir.join('file', 'model.netopt')))
    lock.take()
    lock.release()


def test_session_leaves_no_lock(tmpdir):
    script = Script(folder=str(tmpdir), test=False, checkpoint=300, cross_validation=0, sweeps=1)
    seen = []

    class Looks(nc.Observer):
        def on_start(self, run):
            other = Other(str(tmpdir.join('model')))
            seen.append(other.said)
            other.end()

    script.run([Identity(epoch=1), Looks()])
    assert 'is training under' in seen[0]
    assert 'lock' not in os.listdir(str(tmpdir.join('model.netopt')))
    C.load_model(str(tmpdir.join('model')))
