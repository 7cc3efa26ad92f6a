"""The names of `cntk.contrib.netopt.quantization`, so that changing the import is the whole
port."""
from typing import Any, Callable, Optional

import cntk as C

from ._types import Filter
from .functional import optimized
from .graph import check_model
from .lowering import Lower
from .lowering.lower import check_applied
from .optimizations.binarize_convolution import BinarizeConvolution
from .optimizations.binarize_convolution import binarize_convolution as _binarize_convolution
from .optimizations.binary_convolution import binary_convolution
from .signatures import shown, takes

__all__ = [
    'binarize_convolution',
    'binary_convolution',
    'convert_to_binary_convolution',
    'convert_to_native_binary_convolution',
]


def binarize_convolution(
    model: C.Function,
    train_function: Callable[[C.Function], Any],
    filter_function: Optional[Filter] = None,
) -> C.Function:
    """Binarizes convolutions, trains, and puts native ops in their place.

    Args:
        model (cntk.Function): left as it is, but that its Parameters are trained further.
        train_function (callable): gets the binarized model and trains it in place, or returns
            another.
        filter_function (callable): says which convolutions to binarize; None takes all.

    Returns:
        cntk.Function: with a block 'BinaryConvolveOp' for each, named as the layers were;
            evaluation only.

    Raises:
        TypeError: `model` is no Function, or there is no `train_function`.
        ValueError, NotImplementedError: see `nc.BinarizeConvolution`.
        nc.LoweringError: the native network differs from the trained one.
    """
    if not takes(train_function, 1):
        raise TypeError(
            'binarize_convolution: train_function must be a function of the binarized model, '
            f'got {shown(train_function)}; to train it yourself take convert_to_binary_convolution'
        )
    check_applied('binarize_convolution', model)
    return optimized(
        model,
        BinarizeConvolution(filter_function=filter_function or _every),
        train_function,
    )


def convert_to_binary_convolution(
    model: C.Function, filter_function: Optional[Filter] = None
) -> C.Function:
    """Returns `model` with trainable binary convolutions; its trained weights are their latent
    weights.

    Args:
        model (cntk.Function): left as it is; the Parameters are shared.
        filter_function (callable): says which convolutions to binarize; None takes all.

    Returns:
        cntk.Function: with a block 'BinaryConvolution' for each, named as the layers were.

    Raises:
        TypeError: `model` is no Function.
        ValueError, NotImplementedError: see `nc.BinarizeConvolution`.
    """
    check_model('convert_to_binary_convolution', model)
    return _binarize_convolution(model, filter_function or _every).model


def convert_to_native_binary_convolution(model: C.Function) -> C.Function:
    """Returns a model with its blocks 'BinaryConvolution' and 'BinaryDense' on native ops; it may
    come from a file.

    Args:
        model (cntk.Function): left as it is.

    Returns:
        cntk.Function: evaluation only; `model` itself where it has no such block.

    Raises:
        TypeError: `model` is no Function.
        ValueError: the model is not applied to its inputs yet.
        nc.LoweringError: the native network differs from the trained one, on seeded random input.
    """
    check_applied('convert_to_native_binary_convolution', model)
    lowered, _ = Lower().run(model, [BinarizeConvolution()], segments=False)
    return lowered


def _every(layer: Any) -> bool:
    return True
