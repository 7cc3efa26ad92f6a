"""Names of types that the public API takes, for its annotations.

CNTK 2.7 has no annotations: to a type checker every type of `cntk` is `Any`.
"""
import os
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, Sequence, Tuple, Union

import numpy as np

if TYPE_CHECKING:
    from .graph.layer import Layer
    from .observers.base import Observer
    from .optimizations.base import Optimization

Path = Union[str, 'os.PathLike[str]']
Shape = Sequence[int]
Epoch = Union[int, Tuple[int, Any]]  # completed epochs; (sweeps, cntk.train.DataUnit.sweep)
EpochSize = Union[int, Tuple[int, Any]]  # samples; (number, cntk.train.DataUnit)
Filter = Callable[['Layer'], bool]
Rank = Union[int, float, Fraction, Callable[[np.ndarray], float]]
MakeLearner = Callable[[List[Any]], Any]  # Parameters to a cntk.Learner
Callbacks = Sequence[Union['Optimization', 'Observer']]
Points = Sequence[Tuple[int, float]]  # (samples, metric)
Minibatches = Iterable[Dict[Any, Any]]  # of data by cntk.Variable
