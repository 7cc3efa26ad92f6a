"""Finds the live objects that read a network, and makes them follow its changes.

A script evaluates other Functions than those it gave to the Trainer: `softmax(z)`, a layer function
it applied twice, the network inside a criterion, an Evaluator. A live object belongs to a network
if it reads one of its Parameters. CNTK does not list live objects; the interpreter's garbage
collector does.
"""
import warnings
import weakref
from typing import Any

import cntk as C
from cntk.eval.evaluator import Evaluator
from cntk.ops.functions import UserFunction

from ..graph.pieces import with_outputs
from ..graph.walk import functions
from ..native_machine import _native
from ..trainers import evaluators, function_restores, remember, state, uids
from ..trainers.state import OWN, identity, signature
from .reading import Reading

# The reason why an object that reads a network cannot follow it.
SAME_UID = (
    'It also reads a part that has the uid of another one, as a loaded copy of the network does. '
    "Build it on copy.clone('clone') instead of the copy"
)

_ITSELF = (
    'It reads Parameters of these layers itself, which no run.current(function) exchanges. Build '
    'it again after the change, over the Parameters that the network has then: they may be more '
    'or fewer, in another order'
)

# By Trainer and identity of an output before a change: the Variable that replaces it, which keeps
# its whole graph alive.
_moved: 'weakref.WeakKeyDictionary[Any, Any]' = weakref.WeakKeyDictionary()


def now(variable):
    """Returns the Variable that now replaces one of a Function that has followed a change."""
    found = _last_move(identity(variable))
    return variable if found is None else found


def identity_now(key):
    """Returns the identity of what now replaces a Variable, known by its own."""
    found = _last_move(key)
    return key if found is None else identity(found)


def _last_move(key):
    found = None
    while True:
        moved = _moves_of(key)
        if moved is None:
            return found
        found = moved[key]
        key = identity(found)


def _moves_of(key):
    # `keyrefs` is one step for all threads; another one may add a trainer while we look.
    live = [trainer for trainer in (one() for one in _moved.keyrefs()) if trainer is not None]
    every = (_moved.get(trainer, {}) for trainer in live)
    return next((moved for moved in every if key in moved), None)


def live():
    """Returns the live Functions, except the engine's own, and the live Evaluators.

    A Function of class `cntk_py.Function` is left out: CNTK gives it the class that users know
    before anybody gets it, so another thread is making it.
    """
    found = [
        one
        for one in _native.live_objects(_kinds(C.Function) | _kinds(Evaluator))
        if 'this' in one.__dict__ and OWN not in one.__dict__
    ]
    return tuple(
        [one for one in found if isinstance(one, kind)] for kind in (C.Function, Evaluator)
    )


def _with_outputs(one):
    """Returns (a Function or an Evaluator, its outputs).

    There are no outputs if the graph it was part of is gone, so that nothing can read it.
    """
    try:
        return one, _evaluated(one).outputs
    except RuntimeError:
        return one, ()


def _evaluated(one):
    """Returns the Function of an Evaluator; a Function is its own."""
    return one.evaluation_function if isinstance(one, Evaluator) else one


def _kinds(base):
    """Returns a class and all its subclasses, except UserFunction and those derived from it.

    They are left out because their Python objects compute them.
    """
    found, pending = set(), [base]
    while pending:
        kind = pending.pop()
        if kind is not UserFunction and kind not in found:
            found.add(kind)
            pending.extend(kind.__subclasses__())
    return found


def live_leaves(identities):
    """Returns {uid: Parameter or Constant} of the leaves that the script holds.

    Args:
        identities (set): of the leaves to look for, see `state.identity`.
    """
    leaves = _native.live_objects([C.Parameter, C.Constant])
    made = (leaf for leaf in leaves if 'this' in leaf.__dict__)  # a constructor may have raised
    return {leaf.uid: leaf for leaf in made if identity(leaf) in identities}


class Readers:
    """The objects of the script, other than the trainer itself, that read a network.

    Args:
        trainer (cntk.Trainer): of the network.
        whole (cntk.Function): its outputs.

    Attributes:
        functions (list of cntk.Function): the script's own objects, including those it gave to the
            trainer.
        evaluators (list of cntk.Evaluator): those that are no Trainer.
        trainers (list of cntk.Trainer): the other ones.
        mixed (list): those of all three kinds that also read a part with a uid of the network or of
            another reader, such as a loaded copy. Edits go by uid, so these cannot follow; they are
            in no other list.
        outputs (list of cntk.Variable): what the others compute and `whole` does not, each once.
    """

    def __init__(self, trainer, whole):
        # CNTK walks the graph each time `outputs` is read.
        functions, evaluators = (
            [(one, outputs) for one, outputs in map(_with_outputs, group) if outputs]
            for group in live()
        )
        others = [
            (other, state.current(other).whole.outputs)
            for other in remember.trainers()
            if other is not trainer
        ]
        groups = functions, evaluators, others
        graphs = Reading([outputs for group in groups for _, outputs in group])
        reads, mixes = graphs.of(whole.parameters), graphs.of(graphs.doubles(whole))
        found = [[(one, outputs) for one, outputs in group if reads(outputs)] for group in groups]
        self.mixed = [one for group in found for one, outputs in group if mixes(outputs)]
        reading = [
            [(one, outputs) for one, outputs in group if not mixes(outputs)] for group in found
        ]
        self.functions, self.evaluators, self.trainers = (
            [one for one, _ in group] for group in reading
        )
        mine = {output.uid for output in whole.outputs}
        theirs = [output for group in reading for _, outputs in group for output in outputs]
        self.outputs = list(
            {output.uid: output for output in theirs if output.uid not in mine}.values()
        )
        self._mine = mine
        self._trainer = trainer

    def left_behind(self, new, change, retired, touched=()):
        """Warns of each Function and Evaluator that still reads what a change removed from the network.

        Args:
            new (dict): uid of an output to the Variable that replaces it; others stay.
            change (str): what changes the network.
            retired (sequence of cntk.Parameter): the network no longer reads them.
            touched (sequence of cntk.Variable): the network reads them in another way; a Function
                that reads them and has not changed is left behind too.

        Returns:
            list of str: the warnings, for the record.

        Raises:
            ValueError: another Trainer is left behind.
        """

        def left(old):
            stays = all(new.get(output.uid, output).uid == output.uid for output in old)
            found = [new.get(output.uid, output) for output in old]
            return reads_retired(found) or (stays and reads_touched(found))

        self.refuse_mixed(change)
        trainers = [(one, state.current(one).whole.outputs) for one in self.trainers]
        evaluating = [_with_outputs(one) for one in self.evaluators]
        # Only a composite can be evaluated; most others are remains of a graph search.
        composites = [(one, one.outputs) for one in self.functions if one.is_composite]
        reading = Reading(
            [
                [new.get(output.uid, output) for output in old]
                for _, old in trainers + composites + evaluating
            ]
        )
        reads_retired, reads_touched = reading.of(retired), reading.of(touched)
        for trainer, old in trainers:
            if left(old):
                raise ValueError(
                    f'{change}: another Trainer over the same layers '
                    f'({named(state.current(trainer).whole)}) cannot follow the change: its '
                    f'network reads them in a way that {change} does not handle. Leave these '
                    'layers out with filter_function, or train both tasks in one Trainer'
                )
        changes = any(output.uid != uid for uid, output in new.items())
        leaves = {*retired, *touched}
        stop = {
            uid for uid, output in new.items() if output.uid != uid and not reads_retired([output])
        }
        stale = [(one, SAME_UID) for one in self.mixed if changes and _evaluated(one).is_composite]
        stale += [
            (
                one,
                _ITSELF
                if _reads_itself(old, leaves, stop)
                else 'Rebuild it over the present network with run.current(function)',
            )
            for one, old in composites
            if not all(output.uid in self._mine for output in old) and left(old)
        ]
        stale += [
            (one, 'Make it again with cntk.Evaluator(...)')
            for one, old in evaluating
            if left(old) or not (_stays(old, new) or evaluators.can_follow(one))
        ]
        messages = [
            f"{'the Evaluator of ' * isinstance(one, Evaluator)}{named(_evaluated(one))} reads "
            f'layers that {change} changed and could not follow: it computes what it did. {remedy}'
            for one, remedy in stale
        ]
        for message in messages:
            warnings.warn(message)
        return messages

    def refuse_mixed(self, change):
        """Refuses a change if another Trainer is among those of `mixed`.

        Raises:
            ValueError: there is one.
        """
        for one in self.mixed:
            if isinstance(one, C.Trainer):
                raise ValueError(
                    f'{change}: another Trainer over the same layers '
                    f'({named(state.current(one).whole)}) cannot follow the change. {SAME_UID}'
                )

    def follow(self, new, undo):
        """Makes the Functions and the Evaluators compute what replaces their outputs.

        Args:
            new (dict): uid of an output to the Variable that replaces it.
            undo (contextlib.ExitStack): receives what restores the old ones.
        """
        for function in self.functions:
            if not _stays(function.outputs, new):
                point(self._trainer, function, [new[o.uid] for o in function.outputs], undo)
        for evaluator in self.evaluators:
            function = evaluator.evaluation_function
            if evaluators.can_follow(evaluator) and not _stays(function.outputs, new):
                changed = _like(function, [new[o.uid] for o in function.outputs])
                evaluators.renew(evaluator, changed, named(function), undo)


def _stays(outputs, new):
    """Whether a change, a dict as `Readers.follow` gets it, does not replace all of some outputs,
    or only by themselves."""
    return any(new.get(output.uid) is None for output in outputs) or all(
        new[output.uid].uid == output.uid for output in outputs
    )


def named(function):
    """Describes a Function in messages: by its name, else its outputs' names, else its uid."""
    if function.name:
        return f"the Function '{function.name}'"
    names = [output.name for output in function.outputs if output.name]
    return (
        'a Function of the outputs %s' % ', '.join(map(repr, names))
        if names
        else f'a Function without a name ({function.uid})'
    )


def _reads_itself(outputs, leaves, stop):
    """Whether outputs depend on leaves other than through Variables that are exchanged.

    Args:
        outputs (list of cntk.Variable): those of a Function.
        leaves (set of cntk.Variable): Parameters and Constants.
        stop (set of str): the uids of what is exchanged.
    """
    return any(
        variable in leaves for function in functions(outputs, stop) for variable in function.inputs
    )


def _like(function, outputs):
    """Returns some outputs as a Function of the kind of another one."""
    if not function.is_composite and len(outputs) == 1 and len(outputs[0].owner.outputs) == 1:
        return outputs[0].owner
    return with_outputs(function, outputs)


def point(trainer, function, outputs, undo):
    """Makes a Function object of the script compute other outputs.

    Args:
        trainer (cntk.Trainer): of the network that it reads.
        function (cntk.Function): the object; it stays the same.
        outputs (list of cntk.Variable): what it computes from now on, one for each of its outputs.
        undo (contextlib.ExitStack): receives what restores the old ones.
    """
    new = _like(function, outputs)
    for old, output in zip(function.outputs, outputs):
        move(trainer, old, output, undo)
    undo.callback(setattr, function, 'this', function.this)
    function.this = new.this
    function.__dict__[function_restores.CHECK] = _refuse_other_structure


def follow_inside(trainer, moved, undo):
    """Makes live Functions that are inside a block follow where the block is opened.

    A script finds the primitive in a `cntk.layers.Dropout` to set its rate; it reads a placeholder
    of the block, so that it is none of the network's `Readers`.

    Args:
        trainer (cntk.Trainer): of the network.
        moved (list): (output before, output after) of the Functions.
        undo (contextlib.ExitStack): receives what restores the old ones.
    """
    new = {identity(before): after for before, after in moved}
    functions = [one for one in live()[0] if not one.is_composite]
    for function, outputs in map(_with_outputs, functions):
        if len(outputs) == 1 and identity(outputs[0]) in new:
            point(trainer, function, [new[identity(outputs[0])]], undo)


def _refuse_other_structure(function, file):
    """Refuses a file of another structure in `Function.restore`; CNTK does not look inside blocks.

    Raises:
        ValueError: the file and the Function are from before and after a change of the network.
    """
    if signature(uids.load_as_saved(file)) != signature(function):
        raise ValueError(
            f'{named(function)} cannot be restored from {file}: an optimization has changed the '
            'network, and the file holds another structure than the Function has now. '
            'cntk.load_model(file) gives the network in the file; to train on with it, restore a '
            'checkpoint of the Trainer saved at the same time'
        )


def move(trainer, old, new, undo):
    """Records that one Variable replaces another from now on, while the trainer lives."""
    if old == new:
        return
    key = identity(old)
    mine = _moved.setdefault(trainer, {})
    undo.callback(_put_back, mine, key, mine.get(key))
    mine[key] = new
    key = identity(new)
    again = _moves_of(key)
    if again is not None:  # the script has returned to an earlier graph
        undo.callback(_put_back, again, key, again.pop(key))


def _put_back(moved, key, variable):
    if variable is None:
        moved.pop(key, None)
    else:
        moved[key] = variable
