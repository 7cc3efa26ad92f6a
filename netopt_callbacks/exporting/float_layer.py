"""What belongs to a float layer of a program: what standard operators compute within a tolerance,
as a whole, since another engine adds its sums in another order. NumPy only.

It is a float convolution, the steps directly behind it that read no other value (bias,
normalization, ReLU), and the maximum of a pooling, where nothing else reads what these give.
"""
from typing import NamedTuple, Optional

import numpy as np

from ..native_program_read import Op

# Of factors: weights times these neither overflow nor lose digits in any usual network.
_LEAST, _MOST = 2.0**-60, 2.0**60
_VALUE_STEPS = ('add_value', 'multiply_value')


class FloatLayer(NamedTuple):
    op: Op
    steps: list  # of (name, vectors), the leading ones of the op's own
    pool: Optional[Op]


class Affine(NamedTuple):
    """factor * v + offset, float64 [channels] or [1]."""

    factor: np.ndarray
    offset: np.ndarray


def layers_of(description):
    """Returns the FloatLayers of a program, in order."""
    return [
        FloatLayer(op, own_steps(op), _pool_of(op, description))
        for op in description.ops
        if op.name == 'float_convolution'
    ]


def steps_of(op):
    """Returns [(name, vectors)] of an op's ending."""
    return [
        (name, [op.fields[f'{index}.{c}'] for c in 'abc' if f'{index}.{c}' in op.fields])
        for index, name in enumerate(filter(None, op.fields['steps'].split(',')))
    ]


def own_steps(op):
    """Returns the leading steps of an op that read no other value."""
    steps = steps_of(op)
    values = [index for index, (name, _) in enumerate(steps) if name in _VALUE_STEPS]
    return steps[: values[0]] if values else steps


def _pool_of(op, description):
    """Returns the pooling op that belongs to the layer of a float convolution, or None."""
    if op.values is None or op.bits is not None or len(own_steps(op)) < len(steps_of(op)):
        return None
    readers = [each for each in description.ops if op.values in each.reads]
    given = [output.value for output in description.outputs]
    if len(readers) != 1 or readers[0].name != 'pool' or op.values in given:
        return None
    return readers[0] if readers[0].fields['maximum'][0] == 1 else None


def sizes_of_terms(layer, x):
    """Returns what the magnitudes of the terms of a value of a FloatLayer add up to, at most: with
    that its rounding errors go, whatever the value itself is.

    Args:
        layer (FloatLayer)
        x (array): float32 [samples, ...], what it reads.

    Returns:
        array: float64 [samples, filters, 1, 1].
    """
    weights = np.abs(layer.op.fields['weights'].astype(np.float64))
    filters = int(layer.op.fields['filters'][0])
    values = np.where(np.isfinite(x), np.abs(x), 0).reshape(len(x), -1).max(axis=1, initial=0)
    with np.errstate(all='ignore'):
        sizes = values[:, None] * weights.reshape(filters, -1).sum(axis=1)
        for name, vectors in layer.steps:
            a, *others = [np.abs(np.float64(vector)) for vector in vectors] or [None]
            if name == 'multiply':
                sizes = sizes * a
            elif name == 'add':
                sizes = sizes + a
            elif name in ('normalize', 'normalize_apart'):
                sizes = (sizes + a) * others[0] + others[1]
            elif name == 'leaky':
                sizes = sizes * np.maximum(a, 1)
    return sizes[:, :, None, None]


def merged(steps):
    """Merges neighbours of `own_steps` that are affine.

    Returns:
        list: each an Affine, or a (name, vectors) that is none, or has numbers that a factor in
            the weights would not survive.
    """
    result, run = [], []
    for step in steps + [None]:
        if step is not None and _after(Affine(1.0, 0.0), *step) is not None:
            run.append(step)
            continue
        if run:
            affine = Affine(np.ones(1), np.zeros(1))
            with np.errstate(all='ignore'):
                for each in run:
                    affine = _after(affine, *each)
            result += [affine] if _is_moderate(affine) else run
            run = []
        if step is not None:
            result.append(step)
    return result


def _after(affine, name, vectors):
    """Returns an Affine with a step behind it, None where the step is not affine."""
    a, b, c = [np.float64(vector) for vector in vectors] + [None] * (3 - len(vectors))
    if name == 'multiply':
        return Affine(affine.factor * a, affine.offset * a)
    if name == 'add':
        return Affine(affine.factor, affine.offset + a)
    if name in ('normalize', 'normalize_apart'):
        return Affine(affine.factor * b, (affine.offset - a) * b + c)
    return None


def _is_moderate(affine):
    sizes = np.abs(affine.factor)
    within = (sizes == 0) | ((_LEAST <= sizes) & (sizes <= _MOST))
    return bool(within.all() and (np.abs(affine.offset) <= _MOST).all())
