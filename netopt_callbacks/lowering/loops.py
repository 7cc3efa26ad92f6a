"""Which Functions of a graph are part of a loop over time."""
from ..graph.walk import DELAYS


def looping(level):
    """Returns the uids of the Functions of a Level that read what is computed from their own
    output, a step before or after."""
    found = set()
    for function in level.functions:
        if function.op_name not in DELAYS or function.uid in found:
            continue
        after = _reached(
            function,
            lambda one: [
                reader
                for output in level.outputs(one)
                for reader in level.readers[output.uid]
                if reader is not None
            ],
        )
        before = _reached(
            function,
            lambda one: [variable.owner for variable in level.inputs(one) if variable.is_output],
        )
        found |= after & before
    return found


def _reached(start, neighbours):
    """Returns the uids of the Functions that lie behind `start`; its own where it is in a loop."""
    seen, waiting = set(), [start]
    while waiting:
        for function in neighbours(waiting.pop()):
            if function.uid not in seen:
                seen.add(function.uid)
                waiting.append(function)
    return seen
