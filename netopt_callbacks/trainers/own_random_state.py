"""Keeps apart the random states of several Trainers over the same Functions.

CNTK compiles a network for each Trainer, in its first minibatch, and each network has its own
random state. A Function has but one: that of the Trainer that was saved or restored last. So
where a C++ trainer has not compiled yet, the state of its Trainer is held here, and put into the
Functions just before it is compiled or saved.
"""
import functools
from typing import Any, NamedTuple

import cntk as C
from cntk import cntk_py

from .. import graph
from ..temporary_folder import temporary_folder
from . import random_state, remember
from .state import current, own

_STATE = ('rngSeed', 'rngOffset')


class _Copy(NamedTuple):
    """A primitive with the random state that it had when it was copied."""

    kind: Any  # what its counterpart in a changed graph has as well
    state: Any
    function: Any  # unapplied


class _Held(NamedTuple):
    output: Any  # of a primitive in the graph of the Trainer
    copy: _Copy


class _Random(NamedTuple):
    samples: int  # that the Trainer had seen
    held: Any  # list of _Held


def install():
    """Wraps the methods of C++ that save and restore a trainer; a second call does nothing."""
    for name, wrap in (('save_checkpoint', _saving), ('restore_from_checkpoint', _restoring)):
        method = getattr(cntk_py.Trainer, name)
        if not hasattr(method, '__wrapped__'):
            setattr(cntk_py.Trainer, name, wrap(method))


def _saving(save):
    @functools.wraps(save)
    def method(self, *given):
        if remember.ATTRIBUTE in self.__dict__:
            put(self)
        return save(self, *given)

    return method


def _restoring(restore):
    @functools.wraps(restore)
    def method(self, *given):
        state = restore(self, *given)
        if remember.ATTRIBUTE in self.__dict__:
            restored(self)
        return state

    return method


def copies(whole):
    """Returns copies of the primitives of a graph with random state, with the state of now.

    Those in blocks are left out: CNTK does not save their state.
    """
    found = []
    for function in _primitives(whole):
        inputs = [one for one in function.inputs if not (one.is_parameter or one.is_constant)]
        copy = own(C.combine([function.outputs[0]])).clone(
            C.CloneMethod.share, {one: C.placeholder() for one in inputs}
        )
        state = _state(function)
        found.append(_Copy((function.op_name, state[0]), state, own(copy)))
    return found


def held(samples, kept, whole):
    """Returns what a Trainer has to hold whose graph has changed.

    Args:
        samples (int): that it has seen; what is held is of no use once it has seen more.
        kept (list): the `copies` of its graph before.
        whole (cntk.Function): its graph now. A primitive is found again by its operation and seed;
            of several with one seed, the order tells which is which.
    """
    before, after = {}, {}
    for copy in kept:
        before.setdefault(copy.kind, []).append(copy)
    for function in _primitives(whole):
        after.setdefault((function.op_name, _state(function)[0]), []).append(function.outputs[0])
    return _Random(
        samples,
        [
            _Held(output, copy)
            for kind, outputs in after.items()
            if len(outputs) == len(before.get(kind, ()))
            for output, copy in zip(outputs, before[kind])
        ],
    )


def hold(trainer):
    """Holds the state that the Functions of a Trainer have now, if it has to compile them yet.

    Without another Trainer nothing else can change it.
    """
    if all(other is trainer for other in remember.trainers()):
        return
    facts = remember.facts(trainer)
    new = facts.last is not None or not cntk_py.Trainer.previous_minibatch_sample_count(trainer)
    if facts.random is None and new:
        whole = current(trainer).whole
        facts.random = held(trainer.total_number_of_samples_seen, copies(whole), whole)


def restored(trainer):
    """Holds the state that a restore has given the Functions of a Trainer."""
    facts = remember.facts(trainer)
    if facts.random is not None or facts.last is not None:
        facts.random = None
        hold(trainer)


def put(trainer):
    """Puts the state that a Trainer holds into its Functions."""
    facts = remember.facts(trainer)
    if facts.random is not None and facts.random.samples != trainer.total_number_of_samples_seen:
        facts.random = None  # C++'s own session has compiled and trained it
    if facts.random is None:
        return
    other = [one for one in facts.random.held if _state(one.output.owner) != one.copy.state]
    if not other:
        return
    # A restore is the only way into a Function. It takes the values of Parameters, too, so those
    # in the file are the ones of now.
    now = own(C.combine([one.output for one in other]))
    as_held = now
    for number, one in enumerate(other):
        output = as_held.outputs[number]
        inputs = [i for i in output.owner.inputs if not (i.is_parameter or i.is_constant)]
        placeholders = one.copy.function.placeholders
        replacement = own(
            one.copy.function.clone(C.CloneMethod.share, dict(zip(placeholders, inputs)))
        )
        as_held = own(graph.substitute(as_held, {output: replacement.outputs[0]}))
    with temporary_folder('the random state of one of several Trainers') as folder:
        as_held.save(folder + '/state')
        now.restore(folder + '/state')


def _primitives(whole):
    return [
        function
        for function in graph.primitives(whole)
        if not function.is_block and function.op_name in random_state.STATEFUL
    ]


def _state(function):
    return tuple(function.attributes.get(name) for name in _STATE)
