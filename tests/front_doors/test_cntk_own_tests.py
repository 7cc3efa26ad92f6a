"""CNTK's own tests, from its wheel, with our sessions in the place of its own and callbacks on
each Trainer."""
import glob
import os
import subprocess
import sys
import xml.etree.ElementTree

import cntk
import pytest
from cntk_own_tests_workers import MPIEXEC
from paths import PYTHONPATH

from slices import few

PACKAGE = os.path.dirname(cntk.__file__)
PLUGIN = 'cntk_own_tests_plugin'
# Of long files the tests that train.
ONLY = {'io_tests.py': 'usermbsource_training', 'persist_test.py': 'not large_model'}
# CNTK ends a process without mpiexec that makes a distributed learner.
UNDER_MPIEXEC = ('distributed_test.py', 'distributed_learner_test.py')
# It counts how often its held-out source is restored: a run with callbacks measures on it, too.
COUNTS = '::test_usermbsource_training[True]'
TRAINS = ('Trainer(', 'training_session', 'train_minibatch', '.train(')


def files_that_train():
    """Returns the paths of these files within the package."""
    found = []
    for path in sorted(
        glob.glob(os.path.join(PACKAGE, '**', 'tests', '*_test*.py'), recursive=True)
    ):
        with open(path, encoding='utf-8') as file:
            text = file.read()
        # distributed_multi_learner_test.py skips all its tests on Linux.
        if any(word in text for word in TRAINS) and not os.path.basename(path).startswith(
            ('onnx', 'distributed_multi')
        ):
            found.append(os.path.relpath(path, PACKAGE))
    return found


def run(folder, mode, *files):
    """Runs CNTK's tests in a process; returns {name of a test: its outcome}, and what it
    printed."""
    names = [os.path.basename(name) for name in files]
    modules = ['cntk.' + name[: -len('.py')].replace(os.sep, '.') for name in files]
    report = str(folder.join('report.xml'))
    command = MPIEXEC + ['-n', '1'] if set(names) & set(UNDER_MPIEXEC) else []
    command += [sys.executable, '-m', 'pytest', '-q', '-p', PLUGIN, '-p', 'no:cacheprovider']
    command += ['-c', os.devnull, '--rootdir', str(folder), '--junitxml', report]
    command += [option for name in names if name in ONLY for option in ('-k', ONLY[name])]
    command += ['--pyargs'] + modules
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
        if COUNTS in ours and mode != 'import':
            assert (plain[COUNTS], ours.pop(COUNTS)) == ('passed', 'failure')
            ours[COUNTS] = 'passed'
        assert {
            name: (plain.get(name), outcome)
            for name, outcome in ours.items()
            if outcome != plain.get(name)
        } == {}, (mode, output[-3000:])
        assert set(ours) == set(plain), mode
