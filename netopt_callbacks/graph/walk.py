"""Linear traversal of CNTK graphs.

A CNTK model is a graph of *levels*: the model itself, and one more inside each
block. Within a level every Function is a primitive or a block; a recurrence is a cycle.
"""
from typing import Any, Callable, Collection, Dict, Iterator, List, Optional, Sequence, Set, Union

import cntk as C

from .checks import check_model

# They read a step before or after: what closes a loop.
DELAYS = ('PastValue', 'FutureValue')


def functions(outputs: Sequence[C.Variable], stop: Collection[str] = ()) -> List[C.Function]:
    """Returns the Functions one level of a graph is made of, inputs first, each once.

    A loop comes after all that feeds it and before all that reads it (its order is that of
    its strongly connected components: Tarjan, SIAM J. Computing 1, 1972).

    Args:
        outputs (sequence of cntk.Variable): where to start.
        stop (collection of str): uids of Variables that are not looked behind.

    Returns:
        list of cntk.Function: primitives, and blocks as they are (not opened).
    """
    found = []
    number: Dict[str, int] = {}  # by uid: order of entering
    lowest: Dict[str, Any] = {}  # by uid: the earliest reached through a loop
    path = []  # entered, not all inputs seen yet: (Function, uid, its inputs left)
    waiting = []  # (Function, uid): inputs seen, but the loop it may be in is not complete

    # Uids are kept at hand: CNTK makes a string for each time one is asked for.
    def enter(function: C.Function, uid: str) -> None:
        number[uid] = lowest[uid] = len(number)
        path.append((function, uid, _owners(function.inputs, stop)))

    for root, root_uid in _owners(outputs, stop):
        if root_uid not in number:
            enter(root, root_uid)
        while path:
            function, uid, inputs = path[-1]
            new = _first_new(inputs, uid, number, lowest)
            if new is not None:
                enter(*new)
                continue
            path.pop()
            waiting.append((function, uid))
            if path:
                reader = path[-1][1]
                lowest[reader] = min(lowest[reader], lowest[uid])
            if lowest[uid] == number[uid]:
                start = len(waiting)
                while start and number[waiting[start - 1][1]] >= number[uid]:
                    start -= 1
                for member, member_uid in waiting[start:]:
                    found.append(member)
                    lowest[member_uid] = None
                del waiting[start:]
    return found


class Level:
    """One level of a graph, with its Variables at hand.

    CNTK's `Function.outputs` makes a composite of everything below, so that asking each Function
    for its outputs takes quadratic time. Here they are taken from what reads them.

    Args:
        outputs (sequence of cntk.Variable): where to start.
        stop (collection of str): uids of Variables that are not looked behind.

    Attributes:
        functions (list of cntk.Function): inputs first, each once.
        readers (dict of str to list): by uid of a Variable the Functions that read it; None stands
            for the level's outputs.
    """

    def __init__(self, outputs: Sequence[C.Variable], stop: Collection[str] = ()) -> None:
        self.functions = functions(outputs, stop)
        self.readers: Dict[str, List[C.Function]] = {}
        self._read: Dict[str, Dict[str, C.Variable]] = {}
        self._inputs = {}
        for variable in outputs:
            self._note(variable, None)
        for function in self.functions:
            inputs = self._inputs[function.uid] = function.inputs
            for variable in inputs:
                self._note(variable, function)

    def inputs(self, function: C.Function) -> List[C.Variable]:
        """Returns the Variables that one of `functions` reads."""
        return self._inputs[function.uid]

    def outputs(self, function: C.Function) -> List[C.Variable]:
        """Returns the outputs of one of `functions` that something reads, in the order met."""
        return list(self._read.get(function.uid, {}).values())

    def output(self, function: C.Function) -> C.Variable:
        """Returns the output of one of `functions` that has one."""
        read = self.outputs(function)
        return read[0] if len(read) == 1 else function.outputs[0]

    def places(self, outputs: Sequence[C.Variable]) -> Dict[str, int]:
        """Returns by uid which Variable CNTK comes across first, second, ..., from `outputs` on.

        It looks at the inputs of a Function in order, and at all that is behind one of them before
        the next one. A model's arguments have this order.
        """
        found: Dict[str, int] = {}
        entered: Set[str] = set()
        pending = [iter(outputs)]
        while pending:
            variable = next(pending[-1], None)
            if variable is None:
                pending.pop()
                continue
            found.setdefault(variable.uid, len(found))
            if variable.is_output:
                owner = variable.owner
                if owner.uid not in entered:
                    entered.add(owner.uid)
                    pending.append(iter(self.inputs(owner)))
        return found

    def _note(self, variable: C.Variable, reader: Optional[C.Function]) -> None:
        if variable.is_output:
            uid = variable.uid
            self.readers.setdefault(uid, []).append(reader)
            self._read.setdefault(variable.owner.uid, {}).setdefault(uid, variable)


def primitives(model: C.Function) -> List[C.Function]:
    """Returns the Functions of `model`'s top level, inputs first; blocks are not opened."""
    check_model('nc.graph', model)
    return functions(model.outputs)


def walk(
    model: C.Function, into_blocks: Union[bool, Callable[[C.Function], bool]] = True
) -> Iterator[C.Function]:
    """Yields every Function of `model`, inputs first; what is in a block comes before the block.

    Args:
        model (cntk.Function): any Function.
        into_blocks (bool or callable): whether to open blocks, or `block -> bool`.
    """
    pending = [iter(primitives(model))]
    opened: List[C.Function] = []
    while pending:
        function = next(pending[-1], None)
        if function is None:
            pending.pop()
            if opened:
                yield opened.pop()
        elif function.is_block and (
            into_blocks(function) if callable(into_blocks) else into_blocks
        ):
            opened.append(function)
            pending.append(iter(functions(body(function).outputs)))
        else:
            yield function


def function_of(outputs: Sequence[C.Variable], name: Optional[str] = None) -> C.Function:
    """Returns the Function with these outputs: their own, where they are all it has.

    Args:
        outputs (list of cntk.Variable): what it computes, in order.
        name (str): its name; None takes that of the Function whose outputs they are.
    """
    owner = outputs[0].owner if outputs[0].is_output else None
    if owner is not None and [output.uid for output in owner.outputs] == [
        output.uid for output in outputs
    ]:
        return C.as_composite(owner, owner.name if name is None else name)
    return C.combine(list(outputs), name=name or '')


def named(function: C.Function, name: Optional[str]) -> C.Function:
    """Returns `function` under another name; the primitive or block that it ends with keeps its
    own."""
    return function if function.name == name else C.as_composite(function.root_function, name)


def body(block: C.Function) -> C.Function:
    """Returns what a block computes: a composite whose arguments are the block's placeholders."""
    return C.as_composite(block.block_root)


def _owners(variables: Sequence[C.Variable], stop: Collection[str]) -> Iterator[Any]:
    """Yields (Function, its uid) for those of `variables` that are outputs."""
    for variable in variables:
        if variable.is_output and (not stop or variable.uid not in stop):
            owner = variable.owner
            yield owner, owner.uid


def _first_new(
    owners_left: Iterator[Any], reader: str, number: Dict[str, int], lowest: Dict[str, Any]
) -> Any:
    """Returns the next (Function, uid) not entered yet, or None; notes for `reader` the loops
    it met."""
    for function, uid in owners_left:
        if uid not in number:
            return function, uid
        if lowest[uid] is not None:
            lowest[reader] = min(lowest[reader], number[uid])
    return None
