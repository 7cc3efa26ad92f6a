"""Keeps the uids that CNTK gives to the parts of a network different.

CNTK loads a model with the uids it was saved with, and counts on from where it was: new layers may
get the same uids again. A trainer then ends with "Duplicated name" or, where only blocks have them,
trains; but a block can no longer be told from the other by its uid.
"""
import functools
import re

import cntk as C
from cntk import cntk_py
from cntk.ops.functions import Function

from .. import graph
from ..graph import user_functions
from ..safe_load import load_by
from .state import own

# How many uids are counted at most; a model from elsewhere may have any numbers.
NEAR = 10**6
# The same after a load by the script. Less than `distributed._UIDS`: several workers must be able
# to begin where a checkpoint did, also if the script has loaded a model of the same time.
_NEAR_A_SCRIPT = 50000


def advance(at_least):
    """Makes the numbers of new Variables greater than `at_least`."""
    while cntk_py.new_unique_id() < at_least:
        pass


def outnumber(outputs, near=NEAR):
    """Makes the uids of new Variables differ from all those in a graph.

    Args:
        outputs (list of cntk.Variable): of the graph.
        near (int): numbers that lie further ahead are left.
    """
    begin = cntk_py.new_unique_id()
    advance(max([number for number in numbers(outputs) if number < begin + near] + [0]))


def outnumbering(load):
    """Wraps CNTK's `Function.load`, so that what is built after it has other uids."""

    @functools.wraps(load)
    def method(*arguments, **options):
        loaded = load(*arguments, **options)
        outnumber(loaded.outputs, _NEAR_A_SCRIPT)
        return loaded

    method.of_cntk = load
    return method


def load_as_saved(file):
    """Returns the graph of a file, and lets CNTK count on from where it was.

    A resume on several workers begins its uids at a number that was saved, which must lie ahead.
    """
    with user_functions.cloned_sharing():  # for what stands in
        return load_by(Function.load.of_cntk, file)


def numbers(outputs):
    """Yields the numbers that CNTK gave the parts of a graph."""
    for variable in variables(outputs):
        yield int(re.search('([0-9]*)(_Output_[0-9]+)?$', variable.uid).group(1) or 0)


def cloned(whole, others):
    """Clones a network, so that the uids of the clone do not depend on its other readers.

    A script that is started again has not the readers that it had at a swap, and a worker may have
    others than the main one.

    Args:
        whole (cntk.Function), others (sequence of cntk.Variable): the network, and the outputs of
            its other readers.

    Returns:
        (cntk.Function, list of cntk.Variable): the clone, and what the others compute over it.
    """
    together = graph.clone_shared(C.combine(list(whole.outputs)))
    clone = own(C.combine(list(together.outputs)))
    reading = {
        variable.uid for function in graph.functions(others) for variable in function.inputs
    }.union(output.uid for output in others)
    pairs = {
        old: new
        for before, after in zip(graph.primitives(whole), graph.primitives(clone))
        for old, new in zip(before.outputs, after.outputs)
        if old.uid in reading
    }
    if not pairs:
        return clone, list(others)
    return clone, list(graph.substitute(own(C.combine(list(others))), pairs).outputs)


def refuse_doubles(outputs):
    """Refuses a graph in which two parts have one uid.

    Raises:
        ValueError: names both.
    """
    found = {}
    for variable in variables(outputs):
        if variable.is_output:
            first = found.setdefault(variable.uid, variable)
            if first != variable:
                raise ValueError(
                    f'two parts of the network have the uid {variable.uid}: {_named(first)} and '
                    f'{_named(variable)}. CNTK loads a model with the uids it was saved with, and '
                    "other layers may have the same. Build on loaded.clone('clone') instead of the "
                    'loaded model: a clone gets uids of its own'
                )


def _named(output):
    return f"'{output.name}' (shape {tuple(output.shape)})"


def variables(outputs):
    """Yields each Variable of a graph once, those in blocks too; not by uid, see above."""
    pending, seen = list(outputs), set()
    while pending:
        variable = pending.pop()
        if variable not in seen:
            seen.add(variable)
            yield variable
            if variable.is_output:
                owner = variable.owner
                pending.extend(owner.inputs)
                if owner.is_block:
                    pending.extend(owner.block_root.outputs)
