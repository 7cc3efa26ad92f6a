"""What the engine adds to a loss, without changing a bit of it, and takes off again.

The *mark* of a graph that is trained under a checkpoint says which phase it belongs to: a
constant 1 the loss is multiplied with, whose name is the phase. CNTK saves it in the same file
as the graph, so that the two cannot disagree.

A *zero term* keeps a Parameter reachable that the graph no longer reads but a learner still
holds: CNTK ends the process in `train_minibatch` where there is no way to it from the loss.
"""
import cntk as C
import numpy as np

from ..graph.walk import function_of, named

MARK = 'netopt_callbacks.phase.'
UNREAD = 'netopt_callbacks.unread'


def marked(loss, phase):
    """Returns the loss times the constant 1 that carries the label of a phase (str)."""
    one = C.constant(np.ones((), loss.output.dtype), name=MARK + phase)
    return named(C.element_times(loss, one, name=loss.output.name), loss.name)


def kept_reachable(loss, parameters):
    """Returns the loss plus zero times one element of each of `parameters` it does not read.

    The values of those a transform retired are zero (see `adopt.Plan.write`), so this adds 0.
    """
    read = {parameter.uid for parameter in loss.parameters}
    for parameter in parameters:
        if parameter.uid not in read:
            flat = C.reshape(parameter, (int(np.prod(parameter.shape)),))
            element = C.reshape(C.slice(flat, 0, 0, 1), ())
            zero = C.constant(np.zeros((), parameter.dtype), name=UNREAD)
            loss = named(C.plus(loss, C.element_times(zero, element), name=loss.output.name), loss.name)
    return loss


def unmarked(outputs):
    """Returns the outputs of a graph without what is added to its loss."""
    return [_bare(output) for output in outputs]


def without_mark(part):
    """Returns a loss or criterion, a Function or a Variable of one, as it was before it was marked."""
    if isinstance(part, C.cntk_py.Function):
        return part if phase_of(part.outputs) is None \
            else function_of([without_mark(output) for output in part.outputs], part.name)
    mark, rest = _split(part, 'ElementTimes', _is_mark)
    return part if mark is None else rest


def phase_of(outputs):
    """Returns the label of the phase a saved graph is marked with, or None."""
    for output in outputs:
        mark, _ = _split(output, 'ElementTimes', _is_mark)
        if mark is not None:
            return mark.name[len(MARK):]
    return None


def _bare(output):
    while True:
        for operation, is_ours in (('ElementTimes', _is_mark), ('Plus', _is_zero_term)):
            ours, rest = _split(output, operation, is_ours)
            if ours is not None:
                output = rest
                break
        else:
            return output


def _split(output, operation, is_ours):
    """Returns (the operand that is ours, the other one) of an output, or (None, None)."""
    owner = output.owner if output.is_output else None
    if owner is None or owner.is_block or owner.op_name != operation:
        return None, None
    for ours, other in (owner.inputs, reversed(owner.inputs)):
        if is_ours(ours):
            return ours, other
    return None, None


def _is_mark(variable):
    return variable.is_constant and variable.name.startswith(MARK)


def _is_zero_term(variable):
    zero, _ = _split(variable, 'ElementTimes',
                     lambda operand: operand.is_constant and operand.name == UNREAD)
    return zero is not None
