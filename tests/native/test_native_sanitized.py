"""The bit convolution under AddressSanitizer and UndefinedBehaviorSanitizer: the fuzz target,
and the tests themselves."""
import os

import pytest

import native_builds
from netopt_callbacks import native
from paths import SUPPORT

HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture(scope='module')
def fuzz_targets(tmp_path_factory):
    return native_builds.build_fuzz_targets(tmp_path_factory)


def fuzz(program, cases, seed):
    done = native_builds.run_sanitized([program, str(cases), str(seed)])
    assert done.returncode == 0, done.stdout[-4000:]
    summary = done.stdout.strip().splitlines()[-1]
    assert summary.startswith(f'{cases} cases agree')
    assert summary.split(':')[1].split() == native.implementations()


@pytest.mark.slow
@pytest.mark.parametrize('name, cases', [('fuzz_convolution', 400), ('fuzz_program', 4000)])
@pytest.mark.parametrize('seed', range(2))
def test_fuzz(fuzz_targets, name, cases, seed):
    fuzz(fuzz_targets[name], cases, seed)


@pytest.fixture(scope='module')
def package(tmp_path_factory):
    return native_builds.build_sanitized_package(tmp_path_factory)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        'test_native.py',
        'test_native_interface.py',
        'test_native_properties.py',
        'test_native_program.py',
        'test_native_program_interface.py',
        'test_native_program_state.py',
    ],
)
def test_all_tests_sanitized(package, name):
    code = (
        f'import sys, netopt_callbacks._native as n; assert n.__file__.startswith({package!r}), '
        'n.__file__; import pytest; sys.exit(pytest.main(sys.argv[1:]))'
    )
    command = native_builds.pytest_command(
        '-c',
        os.devnull,
        '--rootdir',
        package,
        '-o',
        'pythonpath=' + SUPPORT,
        '-m',
        'not slow',
        os.path.join(HERE, name),
    )
    command[1:3] = ['-c', code]
    done = native_builds.run_sanitized(command, python_path=package)
    assert done.returncode == 0, done.stdout[-4000:]
    assert ' passed' in done.stdout
