"""Linear traversal of CNTK graphs.

A CNTK model is a graph of *levels*: the model itself, and one more inside each
block. Within a level every Function is a primitive or a block; a recurrence is a cycle.
"""
import cntk as C


def functions(outputs, stop=()):
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
    number, lowest = {}, {}         # by uid: order of entering; the earliest reached through a loop
    path = []                       # entered, not all inputs seen yet: (Function, its inputs left)
    waiting = []                    # inputs seen, but the loop it may be in is not complete

    def enter(function):
        number[function.uid] = lowest[function.uid] = len(number)
        path.append((function, _owners(function.inputs, stop)))

    for root in _owners(outputs, stop):
        if root.uid not in number:
            enter(root)
        while path:
            function, inputs = path[-1]
            new = _first_new(inputs, function.uid, number, lowest)
            if new is not None:
                enter(new)
                continue
            path.pop()
            waiting.append(function)
            if path:
                reader = path[-1][0].uid
                lowest[reader] = min(lowest[reader], lowest[function.uid])
            if lowest[function.uid] == number[function.uid]:
                start = len(waiting)
                while start and number[waiting[start - 1].uid] >= number[function.uid]:
                    start -= 1
                found.extend(waiting[start:])
                for member in waiting[start:]:
                    lowest[member.uid] = None
                del waiting[start:]
    return found


def primitives(model):
    """Returns the Functions of `model`'s top level, inputs first; blocks are not opened."""
    return functions(model.outputs)


def walk(model, into_blocks=True):
    """Yields every Function of `model`, inputs first; what is in a block comes before the block.

    Args:
        model (cntk.Function): any Function.
        into_blocks (bool or callable): whether to open blocks, or `block -> bool`.
    """
    pending = [iter(primitives(model))]
    opened = []
    while pending:
        function = next(pending[-1], None)
        if function is None:
            pending.pop()
            if opened:
                yield opened.pop()
        elif function.is_block and (into_blocks(function) if callable(into_blocks) else into_blocks):
            opened.append(function)
            pending.append(iter(functions(body(function).outputs)))
        else:
            yield function


def body(block):
    """Returns what a block computes: a composite whose arguments are the block's placeholders."""
    return C.as_composite(block.block_root)


def _owners(variables, stop):
    """Yields the Functions that compute those of `variables` that are outputs."""
    for variable in variables:
        if variable.is_output and variable.uid not in stop:
            yield variable.owner


def _first_new(functions_left, reader, number, lowest):
    """Returns the next Function not entered yet, or None; notes for `reader` the loops it met."""
    for function in functions_left:
        if function.uid not in number:
            return function
        if lowest[function.uid] is not None:
            lowest[reader] = min(lowest[reader], number[function.uid])
    return None
