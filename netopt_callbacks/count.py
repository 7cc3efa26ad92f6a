"""Parameters, multiply-adds and bits of a model, layer by layer."""
import warnings
from typing import NamedTuple, Optional

import numpy as np

from . import graph
from .graph import blocks
from .optimizations import low_rank


class Totals(NamedTuple):
    """A whole network: see `Row` for what is counted; None for what a layer leaves unknown."""

    parameters: Optional[int]
    macs: Optional[int]
    binary_macs: Optional[int]
    bytes: Optional[int]


class Row:
    """One layer of a model.

    Attributes:
        name (str): as the user named it, or a block around it; '' where they did not.
        kind (str): the block's or the primitive's op name, or what an optimization calls its block.
        shape (tuple of int): of its weights: its first Parameter, or frozen one, of the highest
            rank; () without any.
        parameters (int): trained numbers, each Parameter once: a layer that shares one with an
            earlier row does not count it again. A 1-bit weight is one. None where a shape is not
            known yet.
        frozen (int): numbers that a Constant holds in the place of such a Parameter.
        macs (int): multiply-adds per sample (of a sequence: per step); None where a side is free,
            and for CNTK's OptimizedRNNStack.
        binary_macs (int): those of `macs` that are 1-bit.
        binary_weights (int): those of `parameters` and `frozen` that are 1-bit once lowered.
        float_bytes (int): bytes of one of the others.
        extra_bytes (int): how many more bytes those take that are of another type than
            `float_bytes` says.
        break_even_rank (int): of a Dense, the largest rank that saves anything; else None.
    """

    def __init__(
        self,
        name,
        kind,
        shape=(),
        parameters=0,
        macs=0,
        binary_macs=0,
        binary_weights=0,
        float_bytes=4,
        break_even_rank=None,
        frozen=0,
    ):
        self.name = name
        self.kind = kind
        self.shape = tuple(shape)
        self.parameters = parameters
        self.frozen = frozen
        self.macs = macs
        self.binary_macs = binary_macs
        self.binary_weights = binary_weights
        self.float_bytes = float_bytes
        self.extra_bytes = 0
        self.break_even_rank = break_even_rank

    @property
    def bytes(self):
        """Size of what is trained or frozen: 1-bit weights as bits, rounded up to a byte."""
        if None in (self.parameters, self.frozen, self.binary_weights):
            return None
        return (
            size_bytes(self.parameters + self.frozen, self.binary_weights, self.float_bytes)
            + self.extra_bytes
        )


def size_bytes(parameters, binary_weights=0, float_bytes=4):
    """Returns the bytes of `parameters` numbers, of which `binary_weights` take one bit each."""
    return (binary_weights + 7) // 8 + (parameters - binary_weights) * float_bytes


def rows(model):
    """Returns a `Row` for each layer of a model that holds numbers or multiplies, inputs first.

    Args:
        model (cntk.Function): trained, optimized or lowered; applied to its inputs.
    """
    layers = {layer.root.uid: layer for layer in graph.layers(model)}
    bare = {layer.core.uid: layer for layer in layers.values() if not layer.root.is_block}
    counted, found = set(), []
    for function, level, enclosing, given in _units(model):
        layer = bare.get(function.uid) or (layers.get(function.uid) if function.is_block else None)
        row = _row(function, level, layer, given, counted)
        if row.parameters != 0 or row.macs != 0 or row.frozen:
            row.name = row.name or enclosing
            found.append(row)
    return found


def totals(model):
    """Returns (parameters, multiply-adds per sample) of a model; None for what a free side
    leaves open."""
    return whole(model)[:2]


def whole(model):
    """Returns the `Totals` of a model."""
    counted = rows(model)
    return Totals(*[total(getattr(row, field) for row in counted) for field in Totals._fields])


def total(numbers):
    """Returns the sum, or None where one of the numbers is None: not known."""
    numbers = list(numbers)
    return None if None in numbers else sum(numbers)


def macs_of(function, computed=None):
    """Returns the multiply-adds of a product or convolution; 0 of anything else, None where a side
    is free or the function is a whole recurrent network.

    Args:
        function (cntk.Function): any.
        computed (cntk.Variable): its output, where that is at hand (see `graph.Level`).
    """
    if function.op_name == 'OptimizedRNNStack':
        return None
    if function.is_block or function.op_name not in ('Times', 'TransposeTimes', 'Convolution'):
        return 0
    left, right = function.inputs[:2]
    computed = function.outputs[0] if computed is None else computed
    if function.op_name == 'Times':
        counted, each = computed.shape, right.shape[: -function.attributes['outputRank']]
    elif function.op_name == 'TransposeTimes':  # the right one is [outputs, inputs] or [inputs]
        counted, each = computed.shape, right.shape[-1:]
    elif function.attributes['transpose']:  # every input is spread over the outputs
        counted, each = right.shape, left.shape[1:]
    else:
        counted, each = computed.shape, left.shape[1:]
    return elements(tuple(counted) + tuple(each))


def elements(shape):
    """Returns how many numbers a shape holds, or None where a side is free or not known yet."""
    return None if any(side < 0 for side in shape) else int(np.prod(shape, dtype=np.int64))


def _units(model):
    """Yields (primitive, or block that is one layer; its Level; name of the innermost named
    block around it; what the blocks around it were given, see `_given`)."""

    def opened(composite, name, given):
        level = graph.Level(composite.outputs)
        return iter(level.functions), level, name, given

    pending = [opened(model, '', {})]
    while pending:
        content, level, enclosing, given = pending[-1]
        function = next(content, None)
        if function is None:
            pending.pop()
        elif function.is_block and not blocks.is_unit(function.op_name):
            name = function.name or enclosing
            pending.append(opened(graph.body(function), name, _given(function, given)))
        else:
            yield function, level, enclosing, given


def _given(block, around):
    """Returns {uid of a placeholder in a block: the Parameter or Constant that it stands for}.

    Args:
        block (cntk.Function): applied to Parameters and Constants, among others.
        around (dict): the same of the block around it.
    """
    read = [
        (placeholder.uid, around.get(actual.uid, actual))
        for placeholder, actual in block.block_arguments_mapping
    ]
    return {uid: leaf for uid, leaf in read if leaf.is_parameter or leaf.is_constant}


def _row(function, level, layer, given, counted):
    """Returns the row of a primitive or block of a level; what is in `counted` is not counted
    again."""
    content = list(graph.walk(graph.body(function))) if function.is_block else [function]
    parameters = _new_parameters(function, layer, given, counted)
    frozen = _new_frozen(function, content, given, counted)
    row = Row(
        layer.name if layer else function.name,
        layer.op_name if layer else function.op_name,
        _shape(layer, parameters + frozen),
        total(elements(one.shape) for one in parameters),
        total(
            macs_of(primitive, level.output(primitive) if primitive is function else None)
            for primitive in content
        ),
        frozen=total(elements(one.shape) for one in frozen),
    )
    sizes = [
        (elements(one.shape) or 0, np.dtype(one.dtype).itemsize) for one in parameters + frozen
    ]
    if sizes:
        row.float_bytes = sizes[0][1]
        row.extra_bytes = sum(size * (itemsize - row.float_bytes) for size, itemsize in sizes)
    if layer is not None and layer.op_name == 'Dense' and elements(layer.W.shape):
        outputs = elements(layer.W.shape[-layer.output_rank :])
        row.break_even_rank = low_rank.break_even_rank(
            (elements(layer.W.shape) // outputs, outputs)
        )
    if function.is_block:
        _correct(row, function)
    return row


def _correct(row, block):
    """Lets the optimization that has made a block say what it is and what it counts."""
    said = blocks.declared(block.op_name)
    if said is None:
        return
    row.kind = said.kind
    if said.count is None:
        return
    try:
        said.count(block, row)
    # A number that somebody's function lacks must not end a training that is only reported on.
    except Exception as error:
        warnings.warn(
            "%s '%s': its count(block, row) must fill in the row, and raised %s: %s; what it "
            "counts is not known"
            % (said.op_name, row.name or '(unnamed)', type(error).__name__, error)
        )
        row.parameters = row.macs = row.binary_macs = row.binary_weights = None


def _new_parameters(function, layer, given, counted):
    """Returns the Parameters a function reads that are not in `counted`, and adds them to it."""
    if layer is not None and not layer.root.is_block:
        read = [layer.W] + ([layer.b] if layer.b is not None else [])
    else:
        read = list(function.parameters) + [
            given[variable.uid] for variable in function.inputs if variable.uid in given
        ]
    return _new([leaf for leaf in read if leaf.is_parameter], counted)


def _new_frozen(function, content, given, counted):
    """Returns the Constants that stand where a layer has Parameters and are not in `counted`; adds
    them to it.

    Those are what a product or a BatchNormalization reads as its weights; in a layer without any
    Parameter the others are, too, but for the statistics of a BatchNormalization, and for what an
    optimization has its weights masked with.
    """
    primitives = [primitive for primitive in content if not primitive.is_block]
    weights = [graph.constant_weights(primitive) for primitive in primitives if function.is_block]
    found = [leaves[0] for leaves in weights if leaves]
    others = {leaf.uid for leaves in weights for leaf in leaves[1:]}
    all_frozen = (
        function.is_block
        and not function.parameters
        and (bool(found) or function.op_name in blocks.CNTK_BLOCKS)
    )
    for primitive in primitives:
        read = [given.get(variable.uid, variable) for variable in primitive.inputs]
        if primitive.op_name == 'BatchNormalization':
            read = read[1:3]
        elif not all_frozen and primitive.op_name not in ('Times', 'TransposeTimes', 'Convolution'):
            continue
        found += [leaf for leaf in read if leaf.is_constant and leaf.shape]
    return _new([leaf for leaf in found if leaf.uid not in others], counted)


def _new(leaves, counted):
    new = []
    for leaf in leaves:
        if leaf.uid not in counted:
            counted.add(leaf.uid)
            new.append(leaf)
    return new


def _shape(layer, leaves):
    if layer is not None:
        return layer.W.shape
    return max((leaf.shape for leaf in leaves), key=len, default=())
