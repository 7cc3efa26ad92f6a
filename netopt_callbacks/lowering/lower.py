"""Lowering at the end of a run: native ops in the place of trained blocks, and the gate."""
import warnings
from numbers import Real
from typing import Any, Sequence

import cntk as C
import numpy as np

from ..graph import check_model
from ..observers.base import Observer
from ..optimizations.base import Optimization
from ..optimizations.binarize import Binarize
from ..optimizations.binary_block import binary_blocks
from ..optimizations.factor_dense import FactorDense
from . import speed
from .parity import compare
from .segment_pass import lower_segments
from .replace import lower_binary_layers

# Where the functional API gets no data: this many samples, or sequences of these lengths, and this
# size of free axes.
RANDOM_SAMPLES = 16
RANDOM_STEPS = (3, 1, 4, 2)
RANDOM_SIDE = 32


class LoweringError(RuntimeError):
    """The lowered network differs from the trained one, so it is not handed over.

    Attributes:
        parity (nc.lowering.Parity): in what it differs.
    """

    def __init__(self, parity: Any) -> None:
        super().__init__(
            'the lowered network does not compute what was trained, so it is not returned; the '
            f'trained one is in result.model.{_where(parity)}\n{parity}'
        )
        self.parity = parity


def _where(parity):
    """Returns in words where a network that is refused differs, as far as is known."""
    said = ''
    if parity.first_difference is not None:
        said = f' It first differs in {parity.first_difference}.'
    if parity.lowered_by:
        said += ' Look {}at lower() of {}: what it gave is compared end to end only.'.format(
            'also ' if said else '', ' and '.join(parity.lowered_by)
        )
    return said


class Lower(Observer):
    """Builds the network on native ops when training ends, and checks that it computes what was
    trained.

    Training is not touched: the lowered network is another Function, for evaluation only, in
    `result.lowered`, and `result.parity` says how it compares. Both are evaluated on the held-out
    data, without which a run with `Lower` does not start. Layer by layer, given the same input,
    integers and outputs must be equal bit for bit. End to end a bit may differ only where a value
    ties with a threshold within a few units in the last place; see `nc.lowering.Parity`.

    Args:
        tolerance (float): largest difference of an output, relative to its sample's scale, in
            samples in which no bit ties; it admits float sums that CNTK rounds differently in the
            layers that are not lowered. 0 asks for equality.
        float_layers (str): what becomes of float convolutions and Dense layers around binary ones.
            'cntk': they keep CNTK's bits. Convolutions of which native code adds the products in
            CNTK's own order, found to be equal in every bit, become part of the segment; all else
            stays in CNTK. 'native': all become part of it: fewer crossings, but what the others
            compute is CNTK's within `tolerance` only, each alone, and a bit behind them may differ
            where it ties within `tolerance`; the report says what it buys. Convolutions are done
            by tiles of Winograd where that is faster, and if the network then differs by more,
            none is. 'taps': as 'native', without tiles. 'apart': all stay layers of CNTK, to be
            trained, factored or binarized in the lowered network. So it is, whatever is said here,
            where an optimization of the run has a `lower` of its own.

    Raises:
        TypeError, ValueError: `tolerance` is not a number of at least 0, `float_layers` is none of
            these.
    """

    works_in_cntks_train = False  # a progress writer builds no network

    def __init__(self, tolerance: float = 1e-5, float_layers: str = 'cntk') -> None:
        super().__init__()
        check_float_layers('Lower', float_layers)
        self.float_layers = float_layers
        if isinstance(tolerance, bool) or not isinstance(tolerance, Real):
            raise TypeError(
                f'Lower: tolerance must be a number, got {tolerance!r}; leave it out for the '
                'default'
            )
        if not tolerance >= 0:
            raise ValueError(
                f'Lower: tolerance must be at least 0, got {tolerance!r}; 0 asks for equality'
            )
        self.tolerance: float = float(tolerance)

    def run(
        self,
        model: C.Function,
        optimizations: Sequence[Optimization],
        minibatches: Any = None,
        segments: bool = True,
        timed: bool = False,
    ) -> Any:
        """Lowers the segments of `model`, other binary layers, and the rest by every optimization's
        `lower`, in their order; compares.

        Args:
            model (cntk.Function): the exported model.
            optimizations (sequence of nc.Optimization): those of the run.
            minibatches: dicts of the model's arguments to data, may be iterated again; empty or
                None compares on seeded random input.
            segments (bool): whether layers are lowered together where they can be; else each alone,
                as in netopt.
            timed (bool): whether `Parity.speed` is measured; it takes a few calls of the network.

        Returns:
            (cntk.Function, Parity): the lowered network; `model` itself where there is nothing to
            lower.

        Raises:
            LoweringError: the two networks differ.
        """
        float_layers = 'apart' if any(map(_has_own_lower, optimizations)) else self.float_layers
        given = bool(minibatches)
        data = minibatches if given else [random_minibatch(model)]

        def lowered_with(float_layers):
            lowering = lower_segments(model, float_layers) if segments else None
            lowered, names = _with_the_rest(lowering.model if segments else model, optimizations)
            said = 'held-out' if given else 'seeded random input'
            parity = compare(model, lowered, data, self.tolerance, said, lowering)
            parity.lowered_by, parity.float_layers = names, float_layers
            return lowered, parity

        lowered, parity = lowered_with(float_layers)
        if not parity.passed and parity.with_winograd:
            differs = parity.first_difference or 'an output'
            lowered, parity = lowered_with('taps')
            parity.left_tiles = differs
        if not parity.passed and float_layers == 'cntk' and parity.same_floats:
            # CNTK's order of summation was another one here than where it was looked for.
            apart, without = lowered_with('apart')
            if without.passed:
                without.left_apart = parity.first_difference or 'an output'
                lowered, parity = apart, without
        if not parity.passed:
            raise LoweringError(parity)
        if timed and parity.layers:
            taken_in = float_layers in ('native', 'taps')
            beside = 'cntk' if taken_in else 'apart' if parity.same_floats else None
            other = (
                None
                if beside is None
                else _with_the_rest(lower_segments(model, beside).model, optimizations)[0]
            )
            parity.speed = speed.measured(
                model, lowered, _samples(model, minibatches if given else ()), other, beside
            )
        return lowered, parity


def _has_own_lower(optimization):
    """Whether an optimization lowers what is no binary layer: float layers are left to it."""
    return type(optimization).lower not in (Optimization.lower, Binarize.lower)


def _with_the_rest(model, optimizations):
    """Returns the model with what is not in segments lowered, and the names of the optimizations
    that lowered what is no binary layer."""
    model, names = lower_binary_layers(model), []
    for optimization in optimizations:
        lowered = optimization.lower(model)
        if lowered is not model and optimization.name not in names:
            names.append(optimization.name)
        model = lowered
    return model, names


def warn_of_nothing_to_lower(callbacks, networks, stacklevel):
    """Warns of a `Lower` among the callbacks of a run that is certain to find nothing.

    Args:
        callbacks (list): of the run, or None.
        networks (sequence of cntk.Function): what it trains; None is none.
        stacklevel (int): as of `warnings.warn`, for the caller of this function.
    """
    optimizations = [each for each in callbacks or () if isinstance(each, Optimization)]
    if (
        any(isinstance(callback, Lower) for callback in callbacks or ())
        and all(type(optimization) is FactorDense for optimization in optimizations)
        and not any(binary_blocks(network) for network in networks if network is not None)
    ):
        warnings.warn(
            'Lower() will find nothing to lower, since no callback makes a layer 1-bit and none is '
            '(or it is native already): result.lowered will be the trained network. Add '
            'nc.BinarizeConvolution or nc.BinarizeDense, or leave Lower out',
            stacklevel=stacklevel + 1,
        )


def check_float_layers(what, float_layers):
    """Raises ValueError unless it is one that `what` takes."""
    if float_layers not in ('cntk', 'native', 'taps', 'apart'):
        raise ValueError(
            f"{what}: float_layers must be 'cntk', 'native' or 'taps', or 'apart' to leave them "
            f"layers of CNTK, got {float_layers!r}; leave it out for 'cntk'"
        )


def check_applied(what, model):
    """Refuses a model with open placeholders, which cannot be evaluated.

    Raises:
        TypeError: the model is no Function.
        ValueError: names `what` was called and the placeholders.
    """
    check_model(what, model)
    if model.placeholders:
        raise ValueError(
            '%s: model must be applied to its inputs, got one with the placeholders %s; apply it '
            'first, as model(cntk.input_variable(shape))'
            % (
                what,
                ', '.join(
                    placeholder.name or placeholder.uid for placeholder in model.placeholders
                ),
            )
        )


def _samples(model, minibatches):
    """Returns the first minibatch where its data can be cut into samples, else random numbers."""
    for minibatch in minibatches:
        if speed.sizes(minibatch):
            return minibatch
        break
    return random_minibatch(model)


def random_minibatch(model):
    """Returns normal random numbers for each argument of a model, the same on every call."""
    random = np.random.RandomState(0)
    sequences = any(len(argument.dynamic_axes) > 1 for argument in model.arguments)
    samples = len(RANDOM_STEPS) if sequences else RANDOM_SAMPLES
    return {argument: _random(argument, random, samples) for argument in model.arguments}


def _random(argument, random, samples):
    shape = tuple(RANDOM_SIDE if side == C.FreeDimension else side for side in argument.shape)
    if argument.is_sparse:
        steps = RANDOM_STEPS if len(argument.dynamic_axes) > 1 else (1,) * samples
        return C.Value.one_hot(
            [random.randint(0, shape[-1], count).tolist() for count in steps], shape[-1]
        )
    dtype = np.float32 if argument.dtype == np.float32 else np.float64
    if len(argument.dynamic_axes) > 1:
        return [random.standard_normal((steps,) + shape).astype(dtype) for steps in RANDOM_STEPS]
    return random.standard_normal((samples,) + shape).astype(dtype)
