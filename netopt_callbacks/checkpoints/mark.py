"""Labels the graph of a checkpoint with its phase, and reads the label.

CNTK restores a checkpoint of another structure without an error. So the graph that a trainer saves
names its phase: a Constant of that name is one more output of the trainer's model. It is in the
same file as the graph, so the two cannot disagree. It changes no result: nothing reads it, and
CNTK, which evaluates roots in the order of their names, computes nothing for it.
"""
import cntk as C
import numpy as np

MARK = 'netopt_callbacks.phase.'


def labelled(outputs, label):
    """Returns a Function with these outputs (possibly none) and one more, which carries a label."""
    return C.combine(list(outputs) + list(_carrier(label).outputs))


def network_of(state, unread, label):
    """Returns the model and the loss that a trainer of a State is built from.

    Args:
        state (State): the current one.
        unread (list of cntk.Parameter): those of its learners that its loss does not read.
        label (str): the label in its checkpoints, or None.

    Returns:
        (cntk.Function, cntk.Function): the model, None if there is none, and the loss.
    """
    loss = reaching(state.loss, unread)
    if label is None:
        return state.model, loss
    outputs = list(state.model.outputs) if state.model is not None else []
    if unread:
        outputs += state.loss.outputs  # a checkpoint must have the plain one as an output
    return labelled(outputs, label), loss


def _carrier(label):
    return C.combine([C.constant(np.ones((), np.float32), name=MARK + label)])


def label_of(graph):
    """Returns the label that a saved graph carries, or None."""
    for constant in graph.constants:
        if constant.name.startswith(MARK):
            return constant.name[len(MARK) :]
    return None


def reaching(loss, parameters):
    """Returns a loss of the same value that CNTK finds to depend on `parameters`.

    CNTK ends the process in `train_minibatch` if the loss does not depend on a Parameter of a
    learner. If a learner cannot release a Parameter that the graph no longer reads, an
    element_select reads it but never selects it, so that not even a NaN in it has an effect.

    Args:
        loss (cntk.Function): the plain loss.
        parameters (list of cntk.Parameter): those it does not read.
    """
    for parameter in parameters:
        flat = C.reshape(parameter, (int(np.prod(parameter.shape)),))
        element = C.reshape(C.slice(flat, 0, 0, 1), ())
        zero = C.constant(np.zeros((), parameter.dtype))
        loss = C.plus(
            loss, C.element_select(zero, element, zero), name=loss.output.name or loss.name
        )
    return loss
