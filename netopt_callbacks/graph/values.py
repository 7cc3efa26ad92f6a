"""The values that Variables inside a model take on given minibatches."""
from typing import Any, Callable, Dict, List, Sequence, Union

import cntk as C
import numpy as np

from .checks import check_model
from .edit import substitute
from .pieces import placeholder_like
from .walk import Level, body, walk


def opened(model: C.Function, wanted: Callable[[C.Function], bool]) -> C.Function:
    """Returns a copy of `model` in which what encloses certain Functions is opened.

    CNTK evaluates only Variables of a model's own level, not those inside its blocks.

    Args:
        model (cntk.Function): left as it is.
        wanted (callable): `cntk.Function -> bool`. A block around such a Function is replaced by
            what it computes; the Functions themselves stay closed, and so do all other blocks.

    Returns:
        cntk.Function: the same outputs, Parameters and arguments, in the same order; `model` itself
        where every wanted Function is on its own level already.
    """
    check_model('nc.graph', model)
    result = _opened(model, wanted, content)
    if [one.uid for one in result.arguments] == [one.uid for one in model.arguments]:
        return result
    return _opened(model, wanted, _content_in_order)


def _opened(
    model: C.Function,
    wanted: Callable[[C.Function], bool],
    content_of: Callable[[C.Function], C.Function],
) -> C.Function:
    while True:
        level = Level(model.outputs)
        around = [
            function
            for function in level.functions
            if function.is_block
            and not wanted(function)
            and any(wanted(inner) for inner in walk(body(function)))
        ]
        if not around:
            return model
        replacements: Dict[C.Variable, C.Variable] = {}
        contents = []
        for block in around:
            content = content_of(block)
            contents.append(content)
            read = {output.uid for output in level.outputs(block)}
            replacements.update(
                (old, new) for old, new in zip(block.outputs, content.outputs) if old.uid in read
            )
        model = substitute(model, replacements)


def content(block: C.Function) -> C.Function:
    """Returns what a block computes, of what it is applied to."""
    return body(block).clone(C.CloneMethod.share, dict(block.block_arguments_mapping))


def _content_in_order(block: C.Function) -> C.Function:
    """Returns the same, which CNTK comes across in the order of the block's own inputs.

    A block may have them in another order than that in which it reads them. CNTK's own means for
    that is one more block, which hands on all it gets (`force_order_args`, cntk/ops/functions.py).
    """
    mapping = list(block.block_arguments_mapping)
    given = [actual for _, actual in mapping if not (actual.is_parameter or actual.is_constant)]
    if len(given) < 2:
        return content(block)
    inside = [placeholder_like(actual) for actual in given]
    handed = C.as_block(C.combine(inside), list(zip(inside, given)), 'Tuple')
    new = {actual.uid: output for actual, output in zip(given, handed.outputs)}
    return body(block).clone(
        C.CloneMethod.share, {inner: new.get(actual.uid, actual) for inner, actual in mapping}
    )


def evaluate(variables: Sequence[C.Variable], minibatch: Dict[C.Variable, Any]) -> List[Any]:
    """Evaluates Variables of one model.

    Args:
        variables (sequence of cntk.Variable): outputs of Functions, or arguments.
        minibatch (dict of cntk.Variable to data): may hold more than is needed.

    Returns:
        list: for each Variable an array [samples, ...shape]; of a Variable with a sequence axis a
        list of arrays [steps, ...shape], one for each sequence.

    Raises:
        ValueError: the minibatch has no data for an argument that is needed.
    """
    # An argument is no output of a Function; its alias is.
    targets = [
        variable if variable.is_output else C.alias(variable).output for variable in variables
    ]
    whole = C.combine(list({target.uid: target for target in targets}.values()))
    given = {argument.uid: values for argument, values in minibatch.items()}
    missing = [argument for argument in whole.arguments if argument.uid not in given]
    if missing:
        raise ValueError(
            'a held-out minibatch must hold data for each argument that is read, got none for %s; '
            'give them all in data=' % ', '.join(str(argument) for argument in missing)
        )
    needed = {argument: given[argument.uid] for argument in whole.arguments}
    _, values = whole.forward(needed, list(whole.outputs), as_numpy=False)
    arrays = {variable.uid: _arrays(variable, value) for variable, value in values.items()}
    return [arrays[target.uid] for target in targets]


def flat(values: Union[np.ndarray, List[np.ndarray]]) -> np.ndarray:
    """Returns what `evaluate` gave for one Variable as one array; the steps of sequences are
    its samples."""
    return np.concatenate(values) if isinstance(values, list) else values


def _arrays(variable: C.Variable, value: Any) -> Union[np.ndarray, List[np.ndarray]]:
    rank = len(variable.shape)
    if len(variable.dynamic_axes) > 1:
        return [np.asarray(sequence) for sequence in value.as_sequences(variable)]
    values = np.asarray(value.asarray())
    # A batch may come with a sequence axis of one step.
    return values.reshape((-1,) + values.shape[values.ndim - rank :])
