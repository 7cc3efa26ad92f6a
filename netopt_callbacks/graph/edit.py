"""Replacing parts of a CNTK graph: one copy of the graph, everything else shared.

Every edit is a set of *cuts*. A cut names a Variable of the graph and what its readers
read instead. Each level of the graph (see `walk`) that holds a cut is copied once, with
a placeholder where a cut is; then all placeholders are connected at once. This is linear in
the number of Functions, and recurrence needs no special case: CNTK closes its own
loops in the same way. A block that holds a cut becomes a cut itself.

`Function.clone` can do neither alone: a replacement that reads another replaced Variable
keeps the old graph alive, and a Parameter inside a block cannot be replaced when it is not the
block's last ("Inputs of the new clone do not match").
"""
from typing import TYPE_CHECKING, Dict

import cntk as C

from .checks import check_model, check_replacements, is_function, is_layer, is_variable
from .pieces import Piece, placeholder_like, unapplied, with_outputs
from .user_functions import cloned_whole
from .walk import Level, body, named

if TYPE_CHECKING:
    from .layer import Layer


def clone_shared(model: C.Function) -> C.Function:
    """Returns a copy of `model`, of the same name, that shares its Parameters, its Constants
    and its arguments."""
    return _edited(model, {}, {})


def substitute(model: C.Function, replacements: Dict[C.Variable, C.Variable]) -> C.Function:
    """Returns a copy of `model` whose readers of one Variable read another.

    Args:
        model (cntk.Function): left as it is.
        replacements (dict of cntk.Variable to cntk.Variable): what is read, anywhere in
            the model and inside its blocks (a Parameter, a Constant, an argument or the
            output of any Function, also an output of the model), and what is
            to be read instead: a leaf, an expression over leaves, which is taken as it is (it
            may read the Parameter it replaces), or an expression over Variables of the
            same level of the model, which follows the other replacements and
            must not read what it replaces. A Function with one output stands for it.

    Returns:
        cntk.Function: same arguments, outputs in the same order, Parameters shared.

    Raises:
        TypeError: `model` is no Function, or `replacements` no dict of Variables to Variables.
        ValueError: a key is not in the model, or a value reads what it replaces.
    """
    check_replacements(
        'nc.graph.substitute: replacements must be a dict of Variables to Variables',
        replacements,
        is_variable,
        is_variable,
        '{layer.W: 2 * layer.W}',
    )
    cuts = {_variable(old).uid: _variable(new) for old, new in replacements.items()}
    return _edited(model, cuts, {_variable(old).uid: old for old in replacements})


def replace(model: C.Function, new_functions: Dict['Layer', C.Function]) -> C.Function:
    """Returns a copy of `model` with layers replaced, all in one pass.

    Args:
        model (cntk.Function): left as it is.
        new_functions (dict of Layer to cntk.Function): for each layer the Function that
            takes its place: unapplied, with one placeholder, which is connected to
            the layer's input. It is copied; its Parameters are shared. Without a name it gets
            the layer's.

    Returns:
        cntk.Function: same arguments, outputs in the same order, every other Parameter shared.

    Raises:
        TypeError: `model` is no Function, or `new_functions` no dict of Layers to Functions.
        ValueError: a new function does not have exactly one placeholder, computes another
            shape than the layer did, or a layer is not in `model`.
    """
    check_replacements(
        'nc.graph.replace: new_functions must be a dict of Layers to Functions',
        new_functions,
        is_layer,
        is_function,
        '{layer: cntk.layers.Dense(10) for layer in nc.graph.layers(model)}',
    )
    cuts = {
        layer.output.uid: unapplied(function, layer.input, layer.output, layer.label, layer.name)
        for layer, function in new_functions.items()
    }
    return _edited(model, cuts, {layer.output.uid: layer.label for layer in new_functions})


def _edited(model, cuts, names):
    """Copies `model` with `cuts`, or raises ValueError naming the cut that is nowhere in it."""
    check_model('nc.graph', model)
    used = set()
    arguments = [argument for argument in model.arguments if argument.uid not in cuts]
    with cloned_whole():
        new_model = rebuild(model, {argument: argument for argument in arguments}, cuts, used)
    missing = [str(name) for uid, name in names.items() if uid not in used]
    if missing:
        raise ValueError(
            'what is replaced must be in the model, got %s, which is not; take layers and '
            'Variables from the very model that is edited, not from a clone' % ', '.join(missing)
        )
    if new_model is None:
        with cloned_whole():
            new_model = model.clone(
                C.CloneMethod.share, {argument: argument for argument in model.arguments}
            )
        # CNTK forgets what was named by `z.name = 'z'`: only the composite has that name.
        return named(new_model, model.name)
    _check_shapes(model.outputs, new_model.outputs)
    return new_model


def rebuild(composite, keep, cuts, used):
    """Copies one level of a graph with the cuts in it and in the blocks it holds.

    Args:
        composite (cntk.Function): what the level computes.
        keep (dict of cntk.Variable to cntk.Variable): the level's arguments and what stands
            for them in the copy; nothing behind them is looked at.
        cuts (dict of str to Piece or cntk.Variable): by uid of the Variable replaced.
        used (set of str): uids of the cuts that were met are added here.

    Returns:
        cntk.Function: outputs in the same order; None where the level holds no cut.
    """
    outputs = composite.outputs
    level = Level(outputs, stop={variable.uid for variable in keep})
    here = _cuts_of_level(level, outputs, cuts, used)
    return _Copy(level.functions, composite, keep, here).connected() if here else None


def _cuts_of_level(level, outputs, cuts, used):
    """Returns {uid: (Variable replaced, Piece or Variable, index of its output)} for one level."""
    here = {}

    def cut(variable):
        if variable.uid in cuts:
            here[variable.uid] = (variable, cuts[variable.uid], 0)
            used.add(variable.uid)
            return True
        return False

    for variable in outputs:
        cut(variable)
    for function in level.functions:
        for variable in level.inputs(function):
            if not variable.is_output:
                cut(variable)
        if not any([cut(output) for output in level.outputs(function)]) and function.is_block:
            passed = _passed_on(function)
            if passed:
                here.update((output.uid, (output, read, 0)) for output, read in passed.items())
                continue
            piece = _opened(function, cuts, used)
            if piece is not None:
                one = [level.output(function)] if len(piece.outputs) == 1 else function.outputs
                here.update(
                    (output.uid, (output, piece, index)) for index, output in enumerate(one)
                )
    return here


def _passed_on(block):
    """Returns {output: what it is} of a block that computes nothing, of several outputs; else {}.

    CNTK makes one ('Tuple') where a Function of several outputs is applied to a Constant and an
    input, as `UnfoldFrom` is, and cannot clone it.
    """
    inside = block.block_root.outputs
    passed = {output.is_placeholder for output in inside}
    if len(passed) == 1 or any(output.is_output for output in inside):
        return {}
    actual = {inner.uid: outer for inner, outer in block.block_arguments_mapping}
    return {output: actual.get(read.uid, read) for output, read in zip(block.outputs, inside)}


def _opened(block, cuts, used):
    """Returns the Piece that takes the place of a block that holds cuts, else None.

    A Parameter or Constant that the block is applied to is bound at once: connected through a
    placeholder CNTK would move it into the block, and a checkpoint of the one graph could
    not be restored into the other.
    """
    mapping = [(inner, actual) for inner, actual in block.block_arguments_mapping]
    leaves = {actual.uid: _leaf(actual, cuts) for _, actual in mapping}
    fresh = [placeholder_like(actual) for _, actual in mapping]
    arguments = {inner: new for (inner, _), new in zip(mapping, fresh)}
    composite = rebuild(body(block), arguments, cuts, used)
    if composite is None:
        if not any(leaf is not None and uid in cuts for uid, leaf in leaves.items()):
            return None
        composite = body(block).clone(C.CloneMethod.share, arguments)
    read = {placeholder.uid for placeholder in composite.placeholders}
    inputs = [
        (new, leaves[actual.uid], actual)
        for new, (_, actual) in zip(fresh, mapping)
        if new.uid in read
    ]
    outer = [
        (inner, placeholder_like(actual) if leaf is None else leaf, actual)
        for inner, leaf, actual in inputs
    ]
    copy = C.as_block(
        composite, [(inner, bound) for inner, bound, _ in outer], block.op_name, block.name
    )
    return Piece(copy, [(bound, actual) for _, bound, actual in outer if bound.is_placeholder])


def _leaf(actual, cuts):
    """Returns the Parameter or Constant a block is to be applied to, None for anything else."""
    new = cuts.get(actual.uid, actual)
    if isinstance(new, Piece) or not (new.is_parameter or new.is_constant):
        return None
    return new if actual.is_parameter or actual.is_constant else None


class _Copy:
    """The copy of one level: cloned once with placeholders at the cuts, then connected."""

    def __init__(self, level, composite, keep, cuts):
        self._like = composite
        self._wanted = composite.outputs
        self._keep = {old.uid: new for old, new in keep.items()}
        self._level = {function.uid for function in level}
        self._cuts = cuts
        self._held = None  # keeps the copies of new expressions alive
        self._own = self._own_expressions()
        self._copy = None
        self._cloned = {}
        self._stand_ins = {uid: placeholder_like(cut[0]) for uid, cut in self._cuts.items()}
        self._clone(keep)

    def connected(self):
        """Connects the placeholders; returns the copy."""
        connections = {
            self._stand_ins[uid]: self._resolved(variable)
            for uid, (variable, _, _) in self._cuts.items()
        }
        for piece in self._pieces():
            connections.update((inlet, self._resolved(actual)) for inlet, actual in piece.inputs)
        results = [self._resolved(variable) for variable in self._wanted]
        # Held until the copy is made: the edges of a CNTK graph don't keep its Functions alive.
        whole = _combined(
            results
            + list(connections.values())
            + [output for piece in self._pieces() for output in piece.outputs]
        )
        if whole is not None:
            open_ends = {placeholder.uid for placeholder in whole.placeholders}
            whole.replace_placeholders(
                {inlet: new for inlet, new in connections.items() if inlet.uid in open_ends}
            )
        return with_outputs(self._like, results)

    def _clone(self, keep):
        """Clones what the outputs wanted, the pieces and the new expressions read of the level."""
        read = list(self._wanted)
        for _, new, _ in self._cuts.values():
            if isinstance(new, Piece):
                read.extend(actual for _, actual in new.inputs)
            elif new.uid not in self._own:
                read.append(new)
        roots = {
            variable.uid: variable
            for variable in read
            if variable.is_output
            and variable.uid not in self._cuts
            and variable.uid not in self._keep
        }
        if not roots:
            return
        replacements = dict(keep)
        replacements.update((cut[0], self._stand_ins[uid]) for uid, cut in self._cuts.items())
        self._copy = C.combine(list(roots.values())).clone(C.CloneMethod.share, replacements)
        self._cloned = dict(zip(roots, self._copy.outputs))

    def _pieces(self):
        """Returns the pieces, each once, in a fixed order."""
        pieces = {}
        for _, new, _ in self._cuts.values():
            if isinstance(new, Piece):
                pieces[id(new)] = new
        return list(pieces.values())

    def _resolved(self, variable):
        """Returns the Variable of the copy that stands for one of the original level."""
        passed = set()
        while variable.uid in self._cuts:
            if variable.uid in passed:
                raise ValueError(
                    f'the replacement of {variable} must read something else than what is '
                    'replaced, and in the end reads only itself; name the new Variables alone'
                )
            passed.add(variable.uid)
            _, new, index = self._cuts[variable.uid]
            if isinstance(new, Piece):
                return new.outputs[index]
            if new.uid in self._own:
                return self._own[new.uid]
            variable = new
        return self._keep.get(variable.uid, self._cloned.get(variable.uid, variable))

    def _own_expressions(self):
        """Returns the new expressions over leaves by uid, copied, so that no two levels share
        one."""
        new = {
            variable.uid: variable
            for _, variable, _ in self._cuts.values()
            if not isinstance(variable, Piece) and not self._reads_level(variable)
        }
        leaves = {uid: variable for uid, variable in new.items() if not variable.is_output}
        expressions = [variable for uid, variable in new.items() if uid not in leaves]
        if expressions:
            self._held = clone_shared(C.combine(expressions))
            leaves.update(zip((variable.uid for variable in expressions), self._held.outputs))
        return leaves

    def _reads_level(self, variable):
        """Tells whether an expression reads a Function or an argument of this level."""
        pending, seen = [variable], set()
        while pending:
            variable = pending.pop()
            if variable.uid in self._keep:
                return True
            if variable.is_output:
                owner = variable.owner
                if owner.uid in self._level:
                    return True
                if owner.uid not in seen:
                    seen.add(owner.uid)
                    pending.extend(owner.inputs)
        return False


def _combined(variables):
    """Returns the combine of those `variables` that are outputs, each once; None if none is."""
    distinct = {variable.uid: variable for variable in variables if variable.is_output}
    return C.combine(list(distinct.values())) if distinct else None


def _check_shapes(old_outputs, new_outputs):
    for old, new in zip(old_outputs, new_outputs):
        if old.shape != new.shape:
            raise ValueError(
                f'a replacement must keep the shape of every output: {old} was of shape '
                f'{old.shape}, got {new.shape}; give what is read instead the shape of what is '
                'replaced'
            )


def _variable(value):
    return value.output if isinstance(value, C.Function) else value
