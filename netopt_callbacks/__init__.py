"""Network optimization attached to the training you already have, for CNTK 2.7.

    import netopt_callbacks as nc

    session = nc.training_session(..., callbacks=[nc.FactorDense(epoch=2, rank=nc.energy(0.95)),
                                                  nc.BinarizeConvolution(epoch=4), nc.Lower()])
    session.train()

`nc.native`, `nc.deploy.session` and `python -m netopt_callbacks doctor` work without CNTK, on any
Python from 3.6. Every other name needs CNTK; where it cannot be imported, asking for one raises
CNTK's own error.
"""
import importlib
import sys
import types
from typing import Any, List, TYPE_CHECKING

from . import _cntk

if TYPE_CHECKING:  # `_NAMES` and `_MODULES` for type checkers
    from . import deploy, factorization, graph, native, quantization
    from .baseline import Baseline
    from .function_train import train
    from .functional import optimize
    from .graph import Block
    from .hand_loop import attach
    from .lowering import Lower, LoweringError
    from .observers.base import Observer
    from .observers.progress_bar import ProgressBar
    from .observers.tensorboard import TensorBoard
    from .optimizations.base import LayerNote, Optimization, Replaced, Transformed
    from .optimizations.binarize_convolution import BinarizeConvolution
    from .optimizations.binarize_dense import BinarizeDense
    from .optimizations.factor_dense import FactorDense
    from .optimizations.ranks import energy, parameters, speedup, stable_rank
    from .records import Record, Result
    from .session import training_session

    native_convolve_function_registered: bool

__version__ = '0.1.0'

_NAMES = {
    'training_session': 'session',
    'attach': 'hand_loop',
    'train': 'function_train',
    'optimize': 'functional',
    'Optimization': 'optimizations.base',
    'Transformed': 'optimizations.base',
    'LayerNote': 'optimizations.base',
    'Replaced': 'optimizations.base',
    'Block': 'graph',
    'FactorDense': 'optimizations.factor_dense',
    'BinarizeConvolution': 'optimizations.binarize_convolution',
    'BinarizeDense': 'optimizations.binarize_dense',
    'energy': 'optimizations.ranks',
    'stable_rank': 'optimizations.ranks',
    'speedup': 'optimizations.ranks',
    'parameters': 'optimizations.ranks',
    'Observer': 'observers.base',
    'TensorBoard': 'observers.tensorboard',
    'ProgressBar': 'observers.progress_bar',
    'Lower': 'lowering',
    'LoweringError': 'lowering',
    'Baseline': 'baseline',
    'Record': 'records',
    'Result': 'records',
}
_MODULES = ('graph', 'factorization', 'quantization', 'native', 'deploy')

__all__ = sorted([*_NAMES, *_MODULES, 'native_convolve_function_registered'])


class _Package(types.ModuleType):
    """The package as a module that finds its names when they are first asked for.

    CPython 3.6 has no module `__getattr__`; a module's class may have one.
    """

    def __getattr__(self, name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(f'{__name__}.{name}')
        if name == 'native_convolve_function_registered':
            return bool(importlib.import_module(__name__ + '.native').implementations())
        if name not in _NAMES:
            raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
        _cntk.require()
        try:
            value = getattr(importlib.import_module(f'{__name__}.{_NAMES[name]}'), name)
        except ImportError as error:
            if error.name not in ('tensorboardX', 'tqdm'):
                raise
            raise ImportError(
                f"nc.{name} needs {error.name}, which is not installed: "
                "pip install 'netopt_callbacks[train]'",
                name=error.name,
            ) from error
        setattr(self, name, value)
        return value

    def __dir__(self) -> List[str]:
        return sorted(set(__all__) | {name for name in super().__dir__() if name[:2] == '__'})


sys.modules[__name__].__class__ = _Package

if _cntk.cntk is not None:
    for _module in (
        'trainers.remember',
        'trainers.function_restores',
        'trainers.own_random_state',
        'trainers.opened_blocks',
        'checkpoints.outside',
        'readers.asked',
    ):
        importlib.import_module(f'{__name__}.{_module}').install()
    # What each optimization says of its blocks is known from here on, of models loaded from files
    # too.
    for _module in sorted(set(_NAMES.values())):
        if _module.startswith('optimizations.'):
            importlib.import_module(f'{__name__}.{_module}')
