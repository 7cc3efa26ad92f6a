"""Checks whether CNTK's two checkpoint files are whole, and identifies them.

CNTK does not check whether its writes succeeded, and a write that fails ends the file there. Each
file is a protobuf message whose fields are the entries of a dictionary (`CNTK.proto`), so a
truncated file ends within an entry, or lacks one.
"""
import os
import struct
import zlib

from cntk import cntk_py

from ..trainers.uids import load_as_saved
from .mark import MARK

STATE = '.ckp'
_GRAPH_ENTRIES = {'version', 'type', 'root', 'uid', 'inputs', 'primitive_functions'}
_STATE_ENTRIES = {'Version', 'Learners', 'ExternalState', 'DistributedState'}
_LARGE = struct.pack(
    '<I', 0x636E746B
)  # the start of a file of 2 GB or more, whose arrays follow the message
_PORTION = 1 << 22


def fault(file):
    """Returns what is wrong with the pair `file`, `file`.ckp as CNTK 2.7 writes it, or None."""
    for path, entries, load in (
        (file, _GRAPH_ENTRIES, load_as_saved),
        (file + STATE, _STATE_ENTRIES, cntk_py.Dictionary.load),
    ):
        try:
            found = _entries(path)
            if found is None:
                load(path)
            elif not found >= entries:
                return '%s ends after %d bytes, before its %s' % (
                    path,
                    os.path.getsize(path),
                    ' and '.join(sorted(entries - found)),
                )
        except FileNotFoundError:
            return f'there is no {path}'
        except (OSError, ValueError, RuntimeError) as error:
            return '{} cannot be read: {}'.format(path, str(error).split('\n')[0])
    return None


def _entries(path):
    """Returns the names of the entries in a file; None for a large file, which only CNTK can check.

    Raises:
        ValueError: the file ends within an entry, or is not of this kind.
    """
    size, found = os.path.getsize(path), set()
    with open(path, 'rb') as stream:
        if stream.read(4) == _LARGE:
            return None
        stream.seek(0)
        while stream.tell() < size:
            kind = _varint(stream)
            if kind == 0x08:  # the version
                _varint(stream)
            elif kind == 0x12:  # an entry: its name, then its value
                length, begin = _varint(stream), stream.tell()
                if begin + length > size:
                    raise ValueError(f'it ends after {size} bytes, within an entry')
                if _varint(stream) != 0x0A:
                    raise ValueError('it is damaged')
                found.add(stream.read(min(_varint(stream), 100)).decode('utf-8', 'replace'))
                stream.seek(begin + length)
            else:
                raise ValueError('it is damaged' if found else 'it is no file of CNTK')
    return found


def _varint(stream):
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            raise ValueError('it ends within an entry')
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError('it is damaged')


def digests(file):
    """Returns a text for each file of a pair: size and CRC-32, which any flipped bit changes."""
    return tuple(_digest(path) for path in (file, file + STATE))


def _digest(path):
    size, check = 0, 0
    for portion in _portions(path):
        size, check = size + len(portion), zlib.crc32(portion, check)
    return f'{size}-{check:08x}'


def _portions(path):
    with open(path, 'rb') as stream:
        portion = stream.read(_PORTION)
        while portion:
            yield portion
            portion = stream.read(_PORTION)


def is_marked(file):
    """Whether a graph's file holds the label of a phase, see `mark`; CNTK does not load it."""
    sought, kept = MARK.encode('utf-8'), b''
    for portion in _portions(file):
        if sought in kept + portion:
            return True
        kept = portion[-len(sought) :]
    return False


def samples_of(file):
    """Returns how many samples the first learner of a pair had seen; None if it does not say.

    Raises:
        Exception: whatever CNTK raises for a file that holds no state of learners.
    """
    first = cntk_py.Dictionary.load(file + STATE)['Learners'][0]
    for key in ('sample_count', 'totalNumberOfSamplesSeen'):
        if key in first.keys():
            return first[key]
    return None
