"""Builds of native/ that the tests make for themselves: sanitized extensions, the sanitized
library of operators and the fuzz targets.

They share the objects: each source is compiled once in a run of the tests, in whichever of its
processes comes to it first.
"""
import contextlib
import fcntl
import glob
import os
import shutil
import subprocess
import sys
import sysconfig

from paths import CLONE

SOURCES = os.path.join(CLONE, 'native')
COMPILER = shutil.which('g++')
FLAGS = ['-std=c++17', '-ffp-contract=off', '-pthread']
# -g1: a report has files and lines; the variables would take half as long again to compile.
SANITIZE = [
    '-O1',
    '-g1',
    '-fno-omit-frame-pointer',
    '-fno-sanitize-recover=all',
    '-fsanitize=address,undefined',
]
SHARED = ['-fPIC', '-fvisibility=hidden']


def core_sources(folder=SOURCES):
    """The sources that do not know Python."""
    return sorted(
        path
        for path in glob.glob(os.path.join(folder, '*.cpp'))
        if not path.endswith('bindings.cpp')
    )


def compile_sources(arguments, timeout_seconds=900):
    done = subprocess.run(
        [COMPILER] + FLAGS + arguments + ['-I', SOURCES],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        timeout=timeout_seconds,
    )
    assert done.returncode == 0, done.stdout[-4000:]


def objects_folder(tmp_path_factory):
    """The folder of objects, for all processes of one run of the tests."""
    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:  # then each has a folder of its own, in one of the run
        folder = folder.parent
    folder = folder / 'sanitized_objects'
    folder.mkdir(exist_ok=True)
    return str(folder)


def sanitized_objects(tmp_path_factory, sources, include=()):
    """Compiles the sources that are not compiled yet; returns the paths of their objects.

    Two processes that need the same ones share the work: a source that another process compiles is
    waited for after all others.
    """
    folder = objects_folder(tmp_path_factory)
    objects = {
        source: os.path.join(folder, os.path.relpath(source, SOURCES).replace(os.sep, '-') + '.o')
        for source in sources
    }
    for how in (fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_EX):
        for source, path in objects.items():
            with contextlib.suppress(BlockingIOError), open(path + '.lock', 'w') as lock:
                fcntl.flock(lock, how)
                if not os.path.exists(path):
                    arguments = SANITIZE + SHARED + ['-I', os.path.join(SOURCES, 'onnx')]
                    compile_sources(
                        arguments + list(include) + ['-c', source, '-o', path + '.part']
                    )
                    os.replace(path + '.part', path)
    return list(objects.values())


def build_fuzz_targets(tmp_path_factory):
    """The sanitized fuzz targets with a main of their own; returns their paths, by name."""
    folder = str(tmp_path_factory.mktemp('fuzz'))
    objects = sanitized_objects(tmp_path_factory, core_sources())
    programs = {name: os.path.join(folder, name) for name in ('fuzz_convolution', 'fuzz_program')}
    for name, program in programs.items():
        source = os.path.join(SOURCES, 'fuzz', name + '.cpp')
        compile_sources(SANITIZE + ['-DBITCONV_FUZZ_MAIN', source] + objects + ['-o', program])
    return programs


def make_package(folder, *patterns):
    """A package netopt_callbacks of the files that the patterns match; returns its path."""
    package = os.path.join(str(folder), 'netopt_callbacks')
    os.mkdir(package)
    open(os.path.join(package, '__init__.py'), 'w').close()
    for pattern in patterns:
        for path in glob.glob(os.path.join(CLONE, 'netopt_callbacks', pattern)):
            shutil.copy(path, package)
    return package


def build_sanitized_package(tmp_path_factory):
    """A folder with a package netopt_callbacks that holds native*.py and a sanitized extension;
    returns the folder."""
    import pybind11

    folder = tmp_path_factory.mktemp('sanitized')
    package = make_package(folder, 'native*.py')
    extension = os.path.join(package, '_native' + sysconfig.get_config_var('EXT_SUFFIX'))
    include = ['-I', pybind11.get_include(), '-I', sysconfig.get_paths()['include']]
    sources = sorted(glob.glob(os.path.join(SOURCES, '*.cpp')))
    objects = sanitized_objects(tmp_path_factory, sources, include)
    compile_sources(SANITIZE + SHARED + ['-shared'] + objects + ['-o', extension])
    return str(folder)


def build_sanitized_library(tmp_path_factory, operators=None):
    """A folder with a package netopt_callbacks that holds deploy.py and a sanitized library of
    operators for ONNX Runtime, all or so many of them; returns the folder."""
    folder = tmp_path_factory.mktemp('sanitized')
    package = make_package(folder, 'deploy.py', 'onnx_file.py', '_types.py', 'integers.py')
    onnx = os.path.join(SOURCES, 'onnx')
    # onnx/threads.cpp stands for the thread pool; setup.py leaves the same out.
    not_in_it = [os.path.join(SOURCES, name) for name in ('measure.cpp', 'thread_pool.cpp')]
    sources = [source for source in core_sources() + core_sources(onnx) if source not in not_in_it]
    few = []
    if operators is not None:
        sources.remove(os.path.join(onnx, 'operators.cpp'))
        few = [f'-DNETOPT_MOST_OPERATORS={operators}', '-I', onnx]
        few.append(os.path.join(onnx, 'operators.cpp'))
    compile_sources(
        SANITIZE
        + SHARED
        + ['-shared']
        + few
        + sanitized_objects(tmp_path_factory, sources)
        + ['-Wl,--version-script=' + os.path.join(onnx, 'exports.map'), '-Wl,-z,nodelete']
        + ['-o', os.path.join(package, '_onnx.so')]
    )
    return str(folder)


def run_sanitized(command, python_path=None, timeout_seconds=1800, **variables):
    """Runs a command with the sanitizers' libraries loaded first; leaks of the interpreter are
    not ours."""
    libraries = [
        subprocess.check_output([COMPILER, '-print-file-name=' + name]).decode().strip()
        for name in ('libasan.so', 'libubsan.so', 'libstdc++.so')
    ]
    environment = dict(
        os.environ, ASAN_OPTIONS='detect_leaks=0', UBSAN_OPTIONS='print_stacktrace=1'
    )
    environment.update(variables)
    if python_path is not None:
        environment.update(PYTHONPATH=python_path, LD_PRELOAD=' '.join(libraries))
    return subprocess.run(
        command,
        env=environment,
        cwd=python_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        timeout=timeout_seconds,
    )


def pytest_command(*arguments):
    return [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider'] + list(arguments)
