"""CNTK's own tests, from its wheel, with our sessions in the place of its own and callbacks on
each Trainer."""
import glob
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree

import cntk
import pytest
from paths import PYTHONPATH

from slices import few

PACKAGE = os.path.dirname(cntk.__file__)
PLUGIN = 'cntk_own_tests_plugin'
# Those that train: all that name a Trainer, but for readers of data, what needs several workers,
# and a model of gigabytes.
LEFT_OUT = (
    'io_tests.py',
    'distributed_test.py',
    'distributed_learner_test.py',
    'distributed_multi_learner_test.py',
    'persist_test.py',
)
TRAINS = ('Trainer(', 'training_session', 'train_minibatch', '.train(')


def files_that_train():
    """Returns the paths of these files within the package."""
    found = []
    for path in sorted(
        glob.glob(os.path.join(PACKAGE, '**', 'tests', '*_test*.py'), recursive=True)
    ):
        with open(path, encoding='utf-8') as file:
            text = file.read()
        if (
            any(word in text for word in TRAINS)
            and os.path.basename(path) not in LEFT_OUT
            and not os.path.basename(path).startswith('onnx')
        ):
            found.append(os.path.relpath(path, PACKAGE))
    return found


def run(folder, mode, *files):
    """Runs CNTK's tests in a process; returns {name of a test: its outcome}, and what it
    printed."""
    copies = [shutil.copy(os.path.join(PACKAGE, name), str(folder)) for name in files]
    report = str(folder.join('report.xml'))
    command = [
        sys.executable,
        '-m',
        'pytest',
        '-q',
        '-p',
        PLUGIN,
        '-p',
        'no:cacheprovider',
        '-c',
        os.devnull,
        '--rootdir',
        str(folder),
        '--junitxml',
        report,
    ] + copies
    environment = dict(os.environ, NETOPT_SESSION=mode, PYTHONPATH=PYTHONPATH)
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        universal_newlines=True,
        cwd=str(folder),
        timeout=900,
    )
    outcomes = {}
    for case in xml.etree.ElementTree.parse(report).iter('testcase'):
        found = [child.tag for child in case if child.tag in ('failure', 'error', 'skipped')]
        outcomes[case.get('classname') + '::' + case.get('name')] = found[0] if found else 'passed'
    return outcomes, done.stdout + done.stderr


@pytest.mark.parametrize(
    'mode', few(['no callbacks', 'identity after 7 samples'], 'identity after 7 samples')
)
def test_sessions_and_trainers(mode, tmpdir):
    files = [
        os.path.join('train', 'tests', name)
        for name in ('training_session_test.py', 'trainer_test.py')
    ]
    plain, _ = run(tmpdir.mkdir('plain'), 'cntk', *files)
    ours, output = run(tmpdir.mkdir('ours'), mode, *files)
    assert ours == plain, output[-3000:]
    assert list(plain.values()) == ['passed'] * 43


@pytest.mark.slow
@pytest.mark.parametrize('file', files_that_train())
def test_callbacks_on_each_trainer(file, tmpdir):
    plain, _ = run(tmpdir.mkdir('plain'), 'cntk', file)
    assert plain
    for mode in 'import', 'observers', 'identity':
        ours, output = run(tmpdir.mkdir(mode), mode, file)
        assert {
            name: (plain.get(name), outcome)
            for name, outcome in ours.items()
            if outcome != plain.get(name)
        } == {}, (mode, output[-3000:])
        assert set(ours) == set(plain), mode
