"""Describes the network of a trainer at one time as an immutable value.

A `State` holds all that a C++ trainer is built from. Every change of a running trainer replaces one
State with another, see `network`.
"""
from typing import Any, NamedTuple, Optional, Tuple

import cntk as C

from ..graph.walk import Level, body, function_of, named
from . import remember
from .learner_facts import trained_by

OWN = '_netopt_callbacks_own'


class State(NamedTuple):
    """What a trainer computes and trains.

    Attributes:
        whole (cntk.Function): the outputs of model, loss and metric, combined.
        models (int): how many of them are the model's; 0 for a trainer without one.
        has_metric (bool): whether the last one is a metric.
        kinds (tuple): for model, loss and metric (name of the Function, name of its combine or
            None).
        trained (tuple of Trained): its learners and what each trains.
        unique_id (int): CNTK's uid counter where the graph begins; None if the graph is the user's
            own.
    """

    whole: Any
    models: int
    has_metric: bool
    kinds: Tuple
    trained: Tuple
    unique_id: Optional[int] = None

    @property
    def learners(self):
        """The learners, in order."""
        return [one.learner for one in self.trained]

    @property
    def model(self):
        """The model, or None."""
        return self._part(0, 0, self.models) if self.models else None

    @property
    def loss(self):
        return self._part(1, self.models, self.models + 1)

    @property
    def metric(self):
        """The metric, or None."""
        return self._part(2, self.models + 1, self.models + 2) if self.has_metric else None

    def _part(self, place, begin, end):
        outputs = list(self.whole.outputs)[begin:end]
        name, combined = self.kinds[place]
        if combined is None:
            return function_of(outputs, name)
        return named(C.combine(outputs, name=combined), name)


def identity(variable):
    """Returns what tells a Variable from every other one, and does not keep its graph alive.

    A uid alone does not: CNTK loads a graph with the uids of the saved one, which may live on.
    CNTK's hash of a Variable is the address of its C++ object.
    """
    return variable.uid, hash(variable)


def own(function):
    """Marks a Function as the engine's, so that it does not count as a reader; returns it."""
    function.__dict__[OWN] = True
    return function


def current(trainer):
    """Returns the State of a known Trainer."""
    facts = remember.facts(trainer)
    if facts.state is None:
        facts.state = _as_built(trainer, facts.learners)
    return facts.state


def _as_built(trainer, learners):
    model, loss, metric = trainer.model, trainer.loss_function, trainer.evaluation_function
    outputs = [] if model is None else list(model.outputs)
    models = len(outputs)
    outputs.append(loss.output)
    if metric is not None:
        outputs.append(metric.output)
    kinds = tuple(
        None if function is None else _kind(function) for function in (model, loss, metric)
    )
    return State(own(C.combine(outputs)), models, metric is not None, kinds, trained_by(learners))


def _kind(function):
    """Returns (name of a Function, name of its combine or None)."""
    root = function.root_function
    return function.name, root.name if root.op_name == 'Combine' else None


class Original(NamedTuple):
    """The network of a trainer before its first exchange, which plain checkpoints belong to."""

    state: Optional[State]  # None once one of its Parameters is retired, to free its memory
    models: tuple  # as in State
    has_metric: bool  # as in State
    signature: str  # see `signature`
    metric_signature: str
    arguments: list  # its inputs (cntk.Variable), in order
    leaves: tuple  # lists of str: the uids of its Parameters and of its Constants, in order
    identities: frozenset  # of these leaves, see `identity`
    learners: list  # (Trained without Parameters, list of str: the uids of what it trained)


def signature(model):
    """Returns a text that two graphs share if they hold the same operations and shapes."""
    return ' '.join(operations_of(model))


def operations_of(model):
    """Returns the operations and shapes of a graph as texts, level by level."""
    operations, levels = [], [model.outputs]
    while levels:
        level = Level(levels.pop())
        for function in level.functions:
            if function.is_block:
                levels.append(body(function).outputs)
            elif function.op_name != 'Combine':
                operations.append(
                    f'{function.op_name}{[tuple(o.shape) for o in level.outputs(function)]}'
                )
    shapes = [str(tuple(parameter.shape)) for parameter in model.parameters]
    return operations + shapes
