"""The names of `cntk.contrib.netopt.factorization`, so that changing the import is the whole
port."""
from typing import Any, Callable, Optional, Tuple

import cntk as C
import numpy as np

from ._types import Filter, Rank
from .graph import check_model
from .optimizations import low_rank, ranks
from .optimizations.dense_factored import dense_factored
from .optimizations.factor_dense import factor_dense as _factor_dense

__all__ = ['dense_factored', 'factor_dense', 'svd_subprojection']


def factor_dense(
    model: C.Function,
    projection_function: Optional[Rank] = None,
    filter_function: Optional[Filter] = None,
    factor_function: Optional[Callable[..., Any]] = None,
) -> C.Function:
    """Returns `model` with its Dense layers factored, W ~ W1 W2.

    Args:
        model (cntk.Function): left as it is; the Parameters kept are shared.
        projection_function (callable): W [inputs, outputs] -> rank; `nc.energy(0.95)` and the
            other rules are such functions.
        filter_function (callable): says which Dense layers to factor; None takes all.
        factor_function (callable): (W, k) -> (W1, W2); None takes `svd_subprojection`.

    Returns:
        cntk.Function: with blocks 'DenseFactored' named as the layers were.

    Raises:
        TypeError, ValueError: see `nc.FactorDense`. A rank that saves nothing warns (UserWarning).
    """
    check_model('factor_dense', model)
    rank = ranks.chosen('factor_dense', None, projection_function, factor_function)
    return _factor_dense(
        model, rank, filter_function, factor_function, split='right', every=True
    ).model


def svd_subprojection(matrix: np.ndarray, k: int) -> Tuple[np.ndarray, np.ndarray]:
    """Returns U [m, k] and diag(S) V [k, n] of the truncated singular value decomposition.

    Args:
        matrix (numpy.ndarray): [m, n].
        k (int): 1 to min(m, n).
    """
    return low_rank.factors(matrix, k, split='right')
