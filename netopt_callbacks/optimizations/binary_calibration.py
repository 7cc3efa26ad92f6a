"""What held-out data says about the inputs of convolutions that are about to be binarized."""
import cntk as C
import numpy as np

from ..graph.values import evaluate, flat, opened
from . import binary
from .binary_block import INPUTS_OP_NAME, OP_NAME, data_of
from .binary_choice import candidates

# `clip='calibrate'` leaves at most this fraction of the values outside the window.
LEFT_OUTSIDE = 0.01
# Values kept of what one layer reads, in whole samples: 16 MB.
VALUES = 2 ** 22


class Sample(object):
    """Part of what a convolution reads on held-out data.

    Args:
        parts (list of array): [samples, channels, height, width] each, at least one sample; of several
            heights and widths where those axes are free.
    """

    def __init__(self, parts):
        self._parts = _joined(parts)

    def threshold(self):
        """Returns the shift of each channel, float32 [channels, 1, 1]."""
        return binary.threshold(_flat(self._parts)).reshape(-1, 1, 1)

    def histogram(self, shift):
        """Returns the magnitudes of the values less `shift`, which may be None."""
        histogram = binary.MagnitudeHistogram()
        for values in self._parts:
            histogram.update(values if shift is None else values - shift)
        return histogram

    def fitted(self, core, binary_core):
        """Returns gain and offset of each filter, float32 [filters], that bring one core closest to another.

        Args:
            core, binary_core (cntk.Function): unapplied, with one placeholder, of the same output shape.
        """
        wanted, values = [], []
        for part in self._parts:
            source = C.input_variable(part.shape[1:])
            for function, outputs in (core, wanted), (binary_core, values):
                outputs.append(function.clone(C.CloneMethod.share, {function.placeholders[0]: source}).eval(
                    {source: part}))
        return binary.fitted_line(_flat(values), _flat(wanted))


def _joined(parts):
    """Returns the arrays with those of one shape (but for the number of samples) put together, in order."""
    by_shape = {}
    for part in parts:
        by_shape.setdefault(part.shape[1:], []).append(part)
    return [np.concatenate(alike) for alike in by_shape.values()]


def _flat(parts):
    """Returns arrays [samples, channels, ...] as one, each of whose samples is a place where shapes differ."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([np.moveaxis(part, 1, -1).reshape(-1, part.shape[1]) for part in parts])


def samples(model, keys, minibatches):
    """Evaluates what convolutions read, of each at most `VALUES` values.

    Where several layers share W, as when a model and a criterion over it are both there,
    those that the last output depends on are looked at: in a trainer the ones that are trained.

    Args:
        model (cntk.Function): holds the layers, at any depth.
        keys (set of str): uids of the layers' W.
        minibatches: dicts of the model's arguments to data; may be empty.

    Returns:
        dict of str to Sample: by uid of W; empty where there is no data.
    """
    layers = _looked_at(model, keys)
    parts = {key: [] for key in keys}
    for minibatch in minibatches or ():
        wanting = [layer for layer in layers if sum(part.size for part in parts[layer.W.uid]) < VALUES]
        if not wanting:
            break
        for layer, read in zip(wanting, evaluate([layer.input for layer in wanting], minibatch)):
            values = _core_data(layer, read)
            parts[layer.W.uid].append(values[:max(1, VALUES // max(values[:1].size, 1))])
    return {key: Sample(part) for key, part in parts.items() if part and len(part[0])}


def weight_histogram(W):
    """Returns the magnitudes of a Parameter's value."""
    histogram = binary.MagnitudeHistogram()
    histogram.update(W.value)
    return histogram


def _looked_at(model, keys):
    """Returns the layers to evaluate, all on one level of an opened copy of the model."""
    flat_model = opened(model, _is_convolution)
    everywhere = [layer for layer in candidates(flat_model) if layer.W.uid in keys]
    last = candidates(C.combine([flat_model.outputs[-1]]))
    reached = {layer.output.uid for layer in last}
    trained = {layer.W.uid for layer in last}
    return [layer for layer in everywhere
            if layer.output.uid in reached or layer.W.uid not in trained]


def _is_convolution(function):
    """Whether a Function is a convolution layer, with or without a block: left closed."""
    if not function.is_block:
        return function.op_name == 'Convolution'
    return function.op_name in ('Convolution', OP_NAME, INPUTS_OP_NAME)


def _core_data(layer, read):
    """Returns what the convolution inside a layer reads, given what the layer reads, as one array."""
    if not layer.root.is_block:
        return flat(read)
    data = C.as_composite(C.alias(data_of(layer.core)))
    source = C.input_variable(layer.input.shape, dynamic_axes=layer.input.dynamic_axes)
    applied = data.clone(C.CloneMethod.share, {data.placeholders[0]: source})
    return flat(evaluate(applied.outputs, {source: read})[0])
