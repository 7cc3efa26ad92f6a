"""What an optimization without a filter leaves as it is, such as the last layers of a network."""
import cntk as C

from .. import graph
from ..graph import functions, opened
from .binary_block import BinaryLayer
from .binary_kinds import kind_of_block

END = '%s %s of the network: left out unless a filter_function takes it'
UNTRAINED = (
    'left as it was without a filter_function that takes it, because no learner of the trainer '
    'trains it'
)


def keys_of(kind, model, layers):
    """Returns {uid of a Function: uid of the weights} for every layer of a kind that is not frozen.

    Args:
        kind (Kind): which layers.
        model (cntk.Function): all of it.
        layers (iterable of nc.graph.Layer): those that `nc.graph.layers` finds; binary and factored
            ones are found here.
    """
    keys = {layer.root.uid: layer.W.uid for layer in layers}
    frozen = {found.root.uid for found in graph.frozen_layers(model)}
    for function in graph.walk(model):
        if kind_of_block(function) is kind:
            W = BinaryLayer(function).W
            if W is None:  # it holds bare signs
                keys[function.uid] = function.uid
            elif W.is_parameter:
                keys[function.uid] = W.uid
        elif function.uid in frozen:
            continue
        elif function.is_block and function.op_name in kind.other_op_names:
            # An optimization of somebody may hold its numbers elsewhere than in Parameters.
            keys[function.uid] = next((leaf.uid for leaf in function.parameters), function.uid)
    return keys


def last(model, kind, keys):
    """Returns the uids of the weights of the layers that no other layer of the kind comes after.

    An output is computed last by the layer that its graph lists last. Where outputs name several
    layers, as heads do, those are left out that another one reads.

    Args:
        model (cntk.Function): its outputs are those of the network.
        kind (Kind): of the layers.
        keys (dict): what `keys_of` returns.
    """
    ends = {}
    for output in model.outputs:
        if not output.is_output:
            continue
        read = [each for each in graph.walk(C.as_composite(output.owner)) if each.uid in keys]
        if read:
            ends[keys[read[-1].uid]] = None
    return _not_read_by_others(model, kind, set(ends)) if len(ends) > 1 else set(ends)


def _not_read_by_others(model, kind, ends):
    """Returns those of the layers with these uids of weights that no other one of them reads,
    however indirectly."""
    flat_model = opened(model, lambda function: kind.key_of(function, ends) is not None)
    read_by_others = set()
    for function in graph.primitives(flat_model):
        key = kind.key_of(function, ends)
        if key is not None:
            behind = {kind.key_of(each, ends) for each in functions(function.inputs)}
            read_by_others |= behind - {key, None}
    return ends - read_by_others or ends
