"""CNTK's own tests of sessions and trainers, from its wheel, with `training_session` ours."""
import os
import re
import shutil
import subprocess
import sys

import cntk
import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
FILES = ('training_session_test.py', 'trainer_test.py')
PLUGIN = 'cntk_own_tests_plugin'


def run(folder, mode):
    """Runs CNTK's tests in a process; returns pytest's counts as a dict."""
    tests = os.path.join(os.path.dirname(cntk.__file__), 'train', 'tests')
    for name in FILES:
        shutil.copy(os.path.join(tests, name), str(folder))
    command = [sys.executable, '-m', 'pytest', '-q', '-p', PLUGIN, '-p', 'no:cacheprovider',
               '-c', os.devnull, '--rootdir', str(folder)] \
        + [str(folder.join(name)) for name in FILES]
    environment = dict(os.environ, NETOPT_SESSION=mode,
                       PYTHONPATH=os.pathsep.join([HERE, os.path.dirname(HERE)]))
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=environment, universal_newlines=True, cwd=str(folder))
    counts = {word: int(count) for count, word
              in re.findall(r'(\d+) (passed|failed|skipped|error)', done.stdout.splitlines()[-1])}
    return counts, done.stdout + done.stderr


@pytest.mark.parametrize('mode', ['no callbacks', 'identity after 7 samples'])
def test_cntks_own_tests(mode, tmpdir):
    plain, _ = run(tmpdir.mkdir('plain'), 'cntk')
    ours, output = run(tmpdir.mkdir('ours'), mode)
    assert ours == plain, output[-3000:]
    assert plain == {'passed': 43}
