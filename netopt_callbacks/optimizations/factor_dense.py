"""Dense layers factored to low rank: W ~ W1 W2."""
import warnings
from numbers import Integral
from typing import Any, Callable, Optional

import cntk as C
import numpy as np

from .._types import Epoch, Filter, MakeLearner, Rank
from .. import graph
from . import low_rank, ranks
from .base import LayerNote, Optimization, Replaced, Transformed
from .dense_factored import OP_NAME, product
from .factor_choice import choice
from .matrix import check_weights, matrix, matrix_shape, sides, smaller_side
from .products import notes_of_frozen, notes_of_products
from .tied import weights_read_elsewhere


class FactorDense(Optimization):
    """Replaces Dense layers y = f(x W + b) by y = f((x W1) W2 + b), with W ~ W1 W2 of rank k.

    Activation, bias (the same Parameter) and name stay; without one the layer gets its place among
    the Dense layers, as 'Dense_2', which the filter sees, too. W1 W2 is the best approximation of
    the trained W: its truncated singular value decomposition, with the singular values split
    evenly. W of m x n has m n weights and multiply-adds, its factors k (m + n); where k saves
    nothing the layer is left as it is and its note says why. Layers that share W get the same W1
    and W2.

    Args:
        epoch, learner, learner_state: see `nc.Optimization`.
        rank (int, float or callable): k; a fraction in (0, 1) is one of the smaller side of W;
            a function gets W as [inputs, outputs]: `nc.energy(0.95)`, `nc.stable_rank()`,
            `nc.speedup(2)`, `nc.parameters(0.5)` or your own.
        filter_function (callable): `nc.graph.Layer -> bool`; None takes every Dense layer but the
            last of the network, which it takes where there is no other; in a running trainer those
            that its learners train.
        projection_function (callable): netopt's name for a rank that is a function.
        factor_function (callable): (W, k) -> (W1, W2), instead of the decomposition; it may
            choose another inner size. Without a rank it gets k = min(W.shape).

    Raises:
        TypeError, ValueError: no rank and no factor_function, two ranks, or a rank that
            cannot be one. When applied: ValueError naming the layer where a function returns a
            rank below 1 or above the smaller side, or factors that do not fit or are not
            finite; ValueError listing the layers seen where the filter takes none.

    >>> FactorDense(epoch=2, rank=0.25).rank
    0.25
    """

    blocks = (graph.Block(OP_NAME, was='Dense'),)

    def __init__(
        self,
        epoch: Epoch = 0,
        rank: Optional[Rank] = None,
        filter_function: Optional[Filter] = None,
        projection_function: Any = None,
        factor_function: Optional[Callable[..., Any]] = None,
        learner: Optional[MakeLearner] = None,
        learner_state: str = 'reset',
    ) -> None:
        super().__init__(epoch, filter_function, learner, learner_state)
        self.rank = ranks.chosen('FactorDense', rank, projection_function, factor_function)
        self.factor_function = factor_function

    def check(self, model: C.Function) -> Optional[Transformed]:
        layers, _ = choice(model, self.filter_function)
        if isinstance(self.rank, Integral) and self.factor_function is None:
            widest = max(layers, key=smaller_side)
            if self.rank > smaller_side(widest) >= 1:
                raise ValueError(
                    'FactorDense: rank must be at most the smaller side of some layer it takes, '
                    f'{smaller_side(widest)} of {widest.label}, got {self.rank}; give a smaller '
                    'rank, or a fraction of the side'
                )
        for layer in layers:
            check_weights(layer)
        if type(self).transform is not FactorDense.transform:
            return None
        if self.factor_function is None:
            _refuse_what_saves_nothing(model, layers, self.rank)
        if callable(self.rank) or self.factor_function is not None:
            return Transformed(model, replaced=_possible(model, layers))
        return _expected(model, layers, self.rank)

    def transform(self, model: C.Function) -> Transformed:
        return factor_dense(model, self.rank, self.filter_function, self.factor_function)


def _refuse_what_saves_nothing(model, layers, rank):
    """Raises ValueError for a rank of which the shapes tell that it saves on none of the layers."""
    stay, most = weights_read_elsewhere(model, layers), {}
    for layer in layers:
        if layer.W.uid in stay:
            continue
        shape = matrix_shape(layer)
        k = ranks.of_shape(rank, shape, layer.label)
        if k is None or low_rank.saves(k, shape):
            return
        most[layer.name] = low_rank.break_even_rank(shape)
    if most:
        raise ValueError(
            'FactorDense: rank must save weights on some layer it takes, got rank=%r, which saves '
            'nothing on any: %s; give a smaller one, or other layers'
            % (
                rank,
                ', '.join(
                    f"ranks up to {k} save on '{name}'" if k else f"no rank saves on '{name}'"
                    for name, k in most.items()
                ),
            )
        )


def _possible(model, layers):
    """Returns a `Replaced` for each of the layers that the weights to come, or a
    factor_function, may let be factored."""
    stay = weights_read_elsewhere(model, layers)
    return [
        Replaced(layer.name, retired=(layer.W,))
        for layer in layers
        if layer.W.uid not in stay and low_rank.break_even_rank(matrix_shape(layer))
    ]


def _expected(model, layers, rank):
    """Returns what `factor_dense` will make of the layers for a rank that is a number, but for
    the values."""
    stay = weights_read_elsewhere(model, layers)
    factors, replaced, new_functions = {}, [], {}
    for layer in layers:
        shape = matrix_shape(layer)
        k = ranks.of_shape(rank, shape, layer.label)
        if layer.W.uid in stay or not low_rank.saves(k, shape):  # none above the smaller side does
            continue
        if layer.W.uid not in factors:
            factors[layer.W.uid] = _parameters(
                layer,
                np.zeros((shape[0], k), layer.W.dtype),
                np.zeros((k, shape[1]), layer.W.dtype),
            )
            replaced.append(Replaced(layer.name, (layer.W,), factors[layer.W.uid]))
        new_functions[layer] = _factored(layer, factors[layer.W.uid])
    return Transformed(
        graph.replace(model, new_functions) if new_functions else model, replaced=replaced
    )


def _notes_of_others(model, left):
    """Returns a note for each W that is left as it is: of `left`, {layer: reason}, frozen layers
    and products that are no layers."""
    notes = {}
    for layer, reason in left.items():
        W = np.broadcast_to(layer.W.dtype(0), layer.W.shape)
        notes[layer.W.uid] = _note(layer, W, W.size, skipped=reason)
    return list(notes.values()) + notes_of_frozen(model, 'Dense') + notes_of_products(model)


def factor_dense(
    model, rank=None, filter_function=None, factor_function=None, split='even', every=False
):
    """Returns `model` with its Dense layers factored.

    Args:
        model (cntk.Function): left as it is; kept Parameters are shared.
        rank, filter_function, factor_function: see `FactorDense`.
        split (str): 'even' or 'right', see `low_rank.factors`.
        every (bool): as netopt does, factor the last Dense layer without a filter_function, too,
            and with a warning (UserWarning) a layer whose rank saves nothing, and leave a layer
            without a name as that; otherwise the first two are left as they are, with the reason in
            their notes, and a layer gets a name.

    Returns:
        Transformed: with one note per W looked at, and per W of a product that is no Dense layer.

    Raises:
        TypeError, ValueError: see `FactorDense`.
    """
    found, left = choice(model, filter_function, every)
    notes, replaced, factored, new_functions = [], [], {}, {}
    elsewhere = weights_read_elsewhere(model, found)
    for layer in found:
        if layer.W.uid not in factored:
            stays = layer.W.uid in elsewhere
            note, factors = _factor(layer, rank, factor_function, split, every, stays)
            notes.append(note)
            factored[layer.W.uid] = factors
            if factors is not None:
                replaced.append(_replaced(layer, factors, stays))
        if factored[layer.W.uid] is not None:
            new_functions[layer] = _factored(layer, factored[layer.W.uid])
    return Transformed(
        graph.replace(model, new_functions) if new_functions else model,
        notes + _notes_of_others(model, left),
        replaced,
    )


_STAYS = (
    'its weights are read elsewhere too (tied weights, or a penalty on them) and stay, so '
    'factoring would only add weights'
)


def _factor(layer, rank, factor_function, split, every, stays):
    """Returns (LayerNote, (W1, W2) as Parameters); None for the factors of a layer left alone."""
    W = matrix(layer)
    if stays and not every:
        return _note(layer, W, W.size, skipped=_STAYS), None
    # One rank for all layers may be too large for a few; what a function returns for a layer may
    # not.
    if not every and isinstance(rank, Integral) and rank > min(W.shape):
        return _skipped(layer, W, rank), None
    k = min(W.shape) if rank is None else ranks.resolve(rank, W.copy(), layer.label)
    if not every and factor_function is None and not low_rank.saves(k, W.shape):
        return _skipped(layer, W, k), None
    if factor_function is None:
        left, right, spectrum = low_rank.factors_and_spectrum(W, k, split)
    else:
        (left, right), spectrum = _checked(factor_function(W.copy(), k), W, layer), None
    k = left.shape[1]
    if not low_rank.saves(k, W.shape):
        if not every:
            return _skipped(layer, W, k), None
        warnings.warn(f'{layer.label}: {_saves_nothing(W, k)}', UserWarning, stacklevel=4)
    if stays:
        warnings.warn(f'{layer.label}: {_STAYS}', UserWarning, stacklevel=4)
    factors = _parameters(layer, left, right)
    error = low_rank.relative_error(W, left, right)
    energy = max(
        0.0, 1.0 - error**2
    )  # what a truncated decomposition keeps of the squared singular values
    return (
        _note(
            layer,
            W,
            k * sum(W.shape) + (W.size if stays else 0),
            rank=k,
            energy=energy,
            error=error,
            message=_silent(W, left, right) if factor_function is None else None,
            singular_values=spectrum,
        ),
        factors,
    )


def _replaced(layer, factors, stays):
    """Returns the `Replaced` of a layer that is factored."""
    shape = matrix_shape(layer)
    left, right = (
        factor.value.reshape(side)
        for factor, side in zip(factors, ((shape[0], -1), (-1, shape[1])))
    )
    return Replaced(
        layer.name,
        () if stays else (layer.W,),
        factors,
        lambda gradient: low_rank.projected(gradient.reshape(shape), left, right),
    )


def _silent(W, left, right):
    """Says what energy and error mean where factors begin at 0; None where none do."""
    silent, k = low_rank.silent_pairs(left, right), left.shape[1]
    if silent == k:
        return (
            'its weights are all 0, so there was nothing to lose (energy 1, error 0); W1 begins as '
            'an orthonormal basis and W2 at 0, so that they train'
        )
    if silent:
        return (
            f'its weights have rank {k - silent}, so rank {k} lost nothing and {silent} of its '
            'rows of W2 begin at 0; their columns of W1 begin orthonormal, so that they train'
        )
    return None


def _factored(layer, factors):
    """Returns the layer with W1 and W2 in the place of W, unapplied."""
    W1, W2 = factors
    core = product(W1, W2, layer.output_rank, layer.attributes['inferInputRankToMap'])
    return layer.rebuilt(core, OP_NAME)


def _parameters(layer, left, right):
    """Returns factors as Parameters: W1 [inputs..., k] and W2 [k, outputs...]."""
    inputs, outputs = sides(layer)
    return tuple(
        C.Parameter(shape, init=factor.reshape(shape), dtype=factor.dtype, name=name)
        for name, factor, shape in (
            ('W1', left, inputs + left.shape[1:]),
            ('W2', right, right.shape[:1] + outputs),
        )
    )


def _checked(factors, W, layer):
    """Returns what a factor_function returned as (W1 [m, k], W2 [k, n]) of W's dtype."""
    try:
        given = list(factors)
        if any(np.iscomplexobj(factor) for factor in given):
            raise TypeError('of complex numbers, and W is real')
        left, right = (np.array(factor, dtype=W.dtype, order='C') for factor in given)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'factor_function must return two arrays W1 and W2 for {layer.label}, it returned '
            f'{type(factors).__name__} ({error}); end it with `return W1, W2`'
        )
    if (
        left.ndim != 2
        or right.ndim != 2
        or left.shape[1] != right.shape[0]
        or left.shape[1] < 1
        or (left.shape[0], right.shape[1]) != W.shape
    ):
        raise ValueError(
            'factor_function must return W1 of shape (%d, k) and W2 of shape (k, %d) for %s, it '
            'returned shapes %s and %s; it gets W as [inputs, outputs], and W1 times W2 must '
            'be about W' % (W.shape + (layer.label, left.shape, right.shape))
        )
    for name, factor in (('W1', left), ('W2', right)):
        if low_rank.not_finite(factor):
            raise ValueError(
                f'factor_function must return finite factors for {layer.label}, its {name} holds '
                f'{low_rank.not_finite(factor)} NaN or infinite of {factor.size} values; mend it, '
                'or leave the layer out with filter_function'
            )
    return left, right


def _saves_nothing(W, k):
    """Says in full why rank k is no gain for W."""
    rows, columns = W.shape
    most = low_rank.break_even_rank(W.shape)
    return 'rank %d saves nothing: %dx%d has %d weights, its factors %d; %s' % (
        k,
        rows,
        columns,
        W.size,
        k * (rows + columns),
        f'ranks up to {most} save' if most else 'no rank saves',
    )


def _skipped(layer, W, k):
    """Returns the note of a layer left as it is because rank k saves nothing."""
    return _note(layer, W, W.size, skipped=_saves_nothing(W, k))


def _note(layer, W, after, **fields):
    """Returns the note of a layer whose W has, or is replaced by, `after` weights."""
    bias = int(np.prod(layer.b.shape)) if layer.b is not None else 0
    macs, itemsize = layer.macs, W.dtype.itemsize
    return LayerNote(
        layer.name,
        layer.W.shape,
        parameters_before=W.size + bias,
        parameters_after=after + bias,
        macs_before=macs,
        macs_after=None if macs is None else macs // W.size * after,
        bits_after=8 * itemsize,
        float_bytes=itemsize,
        **fields,
    )
