"""Applies optimizations to the graphs of a network and of its readers; pure functions of graphs."""
import contextlib
import threading

import cntk as C

from .. import graph
from ..graph import user_functions
from ..optimizations.base import as_transformed
from ..readers import difference
from ..trainers.state import own
from . import swap

# Held while a graph is edited. CNTK takes a Function where an operation wants a Variable, but its
# conversion fails in one thread while another converts; and CNTK numbers all nodes of a process by
# one counter, which `Network.numbered` relies on.
in_turn = threading.RLock()


@contextlib.contextmanager
def of_the_network():
    """Context of the edits of a network in training: one thread after the other, and its
    UserFunctions go on as the script's own objects."""
    with in_turn, user_functions.cloned_sharing():
        yield


def applied(optimization, outputs, others):
    """Transforms a network together with its other readers, as one graph.

    In one graph, a shared layer stays one layer. If the optimization cannot change a reader (such
    as one with unknown shapes), the network is transformed alone. The readers are then changed in
    the same way wherever they apply the same layers.

    Args:
        optimization (nc.Optimization): what to apply.
        outputs, others (list of cntk.Variable): those of the network, and those of its other
            readers.

    Returns:
        (Transformed, list of cntk.Variable, list of cntk.Variable): the network; the replacements
            of the others; the leaves that the network now reads in another way, none if all were
            transformed together.
    """
    if others:
        try:
            with graph.seen_first(len(outputs)):
                done = _transformed(optimization, outputs + others)
            if len(done.model.outputs) == len(outputs) + len(others):
                return done, list(done.model.outputs)[len(outputs) :], []
        except Exception:  # the network alone raises its own error again below
            pass
    done = _transformed(optimization, outputs)
    swap.check_outputs(len(outputs), done.model)
    followed = difference.follow(own(C.combine(outputs)), done.model, others)
    return done, followed.outputs, followed.touched


def _transformed(optimization, outputs):
    with graph.cloned_whole():
        return as_transformed(optimization.transform(own(C.combine(outputs))), optimization.name)


def missing(before, after):
    """Returns the Parameters that a network no longer reads."""
    remaining = {parameter.uid for parameter in after.parameters}
    return [parameter for parameter in before.parameters if parameter.uid not in remaining]


def as_one(edit, whole, others):
    """Edits a network and its other readers as one graph, so that they keep sharing Functions.

    Args:
        edit (callable): graph -> graph with as many outputs; the same object if there is nothing to
            do.
        whole (cntk.Function), others (sequence of cntk.Variable): the network, and the outputs of
            its other readers.

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
    """Returns `whole` if `outputs` are its own outputs, else their combination."""
    if [output.uid for output in outputs] == [output.uid for output in whole.outputs]:
        return whole
    return own(C.combine(outputs))


def leaves(whole):
    """Returns the uids of the Parameters and Constants of a graph."""
    return {leaf.uid for leaf in list(whole.parameters) + list(whole.constants)}


def added(before, after):
    """Returns the Parameters and Constants that are new in a graph."""
    known = leaves(before)
    return [
        leaf for leaf in list(after.parameters) + list(after.constants) if leaf.uid not in known
    ]
