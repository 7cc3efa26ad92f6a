"""1-bit convolutions at an epoch of a running training."""
from .binarize import Binarize, binarized
from .binary_count import blocks_of
from .binary_kinds import CONVOLUTION


class BinarizeConvolution(Binarize):
    """Turns the weights and the input of convolutions into 1 bit each, and lets training go on.

    A layer y = W (*) x + b becomes y = gain * mean|W| * mean|u| * (sign(W) (*) sign(u)) + offset +
    b with u = x - shift (see `optimizations.binary` for the formulas and their sources). The latent
    weights are the trained weights, the same Parameters, so the learner that trained them goes on
    training them; bias, activation and name stay. `Lower` then puts the native bit convolution in
    their place. What is to be calibrated and finds no held-out data is left out, and the layer's
    note says so. How the defaults were chosen: see `docs/binarization.md`.

    Args:
        epoch (int): completed epochs after which it happens.
        filter_function (callable): `nc.graph.Layer -> bool`; decides alone. None takes every
            convolution but the first and the last of the network, which matter most.
        weight_scale (str): 'channel' (mean |W| per filter), 'layer' (mean |W|) or None.
        input_scale (str): 'sample' (mean |u|, one number per sample) or None.
        input_shift (str): 'calibrate' (for each channel the threshold of the best quantizer to two
            levels on held-out data, a Constant), 'learn' (a Parameter that starts there; takes
            `learner`) or None.
        output_scale (str): 'calibrate' fits a gain and an offset per filter, both Constants, to
            what the float layer computes on held-out data; None leaves them out.
        clip (str): 'calibrate' scales inputs and weights by a power of two into the window
            |v| <= 1 of the straight-through gradient, signs unchanged; None leaves them, and
            the layer's note says so where that starves the gradient.
        operands (str): 'both', or 'inputs': a first stage after which the weights are still
            float; a later BinarizeConvolution of the same layer makes them binary.
        learner, learner_state: see `nc.Optimization`; only a learned shift is a new Parameter.

    Raises:
        TypeError, ValueError: an argument is not one of these, or `input_shift='learn'`
            comes without a learner.
    """

    kind = CONVOLUTION
    blocks = blocks_of(CONVOLUTION, 'BinaryConvolveOp')


def binarize_convolution(model, filter_function=None, minibatches=(), **options):
    """Returns `model` with binary convolutions, a `Transformed`; arguments as for
    `BinarizeConvolution`.

    Args:
        model (cntk.Function): left as it is; every Parameter is shared.
        minibatches: dicts of the model's arguments to data, for what is calibrated; may be empty.

    Raises:
        ValueError, NotImplementedError: see `optimizations.binary_choice.Choice`.
    """
    return binarized(model, CONVOLUTION, filter_function, minibatches, **options)
