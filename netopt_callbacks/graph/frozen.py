"""Layers whose weights are Constants, as `clone('freeze')` makes them of a whole network."""
from typing import NamedTuple

import cntk as C

from . import blocks
from .layer import label_of
from .weights import constant_weights, named_b, operand


class Frozen(NamedTuple):
    """A layer whose weights are Constants."""

    label: str
    W: C.Constant  # the first of them
    reason: str  # why it is left
    op_name: str  # 'Dense' or 'Convolution': what it is, or was before an optimization
    root: C.Function


def frozen_layer(root, core, enclosing):
    """Returns the Frozen that a layer is whose weights are a Constant, or None."""
    if core.op_name not in blocks.LAYERS.values():
        return None
    weights, reader = operand(core)
    if weights is None or not weights.is_constant or not len(weights.shape):
        return None
    op_name = next(name for name, op in blocks.LAYERS.items() if op == core.op_name)
    W = next(constant for constant in reader.constants if constant.uid == weights.uid)
    return _as_frozen(root, op_name, root.name or core.name, [W], op_name, enclosing)


def frozen_block(block, content, enclosing):
    """Returns the Frozen that a block of an optimization is, of which at most the bias is trained,
    or None."""
    b = named_b(block)
    if any(b is None or parameter.uid != b.uid for parameter in block.parameters):
        return None
    found = [(function, constant_weights(function)) for function in content]
    found = [(function, leaves[0]) for function, leaves in found if leaves]
    if not found:
        return None
    op_name = next(name for name, op in blocks.LAYERS.items() if op == found[0][0].op_name)
    weights = list({W.uid: W for _, W in found}.values())
    return _as_frozen(block, block.op_name, block.name, weights, op_name, enclosing)


def _as_frozen(root, kind, name, weights, op_name, enclosing):
    return Frozen(
        label_of(kind, enclosing, name, weights),
        weights[0],
        "it is frozen: its weights are Constants, as clone('freeze') makes them; copy it with "
        "clone('clone') instead to train and change it",
        op_name,
        root,
    )
