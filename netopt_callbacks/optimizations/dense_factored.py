"""The layer that takes the place of a factored Dense: y = activation((x W1) W2 + b)."""
from typing import Any, Optional

import cntk as C
import numpy as np
from cntk.default_options import default_override_or, get_default_override
from cntk.internal import _as_tuple
from cntk.layers.blocks import _INFERRED, _initializer_for, identity
from cntk.variables import Record

OP_NAME = 'DenseFactored'


def product(W1, W2, output_rank=1, map_rank=-1):
    """Returns (x W1) W2 as an unapplied Function of x.

    Args:
        W1 (cntk.Parameter): [inputs..., k].
        W2 (cntk.Parameter): [k, outputs...].
        output_rank (int): number of output axes.
        map_rank (int): leading axes of x that are mapped over; -1 leaves it to the shape
            of W1 (CNTK's `infer_input_rank_to_map`).
    """
    x = C.placeholder(name='x')
    return C.times(C.times(x, W1, infer_input_rank_to_map=map_rank), W2, output_rank=output_rank)


def dense_factored(
    shapes: Any,
    activation: Any = default_override_or(identity),
    init: Any = {'W1': None, 'W2': None},
    input_rank: Optional[int] = None,
    map_rank: Optional[int] = None,
    bias: Any = default_override_or(True),
    init_bias: Any = default_override_or(0),
    name: str = '',
) -> C.Function:
    """Makes a factored Dense layer: activation((x W1) W2 + b).

    Args:
        shapes (tuple): (k, output shape): the inner size, and an int or tuple as in Dense.
        activation (callable): as in `cntk.layers.Dense`.
        init (dict): 'W1' and 'W2': arrays [inputs..., k] and [k, outputs...], or None or an
            initializer as in `cntk.layers.Dense`.
        input_rank, map_rank (int): as in `cntk.layers.Dense`.
        bias (bool), init_bias (scalar, array or initializer): as in `cntk.layers.Dense`.
        name (str): name of the block, whose op name is 'DenseFactored'.

    Returns:
        cntk.Function: unapplied, with Parameters 'W1', 'W2' and, with a bias, 'b'.

    Raises:
        ValueError: `k` is not a positive int, an array does not fit, or both ranks are given.
    """
    if input_rank is not None and map_rank is not None:
        raise ValueError(
            f'dense_factored: only one of input_rank and map_rank may be given, got {input_rank!r} '
            f'and {map_rank!r}; leave one out'
        )
    inner, outputs = (
        shapes if isinstance(shapes, (tuple, list)) and len(shapes) == 2 else (None, None)
    )
    if isinstance(inner, bool) or not isinstance(inner, (int, np.integer)) or inner < 1:
        raise ValueError(
            'dense_factored: shapes must be (inner size, output shape) with an inner size of at '
            f'least 1, got {shapes!r}; give for example shapes=(8, 100)'
        )
    activation = get_default_override(C.layers.Dense, activation=activation)
    bias = get_default_override(C.layers.Dense, bias=bias)
    init_bias = get_default_override(C.layers.Dense, init_bias=init_bias)
    outputs = _as_tuple(outputs)
    W1 = _weights('W1', _INFERRED * (input_rank or 1), (int(inner),), init)
    W2 = _weights('W2', (int(inner),), outputs, init)
    b = C.Parameter(outputs, init=init_bias, name='b') if bias else None
    reduced = -1 if input_rank is not None else map_rank or 0

    @C.BlockFunction(OP_NAME, name)
    def layer(x):
        r = product(W1, W2, len(outputs), reduced)(x)
        if b is not None:
            r = r + b
        return r if activation is None else activation(r)

    return layer


def _weights(name, inputs, outputs, init):
    """Returns the Parameter `name`, of shape inputs + outputs."""
    value = init.get(name)
    if not isinstance(value, np.ndarray):
        if value is None:
            value = get_default_override(
                C.layers.Dense, init=default_override_or(C.glorot_uniform())
            )
        return C.Parameter(
            inputs + outputs,
            name=name,
            init=_initializer_for(value, Record(output_rank=len(outputs))),
        )
    fits = value.shape[-len(outputs) :] == outputs and (
        name == 'W1' or value.shape == inputs + outputs
    )
    if not fits or value.ndim <= len(outputs):
        raise ValueError(
            "dense_factored: init['%s'] must have shape %s + %s, got %s; make it fit `shapes`, or "
            'give None for a random start'
            % (name, 'the inputs' if name == 'W1' else inputs, outputs, value.shape)
        )
    return C.Parameter(value.shape, init=value, name=name)
