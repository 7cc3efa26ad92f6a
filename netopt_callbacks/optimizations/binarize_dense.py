"""1-bit Dense layers at an epoch of a running training."""
from typing import Optional

from .._types import Epoch, Filter, MakeLearner
from .binarize import Binarize, binarized
from .binary_count import blocks_of
from .binary_kinds import DENSE


class BinarizeDense(Binarize):
    """Turns the weights and the input of Dense layers into 1 bit each, and lets training go on.

    A layer y = x W + b becomes y = gain * mean|W| * (sign(u) sign(W)) + offset + b with u = x -
    shift, as a convolution does under `BinarizeConvolution`. It takes a Dense however it was
    written: `cntk.layers.Dense` or `times(x, W)`, of a vector or a feature map, with one output
    axis or several, mapped over leading axes, with or without bias and activation. The latent
    weights are the trained weights, the same Parameters; `Lower` then puts the native bit product
    in their place.

    Args:
        filter_function (callable): `nc.graph.Layer -> bool`; decides alone. None takes every Dense
            but the last of the network, whose outputs are the classes (of several heads, the last
            of each).
        weight_scale (str): 'channel' (mean |W| per output), 'layer' (mean |W|) or None.
        input_scale (str): None, or 'sample' (mean |u|, one number per sample): unlike for a
            convolution not by default, because without data to calibrate on it trained far worse
            (docs/binarization.md).
        input_shift (str): 'calibrate', 'learn' or None, as for `BinarizeConvolution`; a channel is
            an element of a vector, or a map of a feature map [channels, height, width].
        output_scale (str): 'calibrate' fits a gain and an offset per output; None leaves them out.
        epoch, clip, operands, learner, learner_state: as for `BinarizeConvolution`.

    Raises:
        TypeError, ValueError: an argument is not one of these, or `input_shift='learn'`
            comes without a learner.
    """

    kind = DENSE
    blocks = blocks_of(DENSE, 'BinaryDenseOp')

    def __init__(
        self,
        epoch: Epoch = 0,
        filter_function: Optional[Filter] = None,
        weight_scale: Optional[str] = 'channel',
        input_scale: Optional[str] = None,
        input_shift: Optional[str] = 'calibrate',
        clip: Optional[float] = None,
        operands: str = 'both',
        learner: Optional[MakeLearner] = None,
        learner_state: str = 'reset',
        output_scale: Optional[str] = 'calibrate',
    ) -> None:
        super().__init__(
            epoch,
            filter_function,
            weight_scale,
            input_scale,
            input_shift,
            clip,
            operands,
            learner,
            learner_state,
            output_scale,
        )


def binarize_dense(model, filter_function=None, minibatches=(), input_scale=None, **options):
    """Returns `model` with binary Dense layers, a `Transformed`; arguments as for `BinarizeDense`.

    Args:
        model (cntk.Function): left as it is; every Parameter is shared.
        minibatches: dicts of the model's arguments to data, for what is calibrated; may be empty.

    Raises:
        ValueError, NotImplementedError: see `optimizations.binary_choice.Choice`.
    """
    return binarized(model, DENSE, filter_function, minibatches, input_scale=input_scale, **options)
