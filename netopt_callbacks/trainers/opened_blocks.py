"""Lets a script go on using an opened block by its name.

CNTK keeps random state only of primitives in no block at all, so a script's own block with a
Dropout somewhere inside has to be opened, too. An alias under the name of the block takes its
place. CNTK's alias has no Parameters and no root; here it answers as the block did, from the
current network. The aliases of what a block read show where it begins: they stay in the graph
through swaps, restores and copies.
"""
import cntk as C
from cntk.ops.functions import Function

_ALIAS = 'NoOp'
_INPUT = 'input of the opened block '

_names = {}  # of each block that was opened: whether any of that name had Parameters


def arguments(block):
    """Returns what a block that is opened reads instead of its arguments: {placeholder: Variable}.

    Args:
        block (cntk.Function): the block.
    """
    return {
        inner: (
            C.alias(actual, name=_INPUT + block.name).output
            if block.name and actual.is_output and block.parameters
            else actual
        )
        for inner, actual in block.block_arguments_mapping
    }


def named(block, body):
    """Returns what a block computes under the name of the block.

    Args:
        block (cntk.Function): the block, which has a name and one output.
        body (cntk.Function): its body over `arguments`.
    """
    _names[block.name] = _names.get(block.name, False) or bool(block.parameters)
    return C.alias(body, name=block.name)


def _is_opened(function):
    return (
        bool(_names)
        and not function.is_composite
        and function.op_name == _ALIAS
        and function.name in _names
        and function.inputs[0].is_output
    )


def _parameters_within(opened):
    """Returns the Parameters between an opened block's alias and its inputs, in CNTK's order."""
    found, seen, pending = set(), {opened.uid}, [opened]
    while pending:
        for variable in pending.pop().inputs:
            if variable.is_parameter:
                found.add(variable.uid)
            elif variable.is_output:
                owner = variable.owner
                if owner.uid not in seen and owner.name != _INPUT + opened.name:
                    seen.add(owner.uid)
                    pending.append(owner)
    return [leaf for leaf in C.as_composite(opened).parameters if leaf.uid in found]


def install():
    """Wraps the properties of a Function that an opened block answers; a second call does
    nothing."""
    if hasattr(Function.parameters.fget, '_netopt_callbacks_of_cntk'):
        return
    of_cntk = Function.parameters, Function.block_root

    def parameters(self):
        found = of_cntk[0].fget(self)
        if found or not _is_opened(self) or not _names[self.name]:
            return found
        return _parameters_within(self)

    def block_root(self):
        return self.inputs[0].owner if _is_opened(self) else of_cntk[1].fget(self)

    parameters._netopt_callbacks_of_cntk = of_cntk
    Function.parameters = property(parameters, doc=of_cntk[0].__doc__)
    Function.block_root = property(block_root, doc=of_cntk[1].__doc__)
