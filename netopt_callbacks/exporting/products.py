"""What the float layers of a program read and give, in native code."""
import struct

from ..native_program import Program
from ..native_program_bytes import Fields, op_bytes, with_head
from ..native_program_read import description_of
from .float_layer import layers_of

_HEAD, _INPUT, _OUTPUT = 24, 28, 8  # bytes, as `native/state.h` has them
_ENDING = ('steps', 'store', 'low', 'high', 'flip')  # and what steps hold, 'NUMBER.LETTER'


def products_of(state, xs):
    """Runs a program and returns [(what it reads, what it gives)] of its float layers, in order.

    Args:
        state (bytes): of the program.
        xs (list of array): float32, as the program's inputs.

    Returns:
        list of (array, array): float32 [batch, channels, height, width].
    """
    description = description_of(state)
    if not layers_of(description):
        return []
    found = Program.from_state(_with_products(state, description))(*xs)
    return list(zip(found[::2], found[1::2]))


def _with_products(state, description):
    """The state of a program that gives these values in the place of its own."""
    added, outputs = [], []
    first = len(description.inputs) + sum(
        (op.values is not None) + (op.bits is not None) for op in description.ops
    )
    for layer in layers_of(description):
        read, steps = layer.op.reads[0], ','.join(name for name, _ in layer.steps)
        added += [_bare('map', read), _bare(layer.op.name, read, steps, layer.op.fields)]
        outputs += [first + len(added) - 2, first + len(added) - 1]
        if layer.pool is not None:
            added.append(op_bytes('pool', outputs[-1:], _fields(layer.pool.fields)))
            outputs[-1] += 1
    given = b''.join(struct.pack('<II', number, 3) for number in outputs)
    count_at = _HEAD + 4 + _INPUT * len(description.inputs)
    return with_head(
        state[_HEAD:count_at]
        + struct.pack('<I', len(description.ops) + len(added))
        + state[count_at + 4 : len(state) - 4 - _OUTPUT * len(description.outputs)]
        + b''.join(added)
        + struct.pack('<I', len(outputs))
        + given
    )


def _bare(name, read, steps='', given=()):
    """The bytes of an op that reads one value, and ends in these leading steps of its own."""
    count = len(list(filter(None, steps.split(','))))
    fields = _fields(
        {
            key: given[key]
            for key in given
            if key not in _ENDING and ('.' not in key or int(key.split('.')[0]) < count)
        }
    )
    fields.text('steps', steps)
    fields.integers('store', 1)
    return op_bytes(name, [read], fields)


def _fields(given):
    fields = Fields()
    for key, array in given.items():
        {'i': fields.integers, 'f': fields.floats}[array.dtype.kind](key, array)
    return fields
