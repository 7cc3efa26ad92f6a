"""Which layers of a model are binarized, and why the others are not."""
import numpy as np

from .. import graph
from ..graph import check_filter
from .binary_block import BinaryLayer, binary_blocks, staged_layers
from .binary_kinds import kind_of_block
from .ends import END, UNTRAINED, keys_of, last


class Choice:
    """The layers of one kind of a model, sorted into those to binarize and those to leave.

    A layer that the user gave no name has one here, see `graph.name_layers`, and so in records,
    reports and the filters of later optimizations. Its binary block bears that name, also in a
    saved model.

    Attributes:
        model (cntk.Function): the one it was made of.
        kind (Kind): of the layers.
        layers (list of nc.graph.Layer): all that are not wholly binary, inputs first.
        taken (list of nc.graph.Layer): those to binarize.
        skipped (dict of nc.graph.Layer to str): the others, with reasons.
        staged (set of nc.graph.Layer): those whose input is binary already.

    Args:
        model (cntk.Function): searched at any depth.
        kind (Kind): which layers.
        filter_function (callable): `nc.graph.Layer -> bool`, decides alone; None takes every
            layer that a learner trains but the last of the network, and but the first where the
            kind keeps that.
        operands (str): 'both' or 'inputs'.

    Raises:
        TypeError: `filter_function` is no function.
        ValueError: nothing is taken; a layer is taken whose input is binary already for
            `operands='inputs'`; of layers that share W only some are; the model is not
            applied to an input yet.
        NotImplementedError: a layer is taken that the kind does not support.
    """

    def __init__(self, model, kind, filter_function, operands):
        check_filter(filter_function)
        self.model = model
        self.kind = kind
        everything = list(graph.walk(model))
        staged = _staged_of(model, everything, kind)
        self.staged = set(staged)
        self.layers = _in_order(
            everything, graph.layers(model, op_name=kind.layer_op_name) + staged
        )
        graph.name_layers(model, self.layers)
        if filter_function is None:
            keys = keys_of(kind, model, self.layers)
            self.skipped = _ends(graph.trained_part(model), kind, everything, self.layers, keys)
            self.skipped.update(
                (layer, UNTRAINED) for layer in self.layers if not graph.is_trained(layer.W)
            )
        else:
            self.skipped = _filtered(self.layers, filter_function)
        self.taken = [layer for layer in self.layers if layer not in self.skipped]
        if not self.taken:
            raise _nothing_left(model, kind, self.skipped, filter_function)
        for layer in self.taken:
            _check_supported(layer, kind)
            if operands == 'inputs' and layer in self.staged:
                raise ValueError(
                    f"{layer.label}: for operands='inputs' its input must be float, and an earlier "
                    'optimization has made it binary; leave the layer out with filter_function, '
                    "or take operands='both' to make its weights binary"
                )

    @property
    def keys(self):
        """The uids of the weights that are taken."""
        return {layer.W.uid for layer in self.taken}


def candidates(model, kind):
    """Returns the layers of a kind of a model that are not wholly binary, at any depth, inputs
    first."""
    everything = list(graph.walk(model))
    return _in_order(
        everything,
        graph.layers(model, op_name=kind.layer_op_name) + staged_layers(everything, kind),
    )


def named_candidates(model, kind):
    """Returns the `candidates`, those without a name with the one that a `Choice` gives them."""
    layers = candidates(model, kind)
    graph.name_layers(model, layers)
    return layers


def _in_order(everything, layers):
    order = {function.uid: index for index, function in enumerate(everything)}
    return sorted(layers, key=lambda layer: order[layer.root.uid])


def _filtered(layers, filter_function):
    """Returns {layer: reason} for the layers that the filter leaves."""
    takes = {layer: graph.takes(filter_function, layer) for layer in layers if not layer.follows}
    by_weights = {}
    for layer in takes:
        other = by_weights.setdefault(layer.W.uid, layer)
        if takes[layer] != takes[other]:
            raise ValueError(
                f'{other.label} and {layer.label} are applications of the same weights, which must '
                'be binary in both or in neither, and filter_function takes only one of them; let '
                'it go by the name or by W'
            )
    taken = {layer.W.uid for layer, takes_it in takes.items() if takes_it}
    return {layer: 'filter_function leaves it out' for layer in layers if layer.W.uid not in taken}


def _staged_of(model, everything, kind):
    """Returns the staged layers of the part that is trained, and those elsewhere that share
    their weights."""
    staged = staged_layers(everything, kind)
    part = graph.trained_part(model)
    if part is model:
        return staged
    trained = {function.uid for function in graph.walk(part)}
    weights = {layer.W.uid for layer in staged if layer.root.uid in trained}
    for layer in staged:
        layer.follows = layer.root.uid not in trained
    return [layer for layer in staged if layer.W.uid in weights]


def _ends(model, kind, everything, layers, keys):
    """Returns {layer: reason} for the first and the last layers of the network, binary and
    factored ones counted."""
    if not keys:
        return {}
    reasons = {key: END % ('last', kind.noun) for key in last(model, kind, keys)}
    if kind.keeps_first:
        reasons[
            keys[next(function.uid for function in everything if function.uid in keys)]
        ] = END % ('first', kind.noun)
    return {layer: reasons[layer.W.uid] for layer in layers if layer.W.uid in reasons}


def _nothing_left(model, kind, skipped, filter_function):
    """Returns the error that says what was seen, and why none of it is taken."""
    reasons = [f'{layer.label}: {reason}' for layer, reason in skipped.items()]
    frozen = {found.root.uid for found in graph.frozen_layers(model)}
    reasons += [
        f'{BinaryLayer(block).label}: 1-bit already'
        for block in binary_blocks(model)
        if kind_of_block(block) is kind and block.uid not in frozen
    ]
    what = kind.layer_op_name
    reasons += [
        f'{layer.label} is taken: use nc.Binarize{layer.op_name} for it'
        for layer in graph.taken_of_other_kinds(model, what, filter_function, named=True)
    ]
    error = graph.no_layers_error(model, kind.optimization, what, True, filter_function)
    return ValueError('{}. {}'.format(error, '; '.join(reasons))) if reasons else error


def _check_supported(layer, kind):
    kind.check(layer)
    if not np.isfinite(layer.W.value).all():
        raise ValueError(
            f'{layer.label}: its weights must be finite, got NaN or infinite ones; look at how it '
            'was trained'
        )
