"""How `make` looks for CPython 3.6, tried with made-up interpreters; the pins it installs; what it
compiles."""
import glob
import os
import re
import shutil
import subprocess
import sys

import pytest

from paths import CLONE

TOOLS = ('bash', 'cat', 'cksum', 'dirname', 'flock', 'grep', 'rm')

# Answers the question "may .venv be made with you?" with its own path, and then makes nothing.
USABLE = '#!/bin/sh\n[ "$1" = -c ] && echo "$0" || { echo "makes nothing: $0 $*" >&2; exit 1; }\n'
SHIM_WITHOUT_VERSION = '#!/bin/sh\necho "pyenv: python3.6: command not found" >&2\nexit 127\n'


class Machine:
    """A clone, a home folder and a PATH with the few tools that set-up needs, and no Python."""

    def __init__(self, folder):
        self.home, self.path = folder / 'home', folder / 'path'
        self.clone = folder / 'a clone'
        (self.clone / '.ci').mkdir(parents=True)
        self.home.mkdir()
        self.path.mkdir()
        for file in ('.ci/setup', 'requirements.txt'):
            shutil.copy(os.path.join(CLONE, file), str(self.clone / file))
        for tool in TOOLS:
            (self.path / tool).symlink_to(shutil.which(tool))

    def interpreter(self, path, script=USABLE):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)
        return str(path)

    def setup(self, **variables):
        """Runs the set-up, which comes as far as making .venv; returns what it said."""
        result = subprocess.run(
            [str(self.clone / '.ci' / 'setup')],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            env=dict(HOME=str(self.home), PATH=str(self.path), **variables),
        )
        assert result.returncode != 0
        assert not os.path.exists(str(self.clone / '.venv'))
        return result.stdout


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_without_cpython_36_one_message_says_how_to_get_it(machine):
    said = machine.setup()
    assert said.count('CPython 3.6 was not found') == 1
    assert 'pyenv install 3.6.15' in said and 'conda create' in said
    assert 'Found, but of no use' not in said and 'unbound variable' not in said


def test_an_interpreter_that_does_not_run_is_passed_over_and_named(machine):
    shim = machine.interpreter(machine.path / 'python3.6', SHIM_WITHOUT_VERSION)
    assert f'{shim}: pyenv: python3.6: command not found\n' in machine.setup()


@pytest.mark.parametrize(
    'place',
    [
        '.pyenv/versions/3.6.9/bin/python3.6',
        'miniconda3/bin/python3.6',
        'anaconda3/envs/old/bin/python3.6',
        'miniforge3/envs/py36/bin/python3.6',
    ],
)
def test_the_folders_of_pyenv_and_conda_are_looked_in(machine, place):
    machine.interpreter(machine.path / 'python3.6', SHIM_WITHOUT_VERSION)
    python = machine.interpreter(machine.home / place)
    assert f'makes nothing: {python} -m venv .venv' in machine.setup()


def test_the_pyenv_root_is_looked_in(machine):
    python = machine.interpreter(machine.home / 'elsewhere/versions/3.6.15/bin/python3.6')
    assert f'makes nothing: {python}' in machine.setup(PYENV_ROOT=str(machine.home / 'elsewhere'))


def test_the_path_comes_first(machine):
    machine.interpreter(machine.home / '.pyenv/versions/3.6.15/bin/python3.6')
    python = machine.interpreter(machine.path / 'python3.6')
    assert f'makes nothing: {python}' in machine.setup()


def test_every_requirement_is_pinned_once_and_comes_from_no_named_host():
    with open(os.path.join(CLONE, 'requirements.txt')) as file:
        lines = [line.partition('#')[0].strip() for line in file]
    requirements = [line for line in lines if line]
    assert all(re.match(r'[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*$', line) for line in requirements)
    names = [line.partition('==')[0].lower() for line in requirements]
    assert len(names) == len(set(names))


def test_without_pybind11_setup_py_says_what_to_do():
    """pip older than 10 does not read pyproject.toml."""
    done = subprocess.run(
        [sys.executable, '-c']
        + ["import runpy, sys; sys.modules['pybind11'] = None; runpy.run_path('setup.py')"],
        stderr=subprocess.PIPE,
        universal_newlines=True,
        cwd=CLONE,
    )
    assert done.returncode == 1
    assert done.stderr.endswith('on CPython 3.6: python -m pip install pip==21.3.1\n')


@pytest.mark.parametrize('name', ['native', 'onnx', 'mpi_cxx'])
def test_compiled_files_load_where_no_libpython_is(name):
    (file,) = glob.glob(os.path.join(CLONE, f'netopt_callbacks/_{name}.cpython-36m-*.so'))
    needed = subprocess.check_output(['readelf', '-d', file], universal_newlines=True)
    assert 'libc.so' in needed and 'libpython' not in needed


def package_information(folder, address):
    """Returns what an index shows of the package, as setup.py makes it."""
    environment = {name: os.environ[name] for name in os.environ if name != 'NETOPT_ADDRESS'}
    if address:
        environment['NETOPT_ADDRESS'] = address
    subprocess.run(
        [sys.executable, 'setup.py', '-q', 'egg_info', '--egg-base', str(folder)],
        cwd=CLONE,
        check=True,
        stdout=subprocess.DEVNULL,
        env=environment,
    )
    return (folder / 'netopt_callbacks.egg-info' / 'PKG-INFO').read_text(encoding='utf-8')


def test_links_of_the_package_page_begin_with_the_address(tmp_path):
    page = package_information(tmp_path, 'https://host/owner/name/blob/v1/')
    links = re.findall(r'\]\(([^)]+)\)', page)
    assert 'https://host/owner/name/blob/v1/docs/guide.md' in links
    assert 'https://host/owner/name/blob/v1/docs/images/recovery.png?raw=true' in links
    assert all(link.startswith('https://') for link in links), links
    assert 'Project-URL: Changelog, https://host/owner/name/blob/v1/CHANGELOG.md' in page
    for path in re.findall(r'https://host/owner/name/blob/v1/([^)?#\s]+)', page):
        assert os.path.exists(os.path.join(CLONE, path)), path


def test_without_an_address_the_package_page_has_no_link_that_leads_nowhere(tmp_path):
    page = package_information(tmp_path, None)
    links = re.findall(r'\]\(([^)]+)\)', page)
    assert all(link.startswith('https://') for link in links), links
    assert 'Project-URL' not in page and '![' not in page
    assert 'the guide has a whole one' in page
