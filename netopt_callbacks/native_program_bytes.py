"""The parts of a program's state as bytes, as `native/state.h` has them."""
import struct
import zlib

import numpy as np

from netopt_callbacks.native_machine import _native

MAGIC = b'netoptPR'


def with_head(rest):
    """The bytes of a state with their head: magic, version, checksum, length."""
    return (
        MAGIC
        + struct.pack(
            '<IIQ', _native.program_state_version, zlib.crc32(rest) & 0xFFFFFFFF, len(rest)
        )
        + rest
    )


def op_bytes(native, numbers, fields):
    """The bytes of a native op that reads the values of these numbers and has these Fields."""
    return b''.join(
        [
            _text(native),
            struct.pack('<I', len(numbers)),
            struct.pack(f'<{len(numbers)}I', *numbers),
            struct.pack('<I', len(fields.parts)),
        ]
        + fields.parts
    )


def _text(text):
    return struct.pack('<H', len(text)) + text.encode('ascii')


class Fields:
    """The fields of an op, as bytes, and the rank of what it gives where the fields decide it."""

    def __init__(self):
        self.parts, self.rank = [], None

    def _add(self, name, code, count, data):
        self.parts.append(_text(name) + struct.pack('<BQ', code, count) + data)

    def integers(self, name, values):
        values = np.asarray(values, '<i8').ravel()
        self._add(name, 0, values.size, values.tobytes())

    def floats(self, name, values):
        values = np.asarray(values, '<f4').ravel()
        self._add(name, 1, values.size, values.tobytes())

    def words(self, name, values):
        self._add(name, 2, values.size, np.asarray(values, '<u8').tobytes())

    def text(self, name, value):
        self._add(name, 3, len(value), value.encode('ascii'))
