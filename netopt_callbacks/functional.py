"""The manual's three steps as one function: transform, train, lower."""
import warnings
from typing import Any, Callable, Optional

import cntk as C

from .evaluation.held_out import Minibatches, held_out_data
from .lowering import Lower
from .lowering.lower import check_applied
from .optimizations.base import Optimization, as_transformed
from .optimizations.binarize import Binarize
from .signatures import shown, takes


def optimize(
    model: C.Function,
    optimization: Optimization,
    train_function: Optional[Callable[[C.Function], Any]] = None,
    data: Any = None,
    float_layers: str = 'apart',
) -> C.Function:
    """Transforms a model, trains what came out of it, and lowers it.

    Args:
        model (cntk.Function): left as it is, but that its Parameters are shared and trained
            further.
        optimization (nc.Optimization): it is applied at once, so its `epoch` and `learner` don't
            matter here; an `epoch` other than 0 is warned of.
        train_function (callable): gets the transformed model. What it returns, if it is a
            Function, takes the model's place; None means that it trained in place.
        data: NumPy arrays in the order of the model's arguments, or a minibatch source whose
            streams are named as they are; for calibration and for comparing the lowered network
            with the trained one. Without it nothing is calibrated, which is warned of where there
            is something to calibrate, and they are compared on seeded random input.
        float_layers (str): as of `nc.Lower`. The default leaves them layers of CNTK, so that a
            further call can optimize them; give 'cntk' to the last call, for speed.

    Returns:
        cntk.Function: the lowered network alone; the trained one where there is nothing to lower.
            It was compared, but the comparison and a record are in the result of a run alone.

    Raises:
        TypeError: an argument is not one of these.
        ValueError: the model is not applied to its inputs yet.
        nc.LoweringError: the lowered network differs from the trained one.
    """
    lower = Lower(float_layers=float_layers)
    _warn_of_what_is_left_out(optimization, data)
    return optimized(model, optimization, train_function, data, lower)


def optimized(
    model: C.Function,
    optimization: Optimization,
    train_function: Optional[Callable[[C.Function], Any]] = None,
    data: Any = None,
    lower: Optional[Lower] = None,
) -> C.Function:
    """Does what `optimize` says; without `lower` each layer is lowered alone, as in netopt."""
    _check(model, optimization, train_function)
    optimization.prepare(model, _minibatches(model, data))
    trained = as_transformed(optimization.transform(model), optimization.name).model
    _check_shapes(trained, model, optimization)
    returned = train_function(trained) if train_function is not None else None
    if returned is not None and not isinstance(returned, C.Function):
        raise TypeError(
            'optimize: train_function must return a cntk.Function, which replaces the model, or '
            f'None if it trained in place; got {returned!r}'
        )
    trained = trained if returned is None else returned
    lowered, _ = (lower or Lower()).run(
        trained, [optimization], _minibatches(trained, data), segments=lower is not None
    )
    return lowered


def _warn_of_what_is_left_out(optimization: Any, data: Any) -> None:
    epoch = optimization.epoch if isinstance(optimization, Optimization) else 0
    if epoch[0] if isinstance(epoch, tuple) else epoch:
        warnings.warn(
            f'optimize: {optimization.name}(epoch={epoch!r}) is applied at once, as there is no '
            'training that counts epochs: leave epoch out, or attach the optimization to the '
            'training',
            stacklevel=3,
        )
    if (
        data is None
        and isinstance(optimization, Binarize)
        and 'calibrate' in vars(optimization.options).values()
    ):
        warnings.warn(
            f'optimize: there is no held-out data to calibrate {optimization.name} on, so it does '
            'without: give data=(features,)',
            stacklevel=3,
        )


def _check(model: Any, optimization: Any, train_function: Any) -> None:
    if isinstance(model, Optimization):
        raise TypeError(
            f'optimize: model must be a cntk.Function, got the optimization {model.name}; the '
            'model comes first: optimize(model, optimization)'
        )
    if isinstance(model, C.Trainer):
        raise TypeError(
            'optimize: model must be a cntk.Function, got a Trainer; give its network, '
            'trainer.model, or attach the optimization to its training with nc.attach'
        )
    check_applied('optimize', model)
    if isinstance(optimization, (list, tuple)):
        raise TypeError(
            'optimize: optimization must be one nc.Optimization, got a '
            f'{type(optimization).__name__} of {len(optimization)}; call optimize once for each, '
            'on what the call before returned, those that binarize last'
        )
    if not isinstance(optimization, Optimization):
        raise TypeError(
            'optimize: optimization must be an nc.Optimization such as '
            f'nc.BinarizeConvolution(), got {optimization!r}'
        )
    if train_function is not None and not takes(train_function, 1):
        raise TypeError(
            'optimize: train_function must be a function of the transformed model, got '
            f'{shown(train_function)}; leave it out to train later'
        )


def _check_shapes(new: C.Function, model: C.Function, optimization: Optimization) -> None:
    shapes = [[output.shape for output in function.outputs] for function in (model, new)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f'optimize: transform(model) of {optimization.name} must keep the outputs, of shapes '
            f'{shapes[0]}, got {shapes[1]}; edit the model with nc.graph'
        )


def _minibatches(model: C.Function, data: Any) -> Any:
    return Minibatches(
        None if data is None else held_out_data(data, model.arguments), model.arguments
    )
