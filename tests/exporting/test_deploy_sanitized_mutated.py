"""The library of operators under AddressSanitizer and UndefinedBehaviorSanitizer, in ONNX Runtime:
mutated files.

NETOPT_DEPLOY_PYTHONS names more interpreters, as for test_deploy_sanitized.py.
"""
import glob
import os

import pytest

pytest.importorskip('cntk')
pytest.importorskip('onnx', reason='the onnx package is not installed')
pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

import native_builds  # noqa: E402
import sanitized_runtime  # noqa: E402
from deploy_files import write_files  # noqa: E402
from netopt_callbacks import native  # noqa: E402

MUTATIONS = 10000
# The segments of the files are numbered up to 7. A runtime before 1.14 gets all operators of the
# library whatever a file has, and makes a sanitized session of 128 for most of the time.
OPERATORS = 8
MUTATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'deploy_mutations.py')
IMPLEMENTATIONS = native.implementations()

pytestmark = [pytest.mark.slow, pytest.mark.parametrize('python', sanitized_runtime.PYTHONS)]


@pytest.fixture(scope='module')
def package(tmp_path_factory):
    return native_builds.build_sanitized_library(tmp_path_factory, OPERATORS)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('exported')
    write_files(folder)
    return str(folder)


@pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
def test_mutated_files_do_no_harm(package, files, python, implementation):
    """10,000 of an interpreter, over all implementations; all kinds of files with a segment."""
    number, count = IMPLEMENTATIONS.index(implementation), len(IMPLEMENTATIONS)
    first, last = (MUTATIONS * (number + at) // count for at in (0, 1))
    paths = sorted(glob.glob(os.path.join(files, '*.onnx')))
    paths.remove(os.path.join(files, 'float.onnx'))
    said = sanitized_runtime.run(package, python, implementation, MUTATE, first, last, *paths)
    print(said)
    assert said.split()[0] == str(last - first)
