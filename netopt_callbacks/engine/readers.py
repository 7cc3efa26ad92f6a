"""Who reads a network: the live Functions and Trainers over its Parameters, and how they follow a change.

A script evaluates other Functions than those it gave to the Trainer: `softmax(z)`, a layer function it
applied twice, the network inside a criterion. Parameters say who belongs together: whatever live object
reads a Parameter of the network does. CNTK does not list them, the interpreter's garbage collector does.
"""
import gc
import itertools
import warnings

import cntk as C
from cntk import cntk_py
from cntk.ops.functions import UserFunction

from ..graph.edit import with_outputs
from ..graph.walk import functions, walk
from . import remember, state
from .load import load_graph
from .state import OWN, signature

_UNKNOWN = C.placeholder().shape
_moved = {}             # uid of an output before a change: the Variable that stands for it


def now(variable):
    """Returns the Variable that stands for one of a Function that has followed a change."""
    while variable.uid in _moved:
        variable = _moved[variable.uid]
    return variable


def live_functions():
    """Returns the Function objects that are alive, but for the engine's own."""
    objects = gc.get_objects()      # often a million: they are gone through in C
    found = itertools.compress(objects, map(_kinds(cntk_py.Function).__contains__, map(type, objects)))
    return [function for function in found if 'this' in function.__dict__ and OWN not in function.__dict__]


def _with_outputs(function):
    """Returns (a Function, its outputs): none where the graph it was part of is gone, so that nothing can read it."""
    try:
        return function, function.outputs
    except RuntimeError:
        return function, ()


def _kinds(base):
    """Returns a class and all derived from it, but for UserFunctions: their Python object computes them."""
    found, pending = set(), [base]
    while pending:
        kind = pending.pop()
        if kind is not UserFunction and kind not in found:
            found.add(kind)
            pending.extend(kind.__subclasses__())
    return found


def live_leaves(uids):
    """Returns {uid: Parameter or Constant} of those that the script holds.

    Args:
        uids (set of str): those looked for.
    """
    leaves = (C.Parameter, C.Constant)
    return {leaf.uid: leaf for leaf in gc.get_objects() if type(leaf) in leaves and leaf.uid in uids}


class Readers(object):
    """The Functions and Trainers of the script that read a network beside the trainer itself.

    Args:
        trainer (cntk.Trainer): of the network.
        whole (cntk.Function): its outputs.

    Attributes:
        functions (list of cntk.Function): the script's own objects; those it gave to the trainer are among them.
        trainers (list of cntk.Trainer): other ones.
        outputs (list of cntk.Variable): what they compute and `whole` does not, each once.
    """

    def __init__(self, trainer, whole):
        # CNTK walks the graph each time it is asked for outputs.
        live = [(function, outputs) for function, outputs in map(_with_outputs, live_functions()) if outputs]
        others = [(other, state.current(other).whole.outputs) for other in remember.trainers() if other is not trainer]
        reads = _Reading([outputs for _, outputs in live + others]).of(whole.parameters)
        reading, trainers = ([(one, outputs) for one, outputs in group if reads(outputs)] for group in (live, others))
        self.functions = [function for function, _ in reading]
        self.trainers = [other for other, _ in trainers]
        mine = {output.uid for output in whole.outputs}
        theirs = [output for _, outputs in reading + trainers for output in outputs]
        self.outputs = list({output.uid: output for output in theirs if output.uid not in mine}.values())
        self.left = []          # what the record says of those that could not follow
        self._mine = mine
        self._whole = whole
        self._held = None       # a Variable does not keep its Function alive

    def variants(self):
        """Yields the outputs an optimization is to change beside the network's, and lets `outputs` be those they stand for.

        First all as they are. A layer function that is applied to no input yet knows no shapes, which some
        optimizations need: then it is taken as the network applies it, or left where that cannot be seen.
        """
        if not self.outputs:
            return
        yield self.outputs
        applied, self.left = {}, []
        for function in self.functions:
            if function.placeholders:
                known = applied_as_in(function, self._whole)
                if known is None and function.is_composite:
                    self.left.append(_left(function, 'the optimization'))
                applied.update((old.uid, new) for old, new in zip(
                    function.outputs, known.outputs if known is not None else [None] * len(function.outputs)))
        if not applied:
            return
        self._held = applied
        pairs = [(output, applied.get(output.uid, output)) for output in self.outputs]
        self.outputs = [old for old, new in pairs if new is not None]
        for message in self.left:
            warnings.warn(message)
        yield [new for _, new in pairs if new is not None]

    def leave(self, optimization):
        """Notes that those beside the trainer's own outputs cannot follow a change, and warns of it.

        Args:
            optimization (str): what changes the network.

        Raises:
            ValueError: another Trainer is among them.
        """
        if self.trainers:
            raise ValueError('%s: another Trainer over the same layers (%s) cannot follow the change: its network '
                             'reads them in a way that %s does not handle. Leave these layers out with '
                             'filter_function, or train both tasks in one Trainer'
                             % (optimization, _named(state.current(self.trainers[0]).whole), optimization))
        # One that is no composite cannot be evaluated; most are what a graph search has left behind.
        stale = [function for function in self.functions if function.is_composite
                 and not all(output.uid in self._mine for output in function.outputs)]
        self.left = [_left(function, optimization) for function in stale]
        for message in self.left:
            warnings.warn(message)
        self.outputs = []

    def follow(self, new, undo):
        """Lets the Functions compute what stands for what they compute.

        Args:
            new (dict): uid of an output to the Variable that takes its place.
            undo (contextlib.ExitStack): gets what puts the old ones back.
        """
        for function in self.functions:
            outputs = [new.get(output.uid) for output in function.outputs]
            if None not in outputs and [o.uid for o in outputs] != [o.uid for o in function.outputs]:
                point(function, outputs, undo)


class _Reading(object):
    """Which Functions of some graphs read which leaves, each Function looked at once."""

    def __init__(self, groups):
        self._leaf_readers = {}     # uid of a leaf: (the leaf, uid of a Function that reads it)
        self._readers = {}          # uid of a Function: uids of the Functions that read it
        self._owner = {}            # uid of an output that is read or wanted: uid of its Function
        seen = set()
        for outputs in groups:
            for function in functions(outputs, stop=self._owner):
                if function.uid not in seen:
                    seen.add(function.uid)
                    self._add(function)
            self._owner.update((output.uid, output.owner.uid) for output in outputs if output.is_output)

    def _add(self, function):
        uid = function.uid
        for variable in function.inputs:
            if variable.is_output:
                owner = self._owner[variable.uid] = variable.owner.uid
                self._readers.setdefault(owner, []).append(uid)
            else:
                self._leaf_readers.setdefault(variable.uid, []).append((variable, uid))

    def of(self, leaves):
        """Returns a predicate: whether any of some Variables depends on one of these leaves.

        A graph that was loaded has leaves of its own with the uids of those that were saved.
        """
        pending = [uid for leaf in leaves for mine, uid in self._leaf_readers.get(leaf.uid, ()) if mine == leaf]
        reached = set(pending)
        while pending:
            new = [uid for uid in self._readers.get(pending.pop(), ()) if uid not in reached]
            reached.update(new)
            pending.extend(new)
        return lambda variables: any(self._owner.get(variable.uid) in reached for variable in variables)


def applied_as_in(function, whole):
    """Returns a layer function applied to an input as a network gives it; None where that is not seen.

    Args:
        function (cntk.Function): with one placeholder.
        whole (cntk.Function): the network, in which the Parameters that it applies to its input are applied, too.
    """
    if len(function.placeholders) != 1:
        return None
    inlet = function.placeholders[0].uid
    first = {(part.op_name, leaf.uid) for part in functions(function.outputs)
             for leaf in part.inputs if leaf.is_parameter and any(v.uid == inlet for v in part.inputs)}
    for part in walk(whole):
        if any((part.op_name, leaf.uid) in first for leaf in part.inputs if leaf.is_parameter):
            data = [variable for variable in part.inputs if not (variable.is_parameter or variable.is_constant)]
            if len(data) == 1 and data[0].shape != _UNKNOWN:
                return function(data[0] if data[0].is_input else C.input_variable(
                    data[0].shape, data[0].dtype, dynamic_axes=data[0].dynamic_axes, name=data[0].name))
    return None


def _left(function, optimization):
    return ('%s reads layers that %s changed and could not follow: it computes what it did. Rebuild it over the '
            'present network with run.current(function)' % (_named(function), optimization))


def _named(function):
    return "the Function '%s'" % function.name if function.name else 'a Function without a name (%s)' % function.uid


def point(function, outputs, undo):
    """Lets a Function object of the script compute other outputs.

    Args:
        function (cntk.Function): the object; it stays.
        outputs (list of cntk.Variable): what it computes from here on, one for each of its own.
        undo (contextlib.ExitStack): gets what puts the old ones back.
    """
    new = with_outputs(function, outputs)
    if not function.is_composite and len(outputs) == 1 and len(outputs[0].owner.outputs) == 1:
        new = outputs[0].owner
    for old, output in zip(function.outputs, outputs):
        move(old, output, undo)
    undo.callback(setattr, function, 'this', function.this)
    function.this = new.this
    function.__dict__[remember.CHECK] = _refuse_other_structure


def _refuse_other_structure(function, file):
    """Refuses a file of another structure for `Function.restore`: CNTK does not look inside blocks.

    Raises:
        ValueError: the file was saved before a change of the network that the Function has followed, or after.
    """
    if signature(load_graph(file)) != signature(function):
        raise ValueError('%s cannot be restored from %s: an optimization has changed the network, and the file holds '
                         'another structure than the Function has now. cntk.load_model(file) gives the network in the '
                         'file; to train on with it, restore a checkpoint of the Trainer saved at the same time'
                         % (_named(function), file))


def move(old, new, undo):
    """Notes that one Variable stands for another from here on."""
    if old.uid == new.uid:
        return
    undo.callback(_put_back, old.uid, _moved.get(old.uid))
    _moved[old.uid] = new
    if new.uid in _moved:           # the script has come back to a graph it had
        undo.callback(_put_back, new.uid, _moved.pop(new.uid))


def _put_back(uid, variable):
    if variable is None:
        _moved.pop(uid, None)
    else:
        _moved[uid] = variable
