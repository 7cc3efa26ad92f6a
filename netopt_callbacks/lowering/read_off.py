"""What a trained graph does to numbers, read off the graph: CNTK evaluates its own operations,
nothing is derived.

Thresholds belong to the machine they are read on: CNTK's BatchNormalization gives other bits where
MKL has other instructions.
"""
import itertools

import cntk as C
import numpy as np

from .. import graph
from ..native_program import Program
from .flat import fixed_value
from .nodes import FUNCTIONS, Unsupported

_ROWS = 4096  # samples that CNTK evaluates at once
_INFINITY = np.float32(np.inf)
_LARGEST = np.finfo(np.float32).max
_BISECTIONS = 33
_ULPS = 4  # how far CNTK's factor may be from gamma / sqrt(variance + epsilon)
_PROBES = 512
_ROUNDED = ('Floor', 'HardSigmoid', 'Sqrt')  # each operation is rounded, so they are monotone


class Chain:
    """Element-wise nodes that follow each other, as a network of their own; pooling among them is
    left out.

    Args:
        nodes (list of Node): each reads what the one before computes.
        value (Value): what the first one reads.
    """

    def __init__(self, nodes, value):
        self.channels = value.channels
        self._point = (self.channels,) + (1,) * (len(value.shape) - 1)
        self.source = C.input_variable(self._point)
        self._held, self._read = [], []
        current = self.source
        for node in nodes:
            if node.kind == 'max_pool':
                self._read.append(current)
            if node.kind in ('max_pool', 'identity'):
                continue
            current = C.as_composite(node.function).clone(C.CloneMethod.share, {node.data: current})
            self._held.append(current)
            current = current.outputs[0]
        self._read.append(current)

    def __call__(self, values):
        """Evaluates the chain.

        Args:
            values (array): float32 [samples, channels].

        Returns:
            list of array: float32 [samples, channels]: what each pooling reads, and what the last
            node computes.
        """
        found = []
        for start in range(0, len(values), _ROWS):
            rows = np.ascontiguousarray(values[start : start + _ROWS], np.float32)
            found.append(
                graph.evaluate(self._read, {self.source: rows.reshape((-1,) + self._point)})
            )
        return [np.concatenate(parts).reshape(len(values), self.channels) for parts in zip(*found)]


def integer_thresholds(path, sign, product, most):
    """Reads off for which integers a sign is positive.

    Args:
        path (list of Node): from the product to the sign, max pooling among them.
        sign (Node): the sign.
        product (Value): the integers, of magnitude up to `most`.

    Returns:
        (threshold, decreasing, inverted): int64 [channels], bool [channels], bool [channels]: the
        bit is integer > threshold, or < where it decreases; `inverted` says of which channels it is
        the sign's opposite, since max pooling of what decreases afterwards is the AND of bits, and
        OR is that of the opposites.

    Raises:
        Unsupported: the sign is not monotone in the integer.
    """
    integers = np.arange(-most, most + 1, dtype=np.float32)
    chain = Chain(path + [sign], product)
    results = chain(np.broadcast_to(integers[:, None], (len(integers), product.channels)))
    bits = results[-1] > 0
    inverted = np.zeros(product.channels, bool)
    for pooled in results[:-1]:
        inverted |= _falls(pooled, bits, sign)
    for pooled in results[:-1]:
        if _falls(pooled, bits, sign)[inverted].sum() != inverted[_varies(bits)].sum():
            raise Unsupported(sign, 'two poolings before it go opposite ways in a channel')
    bits = bits != inverted
    changes = (bits[1:] != bits[:-1]).sum(axis=0)
    if changes.max() > 1:
        raise Unsupported(
            sign, 'its sign is not monotone in the integers of %d channels' % (changes > 1).sum()
        )
    decreasing = bits[0] & ~bits[-1]
    count = bits.sum(axis=0)
    # count integers are positive: the largest or, where it decreases, the smallest ones.
    threshold = np.where(decreasing, -most + count, most - count)
    return threshold, decreasing, inverted


def _varies(bits):
    return bits.any(axis=0) & ~bits.all(axis=0)


def _falls(values, bits, sign):
    """Returns in which channels the larger of two values has the bit 0; raises Unsupported
    where it is neither way."""
    if not np.isfinite(values).all():
        raise Unsupported(sign, 'what is pooled before it is not finite')
    least = [np.where(chosen, values, _INFINITY).min(axis=0) for chosen in (bits, ~bits)]
    most = [np.where(chosen, values, -_INFINITY).max(axis=0) for chosen in (bits, ~bits)]
    rises, falls = most[1] < least[0], most[0] < least[1]
    if not (rises | falls).all():
        raise Unsupported(sign, 'its sign is not monotone in what is pooled before it')
    return falls & ~rises


def float_thresholds(path, sign, value):
    """Reads off for which floats a sign is positive, by bisection.

    Args:
        path (list of Node): from the value to the sign, without pooling.
        sign (Node): the sign.
        value (Value): any float32, NaN and infinities among them.

    Returns:
        dict: the keys `low`, `high` and `flip` of a program's bits.

    Raises:
        Unsupported: the sign is not monotone in the value, or NaN and infinities have signs that no
            range gives.
    """
    for node in path:
        if node.op_name in FUNCTIONS and node.op_name not in _ROUNDED:
            # CNTK's Softplus, for one, is not monotone, and not every float can be tried.
            raise _of_integers_only(node)
    chain = Chain(path + [sign], value)

    def bits_of(rows):
        return chain(np.asarray(rows, np.float32).reshape(-1, value.channels))[-1] > 0

    channels = np.ones(value.channels, np.float32)
    ends = bits_of(np.stack([-_LARGEST * channels, _LARGEST * channels]))
    low, high = _ordered(-_LARGEST * channels), _ordered(_LARGEST * channels)
    for _ in range(_BISECTIONS):
        middle = (low + high) >> 1
        as_low = bits_of(_unordered(middle))[0] == ends[0]
        low, high = np.where(as_low, middle, low), np.where(as_low, high, middle)
    turn = _unordered(low)
    turn = np.where(ends[0] == ends[1], _LARGEST, turn).astype(
        np.float32
    )  # the last that is as the least one
    _check_monotone(bits_of, ends, turn, sign)
    special = bits_of(np.stack([-_INFINITY * channels, _INFINITY * channels, np.nan * channels]))
    return _range(ends, turn, special, sign)


def _check_monotone(bits_of, ends, turn, sign):
    random = np.random.RandomState(0)
    near = _unordered(
        np.clip(
            _ordered(turn) + np.arange(-64, 65)[:, None], _ordered(-_LARGEST), _ordered(_LARGEST)
        )
    )
    far = random.standard_normal((1024, len(turn))) * 10.0 ** random.uniform(-6, 6, (1024, 1))
    wide = _unordered(random.randint(_ordered(-_LARGEST), _ordered(_LARGEST), (1024, len(turn))))
    rows = np.concatenate([near, far.astype(np.float32), wide])
    if not np.array_equal(bits_of(rows), np.where(rows <= turn, ends[0], ends[1])):
        raise Unsupported(sign, 'its sign is not monotone in what it is computed from')


def _range(ends, turn, special, sign):
    """Returns low, high and flip: a bit is low <= v <= high, or not where it flips; NaN is in
    no range."""
    at_minus, at_plus, flip = special
    inside = ends != flip  # which ends of the finite numbers are in the range
    with np.errstate(over='ignore'):  # what follows the largest number is infinity
        low = np.where(inside[0], -_LARGEST, np.nextafter(turn, _INFINITY))
    high = np.where(inside[1], _LARGEST, turn)
    nothing = ~inside.any(axis=0)
    low, high = np.where(nothing, _INFINITY, low), np.where(nothing, -_INFINITY, high)
    wanted = at_minus != flip, at_plus != flip
    low = np.where(inside[0] & wanted[0], -_INFINITY, low)
    high = np.where(inside[1] & wanted[1], _INFINITY, high)
    if (wanted[0] & ~inside[0]).any() or (wanted[1] & ~inside[1]).any():
        raise Unsupported(sign, 'an infinity has another sign than the largest numbers')
    return dict(low=low.astype(np.float32), high=high.astype(np.float32), flip=flip)


def _ordered(values):
    """Returns float32 as int64 in the same order, neighbours 1 apart; both zeros are 0."""
    bits = np.asarray(values, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _unordered(integers):
    """Inverse of `_ordered`."""
    return (
        np.where(integers < 0, -integers | 0x80000000, integers).astype(np.uint32).view(np.float32)
    )


def steps_of(node):
    """Returns what a program does in the place of a map, found to be equal in every bit on probes.

    Args:
        node (Node): of kind 'map'.

    Returns:
        list of tuple: steps.

    Raises:
        Unsupported: no steps give CNTK's bits.
    """
    if node.op_name in FUNCTIONS:
        raise _of_integers_only(node)
    value = node.inputs[0]
    probes = _probes(value.channels)
    expected = Chain([node], value)(probes)[-1]
    most = 0
    for candidates in _by_form(_candidates(node, value)):
        chosen = np.full(value.channels, -1)
        for number, steps in enumerate(candidates):
            same = same_bits(_by_program(steps, probes), expected).all(axis=0)
            chosen = np.where((chosen < 0) & same, number, chosen)
            if (chosen >= 0).all():
                return _mixed(candidates, chosen)
        most = max(most, int((chosen >= 0).sum()))
    raise Unsupported(
        node,
        f'native code does not give the bits of its {node.op_name} in {value.channels - most} '
        'channels',
    )


def _of_integers_only(node):
    return Unsupported(
        node,
        f'{node.op_name} may be in programs only between the integers of a binary layer and a sign',
    )


def is_mean_of_magnitudes(node, value):
    """Whether a reduction of |value| is what the op mean_abs of a program computes, in every bit,
    on random samples.

    Args:
        node (Node): of kind 'mean_abs'.
        value (Value): whose magnitudes are reduced.
    """
    magnitude = node.inputs[0].producer
    source = C.input_variable(value.shape)
    inner = C.as_composite(magnitude.function).clone(C.CloneMethod.share, {magnitude.data: source})
    whole = C.as_composite(node.function).clone(C.CloneMethod.share, {node.data: inner.outputs[0]})
    rows = np.random.RandomState(2).standard_normal((8,) + value.shape) * 10.0 ** np.arange(
        -4, 4
    ).reshape((8,) + (1,) * len(value.shape))
    rows = rows.astype(np.float32)
    (expected,) = graph.evaluate(list(whole.outputs), {source: rows})
    program = Program([dict(op='mean_abs', input='x', values='y')], dict(x=value.shape), ['y'])
    return bool(same_bits(program(rows).ravel(), np.asarray(expected, np.float32).ravel()).all())


def _by_form(candidates):
    """Yields lists of consecutive candidates that differ in numbers alone."""
    for _, same_form in itertools.groupby(candidates, lambda steps: [step[0] for step in steps]):
        yield list(same_form)


def _mixed(candidates, chosen):
    """Returns steps of which each channel's numbers come from its own candidate."""
    if (chosen == chosen[0]).all():
        return candidates[chosen[0]]
    channels = np.arange(len(chosen))
    return [
        (first[0],)
        + tuple(
            np.stack([candidate[place][index] for candidate in candidates])[chosen, channels]
            for index in range(1, len(first))
        )
        for place, first in enumerate(candidates[0])
    ]


def _candidates(node, value):
    """Yields lists of steps that may be what a map computes."""
    name, fixed = node.op_name, node.fixed
    if name == 'ReLU':
        yield [('relu_halves',)]
        yield [('relu_fused',)]
        yield [('relu',)]
    elif name == 'Negate':
        yield [('multiply', _vector(-1, value))]
    elif name == 'BatchNormalization':
        yield from _normalizations(node, value)
    elif name in ('LeakyReLU', 'PReLU'):
        for alpha in fixed:
            yield [('leaky', _per_channel(alpha, value))]
    elif name == 'Clip':
        yield [('clip', _per_channel(fixed[0], value), _per_channel(fixed[1], value))]
    else:
        operand = _per_channel(fixed[0], value)
        if name == 'ElementTimes':
            yield [('multiply', operand)]
        elif name == 'Plus':
            yield [('add', operand)]
        elif node.operands[0][1].fixed:
            yield [('multiply', _vector(-1, value)), ('add', operand)]
        else:
            yield [('add', -operand)]


def _normalizations(node, value):
    """Yields CNTK's form of BatchNormalization, fma(x - mean, k, beta) or unfused, with factors
    near the formula's."""
    gamma, beta, mean, variance = (fixed_value(variable).ravel() for variable in node.fixed[:4])
    with np.errstate(all='ignore'):
        k = gamma * (
            1 / np.sqrt(variance.astype(np.float64) + node.function.attributes['epsilon'])
        ).astype(np.float32)
        factors, up, down = [k], k, k
        for _ in range(_ULPS):
            up, down = np.nextafter(up, _INFINITY), np.nextafter(down, -_INFINITY)
            factors += [up, down]
    for name in ('normalize', 'normalize_apart'):
        for factor in factors:
            yield [(name, mean, factor, beta)]


def _per_channel(variable, value):
    return _vector(fixed_value(variable).ravel(), value)


def _vector(numbers, value):
    return np.ascontiguousarray(np.broadcast_to(np.asarray(numbers, np.float32), (value.channels,)))


def _probes(channels):
    """Returns float32 [samples, channels] of all magnitudes, special ones among them."""
    random = np.random.RandomState(1)
    rows = random.standard_normal((_PROBES, channels)) * 10.0 ** random.uniform(-4, 4, (_PROBES, 1))
    special = np.array(
        [
            0,
            -0.0,
            1,
            -1,
            1.4e-45,
            -1.4e-45,
            1e-39,
            -1e-39,
            _LARGEST,
            -_LARGEST,
            np.inf,
            -np.inf,
            np.nan,
        ],
        np.float32,
    )
    integers = random.randint(-5000, 5000, (_PROBES, channels))
    return np.concatenate([np.repeat(special[:, None], channels, axis=1), rows, integers]).astype(
        np.float32
    )


def _by_program(steps, rows):
    program = Program(
        [dict(op='map', input='x', values='y', steps=steps)], dict(x=(rows.shape[1],)), ['y']
    )
    return program(rows)


def same_bits(one, other):
    """Equal in every bit; a NaN equals any."""
    return (one.view(np.uint32) == other.view(np.uint32)) | np.isnan(one) & np.isnan(other)
