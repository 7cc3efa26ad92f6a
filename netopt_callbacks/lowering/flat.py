"""A trained graph as a flat list of operations: what segments are found in, and programs are
written from.

The nodes of a graph's top level stay what they are (`Unit`): a segment takes a whole one or none of
it, so that every other can still be lowered alone. What a block computes is looked up inside it,
but not copied out.
"""
import cntk as C
import numpy as np

from .. import graph
from ..graph.blocks import declared
from ..graph.pieces import with_outputs
from ..graph.walk import Level
from ..optimizations import binary_block
from .loops import looping
from .nodes import Node, UnknownOperation, Unsupported, Value, is_closed


class Unit:
    """One Function of the graph's top level.

    Attributes:
        function (cntk.Function): a primitive or a block.
        nodes (list of Node): what it computes; [] where it is not looked into.
        inputs (list of Value): not fixed ones that it reads.
        outputs (list of Value): what it computes.
        layer (BinaryLayer): of a block `BinaryConvolution` or `BinaryDense`, else None.
        float_layer (bool): it is, or holds, a float convolution or Dense.
        reason (str): why it cannot be part of a segment, None where it may.
    """

    def __init__(self, function):
        self.function = function
        self.nodes = []
        self.inputs = []
        self.outputs = []
        self.layer = None
        self.float_layer = False
        self.reason = None

    @property
    def name(self):
        return self.function.name or self.function.op_name


class FlatGraph:
    """A model, flat.

    Args:
        model (cntk.Function): its binary blocks are on its own level (`graph.opened`).
        float_layers (str): as of `Lower`.

    Attributes:
        model (cntk.Function): held: no Variable keeps its Function alive.
        units (list of Unit): inputs first.
    """

    def __init__(self, model, float_layers='cntk'):
        self.model = model
        self.float_layers = float_layers
        self._values = {}
        self._bodies = []
        level = Level(model.outputs)
        self._looping = looping(level)
        self._float_layers = {
            (layer.root if layer.root.is_block else layer.core).uid for layer in graph.layers(model)
        }
        self.units = [
            unit
            for unit in (self._unit(function, level) for function in level.functions)
            if unit is not None
        ]
        for output in model.outputs:
            self.value(output).readers.append(None)
        places = level.places(model.outputs)
        for value in self._values.values():
            value.place = places.get(value.variable.uid, -1)  # what is inside blocks is not met

    def value(self, variable):
        """Returns the Value of a Variable of the top level."""
        if variable.uid not in self._values:
            self._values[variable.uid] = Value(variable)
        return self._values[variable.uid]

    def _unit(self, function, level):
        """Returns the Unit of a Function of the top level; None where it depends on nothing but
        leaves."""
        operands = [(variable, self.value(variable)) for variable in level.inputs(function)]
        outputs = level.outputs(function)
        if operands and all(value.fixed for _, value in operands):
            for output in outputs:
                self.value(output).fixed = True
            return None
        unit = Unit(function)
        # Here where no Node comes to be; a Node says so where its weights are computed.
        unit.float_layer = function.uid in self._float_layers
        unit.inputs = _distinct(value for _, value in operands if not value.fixed)
        try:
            if binary_block.kind_of_block(function) is not None:
                unit.layer = binary_block.BinaryLayer(function)
            unit.outputs = [self._result(function, operands, unit, outputs)]
        except Unsupported as refused:
            unit.reason = refused.reason
            unit.nodes = []
            unit.outputs = [self.value(output) for output in outputs]
        # Readers are noted once it is known whether they are nodes.
        for node in unit.nodes:
            for value in node.inputs:
                value.readers.append(node)
        if not unit.nodes:
            for value in unit.inputs:
                value.readers.append(None)
        return unit

    def _result(self, function, operands, unit, outputs):
        """Looks into a Function of the top level; returns the Value of its output."""
        if len(outputs) != 1:
            raise Unsupported(None, f'it has {len(outputs)} outputs')
        uid = outputs[0].uid
        if function.uid in self._looping:
            raise Unsupported(None, 'it is part of a loop')
        for variable in [variable for variable, value in operands if not value.fixed] + outputs:
            if not is_image(variable):
                raise Unsupported(
                    None,
                    'programs know float32 [channels, height, width] or [channels], one for each '
                    f'sample or step, of which height and width may be free, and not {variable}',
                )
        if any(value.variable.dynamic_axes != outputs[0].dynamic_axes for value in unit.inputs):
            raise Unsupported(None, 'it reads a value for each step and one for each sequence')
        result = self._flatten(function, operands, unit, outputs[0])
        if result.fixed or not unit.nodes:
            raise Unsupported(None, 'it computes nothing from what it reads')
        if unit.layer is None and any(node.kind == 'product' for node in unit.nodes):
            raise Unsupported(None, 'its binary product is in no block of this package')
        self._values[uid] = result
        result.variable = outputs[0]  # that of the top level, which other units read
        return result

    def _flatten(self, function, operands, unit, output):
        """Adds the nodes of a Function to a Unit; returns the Value of its output."""
        if function.is_block and not is_closed(function):
            return self._flatten_block(function, operands, unit)
        node = Node(function, operands, unit, self.float_layers)
        value = Value(output)
        node.output, value.producer = value, node
        unit.nodes.append(node)
        return value

    def _flatten_block(self, block, operands, unit):
        if declared(block.op_name) is not None and binary_block.kind_of_block(block) is None:
            raise Unsupported(
                None,
                f"it is a block '{block.op_name}', of which another optimization says what it is",
            )
        outer = {variable.uid: value for variable, value in operands}
        mapping = block.block_arguments_mapping
        values = [outer.get(actual.uid) or self.value(actual) for _, actual in mapping]
        body, inner = _opened(block, values)
        self._bodies.append(body)
        level = Level(body.outputs)
        for function in level.functions:
            read = [
                (variable, inner.get(variable.uid) or self._leaf(variable))
                for variable in level.inputs(function)
            ]
            results = level.outputs(function)
            if all(value.fixed for _, value in read):
                for result in results:
                    inner[result.uid] = value = Value(result)
                    value.fixed = True
                continue
            if len(results) != 1:
                raise Unsupported(None, f'{function.op_name} inside it has {len(results)} outputs')
            try:
                inner[results[0].uid] = self._flatten(function, read, unit, results[0])
            except UnknownOperation as unknown:
                if function.is_block:
                    raise UnknownOperation(unknown.node, function) from None
                raise
        return inner[body.outputs[0].uid]

    def _leaf(self, variable):
        if not (variable.is_parameter or variable.is_constant):
            raise Unsupported(None, f'it reads {variable} from outside')
        return self.value(variable)


def _opened(block, values):
    """Returns what a block computes, and by uid the Values that it reads.

    Fixed operands take the place of their placeholders in a copy: so CNTK can evaluate what depends
    on them alone.

    Args:
        block (cntk.Function): applied.
        values (list of Value): what it is applied to.
    """
    body, mapping = graph.body(block), block.block_arguments_mapping
    read = [inner for inner, _ in mapping]
    if any(value.fixed for value in values):
        read = [
            actual if value.fixed else graph.placeholder_like(actual)
            for (_, actual), value in zip(mapping, values)
        ]
        with graph.cloned_whole():
            body = body.clone(C.CloneMethod.share, dict(zip(dict(mapping), read)))
    return body, {variable.uid: value for variable, value in zip(read, values)}


def is_image(variable):
    """Whether a Variable is float32 [channels, height, width] or [channels], one per sample or step
    of a sequence; height and width may be free."""
    shape = tuple(variable.shape)
    return (
        variable.dtype == np.float32
        and len(shape) in (1, 3)
        and shape[0] > 0
        and all(side > 0 or side == C.FreeDimension for side in shape)
        and len(variable.dynamic_axes) in (1, 2)
        and not variable.is_sparse
    )


def opened_for_segments(model):
    """Returns `model` with its binary blocks on its own level; its outputs keep their names where
    they are those of blocks that are opened."""
    opened = graph.opened(model, lambda function: binary_block.kind_of_block(function) is not None)
    outputs = [named_output(new, old.name) for new, old in zip(opened.outputs, model.outputs)]
    if all(new.uid == old.uid for new, old in zip(outputs, opened.outputs)):
        return opened
    return with_outputs(opened, outputs)


def named_output(variable, name):
    """Returns a Variable as one of that name: an alias, which CNTK copies, where it has another."""
    return variable if name in ('', variable.name) else C.alias(variable, name).output


def fixed_value(variable):
    """Returns the value of a Variable that depends on Parameters and Constants alone, as CNTK
    evaluates it."""
    return np.asarray(binary_block._value_of(variable), np.float32)


def _distinct(values):
    found = []
    for value in values:
        if not any(value is other for other in found):
            found.append(value)
    return found
