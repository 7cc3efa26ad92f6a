"""What held-out data says about the inputs of layers that are about to be binarized."""
import cntk as C
import numpy as np

from ..graph import evaluate, flat, opened
from . import binary
from .binary_choice import candidates
from .binary_kinds import kind_of_layer

# `clip='calibrate'` leaves at most this fraction of the values outside the window.
LEFT_OUTSIDE = 0.01
# Values kept of what one layer reads, in whole samples: 16 MB.
VALUES = 2**22


class Sample:
    """Part of what the product inside a layer reads on held-out data.

    Args:
        layer (nc.graph.Layer): the layer.
        parts (list of array): [samples, ...shape of what it reads] each, at least one sample; of
            several shapes where axes are free.
    """

    def __init__(self, layer, parts):
        self._kind = kind_of_layer(layer)
        self._core = layer.core
        self._parts = _joined(parts)

    def threshold(self):
        """Returns the shift of each channel, float32, in the shape that `Kind.channel_shape`
        says."""
        by_channel = _flat([self._kind.by_channel(self._core, part) for part in self._parts])
        return binary.threshold(by_channel).reshape(self._kind.channel_shape(self._core))

    def histogram(self, shift):
        """Returns the magnitudes of the values less `shift`, which may be None."""
        histogram = binary.MagnitudeHistogram()
        for values in self._parts:
            histogram.update(values if shift is None else values - shift)
        return histogram

    def fitted(self, core, binary_core):
        """Returns gain and offset of each output, float32 [outputs], that bring one core closest to
        another.

        Args:
            core, binary_core (cntk.Function): unapplied, with one placeholder, of the same output
                shape.
        """
        wanted, values = [], []
        for part in self._parts:
            source = C.input_variable(part.shape[1:])
            for function, outputs in (core, wanted), (binary_core, values):
                outputs.append(
                    function.clone(C.CloneMethod.share, {function.placeholders[0]: source}).eval(
                        {source: part}
                    )
                )
        return binary.fitted_line(
            *(
                _flat([self._kind.by_output(self._core, part) for part in parts])
                for parts in (values, wanted)
            )
        )


def _joined(parts):
    """Returns the arrays with those of one shape (but for the number of samples) put together,
    in order."""
    by_shape = {}
    for part in parts:
        by_shape.setdefault(part.shape[1:], []).append(part)
    return [np.concatenate(alike) for alike in by_shape.values()]


def _flat(parts):
    """Returns arrays [samples, channels, ...] as one, each of whose samples is a place where
    shapes differ."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([np.moveaxis(part, 1, -1).reshape(-1, part.shape[1]) for part in parts])


def samples(model, choice, minibatches):
    """Evaluates what the layers that are taken read, of each at most `VALUES` values.

    Where several layers share W, as when a model and a criterion over it are both there,
    those that the last output depends on are looked at: in a trainer the ones that are trained.

    Args:
        model (cntk.Function): holds the layers, at any depth.
        choice (Choice): made of it.
        minibatches: dicts of the model's arguments to data; may be empty.

    Returns:
        dict of str to Sample: by uid of W; empty where there is no data.
    """
    layers = _looked_at(model, choice)
    parts = {layer.W.uid: [] for layer in layers}
    for minibatch in minibatches or ():
        wanting = [
            layer for layer in layers if sum(part.size for part in parts[layer.W.uid]) < VALUES
        ]
        if not wanting:
            break
        for layer, read in zip(wanting, evaluate([layer.input for layer in wanting], minibatch)):
            values = _core_data(layer, read)
            parts[layer.W.uid].append(values[: max(1, VALUES // max(values[:1].size, 1))])
    return {
        layer.W.uid: Sample(layer, parts[layer.W.uid])
        for layer in layers
        if parts[layer.W.uid] and len(parts[layer.W.uid][0])
    }


def weight_histogram(W):
    """Returns the magnitudes of a Parameter's value."""
    histogram = binary.MagnitudeHistogram()
    histogram.update(W.value)
    return histogram


def _looked_at(model, choice):
    """Returns the layers to evaluate, all on one level of an opened copy of the model."""
    keys = choice.keys
    flat_model = opened(model, lambda function: choice.kind.key_of(function, keys) is not None)
    everywhere = [layer for layer in candidates(flat_model, choice.kind) if layer.W.uid in keys]
    last = candidates(C.combine([flat_model.outputs[-1]]), choice.kind)
    reached = {layer.output.uid for layer in last}
    trained = {layer.W.uid for layer in last}
    return [
        layer for layer in everywhere if layer.output.uid in reached or layer.W.uid not in trained
    ]


def _core_data(layer, read):
    """Returns what the product inside a layer reads, given what the layer reads, as one array."""
    if not layer.root.is_block:
        return flat(read)
    data = C.as_composite(C.alias(kind_of_layer(layer).data_of(layer.core)))
    source = C.input_variable(layer.input.shape, dynamic_axes=layer.input.dynamic_axes)
    applied = data.clone(C.CloneMethod.share, {data.placeholders[0]: source})
    return flat(evaluate(applied.outputs, {source: read})[0])
