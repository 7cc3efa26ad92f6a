"""What an optimization makes of the graphs of a network and of its readers: functions of
graphs, which change nothing."""
import cntk as C

from .. import graph
from ..optimizations.base import as_transformed
from . import difference, swap
from .state import own


def applied(optimization, outputs, others):
    """Transforms a network together with what else reads its Parameters: one graph, in which a
    shared layer is one layer.

    Where the optimization cannot change a reader (one whose shapes are not known yet, say), the
    network is transformed alone, and the same is done to the readers wherever they apply the same
    layers.

    Args:
        optimization (nc.Optimization): what to apply.
        outputs, others (list of cntk.Variable): of the network, and of what else reads it.

    Returns:
        (Transformed, list of cntk.Variable, list of cntk.Variable): the network; what takes the
        place of the others; the leaves of the layers that were found anew in them.
    """
    if others:
        try:
            with graph.seen_first(len(outputs)):
                done = _transformed(optimization, outputs + others)
            if len(done.model.outputs) == len(outputs) + len(others):
                return done, list(done.model.outputs)[len(outputs) :], []
        except Exception:  # an error of the network itself is raised by it alone, too
            pass
    done = _transformed(optimization, outputs)
    swap.check_outputs(len(outputs), done.model)
    others, touched, _ = difference.follow(own(C.combine(outputs)), done.model, others)
    return done, others, touched


def _transformed(optimization, outputs):
    with graph.cloned_whole():
        return as_transformed(optimization.transform(own(C.combine(outputs))), optimization.name)


def missing(before, after):
    """Returns the Parameters that a network reads no more."""
    remaining = {parameter.uid for parameter in after.parameters}
    return [parameter for parameter in before.parameters if parameter.uid not in remaining]


def as_one(edit, whole, others):
    """Edits a network and what else reads it as one graph, so that they go on sharing Functions.

    Args:
        edit (callable): graph -> graph with as many outputs; the same object where there is nothing
        to do. whole (cntk.Function), others (sequence of cntk.Variable): the network, and outputs
        beside it.

    Returns:
        (cntk.Function, list of cntk.Variable): the same, edited.
    """
    count = len(whole.outputs)
    together = C.combine(list(whole.outputs) + list(others))
    edited = edit(together)
    if edited is together:
        return whole, list(others)
    outputs = list(edited.outputs)
    return own(C.combine(outputs[:count])), outputs[count:]


def same(whole, outputs):
    """Returns `whole` where `outputs` are its own, else their combination."""
    if [output.uid for output in outputs] == [output.uid for output in whole.outputs]:
        return whole
    return own(C.combine(outputs))


def leaves(whole):
    """Returns the uids of the Parameters and Constants of a graph."""
    return {leaf.uid for leaf in list(whole.parameters) + list(whole.constants)}


def added(before, after):
    """Returns the Parameters and Constants of a graph that are new in it."""
    known = leaves(before)
    return [
        leaf for leaf in list(after.parameters) + list(after.constants) if leaf.uid not in known
    ]
