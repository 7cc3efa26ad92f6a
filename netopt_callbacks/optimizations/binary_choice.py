"""Which convolutions of a model are binarized, and why the others are not."""
import cntk as C
import numpy as np

from .. import graph
from ..graph.find import check_filter
from .binary_block import OP_NAME, BinaryLayer, binary_blocks, staged_layers
from .convolution_geometry import axes_of

_END = '%s convolution of the network: left out unless a filter_function takes it'


class Choice(object):
    """The convolutions of a model, sorted into those to binarize and those to leave.

    Attributes:
        model (cntk.Function): the one it was made of.
        layers (list of nc.graph.Layer): all that are not wholly binary, inputs first.
        taken (list of nc.graph.Layer): those to binarize.
        skipped (dict of nc.graph.Layer to str): the others, with reasons.
        staged (set of nc.graph.Layer): those whose input is binary already.

    Args:
        model (cntk.Function): searched at any depth.
        filter_function (callable): `nc.graph.Layer -> bool`, decides alone; None takes every
            convolution but the first and the last of the network.
        operands (str): 'both' or 'inputs'.

    Raises:
        TypeError: `filter_function` is no function.
        ValueError: nothing is taken; a layer is taken whose input is binary already for
            `operands='inputs'`; of layers that share W only some are; the model is not
            applied to an input yet.
        NotImplementedError: a layer is taken that is not a float32 2-D convolution.
    """

    def __init__(self, model, filter_function, operands):
        check_filter(filter_function)
        self.model = model
        functions = list(graph.walk(model))
        staged = staged_layers(functions)
        self.staged = set(staged)
        self.layers = _in_order(functions, graph.layers(model, op_name='Convolution') + staged)
        if filter_function is None:
            self.skipped = _ends(functions, self.layers)
        else:
            self.skipped = _filtered(self.layers, filter_function)
        self.taken = [layer for layer in self.layers if layer not in self.skipped]
        if not self.taken:
            raise _nothing_left(model, self.skipped)
        for layer in self.taken:
            _check_supported(layer)
            if operands == 'inputs' and layer in self.staged:
                raise ValueError("%s: for operands='inputs' its input must be float, and an earlier "
                                 'optimization has made it binary; leave the layer out with filter_function, '
                                 "or take operands='both' to make its weights binary" % layer.label)

    @property
    def keys(self):
        """The uids of the weights that are taken."""
        return {layer.W.uid for layer in self.taken}


def candidates(model):
    """Returns the convolutions of a model that are not wholly binary, inputs first."""
    functions = list(graph.walk(model))
    return _in_order(functions, graph.layers(model, op_name='Convolution') + staged_layers(functions))


def _in_order(functions, layers):
    order = {function.uid: index for index, function in enumerate(functions)}
    return sorted(layers, key=lambda layer: order[layer.root.uid])


def _filtered(layers, filter_function):
    """Returns {layer: reason} for the layers that the filter leaves."""
    takes = {layer: bool(filter_function(layer)) for layer in layers}
    by_weights = {}
    for layer in layers:
        other = by_weights.setdefault(layer.W.uid, layer)
        if takes[layer] != takes[other]:
            raise ValueError('%s and %s are applications of the same weights, which must be binary in both or '
                             'in neither, and filter_function takes only one of them; let it go by the '
                             'name or by W' % (other.label, layer.label))
    return {layer: 'filter_function leaves it out' for layer in layers if not takes[layer]}


def _ends(functions, layers):
    """Returns {layer: reason} for the first and the last convolution of the network, binary ones counted."""
    weights = {layer.root.uid: layer.W.uid for layer in layers}
    weights.update((function.uid, BinaryLayer(function).W.uid) for function in functions
                   if function.is_block and function.op_name == OP_NAME)
    order = [weights[function.uid] for function in functions if function.uid in weights]
    if not order:
        return {}
    reasons = {order[-1]: _END % 'last'}
    reasons[order[0]] = _END % 'first'
    return {layer: reasons[layer.W.uid] for layer in layers if layer.W.uid in reasons}


def _nothing_left(model, skipped):
    """Returns the error that says what was seen, and why none of it is taken."""
    reasons = ['%s: %s' % (layer.label, reason) for layer, reason in skipped.items()]
    reasons += ['%s: 1-bit already' % BinaryLayer(block).label for block in binary_blocks(model)]
    error = graph.no_layers_error(model, 'BinarizeConvolution', 'Convolution')
    return ValueError('%s. %s' % (error, '; '.join(reasons))) if reasons else error


def _check_supported(layer):
    weights, data = layer.core.inputs
    _check_shape(layer, weights, data)
    if not np.isfinite(layer.W.value).all():
        raise ValueError('%s: its weights must be finite, got NaN or infinite ones; look at how it was trained'
                         % layer.label)


def _check_shape(layer, weights, data):
    if data.shape == C.placeholder().shape or any(side < 0 for side in weights.shape):
        raise ValueError('%s: to be binarized it must know its input, and got a placeholder: the model is not '
                         'applied to an input yet; apply it to an input_variable first' % layer.label)
    if len(weights.shape) != 4 or len(data.shape) != 3:
        raise NotImplementedError(
            '%s: only 2-D convolutions can be binarized, weights [filters, channels, height, width] and input '
            '[channels, height, width]; these are %s and %s. Leave it out with filter_function'
            % (layer.label, weights.shape, data.shape))
    attributes = layer.attributes
    if attributes['autoPadding'][0] or data.shape[0] != weights.shape[1] * attributes['groups']:
        raise NotImplementedError(
            '%s: its filters slide along the channels too (input %s, auto_padding %s), and can be binarized only '
            'where they go over all channels: build it with auto_padding=[False, ...], or leave it out '
            'with filter_function'
            % (layer.label, data.shape, list(attributes['autoPadding'])))
    if layer.W.dtype != np.float32:
        raise NotImplementedError('%s: its weights must be float32, in which the native op computes, got %s; '
                                  'build the network in float32' % (layer.label, np.dtype(layer.W.dtype).name))
    if attributes['groups'] > 1 and any(size > 0 and axis.is_asymmetric(size) for axis, size in
                                        zip(axes_of(layer.core), data.shape[1:])):
        raise NotImplementedError(
            '%s: with groups its padding must be the same on both sides, got %d groups and more on one side, which '
            'CNTK computes wrongly on a CPU (its fallback engine ignores groups); take filters of odd sides'
            % (layer.label, attributes['groups']))
