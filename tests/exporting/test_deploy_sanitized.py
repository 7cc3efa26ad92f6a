"""The library of operators under AddressSanitizer and UndefinedBehaviorSanitizer, in ONNX Runtime:
files of every kind.

NETOPT_DEPLOY_PYTHONS names more interpreters, as for test_deploy_pythons.py. What the library asks
of a runtime differs between ONNX Runtime 1.10, 1.15, 1.16 and 1.17.
"""
import functools
import json
import os
import subprocess

import pytest

pytest.importorskip('cntk')
pytest.importorskip('onnx', reason='the onnx package is not installed')
pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

import native_builds  # noqa: E402
import sanitized_runtime  # noqa: E402
from deploy_files import FILES, write_files  # noqa: E402
from netopt_callbacks import native  # noqa: E402

HOST = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'deploy_host.py')

pytestmark = [pytest.mark.slow, pytest.mark.parametrize('python', sanitized_runtime.PYTHONS)]


@pytest.fixture(scope='module')
def package(tmp_path_factory):
    return native_builds.build_sanitized_library(tmp_path_factory)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('exported')
    write_files(folder)
    return str(folder)


@functools.lru_cache(maxsize=None)  # the same for every implementation
def checksums_of_the_library(python, files, threads):
    clean = {name: value for name, value in os.environ.items() if not name.startswith('PYTHON')}
    command = [python, HOST, files, str(threads)]
    said = subprocess.check_output(command, env=clean, stderr=subprocess.DEVNULL)
    return json.loads(said)['checksums']


@pytest.mark.parametrize('threads', [1, 2])
@pytest.mark.parametrize('implementation', native.implementations())
def test_outputs_are_those_of_the_library(package, files, python, implementation, threads):
    said = sanitized_runtime.run(package, python, implementation, HOST, files, threads)
    found = json.loads(said)
    assert found['files'] == FILES and found['faults'] == {'library': {}, 'standard': {}}
    assert found['checksums'] == checksums_of_the_library(python, files, threads)
