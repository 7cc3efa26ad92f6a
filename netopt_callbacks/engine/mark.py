"""The mark of a graph that is trained under a checkpoint: which phase it belongs to.

It is a constant 1 the loss is multiplied with, which changes no bit, and whose name says
the phase. CNTK saves it in the same file as the graph, so that the two cannot disagree.
"""
import cntk as C
import numpy as np

MARK = 'netopt_callbacks.phase.'


def marked(loss, phase):
    """Returns the loss times the constant 1 that carries the label of a phase (str)."""
    one = C.constant(np.ones((), loss.output.dtype), name=MARK + phase)
    return C.element_times(loss, one, name=loss.name)


def _mark_of(output):
    """Returns (the constant that is the mark, what it multiplies) of a loss, or (None, None)."""
    owner = output.owner if output.is_output else None
    if owner is None or owner.is_block or owner.op_name != 'ElementTimes':
        return None, None
    for mark, other in (owner.inputs, reversed(owner.inputs)):
        if mark.is_constant and mark.name.startswith(MARK):
            return mark, other
    return None, None


def unmarked(outputs):
    """Returns the outputs of a graph without the mark on its loss."""
    return [other if mark is not None else output
            for output, (mark, other) in ((output, _mark_of(output)) for output in outputs)]


def phase_of(outputs):
    """Returns the label of the phase a saved graph is marked with, or None."""
    for output in outputs:
        mark, _ = _mark_of(output)
        if mark is not None:
            return mark.name[len(MARK):]
    return None
