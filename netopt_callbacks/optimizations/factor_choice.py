"""Which Dense layers of a model are factored, and why the others are not."""
from .. import graph
from .binary_kinds import DENSE
from .ends import END, UNTRAINED, keys_of, last


def choice(model, filter_function, every=False):
    """Returns the Dense layers to factor, and {layer: reason} for those that are left."""
    graph.check_filter(filter_function)
    found = graph.layers(model, op_name='Dense')
    if not every:  # netopt leaves names as they are
        graph.name_layers(model, found)
    if filter_function is None:
        left = _left(model, found, every)
        taken = [layer for layer in found if layer not in left]
    else:
        left, taken = {}, graph.taken(filter_function, found)
    if not taken:
        raise _nothing_left(model, filter_function, left, named=not every)
    return taken, left


def _nothing_left(model, filter_function, left, named):
    """Returns the error that says what was seen, and why none of it is taken."""
    reasons = [f'{layer.label}: {reason}' for layer, reason in left.items()]
    reasons += [
        f'{layer.label} is taken, and FactorDense changes Dense layers only'
        for layer in graph.taken_of_other_kinds(model, 'Dense', filter_function, named)
    ]
    error = graph.no_layers_error(model, 'FactorDense', 'Dense', named, filter_function)
    return ValueError('{}. {}'.format(error, '; '.join(reasons))) if reasons else error


def _left(model, layers, every):
    """Returns {layer: reason} for the layers that are left as they are without a filter_function:
    those that no learner of the trainer trains, and the last of the network, if others are Dense,
    too."""
    left = {layer: UNTRAINED for layer in layers if not graph.is_trained(layer.W)}
    if not every:
        part = graph.trained_part(model)
        keys = keys_of(DENSE, part, layers)
        if len(set(keys.values())) > 1:
            ends = last(part, DENSE, keys)
            left.update(
                (layer, END % ('last', DENSE.noun))
                for layer in layers
                if layer.W.uid in ends and layer not in left
            )
    return left
