"""What was exported beside CNTK, on other Pythons with other ONNX Runtimes, where there is no CNTK.

NETOPT_DEPLOY_PYTHONS names interpreters, separated by colons, that have NumPy and ONNX Runtime:

    NETOPT_DEPLOY_PYTHONS=/path/3.7/bin/python:/path/3.13/bin/python pytest
    tests/exporting/test_deploy_pythons.py

NETOPT_DEPLOY_ORT_LIBRARIES names files libonnxruntime.so, likewise, for the host in C++, which also
runs on those of the interpreters' wheels: ONNX Runtime 1.19 and newer have one.
"""
import glob
import json
import os
import subprocess

import numpy as np
import pytest

pytest.importorskip('cntk')
pytest.importorskip('onnx', reason='the onnx package is not installed')
pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

from deploy_files import FILES, write_files  # noqa: E402
from netopt_callbacks import deploy  # noqa: E402
from segment_networks import binarized  # noqa: E402
from test_deploy import small  # noqa: E402

PYTHONS = [python for python in os.environ.get('NETOPT_DEPLOY_PYTHONS', '').split(':') if python]
LIBRARIES = [path for path in os.environ.get('NETOPT_DEPLOY_ORT_LIBRARIES', '').split(':') if path]
HOST = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'deploy_host.py')

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('exported')
    write_files(folder)
    return folder


@pytest.mark.skipif(not PYTHONS, reason='NETOPT_DEPLOY_PYTHONS names no interpreter')
@pytest.mark.parametrize('threads', [1, 2])
@pytest.mark.parametrize('python', PYTHONS)
def test_the_same_predictions_and_bits_without_cntk(python, threads, folder):
    said = json.loads(
        subprocess.check_output(
            [python, HOST, str(folder), str(threads)],
            env=clean_environment(),
            universal_newlines=True,
            stderr=subprocess.DEVNULL,
        )
    )
    print(said)
    assert said['files'] == FILES and not said['cntk']
    assert said['faults'] == {'library': {}, 'standard': {}}


def clean_environment():
    return {name: value for name, value in os.environ.items() if not name.startswith('PYTHON')}


def library_of_wheel(python):
    package = subprocess.check_output(
        [python, '-c', 'import onnxruntime; print(onnxruntime.__path__[0])'],
        env=clean_environment(),
        universal_newlines=True,
    ).strip()
    found = glob.glob(os.path.join(package, 'capi', 'libonnxruntime.so.*'))
    if not found:
        pytest.skip(f'the wheel of {python} has no library for C')
    return found[0]


@pytest.mark.skipif(
    not PYTHONS + LIBRARIES,
    reason='NETOPT_DEPLOY_ORT_LIBRARIES names no library, NETOPT_DEPLOY_PYTHONS no interpreter',
)
@pytest.mark.parametrize('runtime', LIBRARIES + PYTHONS)
def test_a_host_in_cpp(runtime, tmp_path):
    runtime = runtime if runtime in LIBRARIES else library_of_wheel(runtime)
    host = str(tmp_path / 'host')
    source = os.path.join(os.path.dirname(HOST), 'deploy_host.cpp')
    subprocess.check_call(['g++', '-std=c++17', source, '-ldl', '-o', host])
    _, model = small(classes=10)
    model = binarized(model)
    path = str(tmp_path / 'file.onnx')
    deploy.export(model, path)
    values = (np.arange(2 * 3 * 9 * 8) * 7919 % 256 / 256).astype(np.float32).reshape(2, 3, 9, 8)
    expected = model.eval({model.arguments[0]: values}).ravel()[:3]
    for library in ([deploy.library()], []):
        said = subprocess.check_output(
            [host, runtime, path, 'image', '4', '2', '3', '9', '8'] + library,
            universal_newlines=True,
        ).split()
        print(said)
        assert np.allclose([float(word) for word in said[1:]], expected, rtol=1e-4, atol=1e-5)
