"""Finds where two graphs of one network differ, and which parts of the two correspond.

A restore may put a network of another structure into a trainer: layers are factored that were not,
or the reverse. The script's Functions over the same layers must follow, so the engine needs the
corresponding parts.

An optimization replaces parts that read one Variable (the layer's input) besides Parameters and
Constants, and leaves everything around them unchanged. So two outputs correspond in two cases.
Either they are computed alike, input by input. Or at most `DEPTH` Functions behind them are two
Variables that correspond and are the only data read on the way; the Functions in between are such a
part.
"""
import itertools
from typing import NamedTuple

import cntk as C

from .. import graph
from ..graph.walk import body
from ..optimizations.base import Replaced

DEPTH = 8


class Part(NamedTuple):
    """A part of a network and the part that replaces it: output and input of each."""

    before: C.Variable
    before_input: C.Variable
    after: C.Variable
    after_input: C.Variable


class Followed(NamedTuple):
    """What `follow` returns."""

    outputs: list  # the replacements of the readers
    touched: list  # leaves that the network now reads in another way; all if that is not known
    parts: list  # the `Part`s in which the graphs differ
    pairs: dict  # uid of a Variable of the graph before: the one that corresponds to it


class _Place(NamedTuple):
    output: C.Variable
    input: C.Variable
    label: str
    name: str


def _alike(before, after):
    """Returns {uid of a Variable of `before`: (its Variable of `after`, the Part that the two end or
    None)}; None if that cannot be determined."""
    comparison = _Comparison()
    if not all(comparison.alike(old, new) for old, new in zip(before.outputs, after.outputs)):
        return None
    found = {}
    for old, new in zip(before.outputs, after.outputs):
        comparison.collect(old, new, found)
    return found


class _Comparison:
    """Compares Variables of two graphs, each pair once."""

    def __init__(self):
        self._known = {}  # (uid, uid): None if they differ, 'same', or the Part that they end
        self._bodies = {}

    def alike(self, old, new):
        """Whether two Variables correspond."""
        key = old.uid, new.uid
        if key not in self._known:
            self._known[key] = 'same'  # in a loop, a pair that depends on itself decides nothing
            self._known[key] = self._compared(old, new)
        return self._known[key] is not None

    def collect(self, old, new, found):
        """Adds the pairs behind two alike Variables to `found`, see `_alike`."""
        pending, seen = [(old, new)], set()
        while pending:
            old, new = pending.pop()
            if (old.uid, new.uid) in seen:
                continue
            seen.add((old.uid, new.uid))
            what = self._known.get((old.uid, new.uid))
            found[old.uid] = new, what if isinstance(what, Part) else None
            if isinstance(what, Part):
                pending.append((what.before_input, what.after_input))
            elif old.is_output and new.is_output:
                pending.extend(zip(old.owner.inputs, new.owner.inputs))

    def _compared(self, old, new):
        if not old.is_output or not new.is_output:
            return 'same' if _is_leaf(old) and old.uid == new.uid else None
        if self._same_function(old, new):
            return 'same'
        for one, other in sorted(
            itertools.product(_chain(old), _chain(new)), key=lambda pair: pair[0][0] + pair[1][0]
        ):
            if self.alike(one[1], other[1]):
                return Part(old, one[1], new, other[1])
        return None

    def _same_function(self, old, new):
        f, g = old.owner, new.owner
        if f.uid == g.uid:
            return True
        if (
            f.op_name != g.op_name
            or f.name != g.name
            or f.is_block != g.is_block  # a Dropout of the script, and an opened one
            or len(f.inputs) != len(g.inputs)
            or [o.uid for o in f.outputs].index(old.uid)
            != [o.uid for o in g.outputs].index(new.uid)
        ):
            return False
        if f.is_block and self._body(f) != self._body(g):
            return False
        return all(self.alike(a, b) for a, b in zip(f.inputs, g.inputs))

    def _body(self, block):
        if block.uid not in self._bodies:
            self._bodies[block.uid] = [
                (function.op_name, [tuple(o.shape) for o in function.outputs])
                for function in graph.walk(body(block))
            ]
        return self._bodies[block.uid]


def _is_leaf(variable):
    return (
        variable.is_parameter
        or variable.is_constant
        or variable.is_input
        or variable.is_placeholder
    )


def _data(function):
    """Returns the Variables a Function reads that are neither Parameters nor Constants."""
    return [
        variable
        for variable in function.inputs
        if not (variable.is_parameter or variable.is_constant)
    ]


def _chain(variable):
    """Returns [(steps, Variable)] behind a Variable, along Functions that read only one."""
    found = []
    while variable.is_output and len(found) < DEPTH:
        data = {read.uid: read for read in _data(variable.owner)}
        if len(data) != 1:
            break
        (variable,) = data.values()
        found.append((len(found) + 1, variable))
    return found


def _between(output, inlet):
    """Returns the Functions from an output down to a part's input, and the leaves they read."""
    path, leaves = [], {}
    while output.uid != inlet.uid:
        path.append(output.owner)
        leaves.update(
            (leaf.uid, leaf)
            for leaf in output.owner.inputs
            if leaf.is_parameter or leaf.is_constant
        )
        output = _data(output.owner)[0]
    return path, leaves


def follow(before, after, readers):
    """Changes the other readers of a network in the same way as the network was changed.

    Args:
        before, after (cntk.Function): have their outputs in the same order and share leaves as the
            same objects.
        readers (list of cntk.Variable): outputs of Functions that read leaves of `before`.

    Returns:
        Followed: the replacements of the readers, and how the two graphs differ.
    """
    if not readers:
        return Followed([], [], [], {})
    alike = _alike(before, after)
    if alike is None:
        return Followed(list(readers), list(before.parameters) + list(before.constants), [], {})
    found = [part for _, part in alike.values() if part is not None]
    touched = {
        leaf.uid: leaf
        for part in found
        for leaf in _between(part.before, part.before_input)[1].values()
    }
    pairs = {uid: new for uid, (new, _) in alike.items()}
    return Followed(_followed(readers, found), list(touched.values()), found, pairs)


def _followed(outputs, differences):
    """Returns outputs with the parts replaced wherever the same layer is applied.

    Args:
        outputs (list of cntk.Variable): of Functions that read the network's leaves.
        differences (list of Part): see `follow`.

    Returns:
        list of cntk.Variable: one for each output, in order; an output without such a part is
            unchanged.
    """
    if not differences or not outputs:
        return list(outputs)
    whole = C.combine(outputs)
    new_functions = {}
    for part in differences:
        path, leaves = _between(part.before, part.before_input)
        if not leaves:
            continue  # it reads no leaf by which it could be recognized
        for place in _applications(whole, path):
            inlet = C.placeholder()
            copy = C.combine([part.after]).clone(C.CloneMethod.share, {part.after_input: inlet})
            new_functions[place] = copy
    if not new_functions:
        return list(outputs)
    try:
        return list(graph.replace(whole, new_functions).outputs)
    except (RuntimeError, ValueError):  # CNTK cannot copy one of them, which is then left behind
        if len(outputs) == 1:
            return list(outputs)
        return [_followed([output], differences)[0] for output in outputs]


def _applications(whole, path):
    """Returns the places in a graph that apply a chain of Functions with the same leaves."""
    found = []
    for function in graph.walk(whole):
        current, chain = function, []
        for wanted in path:
            if current is None or not _reads_alike(current, wanted):
                break
            chain.append(current)
            data = _data(current)
            below = data[0]
            current = below.owner if below.is_output else None
        else:
            found.append(
                _Place(function.outputs[0], below, function.name or function.op_name, function.name)
            )
    return found


def _reads_alike(function, wanted):
    if function.op_name != wanted.op_name or len({v.uid for v in _data(function)}) != 1:
        return False
    leaves = [
        [v.uid for v in f.inputs if v.is_parameter or v.is_constant] for f in (function, wanted)
    ]
    return leaves[0] == leaves[1] if wanted.is_block or leaves[1] else True


def replaced(differences, trained):
    """Returns which of a network's Parameters replace which, as `nc.Replaced` objects.

    Args:
        differences (list of Part): see `follow`.
        trained (list of cntk.Parameter): those of the network after the change, in the order of its
            learners, which is the order of the optimization.
    """
    order = {parameter.uid: place for place, parameter in enumerate(trained)}
    found = []
    for part in differences:
        _, old = _between(part.before, part.before_input)
        _, new = _between(part.after, part.after_input)
        retired = [leaf for uid, leaf in old.items() if leaf.is_parameter and uid not in new]
        added = sorted(
            (leaf for uid, leaf in new.items() if leaf.is_parameter and uid not in old),
            key=lambda leaf: order.get(leaf.uid, len(order)),
        )
        if retired or added:
            found.append(
                Replaced(part.before.name or part.before.owner.name or 'a layer', retired, added)
            )
    return found
