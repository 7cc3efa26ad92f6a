"""The values that steps have behind sums of bits: sums are integers, so these are few, and what a
short form of a step gives can be looked up for all of them. NumPy only."""
from functools import lru_cache

import numpy as np

MOST_KNOWN = 1 << 25  # values of a layer; what has more keeps the long forms
_AT_ONCE = 1 << 20
_RELUS = ('relu', 'relu_halves', 'relu_fused')
_F = np.float32


class Forms:
    """Of the steps of an ending behind sums of bits, which have a short form with the same bits.

    Attributes:
        once (set of int): indices of `normalize` whose sum in float64 is, for every integer and
            channel, rounded to float32 as the exact sum is, and of finite numbers.
        maximum (set of int): indices of ReLUs that are the maximum with 0 for all of them: none
            reads NaN, -0, -infinity, or a number that its half is not exact of.
    """

    def __init__(self, once=(), maximum=()):
        self.once, self.maximum = frozenset(once), frozenset(maximum)


NONE = Forms()


def forms_behind(steps, terms, is_padded):
    """Returns the Forms of leading steps behind sums of so many terms of +-1.

    Args:
        steps (list of (str, list of array)): none of which reads another value.
        terms (int): of a sum that lacks none.
        is_padded (bool): whether a sum may lack terms.
    """
    key = tuple(
        (name, tuple(_F(vector).tobytes() for vector in vectors)) for name, vectors in steps
    )
    return _forms(key, int(terms), bool(is_padded))


@lru_cache(maxsize=64)  # an export writes each segment several times
def _forms(key, terms, is_padded):
    steps = [
        (name, [np.frombuffer(vector, _F).reshape(-1, 1) for vector in vectors])
        for name, vectors in key
    ]
    sums = np.arange(-terms, terms + 1, 1 if is_padded else 2).astype(_F)
    channels = max([1] + [len(vector) for _, vectors in steps for vector in vectors])
    if not steps or sums.size * channels > MOST_KNOWN:
        return NONE
    once, maximum = set(range(len(steps))), set(range(len(steps)))
    count = max(1, _AT_ONCE // sums.size)
    with np.errstate(all='ignore'):
        for at in range(0, channels, count):
            values = np.broadcast_to(sums, (min(count, channels - at), sums.size))
            for index, (name, vectors) in enumerate(steps):
                part = [each if len(each) == 1 else each[at : at + count] for each in vectors]
                if name not in _RELUS or not _are_whole(values):
                    maximum.discard(index)
                if name == 'normalize':
                    values, is_once = _normalized(values, *part)
                else:
                    values, is_once = _after(values, name, part), False
                if not is_once:
                    once.discard(index)
    return Forms(once, maximum)


def _after(v, name, vectors):
    """Returns the values behind a step that rounds each operation to float32."""
    a, b, c = list(vectors) + [None] * (3 - len(vectors))
    if name == 'multiply':
        return v * a
    if name == 'add':
        return v + a
    if name == 'normalize_apart':
        return (v - a) * b + c
    if name == 'relu':
        return np.where(v < 0, _F(0), v)
    if name in _RELUS:
        return v * _F(0.5) + np.abs(v) * _F(0.5)
    if name == 'leaky':
        return np.where(v > 0, v, v * a)
    if name == 'clip':
        v = np.where(v < a, a, v)
        return np.where(v > b, b, v)
    raise KeyError(name)


def _normalized(v, mean, k, beta):
    """Returns (v - mean) * k + beta with the product and the sum rounded once, and whether a sum
    in float64 that is then rounded to float32 has these bits.

    The product is exact in float64. The sum is rounded to 53 bits, then to 24; that differs from
    one rounding only where the first lost something and gave the middle of two float32 numbers,
    of which the lost then says the nearer.
    """
    product, c = np.float64(v - mean) * k, np.float64(beta)
    total = product + c
    part = total - product
    lost = (product - (total - part)) + (c - part)  # Knuth's TwoSum, exact
    near = total.astype(_F)
    rest = total - near
    mirrored = rest + total  # as far from the sum as `near`, on the other side
    other = mirrored.astype(_F)
    wrong = (mirrored - other == 0) & (lost * rest > 0)  # infinities give NaN
    is_finite = np.isfinite(k).all() and np.isfinite(beta).all()
    return np.where(wrong, other, near), bool(is_finite and not wrong.any())


def _are_whole(v):
    """Whether max(v, 0) are the bits of all ReLUs."""
    tiny = np.abs(v) < 2.0**-124  # a half of these may be rounded
    return bool(np.isfinite(v).all() and not (tiny & ((v != 0) | np.signbit(v))).any())
