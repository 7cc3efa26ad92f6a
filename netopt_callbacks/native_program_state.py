"""A program's ops, described in Python, as the bytes of `native/state.h`.

Adding an op: one file native/op_<name>.cpp, one line in native/ops.h, one row in OPS below, one row
in the tests' table.
"""
import struct
from collections import OrderedDict
from typing import Callable, NamedTuple

import numpy as np

from netopt_callbacks.native_arrays import (
    INT32,
    checked_integer,
    float32_array,
    pair_of_integers,
    two,
)
from netopt_callbacks.native_machine import _native
from netopt_callbacks.native_program_bytes import Fields, op_bytes, with_head

STEPS = dict(
    multiply=1,
    add=1,
    normalize=3,
    normalize_apart=3,
    relu=0,
    relu_halves=0,
    relu_fused=0,
    leaky=1,
    clip=2,
)
ORDERS = ('taps', 'channels', 'winograd', 'rest_first')
VALUE_STEPS = ('add_value', 'multiply_value')
INFINITY = np.float32(np.inf)


def state_of(ops, inputs, outputs):
    """Returns the state, bytes, of the program with these ops, inputs and outputs.

    Raises:
        TypeError, ValueError: names the op and the key at fault.
    """
    if not isinstance(inputs, dict) or not inputs:
        raise TypeError(
            f'inputs must be a dict of names and shapes that is not empty, received {inputs!r}'
        )
    if isinstance(outputs, str) or not outputs:
        raise ValueError(f'outputs must be a list of names that is not empty, received {outputs!r}')
    known = OrderedDict()  # name to (number, rank)
    parts = [struct.pack('<I', len(inputs))]
    for name, shape in inputs.items():
        parts.append(_input(name, shape))
        known[name] = (len(known), len(shape))
    parts.append(struct.pack('<I', len(ops)))
    for index, op in enumerate(ops):
        try:
            parts.append(_op(op, known))
        except (TypeError, ValueError) as error:
            name = op.get('op') if isinstance(op, dict) else op
            raise type(error)(f'op {index} ({name}): {error}') from None
    parts.append(struct.pack('<I', len(outputs)))
    for name in outputs:
        if name not in known:
            raise ValueError(
                'output {!r} is not a value of the program; it has {}'.format(
                    name, ', '.join(map(str, known))
                )
            )
        parts.append(struct.pack('<II', *known[name]))
    return with_head(b''.join(parts))


def _input(name, shape):
    if not isinstance(shape, (tuple, list)) or len(shape) not in (1, 3):
        raise ValueError(
            f'input {name!r} has shape {shape!r}, expected (channels,) or (channels, height, width)'
        )
    channels = checked_integer(shape[0], 'channels', 1, INT32)
    sides = [
        0 if side is None else checked_integer(side, 'height or width', 1, INT32)
        for side in shape[1:]
    ] or [1, 1]
    return struct.pack('<qqqI', channels, sides[0], sides[1], len(shape))


def _op(op, known):
    """The bytes of one op; enters what it gives in `known`."""
    if not isinstance(op, dict):
        raise TypeError(f'an op is a dict, received {type(op).__name__}')
    keys = dict(op)
    name = keys.pop('op', None)
    if name not in OPS:
        raise ValueError('there is no such op; known: %s' % ', '.join(OPS))
    kind = OPS[name]
    reads = [keys.pop('input', None)]
    gives = [(keys[key], key) for key in ('values', 'bits') if keys.get(key) is not None]
    if not gives or any(key not in kind.gives for _, key in gives):
        raise ValueError(
            'it gives {}, received {}'.format(
                ' or '.join(kind.gives), [key for _, key in gives] or 'no name'
            )
        )
    fields = Fields()
    kind.fields(keys, fields, reads)
    for key in ('values', 'bits'):
        keys.pop(key, None)
    if keys:
        raise ValueError('unknown keys %s' % ', '.join(sorted(map(str, keys))))
    for value in reads:
        if value not in known:
            raise ValueError(
                'it reads {!r}, which is not a value before it; there are {}'.format(
                    value, ', '.join(map(str, known))
                )
            )
    rank = kind.rank if kind.rank else fields.rank or known[reads[0]][1]
    numbers = [known[value][0] for value in reads]
    for value, _ in gives:
        if value in known:
            raise ValueError(f'{value!r} is given twice')
        known[value] = (len(known), rank)
    return op_bytes(kind.native, numbers, fields)


def _vector(values, name):
    """float32, of one number or one per channel."""
    if isinstance(values, np.ndarray):
        return float32_array(values, name, 1)
    if isinstance(values, bool) or not isinstance(values, (int, float, np.float32, np.integer)):
        raise TypeError(f'{name} must be a float32 array or a number, received {values!r}')
    return np.float32(values).reshape(1)


def _truths(values, name):
    values = np.asarray(values)
    if values.dtype != np.bool_ or values.ndim > 1:
        raise TypeError(
            f'{name} must be bool, of rank 1, received {values.dtype} of rank {values.ndim}'
        )
    return values.reshape(-1)


def _bits(keys, fields):
    """low, high and flip, from these keys or from threshold and decreasing."""
    if 'threshold' in keys:
        threshold = _vector(keys.pop('threshold'), 'threshold')
        if np.isnan(threshold).any():
            raise ValueError('threshold holds NaN, which no value can be compared with')
        decreasing = _truths(keys.pop('decreasing', False), 'decreasing')
        threshold, decreasing = np.broadcast_arrays(threshold, decreasing)
        none = np.where(
            decreasing, threshold == -INFINITY, threshold == INFINITY
        )  # nothing is beyond infinity
        with np.errstate(over='ignore'):  # infinity is beyond the largest number
            above, below = np.nextafter(threshold, INFINITY), np.nextafter(threshold, -INFINITY)
        low = np.where(none, INFINITY, np.where(decreasing, -INFINITY, above))
        high = np.where(none, -INFINITY, np.where(decreasing, below, INFINITY))
        flip = None
    else:
        if 'low' not in keys or 'high' not in keys:
            raise ValueError('bits need threshold, or low and high')
        low, high = _vector(keys.pop('low'), 'low'), _vector(keys.pop('high'), 'high')
        flip = keys.pop('flip', None)
    fields.floats('low', low)
    fields.floats('high', high)
    if flip is not None:
        fields.floats('flip', _truths(flip, 'flip'))


def _ending(keys, fields, reads):
    names = []
    for index, step in enumerate(keys.pop('steps', ())):
        if (
            not isinstance(step, (tuple, list))
            or not step
            or step[0] not in tuple(STEPS) + VALUE_STEPS
        ):
            raise ValueError(
                'step %d is %r, expected a tuple that begins with one of %s'
                % (index, step, ', '.join(tuple(STEPS) + VALUE_STEPS))
            )
        name, arguments = step[0], step[1:]
        expected = STEPS.get(name, 1)
        if len(arguments) != expected:
            raise ValueError(
                f'step {index}, {name}, has {len(arguments)} arguments, expected {expected}'
            )
        names.append(name)
        if name in VALUE_STEPS:
            reads.append(arguments[0])
            continue
        for letter, vector in zip('abc', arguments):
            fields.floats(f'{index}.{letter}', _vector(vector, f'step {index}, {name}'))
    fields.text('steps', ','.join(names))
    fields.integers('store', int(keys.get('values') is not None))
    if keys.get('bits') is not None:
        _bits(keys, fields)


def _sums(keys, fields, reads, words, channels):
    """What follows an integer convolution; the words as they have to be for it."""
    if 'sum_threshold' not in keys:
        _ending(keys, fields, reads)
        return words
    threshold = np.asarray(keys.pop('sum_threshold'))
    if threshold.dtype.kind not in 'iu' or threshold.shape != words.shape[:1]:
        raise ValueError(
            'sum_threshold must be integers of shape {}, received {} of shape {}'.format(
                words.shape[:1], threshold.dtype, threshold.shape
            )
        )
    decreasing = _truths(
        keys.pop('sum_decreasing', np.zeros(threshold.shape, bool)), 'sum_decreasing'
    )
    if decreasing.shape != threshold.shape:
        raise ValueError(
            f'sum_decreasing must have shape {threshold.shape}, received {decreasing.shape}'
        )
    threshold = np.clip(threshold.astype(np.int64), -INT32, INT32)
    fields.integers('thresholds', np.where(decreasing, -threshold, threshold))
    # dot < t is -dot > -t, and -dot is the sum of the weights with their signs turned.
    tail = np.full(words.shape[3], 2**64 - 1, np.uint64)
    if channels % 64:
        tail[-1] = np.uint64(2 ** (channels % 64) - 1)
    return np.where(decreasing[:, None, None, None], ~words & tail, words)


def _convolution(keys, fields, reads):
    if 'weights' in keys:
        weights = float32_array(keys.pop('weights'), 'weights', 4)
        if 0 in weights.shape:
            raise ValueError(f'weights must not be empty, received shape {weights.shape}')
        words, channels = _native.pack_weights(weights), weights.shape[1]
    else:
        words, channels = keys.pop('words', None), checked_integer(
            keys.pop('channels', None), 'channels', 1, INT32
        )
        if not isinstance(words, np.ndarray) or words.dtype != np.uint64 or words.ndim != 4:
            raise TypeError('words must be a uint64 array of rank 4')
        if 0 in words.shape or words.shape[3] != (channels + 63) // 64:
            raise ValueError(
                f'words has shape {words.shape}, {channels} channels need [filters, height, width, '
                f'{(channels + 63) // 64}]'
            )
    _shape(keys, fields, words.shape[1:3], words.shape[0], channels)
    fields.words('words', _sums(keys, fields, reads, words, channels))


def _float_convolution(keys, fields, reads):
    weights = float32_array(keys.pop('weights', None), 'weights', 4)
    if 0 in weights.shape:
        raise ValueError(f'weights must not be empty, received shape {weights.shape}')
    _shape(keys, fields, weights.shape[2:], weights.shape[0], weights.shape[1])
    _order(keys, fields, int(np.prod(weights.shape[1:])), weights.shape[1])
    fields.floats('weights', weights)
    _ending(keys, fields, reads)


def _order(keys, fields, terms, channels):
    """In which order a float sum is taken; nothing where it is the plain one."""
    order, block = keys.pop('order', 'taps'), keys.pop('block', 0)
    rounded = keys.pop('rounded', False)
    if order not in ORDERS:
        raise ValueError(f'order must be one of {", ".join(map(repr, ORDERS))}, received {order!r}')
    most = dict(taps=channels, channels=terms, winograd=0, rest_first=terms)[order]
    block = checked_integer(block, 'block', 0, most)
    if not isinstance(rounded, (bool, np.bool_)):
        raise TypeError(f'rounded must be True or False, received {rounded!r}')
    if rounded and order == 'winograd':
        raise ValueError("order 'winograd' does not take rounded=True")
    if order != 'taps' or block:
        fields.integers('order', ORDERS.index(order))
        fields.integers('block', block)
    if rounded:
        fields.integers('rounded', 1)


def _shape(keys, fields, kernel, filters, channels):
    _geometry(keys, fields, kernel, with_dilation=True)
    fields.integers('groups', checked_integer(keys.pop('groups', 1), 'groups', 1, INT32))
    fields.integers('filters', filters)
    fields.integers('channels', channels)


def _dense(keys, fields, reads, convolution=_convolution):
    weights = float32_array(keys.pop('weights', None), 'weights', 2)
    image = keys.pop('image', (weights.shape[0], 1, 1))
    if (
        len(image) != 3
        or int(np.prod(image, dtype=np.int64)) != weights.shape[0]
        or 0 in weights.shape
    ):
        raise ValueError(
            f'weights have shape {weights.shape}, which does not fit an image of {image} values'
        )
    keys['weights'] = np.ascontiguousarray(weights.T).reshape((weights.shape[1],) + tuple(image))
    convolution(keys, fields, reads)


def _float_dense(keys, fields, reads):
    _dense(keys, fields, reads, _float_convolution)


def _geometry(keys, fields, kernel, with_dilation=False):
    fields.integers('kernel', kernel)
    fields.integers('strides', pair_of_integers(keys.pop('strides', (1, 1)), 'strides', 1))
    fields.integers(
        'padding',
        [
            pair_of_integers(side, 'padding', 0)
            for side in two(keys.pop('padding', ((0, 0), (0, 0))), 'padding')
        ],
    )
    if with_dilation:
        fields.integers('dilation', pair_of_integers(keys.pop('dilation', (1, 1)), 'dilation', 1))


def _pooling(maximum=None):
    def fields_of(keys, fields, reads):
        _geometry(keys, fields, pair_of_integers(keys.pop('kernel', None), 'kernel', 0))
        if maximum is not None:
            fields.integers('maximum', maximum)

    return fields_of


def _reshape(keys, fields, reads):
    shape = tuple(checked_integer(length, 'shape', -1, INT32) for length in keys.pop('shape', ()))
    if len(shape) not in (1, 3):
        raise ValueError(f'shape has {len(shape)} lengths, expected 1 or 3')
    fields.integers('shape', shape + (1, 1) if len(shape) == 1 else shape)
    fields.rank = len(shape)


def _splice(keys, fields, reads):
    others = keys.pop('others', ())
    if isinstance(others, str):
        raise ValueError(f'others must be a list of names, received {others!r}')
    reads.extend(others)


def _no_fields(keys, fields, reads):
    pass


class _Op(NamedTuple):
    native: str  # its name in native/ops.h
    gives: tuple  # what it may give: 'values', 'bits'
    rank: int  # of what it gives; 0 for that of what it reads
    # (keys, fields, reads): takes the op's keys, adds its fields, and the values it reads besides
    # `input`
    fields: Callable


OPS = OrderedDict(
    [
        ('pack', _Op('pack', ('bits',), 0, _ending)),
        ('map', _Op('map', ('values', 'bits'), 0, _ending)),
        ('convolution', _Op('convolution', ('values', 'bits'), 3, _convolution)),
        ('dense', _Op('convolution', ('values', 'bits'), 1, _dense)),
        ('float_convolution', _Op('float_convolution', ('values', 'bits'), 3, _float_convolution)),
        ('float_dense', _Op('float_convolution', ('values', 'bits'), 1, _float_dense)),
        ('or_pool', _Op('or_pool', ('bits',), 3, _pooling())),
        ('max_pool', _Op('pool', ('values',), 3, _pooling(1))),
        ('average_pool', _Op('pool', ('values',), 3, _pooling(0))),
        ('mean_abs', _Op('mean_abs', ('values',), 3, _no_fields)),
        ('reshape', _Op('reshape', ('values',), 0, _reshape)),
        ('splice', _Op('splice', ('values',), 0, _splice)),
        ('unpack', _Op('unpack', ('values',), 0, _no_fields)),
    ]
)
