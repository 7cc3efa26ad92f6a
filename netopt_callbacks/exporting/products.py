"""What the float convolutions of a program read and give, in native code."""
import struct

from ..native_program import Program
from ..native_program_bytes import Fields, op_bytes, with_head
from ..native_program_read import description_of

_HEAD, _INPUT, _OUTPUT = 24, 28, 8  # bytes, as `native/state.h` has them
_ENDING = ('steps', 'store', 'low', 'high', 'flip')  # and what steps hold, 'NUMBER.LETTER'


def products_of(state, xs):
    """Runs a program and returns [(what it reads, its sums)] of its float convolutions, in order.

    Args:
        state (bytes): of the program.
        xs (list of array): float32, as the program's inputs.

    Returns:
        list of (array, array): float32 [batch, channels, height, width]. The sums are without
            what follows them.
    """
    description = description_of(state)
    if all(op.name != 'float_convolution' for op in description.ops):
        return []
    found = Program.from_state(_with_products(state, description))(*xs)
    return list(zip(found[::2], found[1::2]))


def _with_products(state, description):
    """The state of a program that gives these values in the place of its own."""
    added, count = [], len(description.ops)
    first = len(description.inputs) + sum(
        (op.values is not None) + (op.bits is not None) for op in description.ops
    )
    for op in description.ops:
        if op.name == 'float_convolution':
            added += [_bare('map', op.reads[0]), _bare(op.name, op.reads[0], op.fields)]
    outputs = b''.join(struct.pack('<II', first + number, 3) for number in range(len(added)))
    count_at = _HEAD + 4 + _INPUT * len(description.inputs)
    return with_head(
        state[_HEAD:count_at]
        + struct.pack('<I', count + len(added))
        + state[count_at + 4 : len(state) - 4 - _OUTPUT * len(description.outputs)]
        + b''.join(added)
        + struct.pack('<I', len(added))
        + outputs
    )


def _bare(name, read, given=()):
    """The bytes of an op that reads one value and ends in nothing but its values."""
    fields = Fields()
    for key in given:
        if key not in _ENDING and '.' not in key:
            of_kind = {'i': fields.integers, 'f': fields.floats}
            of_kind[given[key].dtype.kind](key, given[key])
    fields.text('steps', '')
    fields.integers('store', 1)
    return op_bytes(name, [read], fields)
