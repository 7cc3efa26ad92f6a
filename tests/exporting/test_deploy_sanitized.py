"""The library of operators under AddressSanitizer and UndefinedBehaviorSanitizer, in ONNX Runtime:
files of every kind, and mutated ones.

NETOPT_DEPLOY_PYTHONS names more interpreters, as for test_deploy_pythons.py. What the library asks
of a runtime differs between ONNX Runtime 1.10, 1.15, 1.16 and 1.17.
"""
import glob
import json
import os
import subprocess
import sys

import pytest

pytest.importorskip('cntk')
pytest.importorskip('onnx', reason='the onnx package is not installed')
pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

import native_builds  # noqa: E402
from deploy_files import FILES, write_files  # noqa: E402
from netopt_callbacks import native  # noqa: E402

MUTATIONS = 10000
FOLDER = os.path.dirname(os.path.abspath(__file__))
HOST, MUTATE = (os.path.join(FOLDER, name) for name in ('deploy_host.py', 'deploy_mutations.py'))
PYTHONS = [sys.executable] + [
    python for python in os.environ.get('NETOPT_DEPLOY_PYTHONS', '').split(':') if python
]
IMPLEMENTATIONS = native.implementations()

# Runs a script on the sanitized library. Each tensor gets memory of its own, since the sanitizer
# does not see what is read past the end of one in an arena.
START = '''
import runpy, sys
import onnxruntime
from netopt_callbacks import deploy
assert deploy.library().startswith(sys.argv[1]), deploy.library()
class SessionOptions(onnxruntime.SessionOptions):
    def __init__(self):
        super().__init__()
        self.enable_cpu_mem_arena = self.enable_mem_pattern = False
onnxruntime.SessionOptions = SessionOptions
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name='__main__')
'''

pytestmark = [pytest.mark.slow, pytest.mark.parametrize('python', PYTHONS)]


@pytest.fixture(scope='module')
def package(tmp_path_factory):
    return native_builds.build_sanitized_library(tmp_path_factory)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('exported')
    write_files(folder)
    return str(folder)


def run_sanitized(package, python, implementation, script, *arguments):
    done = native_builds.run_sanitized(
        [python, '-c', START, package, script] + [str(argument) for argument in arguments],
        python_path=package,
        # A runtime that is asked for more memory than there is says so, rather than the sanitizer.
        ASAN_OPTIONS='detect_leaks=0:allocator_may_return_null=1',
        NETOPT_NATIVE=implementation,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize('threads', [1, 2])
@pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
def test_outputs_are_those_of_the_library(package, files, python, implementation, threads):
    clean = {name: value for name, value in os.environ.items() if not name.startswith('PYTHON')}
    command = [python, HOST, files, str(threads)]
    expected = json.loads(subprocess.check_output(command, env=clean, stderr=subprocess.DEVNULL))
    found = json.loads(run_sanitized(package, python, implementation, HOST, files, threads))
    assert found['files'] == FILES and found['faults'] == {'library': {}, 'standard': {}}
    assert found['checksums'] == expected['checksums']


@pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
def test_mutated_files_do_no_harm(package, files, python, implementation):
    """10,000 of an interpreter, over all implementations; all kinds of files with a segment."""
    number, count = IMPLEMENTATIONS.index(implementation), len(IMPLEMENTATIONS)
    first, last = (MUTATIONS * (number + at) // count for at in (0, 1))
    paths = sorted(glob.glob(os.path.join(files, '*.onnx')))
    paths.remove(os.path.join(files, 'float.onnx'))
    said = run_sanitized(package, python, implementation, MUTATE, first, last, *paths)
    print(said)
    assert said.split()[0] == str(last - first)
