"""What a rank may be, and rules that choose one; NumPy only.

A rank is an int, a fraction in (0, 1) of the smaller side of W (floor, at least 1), or a
function of W as a matrix [inputs, outputs] that returns an int. The rules below are such functions.
"""
import math
from fractions import Fraction
from numbers import Integral, Real
from typing import Any, Callable, Optional, Sequence

import numpy as np

from ..signatures import shown, takes
from . import low_rank


class Rule:
    """A rank rule: a function of W, with a repr that says what it was made with.

    Args:
        name (str), argument: of the function that made it.
        function (callable): W -> rank.
        of_shape (bool): whether it reads nothing of W but its shape.

    Attributes:
        value (str): the same for rules of the same name and number, as `speedup(2)` and
            `speedup(2.0)`.
    """

    def __init__(
        self,
        name: str,
        argument: Any,
        function: Callable[[np.ndarray], int],
        of_shape: bool = False,
    ) -> None:
        self.of_shape = of_shape
        self._text = '{}({})'.format(name, '' if argument is None else repr(argument))
        self.value = '{}({})'.format(name, '' if argument is None else repr(float(argument)))
        self._function = function

    def __call__(self, W: np.ndarray) -> int:
        return self._function(W)

    def __repr__(self) -> str:
        return self._text


def energy(fraction: float) -> Rule:
    """Returns the rule: the smallest rank that holds `fraction` of the squared singular values.

    Args:
        fraction (float): in (0, 1].
    """
    if not _is_number(fraction) or not 0 < fraction <= 1:
        raise ValueError(
            f'energy: fraction must be in (0, 1], got {fraction!r}; 0.95 keeps 95 % of the squared '
            'singular values'
        )
    return Rule(
        'energy', fraction, lambda W: low_rank.rank_of_energy(low_rank.singular_values(W), fraction)
    )


def stable_rank() -> Rule:
    """Returns the rule: |W|_F^2 / |W|_2^2, rounded up (Cuttlefish's rank, arXiv 2305.02538)."""
    return Rule('stable_rank', None, _rounded_stable_rank)


def speedup(factor: float) -> Rule:
    """Returns the rule: the largest rank that needs `factor` times fewer multiply-adds.

    W of m x n has m n multiply-adds, its factors k (m + n). At least 1, which may need more.

    Args:
        factor (float): above 1.
    """
    if not _is_number(factor) or not factor > 1:
        raise ValueError(
            f'speedup: factor must be above 1, got {factor!r}; 2 halves the multiply-adds'
        )
    return Rule(
        'speedup', factor, lambda W: _largest_rank(W.shape, 1 / _exact(factor)), of_shape=True
    )


def parameters(fraction: float) -> Rule:
    """Returns the rule: the largest rank whose factors hold at most `fraction` of W's weights.

    It is at least 1, which of a small W may be more than that.

    Args:
        fraction (float): in (0, 1).
    """
    if not _is_number(fraction) or not 0 < fraction < 1:
        raise ValueError(
            f'parameters: fraction must be in (0, 1), got {fraction!r}; 0.5 leaves half of the '
            'weights'
        )
    return Rule(
        'parameters', fraction, lambda W: _largest_rank(W.shape, _exact(fraction)), of_shape=True
    )


# Each with arguments that an error message shows.
RULES = ((energy, '(0.95)'), (stable_rank, '()'), (speedup, '(2)'), (parameters, '(0.5)'))


def check(rank: Any, what: str = 'rank') -> Any:
    """Returns `rank` once it is known to be one that `resolve` takes.

    Args:
        rank (int, float or callable): see the module.
        what (str): its name in messages, as 'FactorDense: rank'.

    Raises:
        TypeError: it is none of the three, or a function that takes no W.
        ValueError: an int below 1, or a fraction outside (0, 1).
    """
    for rule, arguments in RULES:
        if rank is rule:
            raise TypeError(
                f'{what} must be a rule with its parentheses, got the function '
                f'nc.{rule.__name__}; give nc.{rule.__name__}{arguments}'
            )
    if callable(rank):
        if not takes(rank, 1):
            raise TypeError(
                f'{what} as a function must take one argument, W as [inputs, outputs], got '
                f'{shown(rank)}; write lambda W: ...'
            )
        return rank
    if not _is_number(rank):
        raise TypeError(
            f'{what} must be an int, a fraction in (0, 1) of the smaller side, or a function '
            f'of W, got {rank!r}; give 8, 0.25 or nc.energy(0.95)'
        )
    if isinstance(rank, Integral) and rank < 1:
        raise ValueError(
            f'{what} must be at least 1, got {rank!r}; to leave layers as they are use '
            'filter_function'
        )
    if not isinstance(rank, Integral) and not 0 < rank < 1:
        raise ValueError(
            f'{what} as a fraction must be in (0, 1) of the smaller side, got {rank!r}; a rank '
            'of its own is an int'
        )
    return rank


def resolve(rank: Any, W: np.ndarray, layer: Any) -> int:
    """Returns the rank of one layer as an int from 1 to min(W.shape).

    Args:
        rank (int, float or callable): see the module.
        W (numpy.ndarray): [inputs, outputs].
        layer (str): the layer, for messages.

    Raises:
        TypeError: a function returned something else than an int.
        ValueError: the rank is below 1 or above the smaller side of W.
    """
    smaller = min(W.shape)
    check(rank, f'the rank of {layer}')
    if callable(rank):
        chosen = rank(W)
        if isinstance(chosen, bool) or not isinstance(chosen, Integral):
            raise TypeError(
                f'the rank function of {layer} must return an int, got {chosen!r} '
                f'({type(chosen).__name__}); round it, as int(...) does'
            )
    elif isinstance(rank, Integral):
        chosen = rank
    else:
        chosen = max(1, int(_exact(rank) * smaller))
    if not 1 <= chosen <= smaller:
        raise ValueError(
            'the rank of %s must be 1 to %d, the smaller side of its %dx%d weights, got %d; '
            'to leave the layer as it is use filter_function'
            % ((layer, smaller) + tuple(W.shape) + (chosen,))
        )
    return int(chosen)


def of_shape(rank: Any, shape: Sequence[int], layer: Any) -> Optional[int]:
    """Returns the rank of a layer where its shape alone decides; None where its values do.

    Args:
        rank (int, float or callable): see the module; an int may be above the smaller side.
        shape (sequence of int): of W as [inputs, outputs].
        layer (str): the layer, for messages.
    """
    if isinstance(rank, Integral):
        return int(rank)
    if callable(rank) and not getattr(rank, 'of_shape', False):
        return None
    return resolve(rank, np.broadcast_to(0, shape), layer)


def _rounded_stable_rank(W: np.ndarray) -> int:
    # The quotient for r equal singular values is r up to a few ulp, which must not make it r + 1.
    quotient = low_rank.stable_rank(low_rank.singular_values(W)) * (1 - 1e-9)
    return min(min(W.shape), int(math.ceil(quotient)))


def _largest_rank(shape: Sequence[int], fraction: Any) -> int:
    rows, columns = shape
    return min(min(shape), max(1, int(fraction * rows * columns / (rows + columns))))


def _exact(number: Any) -> Any:
    """Returns a number as the decimal it was written as: 0.29 of 100 is 29, not
    28.999999999999996."""
    return Fraction(repr(float(number)))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def chosen(what: str, rank: Any, projection_function: Any, factor_function: Any) -> Any:
    """Returns the one rank given under either name; None leaves it to `factor_function`.

    Raises:
        TypeError, ValueError: see `FactorDense`.
    """
    for name, function in (
        ('projection_function', projection_function),
        ('factor_function', factor_function),
    ):
        if function is not None and not callable(function):
            raise TypeError(
                f'{what}: {name} must be a function of W (factor_function of W and k), got '
                f'{function!r}; a rank that is a number goes into rank'
            )
    if factor_function is not None and not takes(factor_function, 2):
        raise TypeError(
            f'{what}: factor_function must take two arguments, W and the rank k, got '
            f'{shown(factor_function)}; write lambda W, k: ...'
        )
    if rank is not None and projection_function is not None:
        raise ValueError(
            f'{what}: one of rank and projection_function must choose the rank, got rank={rank!r} '
            f'and projection_function={projection_function!r}; leave one out'
        )
    if rank is None and projection_function is None:
        if factor_function is None:
            raise ValueError(
                f'{what}: something must choose the rank, got no rank, projection_function or '
                'factor_function; give rank: an int, a fraction of the smaller side, or a rule '
                'as nc.energy(0.95)'
            )
        return None
    if rank is None:
        return check(projection_function, what + ': projection_function')
    return check(rank, what + ': rank')
