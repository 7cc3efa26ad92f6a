"""The bytes of a program's state as a description, the way back from `native_program_state`; NumPy
only.

`native/state.h` has the format. What is read was checked by `nc.native.Program` before: here a
fault is an error, but not every one has a sentence of its own.
"""
import struct
from collections import OrderedDict
from typing import NamedTuple, Optional

import numpy as np

MAGIC = b'netoptPR'
VERSION = 1
_HEAD = struct.Struct('<8sIIQ')
_DTYPES = ('<i8', '<f4', '<u8', 'S1')
_ONE_VALUE = ('pool', 'mean_abs', 'reshape', 'splice', 'unpack')


class Input(NamedTuple):
    shape: Optional[tuple]  # (channels,) or (channels, height, width), None where any will do


class Op(NamedTuple):
    name: str  # of the native op
    reads: tuple  # numbers of values
    values: Optional[int]  # number of the value it gives as float32
    bits: Optional[int]  # number of the value it gives as bits
    fields: OrderedDict  # name to array, or text
    places: dict  # name to the place of its bytes in the state


class Output(NamedTuple):
    value: int  # its number
    rank: int  # 1 or 3


class Description(NamedTuple):
    inputs: list
    ops: list
    outputs: list


def description_of(state):
    """Returns the Description of a program's state.

    Args:
        state (bytes): of a `nc.native.Program`.

    Raises:
        ValueError: the bytes are no state of this version.
    """
    if len(state) < _HEAD.size or state[:8] != MAGIC:
        raise ValueError('these bytes are not the state of a program')
    _, version, _, length = _HEAD.unpack_from(state)
    if version != VERSION or length != len(state) - _HEAD.size:
        raise ValueError(
            f'the state is of version {version} and of {length} bytes, expected version {VERSION} '
            f'and {len(state) - _HEAD.size} bytes'
        )
    try:
        return _Reader(state).description()
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f'the state is damaged: {error}') from error


class _Reader:
    def __init__(self, state):
        self.state, self.at = state, _HEAD.size

    def description(self):
        inputs = []
        for _ in range(self.number('I')):
            channels, height, width = (self.number('q') for _ in range(3))
            rank = self.number('I')
            inputs.append(
                Input((channels,) if rank == 1 else (channels, height or None, width or None))
            )
        given, ops = len(inputs), []
        for _ in range(self.number('I')):
            op = self.op(given)
            given += (op.values is not None) + (op.bits is not None)
            ops.append(op)
        outputs = [Output(self.number('I'), self.number('I')) for _ in range(self.number('I'))]
        return Description(inputs, ops, outputs)

    def op(self, given):
        name = self.text()
        reads = [self.number('I') for _ in range(self.number('I'))]
        fields, places = OrderedDict(), {}
        for _ in range(self.number('I')):
            key = self.text()
            kind, count = self.number('B'), self.number('Q')
            dtype = np.dtype(_DTYPES[kind])
            places[key] = self.at
            data = self.state[self.at : self.at + count * dtype.itemsize]
            if len(data) != count * dtype.itemsize:
                raise ValueError(f'the state ends inside field {key!r}')
            self.at += len(data)
            fields[key] = data.decode('ascii') if kind == 3 else np.frombuffer(data, dtype)
        values = name in _ONE_VALUE or 'store' in fields and fields['store'][0] == 1
        bits = name in ('pack', 'or_pool') or 'thresholds' in fields or 'low' in fields
        return Op(
            name, reads, given if values else None, given + values if bits else None, fields, places
        )

    def number(self, code):
        (value,) = struct.unpack_from('<' + code, self.state, self.at)
        self.at += struct.calcsize('<' + code)
        return value

    def text(self):
        length = self.number('H')
        self.at += length
        return self.state[self.at - length : self.at].decode('ascii')
