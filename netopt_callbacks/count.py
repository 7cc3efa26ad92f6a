"""Parameters, multiply-adds and bits of a model, layer by layer."""
import cntk as C
import numpy as np

from . import graph
from .graph.find import LAYER_BLOCKS
from .lowering import replace
from .optimizations import binary_block, low_rank

# Blocks that are one row, whatever is inside; any other block is looked into.
_UNITS = LAYER_BLOCKS.union(binary_block.OP_NAMES, binary_block.INPUTS_OP_NAMES, replace.OP_NAMES)


class Row(object):
    """One layer of a model.

    Attributes:
        name (str): as the user named it, '' where they did not.
        kind (str): the block's or the primitive's op name.
        shape (tuple of int): of its first Parameter of the highest rank; () without any.
        parameters (int): trained numbers, each Parameter once: a layer that shares one with an
            earlier row does not count it again. A 1-bit weight is one.
        macs (int): multiply-adds per sample (of a sequence: per step); None where a side is free.
        binary_macs (int): those of `macs` that are 1-bit.
        binary_weights (int): those of `parameters` that are 1-bit once lowered.
        float_bytes (int): bytes of one of the others.
        break_even_rank (int): of a Dense, the largest rank that saves anything; else None.
    """

    def __init__(self, name, kind, shape=(), parameters=0, macs=0, binary_macs=0,
                 binary_weights=0, float_bytes=4, break_even_rank=None):
        self.name = name
        self.kind = kind
        self.shape = tuple(shape)
        self.parameters = parameters
        self.macs = macs
        self.binary_macs = binary_macs
        self.binary_weights = binary_weights
        self.float_bytes = float_bytes
        self.break_even_rank = break_even_rank

    @property
    def bytes(self):
        """Size of the parameters: 1-bit weights as bits, rounded up to a byte."""
        return size_bytes(self.parameters, self.binary_weights, self.float_bytes)


def size_bytes(parameters, binary_weights=0, float_bytes=4):
    """Returns the bytes of `parameters` numbers, of which `binary_weights` take one bit each."""
    return (binary_weights + 7) // 8 + (parameters - binary_weights) * float_bytes


def rows(model):
    """Returns a `Row` for each layer of a model that holds Parameters or multiplies, inputs first.

    Args:
        model (cntk.Function): trained, optimized or lowered; applied to its inputs.
    """
    dense = {layer.root.uid: layer for layer in graph.layers(model)}
    bare = {layer.core.uid: layer for layer in dense.values() if not layer.root.is_block}
    counted, found = set(), []
    for function in graph.walk(model, into_blocks=lambda block: block.op_name not in _UNITS):
        unit = function.is_block and function.op_name in _UNITS
        if function.is_block and not unit:
            continue
        layer = bare.get(function.uid) or (dense.get(function.uid) if unit else None)
        row = _row(function, layer, counted)
        if row.parameters or row.macs != 0:
            found.append(row)
    return found


def totals(model):
    """Returns (parameters, multiply-adds per sample) of a model; None for what a free side leaves open."""
    counted = rows(model)
    macs = [row.macs for row in counted]
    return sum(row.parameters for row in counted), None if None in macs else sum(macs)


def _row(function, layer, counted):
    """Returns the row of a primitive or block; Parameters in `counted` are not counted again."""
    content = list(graph.walk(graph.body(function))) if function.is_block else [function]
    parameters = _new_parameters(function, layer, counted)
    macs = [_macs(primitive) for primitive in content]
    binary = [_macs(primitive) for primitive in content if binary_block.is_binary_core(primitive)]
    row = Row(layer.name if layer else function.name, layer.op_name if layer else function.op_name,
              _shape(layer, parameters), sum(int(np.prod(p.shape)) for p in parameters),
              None if None in macs else sum(macs), None if None in binary else sum(binary))
    if parameters:
        row.float_bytes = np.dtype(parameters[0].dtype).itemsize
    if binary:
        row.binary_weights = int(np.prod(row.shape)) if parameters else 0
        row.parameters += _kept_beside_bits(function, content)
    if layer is not None and layer.op_name == 'Dense':
        outputs = int(np.prod(layer.W.shape[-layer.output_rank:]))
        row.break_even_rank = low_rank.break_even_rank(
            (int(np.prod(layer.W.shape)) // outputs, outputs))
    if function.op_name in replace.OP_NAMES:
        _add_native(row, next(primitive for primitive in content
                              if primitive.op_name == 'UserFunction'))
    return row


def _kept_beside_bits(block, content):
    """Returns how many floats a binary convolution or Dense keeps beside bits and Parameters.

    These are what was calibrated per output or channel, and the scale its integers are
    multiplied by, into which what that is made of goes when it is lowered.
    """
    core = next(function for function in content if binary_block.is_binary_core(function))
    kept, merged = 0, set()
    for function in content:
        if function.op_name == 'ElementTimes' and not function.is_block \
                and any(operand.uid == core.output.uid for operand in function.inputs):
            scale = next(operand for operand in function.inputs if operand.uid != core.output.uid)
            whole = C.as_composite(scale.owner) if scale.is_output else None
            if whole is None or not whole.arguments and not whole.placeholders:
                kept += int(np.prod(scale.shape))
                merged = {scale.uid} if whole is None else {leaf.uid for leaf in whole.constants}
    return kept + sum(int(np.prod(constant.shape)) for constant in block.constants
                      if constant.uid not in merged and len(constant.shape))


def _add_native(row, op):
    """Adds a native bit convolution or product, which holds its weights as packed bits and has no Parameters."""
    # CNTK hands back a plain Function; only what it serializes is the op's own.
    made = replace.OPS[row.kind].deserialize(op.inputs, op.name, op.serialize()['state'])
    state = made.state
    floats = [state[name] for name in ('scale', 'bias', 'threshold')]
    row.shape = made.weights_shape
    weights = int(np.prod(row.shape))
    per_output = weights // state['words'].shape[0]
    row.binary_weights += weights
    row.parameters += row.binary_weights + sum(f.size for f in floats if f is not None)
    outputs = op.outputs[0].shape
    if row.macs is None or any(side < 0 for side in outputs):
        row.macs = row.binary_macs = None
    else:
        row.macs += int(np.prod(outputs)) * per_output
        row.binary_macs += int(np.prod(outputs)) * per_output


def _new_parameters(function, layer, counted):
    """Returns the Parameters a function reads that are not in `counted`, and adds them to it."""
    if layer is not None and not layer.root.is_block:
        read = [layer.W] + ([layer.b] if layer.b is not None else [])
    elif function.is_block:
        read = function.parameters
    else:
        own = {variable.uid for variable in function.inputs if variable.is_parameter}
        read = [parameter for parameter in function.parameters if parameter.uid in own]
    new = [parameter for parameter in read if parameter.uid not in counted]
    counted.update(parameter.uid for parameter in new)
    return new


def _shape(layer, parameters):
    if layer is not None:
        return layer.W.shape
    return max((parameter.shape for parameter in parameters), key=len, default=())


def _macs(function):
    """Returns the multiply-adds of a times or convolution; 0 of anything else, None where a side is free."""
    if function.is_block or function.op_name not in ('Times', 'Convolution'):
        return 0
    left, right = function.inputs[:2]
    if function.op_name == 'Times':
        elements, each = function.outputs[0].shape, right.shape[:-function.attributes['outputRank']]
    elif function.attributes['transpose']:      # every input is spread over the outputs
        elements, each = right.shape, left.shape[1:]
    else:
        elements, each = function.outputs[0].shape, left.shape[1:]
    if any(side < 0 for side in elements + each):
        return None
    return int(np.prod(elements)) * int(np.prod(each))
