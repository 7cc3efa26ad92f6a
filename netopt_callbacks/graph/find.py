"""Finding the Dense and Convolution layers of a model, by name and by what they compute."""
from typing import List, NamedTuple, Optional

import cntk as C

from .._types import Filter
from . import blocks
from .checks import check_model
from .filters import check_filter, taken
from .frozen import Frozen, frozen_block, frozen_layer
from .layer import Layer, key_of, label_of
from .scope import trained_part
from .walk import Level, body
from .weights import any_weights, named_b, parameter_of, weights_of


class OtherProduct(NamedTuple):
    """A product of data with a Parameter that is no Dense layer."""

    label: str
    W: C.Variable
    reason: str  # why it is none


def layers(
    model: C.Function, filter_function: Optional[Filter] = None, op_name: Optional[str] = None
) -> List[Layer]:
    """Returns the Dense and Convolution layers of a model, inputs first.

    A layer is a block `Dense` or `Convolution`, a block of which an optimization says that it still
    is one (see `Block`), or what computes the same without a block: `times(x, W)` and
    `convolution(W, x)` for a Parameter W, with `+ b` where that follows.

    Args:
        model (cntk.Function): any Function; blocks are searched, at any depth.
        filter_function (callable): `Layer -> bool`; None takes every layer.
        op_name (str): 'Dense' or 'Convolution'; None takes both. The op name of blocks that an
            optimization makes takes those: their `W` and `core` are None where they do not apply
            one Parameter, or an expression over one, to data. Frozen layers are none, see
            `frozen_layers`.

    Returns:
        list of Layer: [] where nothing matches; `no_layers_error` says what was seen.

    Raises:
        TypeError: `model` is no Function, or `filter_function` no function.
        ValueError: `op_name` is none of these, or the filter takes one of several layers that
            share W and leaves another.
    """
    if op_name is not None and op_name not in blocks.LAYERS and blocks.declared(op_name) is None:
        raise ValueError(
            "op_name must be 'Dense', 'Convolution', None, or one that an optimization has "
            "declared in its `blocks` (%s), got %r; other blocks are found with "
            "nc.graph.walk(model)" % (', '.join(blocks.op_names()), op_name)
        )
    check_filter(filter_function)
    found = [
        layer
        for layer in _found(model)
        if layer.op_name == op_name or op_name is None and layer.op_name in blocks.LAYERS
    ]
    return found if filter_function is None else taken(filter_function, found)


def _found(model):
    """Returns the layers of the part that is trained, and then those elsewhere in the model
    that share their W."""
    part = trained_part(model)
    found = [item for item in search(part) if isinstance(item, Layer)]
    if part is not model:
        known, keys = set(found), {key_of(layer) for layer in found}
        others = [
            item
            for item in search(model)
            if isinstance(item, Layer) and key_of(item) in keys and item not in known
        ]
        for layer in others:
            layer.follows = True
        found += others
    _link(found)
    return found


def other_products(model: C.Function) -> List[OtherProduct]:
    """Returns the products that multiply by a Parameter from the wrong side, so that they are no
    layer.

    `Layer.W` is [inputs, outputs] for every Dense, and what is written with it relies on that.

    Returns:
        list of OtherProduct: inputs first.
    """
    return [item for item in search(trained_part(model)) if isinstance(item, OtherProduct)]


def frozen_layers(model: C.Function) -> List[Frozen]:
    """Returns the Dense and Convolution layers whose weights are Constants, so that nothing can
    train or change them; those that optimizations have made something else of are among them.

    Returns:
        list of Frozen: inputs first.
    """
    return [item for item in search(model) if isinstance(item, Frozen)]


def search(model):
    """Returns the layers and other products of a model and of its blocks, inputs first."""
    check_model('nc.graph', model)
    found = []
    pending = [(iter(_of_level(model.outputs, True, ())), True)]
    while pending:
        item = next(pending[-1][0], None)
        if item is None:
            pending.pop()
        elif isinstance(item, (Layer, OtherProduct, Frozen)):
            if isinstance(item, Layer):
                item.model = model
            found.append(item)
        else:
            block, enclosing = item
            bare = pending[-1][1] and not blocks.is_unit(block.op_name)
            pending.append(
                (iter(_of_level(body(block).outputs, bare, enclosing + (block.name,))), bare)
            )
    return found


def _of_level(outputs, bare, enclosing):
    """Returns, inputs first, the layers and other products of a level, and blocks to look into:
    (block, names)."""
    level = Level(outputs)
    items = []
    for function in level.functions:
        layer = None
        if function.is_block:
            layer = _from_block(function, level, enclosing)
            if not isinstance(layer, Layer) or layer.op_name not in blocks.LAYERS:
                items.append((function, enclosing))
        elif bare:
            layer = (
                _from_primitives(function, level, enclosing)
                or _other_product(function, enclosing)
                or frozen_layer(function, function, enclosing)
            )
        if layer is not None:
            items.append(layer)
    return items


def _from_block(block, level, enclosing):
    """Returns the Layer or the Frozen that a block is, or None."""
    said = blocks.declared(block.op_name)
    op_name = said.layer or block.op_name if said is not None else block.op_name
    if len(block.block_arguments_mapping) != 1 or said is None and op_name not in blocks.LAYERS:
        return None
    inner = Level(body(block).outputs)
    content = inner.functions
    if op_name in blocks.LAYERS:
        read, products = weights_of, [blocks.LAYERS[op_name]]
    else:
        read, products = any_weights, blocks.LAYERS.values()
    cores = [(function, read(function)) for function in content if function.op_name in products]
    cores = [(function, W) for function, W in cores if W is not None]
    if len(cores) != 1:
        if op_name in blocks.LAYERS:
            found = [
                frozen_layer(block, function, enclosing)
                for function in content
                if function.op_name in products
            ]
            return next((item for item in found if item is not None), None)
        frozen = None if cores else frozen_block(block, content, enclosing)
        return frozen or Layer(
            op_name, block, None, None, named_b(block), enclosing, level.output(block)
        )
    core, W = cores[0]
    bias = _bias(core, inner)
    return Layer(
        op_name,
        block,
        core,
        W,
        bias[1] if bias else named_b(block),
        enclosing,
        level.output(block),
        inner.output(core),
    )


def _from_primitives(core, level, enclosing):
    """Returns the Layer that a times or convolution outside every layer block is, or None."""
    op_name = next((name for name, op in blocks.LAYERS.items() if op == core.op_name), None)
    W = weights_of(core) if op_name and not core.is_block else None
    if W is None:
        return None
    bias = _bias(core, level)
    root, b = bias if bias else (core, None)
    return Layer(op_name, root, core, W, b, enclosing, level.output(root), level.output(core))


def _other_product(function, enclosing):
    """Returns the OtherProduct a primitive is, or None."""
    if function.op_name not in ('Times', 'TransposeTimes'):
        return None
    left, right = function.inputs
    data, weights, reader = left, right, function
    reason = 'times_transpose reads its W as [outputs, inputs]'
    if function.op_name == 'Times':
        reason = 'its W is transposed first'
        if left.is_parameter:
            data, weights, reason = (
                right,
                left,
                'its W is on the left of the data, as [outputs, inputs]',
            )
        elif right.is_output and right.owner.op_name == 'TransposeAxes':
            reader = right.owner
            weights = reader.inputs[0]
        else:
            return None
    if not weights.is_parameter or data.is_parameter or data.is_constant:
        return None
    return OtherProduct(
        label_of('product', enclosing, function.name, [weights]),
        parameter_of(reader, weights),
        reason + '; write times(x, W) with W of [inputs, outputs]',
    )


def _bias(core, level):
    """Returns (the plus that adds a bias Parameter to `core`, that Parameter), or None."""
    output = level.output(core)
    using = level.readers.get(output.uid, [])
    if len(using) != 1 or using[0] is None or using[0].op_name != 'Plus' or using[0].is_block:
        return None
    others = [variable for variable in level.inputs(using[0]) if variable.uid != output.uid]
    if len(others) == 1 and others[0].is_parameter and level.output(using[0]).shape == output.shape:
        return using[0], parameter_of(using[0], others[0])
    return None


def _link(found):
    """Tells each layer which others read its W."""
    groups = {}
    for layer in found:
        if layer.W is not None:
            groups.setdefault((layer.op_name, layer.W.uid), []).append(layer)
    for group in groups.values():
        for layer in group:
            layer.share(other for other in group if other is not layer)
