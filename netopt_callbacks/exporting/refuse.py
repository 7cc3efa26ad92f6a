"""What CNTK's exporter gets wrong without a word, found in the network before it is written.

Each was found by comparing what a small network of it gives in the file and in CNTK. What else may
be wrong is found by running the file (`check`).
"""
import cntk as C

from .. import graph
from ..graph.walk import DELAYS
from ..lowering.loops import looping
from . import crop

_PICKING = ('GatherPacked', 'ScatterPacked')
_CELLS = ('LSTM', 'GRU', 'RNNStep')  # written as one operation, with the delays that they read
_SYMMETRIC = 2
_RECURRENCES = 'build the recurrence on LSTM, GRU or RNNStep'
_LOSSES = ('CrossEntropyWithSoftmax', 'ClassificationError')


def refuse(model):
    """Refuses a network (cntk.Function, applied) with an operation that would not be right in the
    file.

    Raises:
        NotImplementedError: names the operation, and says what to do.
    """
    named = list(_named(model))
    read = {
        variable.uid
        for function, _ in named
        if function.op_name not in DELAYS
        for variable in function.inputs
    }
    for function, name in named:
        if function.op_name == 'LSTM' and function.is_block:
            reason = _of_lstm(function, read)
            if reason:
                raise NotImplementedError(f"deploy.export: LSTM '{name}' {reason}")
        reason = _reason(function) if function.op_name in _LOSSES or not function.is_block else None
        if reason:
            raise NotImplementedError(f"deploy.export: {function.op_name} '{name}' {reason}")


def _named(model, enclosing=()):
    """Yields each Function and its name, after those of the blocks around it, as a summary has
    it."""
    for function in graph.primitives(model):
        path = enclosing + ((function.name,) if function.name else ())
        if function.is_block:
            yield from _named(graph.body(function), path)
        yield function, '.'.join(path) or f'(unnamed), of shape {function.outputs[0].shape}'


def refuse_loops(cut):
    """Refuses a CutNetwork with a segment in a loop over time: the cut opens the loop, and the
    exporter writes only what is left of it.

    Raises:
        NotImplementedError: names the segment, and says what to do.
    """
    inside = looping(graph.Level(cut.whole.outputs))
    for segment in cut.segments:
        if segment.exits[0].owner.uid in inside:
            raise NotImplementedError(
                f"deploy.export: '{segment.name}' is a binary layer inside a recurrence of "
                "one's own (past_value, future_value), for which a file has no form; "
                f"{_RECURRENCES}, with binary layers before and behind it"
            )


def refuse_ends(model):
    """Refuses inputs and outputs of a network that a file cannot have.

    Raises:
        NotImplementedError: names the input or output, and says what to do.
    """
    for argument in model.arguments:
        name = argument.name or argument.uid
        if not argument.dynamic_axes:
            raise NotImplementedError(
                f"deploy.export: the input '{name}' has no batch axis, and a file runs batches; "
                "make it a Constant, or an input_variable with the default axes"
            )
        if argument.is_sparse:
            raise NotImplementedError(
                f"deploy.export: the input '{name}' is sparse, of which ONNX has no form; build "
                "the network on a dense one, one-hot vectors as they are"
            )
    for index, output in enumerate(model.outputs):
        if not output.dynamic_axes and model.arguments:
            raise NotImplementedError(
                f'deploy.export: output {index}, of shape {output.shape}, has no batch axis: it is '
                'the same for any input, or one for a whole batch; leave it out of the network'
            )


def of_one_batch(model, error):
    """Returns in words which operation on sequences CNTK writes for a batch of one; None where
    there is none.

    Args:
        model (cntk.Function): whose file does not run.
        error (ExportError): why not. It is told with a step before or after, which may not be the
            reason. The delays of LSTM, GRU and RNNStep are written rightly.
    """
    named = list(_named(model))
    states = {
        variable.owner.uid
        for function, _ in named
        if function.op_name in _CELLS and function.is_block
        for variable in function.inputs
        if variable.is_output
    }
    found = {}
    for function, name in named:
        if function.op_name in _PICKING + DELAYS and function.uid not in states:
            found.setdefault(function.op_name in DELAYS, f"{function.op_name} '{name}'")
    if False in found:
        return (
            'the network ends a sequence with sequence.last (or first, Fold; '
            f"{found[False]}), which CNTK's exporter writes for a batch of one: export the network "
            'up to the sequence, and take the last step of what it gives'
        )
    if True in found:
        return (
            f'{found[True]} reads the step before or after (past_value, future_value), which '
            "CNTK's exporter writes for a batch of one: export the network up to there; if it "
            f'closes a loop, {_RECURRENCES} ({error})'
        )
    return None


def _reason(function):
    if function.op_name in crop.OPS:
        return _of_window(function)
    if function.op_name == 'BatchNormalization':
        return _of_normalization(function)
    if function.op_name == 'Unpooling':
        return 'is written with the wrong size; no cure is known'
    if function.op_name == 'Pad' and function.attributes['paddingMode'] == _SYMMETRIC:
        return 'repeats the border (mode 2), which ONNX has no form for; reflect it (mode 1)'
    if function.op_name == 'Slice' and _strides(function) != {1}:
        return (
            'has strides, which its file does not; splice slices without them, one of each '
            'place that it takes'
        )
    if function.op_name in _LOSSES:
        return "is a loss, which is written wrongly; export the network that it judges"
    if (
        function.op_name in ('Times', 'TransposeTimes')
        and _is_weight(function.inputs[0])
        and not _is_weight(function.inputs[1])
    ):
        return (
            'has the weights on the left, of which its file is refused; use times(x, W), or '
            'times_transpose(x, W)'
        )
    return None


def _of_lstm(function, read):
    output, cell = function.outputs
    if output.shape != cell.shape:
        return (
            f'has a cell of the shape {cell.shape} and gives {output.shape} (cell_shape), of which '
            'ONNX has no form; leave cell_shape out, and put a Dense behind it'
        )
    if cell.uid in read:
        return (
            "gives its cell, too (return_full_state), which CNTK's exporter leaves out; give what "
            'an LSTM gives without it'
        )
    return None


def _strides(function):
    attributes = function.attributes
    return set(attributes.get('sliceStridesVec', [attributes.get('sliceStrides', 1)]))


def _is_weight(variable):
    return variable.is_parameter or variable.is_constant


def _of_window(function):
    attributes = function.attributes
    operand = crop.operand(function)
    if len(operand.dynamic_axes) > 1:
        return (
            "goes over a sequence, which CNTK's exporter writes as what ONNX Runtime does not "
            "load; feed the steps as a batch"
        )
    if attributes.get('includePad'):
        return 'counts padded places (include_pad), which its file does not; use include_pad=False'
    cropped = crop.cropped_axes(function)
    if any(
        operand.shape[place] == C.FreeDimension and place not in cropped
        for place in crop.automatic_axes(function)
    ):
        return (
            'pads an axis of free size automatically, and the padding in the file would be that of '
            'one size; give the input a fixed size, or the layer explicit padding'
        )
    if cropped and not crop.can_be_cropped(function):
        return (
            'leaves out the outermost places (automatic padding with a stride beyond the window), '
            'with explicit padding elsewhere or transposed, of which the crop is not known; use '
            'explicit padding'
        )
    return None


def _of_normalization(function):
    operand = function.inputs[0]
    if len(operand.dynamic_axes) > 1:
        return 'goes over a sequence, where its file is wrong; feed the steps as a batch'
    if len(operand.shape) > 1 and not function.attributes['spatial']:
        return (
            'of a map has statistics of its own for every pixel, of which ONNX has no form; use '
            'BatchNormalization(map_rank=1)'
        )
    return None
