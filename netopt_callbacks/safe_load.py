"""Loading a saved CNTK model without running what is written in it.

CNTK 2.7 rebuilds a Python function of a model with `exec("from {module} import {class}")` and
`eval`, the two names being strings of the file; for a native one it loads the shared library that
the file names. So whoever writes the file writes code. Here these strings are looked at before CNTK
sees the file: they must be names, of a package that is there.

The file is a protobuf message. It is read so that whatever CNTK may take for such a name has been
looked at, also where a field comes twice or in an unusual order::

    Dictionary       2: entry ...                   entry   1: key, 2: DictionaryValue
    DictionaryValue  3: bool, 8: string, 11: Vector, 12: Dictionary
    Vector           1: DictionaryValue ...
"""
import importlib.util
import mmap
import os
import re
import sys
import sysconfig
import unicodedata

_LEGACY = b'B\0'  # CNTK 1, which has no such functions
_LARGE = (
    b'\x6b\x74\x6e\x63'  # 2 GB and more: then the length of the message, and the arrays after it
)
_NESTED = {
    'dictionary': {2: 'entry'},
    'entry': {2: 'value'},
    'value': {11: 'vector', 12: 'dictionary'},
    'vector': {1: 'value'},
}
_DEEPEST = 400
_LIBRARY = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.-]*\Z')


def load_model(file, device=None):
    """Returns `cntk.load_model(file)`, once `check_model` has passed it.

    Args:
        file (str or os.PathLike): as `Function.save` wrote it.
        device (cntk.DeviceDescriptor): see CNTK.

    Raises:
        ValueError: see `check_model`.
        RuntimeError: of CNTK, where the file cannot be loaded.
    """
    import cntk

    return load_by(cntk.load_model, file, device)


def load_by(load, file, device=None):
    """Returns what a function like `cntk.load_model` loads: see `load_model`."""
    file = os.fspath(file)
    check_model(file)
    if all(ord(letter) < 128 for letter in file) or not os.path.isfile(file):
        return load(file, device)
    with open(file, 'rb') as stream:  # what CNTK makes of the name depends on the locale
        return load(stream.read(), device)


def check_model(file):
    """Looks at the names that CNTK would run of a model, without loading it.

    A Python function must be of a module that is imported already, or of a package that is
    installed, and none of Python's own; importing it still runs that package's code. A library must
    be a name, no path. A file that is not there is left to CNTK's own error.

    Raises:
        ValueError: a name is none of these, or the file is no model of CNTK.
    """
    if not os.path.isfile(file) or not os.path.getsize(file):
        return
    with open(file, 'rb') as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:2] == _LEGACY:
            return
        start, end = 0, len(data)
        if data[:4] == _LARGE:
            start, end = 8, min(end, 8 + int.from_bytes(data[4:8], 'little'))
        try:
            names = _Names()
            names.read(data, start, end, 'dictionary')
        except _Unreadable as error:
            raise ValueError(
                f'{file} is no model that CNTK 2.7 has written, or it is damaged ({error}); save '
                'it again'
            ) from None
    for kind, name in sorted(names.found):
        refused = _refused(kind, name, names.has_native)
        if refused:
            raise ValueError(
                '%s was not loaded: it names the %s %r of a function, which is %s. CNTK would run '
                'that string. Load only models of people whose code you would run'
                % (file, kind, name[:200], refused)
            )


class _Unreadable(Exception):
    pass


class _Names:
    """The names in a model that CNTK may run.

    Attributes:
        found (set of (str, str)): 'module' or 'class', and the name.
        has_native (bool): whether a function of the model may be a native one.
    """

    def __init__(self):
        self.found = set()
        self.has_native = False

    def read(self, data, start, end, kind, keys=(), depth=0):
        """Reads one message of a kind; `keys` are those of the entry that holds it."""
        if depth > _DEEPEST:
            raise _Unreadable('nested too deeply')
        fields = list(_fields(data, start, end))
        if kind == 'entry':
            keys = tuple(
                bytes(data[a:b]) for number, a, b in fields if number == 1 and b is not None
            )
            if keys and set(keys) == {b'state'}:
                return  # of the function itself: CNTK hands it over, and runs nothing of it
            keys = tuple(key.partition(b'\0')[0] for key in keys)  # as C++ reads them
        for number, a, b in fields:
            if b is None:
                if kind == 'value' and number == 3 and a and b'native' in keys:
                    self.has_native = True
            elif number in _NESTED[kind]:
                inside = _NESTED[kind][number]
                self.read(
                    data,
                    a,
                    b,
                    inside,
                    keys if inside == 'value' and kind == 'entry' else (),
                    depth + 1,
                )
            elif kind == 'value' and number == 8:
                self._take(keys, bytes(data[a:b]))

    def _take(self, keys, text):
        for key in (b'module', b'class'):
            if key in keys:
                try:
                    self.found.add((key.decode(), text.decode('utf-8')))
                except UnicodeDecodeError:
                    raise _Unreadable('a name that is no text') from None


def _fields(data, at, end):
    """Yields (number, start, end) of fields with a length, and (number, value, None) of other
    ones."""
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire = (tag & 0xFFFFFFFF) >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at, end)
            yield number, value, None
        elif wire == 2:
            length, at = _varint(data, at, end)
            length &= 0xFFFFFFFF
            if length > end - at:
                raise _Unreadable(f'cut at byte {end}')
            yield number, at, at + length
            at += length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
            yield number, 0, None
        else:
            raise _Unreadable(f'unknown field at byte {at}')
        if at > end or number == 0:
            raise _Unreadable(f'unknown field at byte {at}')


def _varint(data, at, end):
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Unreadable(f'cut at byte {at}')


def _refused(kind, name, has_native):
    """Returns what is wrong with a name, or None."""
    parts = unicodedata.normalize('NFKC', name).split('.')
    if kind == 'class':
        return None if name.isidentifier() else 'no name'
    if not all(part.isidentifier() for part in parts):
        return None if has_native and _LIBRARY.match(name) else 'no name'
    if '.'.join(parts) in sys.modules:
        return None
    return _refused_package(parts[0]) or ('a program' if parts[-1] == '__main__' else None)


def _refused_package(package):
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, AttributeError, ValueError):
        spec = None
    if spec is None:
        return 'of no package that is installed here'
    own = [sysconfig.get_paths()[which] for which in ('stdlib', 'platstdlib')]
    place = os.path.dirname(spec.origin or '') or 'built in'
    if (
        place == 'built in'
        and not spec.submodule_search_locations
        or (
            any(place == folder or place.startswith(folder + os.sep) for folder in own)
            and 'site-packages' not in place
            and 'dist-packages' not in place
        )
    ):
        return "of Python's own library"
    return None
