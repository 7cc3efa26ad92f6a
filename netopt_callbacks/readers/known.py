"""Finds the network that the user knows, if the Trainer was given only a criterion.

`Function.train` builds such a Trainer, and a script may do so too. The user then evaluates another
live Function over the same Parameters: the model inside the criterion.
"""
import warnings

import cntk as C

from .. import graph
from ..graph.walk import DELAYS
from ..trainers.learner_facts import parameters_of
from ..trainers.state import identity
from .readers import Readers, named

_UNKNOWN = C.placeholder().shape


def known_model(trainer, state, model=None):
    """Returns the trainer's model, or the Function of the script that its criterion is built over.

    Args:
        trainer (cntk.Trainer): of the network.
        state (State): its network.
        model (cntk.Function): the one that the user names; None searches for it.

    Returns:
        cntk.Function: the model; the criterion if no model is found or, with a warning, if several
            are.
    """
    criterion = C.combine([output for output in state.whole.outputs[state.models :]])
    if model is not None:
        return _applied_as_in(model, criterion) or model
    if state.models and state.whole.outputs[0].uid != state.whole.outputs[state.models].uid:
        return state.model
    found = _candidates(trainer, state)
    if len(found) > 1:
        warnings.warn(
            'the Trainer was given no model, and %d Functions of the script read all its '
            'Parameters (%s): result.model is the criterion. Say which one it is: model='
            % (len(found), ', '.join(repr(function.name or function.uid) for function in found))
        )
    if len(found) != 1:
        return criterion
    return _applied_as_in(found[0], criterion) or found[0]


def check_named(model, learners):
    """Refuses a `model=` that is not the network of a trainer.

    A layer function that is not applied, and that the trainer's criterion applies, reads the same
    Parameters; a clone of the network does not, and neither does what an earlier cell of a notebook
    has left.

    Args:
        model (cntk.Function): what the user names.
        learners (list of cntk.learners.Learner): those of the trainer.

    Raises:
        TypeError: it is no Function.
        ValueError: it reads no Parameter that the learners train.
    """
    if not isinstance(model, C.Function):
        raise TypeError(
            f'model= must be a cntk.Function, got {model!r}; give the network that the trainer '
            'trains, as model=z'
        )
    trained = set(map(identity, parameters_of(learners)))
    if trained.isdisjoint(map(identity, model.parameters)):
        raise ValueError(
            f'model= must be the network that the trainer trains, got {named(model)}, which reads '
            'no Parameter of its learners; give the Function that the criterion is built over, no '
            'clone and none of an earlier script or cell'
        )


def _candidates(trainer, state):
    """Returns the Functions that read the most trained Parameters and are nearest to the data."""
    trained = {parameter.uid for one in state.trained for parameter in one.parameters}
    criterion = {output.uid for output in state.whole.outputs}
    reading = {}
    for function in Readers(trainer, state.whole).functions:
        outputs = tuple(output.uid for output in function.outputs)
        if function.is_composite and not criterion & set(outputs) and not _labels(function, state):
            reading.setdefault(
                outputs, (len(trained & {p.uid for p in function.parameters}), function)
            )
    most = max([count for count, _ in reading.values()] + [1])
    delays = _delays(state.whole)  # a decoder around the model has more
    full = [
        function
        for count, function in reading.values()
        if count == most and _delays(function) <= delays
    ]
    lowest = [
        function
        for function in full
        if not any(other is not function and _is_over(function, other) for other in full)
    ]
    return [function for function in lowest if not function.placeholders] or lowest


def _labels(function, state):
    """Whether a Function reads as many inputs as a criterion that has several: it is one, too."""
    return 1 < len(state.whole.arguments) <= len(function.arguments)


def _delays(function):
    """Returns how many operations of a Function read a step before or after."""
    return sum(part.op_name in DELAYS for part in graph.walk(function))


def _is_over(function, other):
    """Whether a Function is computed from what another one computes."""
    inside = {output.uid for part in graph.functions(function.outputs) for output in part.outputs}
    return all(output.uid in inside for output in other.outputs)


def _applied_as_in(function, whole):
    """Returns a layer function applied to an input like the network's; None if that is not found.

    Args:
        function (cntk.Function): has one placeholder.
        whole (cntk.Function): the network, which applies the same Parameters to that input.
    """
    if len(function.placeholders) != 1:
        return None
    inlet = function.placeholders[0].uid
    first = {
        (part.op_name, leaf.uid)
        for part in graph.functions(function.outputs)
        for leaf in part.inputs
        if leaf.is_parameter and any(v.uid == inlet for v in part.inputs)
    }
    for part in graph.walk(whole):
        if any((part.op_name, leaf.uid) in first for leaf in part.inputs if leaf.is_parameter):
            data = [
                variable
                for variable in part.inputs
                if not (variable.is_parameter or variable.is_constant)
            ]
            if len(data) == 1 and data[0].shape != _UNKNOWN:
                return function(
                    data[0]
                    if data[0].is_input
                    else C.input_variable(
                        data[0].shape,
                        data[0].dtype,
                        dynamic_axes=data[0].dynamic_axes,
                        name=data[0].name,
                    )
                )
    return None
