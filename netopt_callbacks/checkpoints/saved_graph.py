"""Records what is where in a checkpoint's graph, and rebuilds it on the user's own objects.

CNTK restores by position, and it saves outputs of its own beside the user's. So the engine records
which output, input and Parameter of the saved graph corresponds to which of the script's.
"""
import hashlib

import cntk as C

from .. import graph
from ..temporary_folder import temporary_folder
from ..trainers.plan import unread
from ..trainers.remember import native_trainer
from ..trainers.state import Original, current, identity, operations_of, own, signature
from ..trainers.uids import load_as_saved
from . import temporary
from .mark import network_of


def original_of(state):
    """Returns the `Original` of a network."""
    whole = state.whole
    parameters, constants = list(whole.parameters), list(whole.constants)
    return Original(
        state,
        state.models,
        state.has_metric,
        signature(whole),
        signature(state.metric) if state.has_metric else None,
        list(whole.arguments),
        ([leaf.uid for leaf in parameters], [leaf.uid for leaf in constants]),
        frozenset(map(identity, parameters + constants)),
        [(one._replace(parameters=()), [p.uid for p in one.parameters]) for one in state.trained],
    )


def places(state, original, arguments, others=()):
    """Returns what is where in a checkpoint of a network, JSON-ready.

    C++ saves outputs of its own beside the user's, so a checkpoint is written and read; CNTK keeps
    uids in it. A trainer of the engine's own writes it from the same graph, since a save of the
    user's trainer would be a synchronization for distributed learners.

    Args:
        state (State): the current one.
        original (Original): of the trainer.
        arguments (list of cntk.Variable): the criterion's, in order.
        others (sequence of (State, Original)): of the other Trainers over the same layers.
    """
    saved = _saved(state)
    uids = [output.uid for output in saved.outputs]
    found = [uids.index(output.uid) for output in state.whole.outputs]
    inputs, parameters, constants = (
        [leaf.uid for leaf in leaves]
        for leaves in (saved.arguments, saved.parameters, saved.constants)
    )
    return {
        'outputs': found,
        'fingerprint': fingerprint(saved, found),
        'arguments': [_place(argument.uid, inputs) for argument in arguments],
        'parameters': [_place(uid, parameters) for uid in original.leaves[0]],
        'constants': [_place(uid, constants) for uid in original.leaves[1]],
        'learners': [
            [one.made_by, [_place(p.uid, parameters) for p in one.parameters]]
            for one in state.trained
        ],
        'others': [
            [
                [
                    one.made_by,
                    [_place_of_other(p.uid, its.leaves[0], parameters) for p in one.parameters],
                ]
                for one in now.trained
            ]
            for now, its in others
        ],
    }


def _place_of_other(uid, its, parameters):
    """Returns where a Parameter of another Trainer is: (whether it is in the checkpoint, its place
    there or among those the Trainer was built with).

    A script that is started again has those it was built with, though not in the checkpoint.
    """
    return [False, its.index(uid)] if uid in its else [True, _place(uid, parameters)]


def _place(uid, uids):
    return uids.index(uid) if uid in uids else None


def _saved(state):
    """Returns the graph in a checkpoint of a trainer of this network, as loaded."""
    model, loss = network_of(state, unread(state.trained, state.loss), 'places')
    writer = native_trainer(model, (loss, state.metric), [C.sgd(list(loss.parameters), 0.0)], [])
    what = 'a checkpoint of an optimized network'
    with temporary_folder(what) as folder:
        temporary.room_for(folder, loss, [], what)
        writer.save_checkpoint(folder + '/places')
        temporary.check(folder + '/places', what)
        return own(load_as_saved(folder + '/places'))


def rebound(checkpoint, original, arguments, leaf_of):
    """Returns the network of a checkpoint on the script's own inputs, Parameters and Constants.

    Args:
        checkpoint (checkpoint.Saved): of a run with optimizations.
        original (Original): of this script's trainer.
        arguments (list of cntk.Variable): the criterion's, in order.
        leaf_of (callable): uid -> the script's own Parameter or Constant; None if it no longer has
            one.

    Returns:
        (cntk.Function, list): the outputs of model, loss and metric combined, and for each learner
            (index of the optimization that made it or None, Parameters).

    Raises:
        ValueError: this script did not write the checkpoint.
    """
    saved, phase = checkpoint.graph, checkpoint.phase
    mine = (arguments,) + original.leaves
    theirs = (phase.arguments, phase.parameters, phase.constants)
    if list(map(len, mine)) != list(map(len, theirs)):
        raise ValueError(
            f'the checkpoint {checkpoint.file} was written by a script whose network has '
            f'{_counted(theirs)}, and the one of this script has {_counted(mine)}: {_OTHERS}'
        )
    pairs = [
        (saved.arguments[place], argument)
        for place, argument in zip(phase.arguments, arguments)
        if place is not None
    ]
    for leaves, places_of_leaves, uids in zip(
        (saved.parameters, saved.constants), theirs[1:], original.leaves
    ):
        pairs += [
            (leaves[place], leaf_of(uid))
            for place, uid in zip(places_of_leaves, uids)
            if place is not None
        ]
    pairs = [(old, new) for old, new in pairs if new is not None]
    pairs += _present(saved, pairs, original, leaf_of)
    for old, new in pairs:
        if tuple(old.shape) != tuple(new.shape):
            raise ValueError(
                'the checkpoint %s was written by another script: its %s is of shape %s, '
                'and %s of this script is of shape %s: %s'
                % (
                    checkpoint.file,
                    old.name or old.uid,
                    tuple(old.shape),
                    new.name or new.uid,
                    tuple(new.shape),
                    _OTHERS,
                )
            )
    own = {old.uid: new for old, new in pairs}
    learners = [
        (
            made_by,
            tuple(own.get(saved.parameters[place].uid, saved.parameters[place]) for place in owned),
        )
        for made_by, owned in phase.learners
    ]
    return _on(C.combine([saved.outputs[place] for place in phase.outputs]), pairs), learners


_OTHERS = 'give another checkpoint name, or the network that it was saved from; nothing was changed'


def _counted(kinds):
    """Returns how many inputs, Parameters and Constants there are, as text."""
    said = [
        f'{len(leaves)} {kind}{"s" * (len(leaves) != 1)}'
        for kind, leaves in zip(('input', 'Parameter', 'Constant'), kinds)
    ]
    return '{}, {} and {}'.format(*said)


def _present(saved, pairs, original, leaf_of):
    """Returns the leaves that an optimization added and the trainer has now.

    They are found by uid, which CNTK keeps in a saved graph.
    """
    known = {uid for uids in original.leaves for uid in uids}.union(old.uid for old, _ in pairs)
    found = [
        (leaf, leaf_of(leaf.uid))
        for leaf in list(saved.parameters) + list(saved.constants)
        if leaf.uid not in known
    ]
    return [
        (old, new) for old, new in found if new is not None and tuple(old.shape) == tuple(new.shape)
    ]


def original_again(saved, original, leaf_of):
    """Returns a plain checkpoint's network on the script's leaves, and what each learner trains.

    Args:
        saved (cntk.Function): as loaded; belongs to the network that `original` describes.
        original (Original): of the trainer.
        leaf_of (callable): as in `rebound`.
    """
    whole = C.combine(original_outputs(saved, original))
    pairs = []
    for kind, uids in (('parameters', original.leaves[0]), ('constants', original.leaves[1])):
        pairs += [(leaf, leaf_of(uid)) for leaf, uid in zip(getattr(whole, kind), uids)]
    own = {
        uid: new if new is not None else old
        for (old, new), uid in zip(pairs, original.leaves[0] + original.leaves[1])
    }
    pairs += zip(whole.arguments, original.arguments)
    pairs = [(old, new) for old, new in pairs if new is not None]
    trained = tuple(
        one._replace(parameters=tuple(own[uid] for uid in uids)) for one, uids in original.learners
    )
    return _on(whole, pairs), trained


def original_outputs(saved, original):
    """Returns the outputs of model, loss and metric in a plain checkpoint's graph.

    It returns None if the graph belongs to another network.
    """
    models = original.models
    if len(saved.outputs) < models + 1 + original.has_metric:
        return None
    outputs = list(saved.outputs)[: models + 1]
    if not original.has_metric:
        return outputs if signature(C.combine(outputs)) == original.signature else None
    for metric in list(saved.outputs)[models:]:
        if (
            signature(C.combine([metric])) == original.metric_signature
            and signature(C.combine(outputs + [metric])) == original.signature
        ):
            return outputs + [metric]
    return None


def _on(whole, pairs):
    """Returns a graph that reads other leaves; `pairs` may hold leaves that it does not read."""
    read = {leaf.uid for leaf in whole.inputs}
    return graph.substitute(whole, {old: new for old, new in pairs if old.uid in read})


def is_of(saved, whole):
    """Whether a checkpoint of a run with optimizations holds this graph, operation by operation.

    Args:
        saved (checkpoint.Saved): its uids are those at the time of the save.
        whole (cntk.Function): outputs of model, loss and metric, combined.
    """
    theirs = C.combine([saved.graph.outputs[place] for place in saved.phase.outputs])
    return signature(theirs) == signature(whole) and _uids(theirs) == _uids(whole)


def _uids(whole):
    return {
        function.uid
        for function in graph.walk(whole, into_blocks=True)
        if function.op_name != 'Combine'
    }


def fingerprint(saved, places_of_outputs):
    """Returns a hash of the operations and shapes of a saved graph.

    It is the same for all graphs of one phase; None if the graph lacks one of the outputs.

    Args:
        saved (cntk.Function), places_of_outputs (list of int): see `places`.
    """
    if max(places_of_outputs) >= len(saved.outputs):
        return None
    operations = sorted(
        operations_of(C.combine([saved.outputs[place] for place in places_of_outputs]))
    )
    return hashlib.sha256('\n'.join(operations).encode('utf-8')).hexdigest()


def refuse_other(trainer, file):
    """Refuses a checkpoint of another structure for a Trainer without callbacks.

    Raises:
        ValueError: the checkpoint and the Trainer are from before and after a change.
    """
    if original_outputs(load_as_saved(file), original_of(current(trainer))) is None:
        raise other(file)


def other(file):
    """Returns the error of a checkpoint from before or after a change of another Trainer."""
    return ValueError(
        f'the checkpoint {file} is of another network than this Trainer has now, since an '
        'optimization attached to another Trainer changed the layers both read: restore that '
        'one to the time of this checkpoint first'
    )
