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
from ..optimizations.binary_kinds import DENSE, KINDS
from . import per_channel
from .loops import looping

# Operations by what they are in a segment. A CNTK block that is one operation stands here with its
# own name.
IDENTITIES = ('Dropout', 'StopGradient', 'NoOp', 'Pass')
MAPS = (
    'ElementTimes',
    'Plus',
    'Minus',
    'Negate',
    'BatchNormalization',
    'ReLU',
    'LeakyReLU',
    'PReLU',
    'Clip',
)
# Of one value, and nothing that programs compute: only what a sign says of them can be read off.
FUNCTIONS = (
    'Tanh',
    'StableSigmoid',
    'Sigmoid',
    'HardSigmoid',
    'ELU',
    'SELU',
    'Softplus',
    'Softsign',
    'Atan',
    'Sinh',
    'Exp',
    'Log',
    'Sqrt',
    'Floor',
)
JOINS = ('ElementTimes', 'Plus')
SIGN = 'StraightThrough'
# Blocks that are one operation, and of what CNTK makes them: a user's own may have such a name.
_CLOSED = dict(
    LeakyReLU={'ElementTimes', 'Less', 'Select'},
    PReLU={'ElementTimes', 'Less', 'Select'},
    ELU={'ELU', 'ElementTimes', 'Less', 'Select'},
    SELU={'ELU', 'ElementTimes', 'Less', 'Select'},
    HardSigmoid={'ElementTimes', 'Greater', 'Less', 'Plus', 'Select'},
    Softplus={'LogPlus'},
    Softsign={'Abs', 'ElementDivide', 'ElementTimes', 'Plus', 'Reciprocal'},
)
_POOLS = {0: 'max_pool', 1: 'average_pool'}


class Unsupported(Exception):
    """A node cannot be part of a segment; says why."""

    def __init__(self, node, reason):
        super().__init__(reason)
        self.node = node
        self.reason = reason


class UnknownOperation(Unsupported):
    """Its operation is in no table. The block around it, if any, has the name that a user knows."""

    def __init__(self, node, block=None):
        around = '' if block is None else f" (in the block '{block.op_name}')"
        super().__init__(node, f'{node.op_name}{around} is not an operation of programs')


class Value:
    """What one Variable is in the flat graph.

    Attributes:
        uid (str): of the Variable.
        variable (cntk.Variable): of the top level where units hand it on, else where it is inside a
            block.
        fixed (bool): depends on Parameters and Constants alone.
        producer (Node): None of an argument, a leaf, and what a unit that is not looked into
            computes.
        readers (list of Node): of the flat graph; None stands for something outside it.
    """

    def __init__(self, variable):
        self.uid = variable.uid
        self.variable = variable
        self.fixed = variable.is_parameter or variable.is_constant
        self.producer = None
        self.readers = []

    @property
    def shape(self):
        return tuple(self.variable.shape)

    @property
    def channels(self):
        return self.shape[0]

    @property
    def image(self):
        """The shape as `nc.native.Program` takes it: None for a free side."""
        return tuple(side if side > 0 else None for side in self.shape)

    @property
    def is_free(self):
        return None in self.image

    def __repr__(self):
        return f'<Value {self.uid} {self.shape}>'


class Node:
    """One operation.

    Attributes:
        function (cntk.Function): the primitive, or a block that is one operation.
        kind (str): 'identity', 'map', 'join', 'max_pool', 'average_pool', 'reshape', 'sign',
            'splice', 'product', 'float_product', 'magnitude' or 'mean_abs'.
        operands (list of (cntk.Variable, Value)): as the Function reads them, fixed ones among
            them.
        inputs (list of Value): those that are not fixed.
        output (Value): what it computes.
        unit (Unit): it belongs to.
        order (dict): of a float convolution in a segment, in which order CNTK sums
            (`float_order`); None where that is not known.
    """

    def __init__(self, function, operands, unit, float_layers='cntk'):
        self.function = function
        self.operands = operands
        self.inputs = [value for _, value in operands if not value.fixed]
        self.unit = unit
        self.output = self.order = None
        self.kind = self._kind(float_layers)

    @property
    def op_name(self):
        return self.function.op_name

    @property
    def data(self):
        """The Variable, as the Function reads it, of its one input."""
        return next(variable for variable, value in self.operands if not value.fixed)

    @property
    def fixed(self):
        """The fixed operands, as the Function reads them."""
        return [variable for variable, value in self.operands if value.fixed]

    def _kind(self, float_layers):
        name, one = self.op_name, len(self.inputs) == 1
        if one and not self.function.is_block and binary_block.is_binary_core(self.function):
            return 'product'
        if one and name in IDENTITIES:
            return 'identity'
        if one and name == 'BatchNormalization' and self.inputs[0].is_free:
            raise Unsupported(self, 'CNTK normalizes images of a second size wrongly')
        if one and name in MAPS + FUNCTIONS:
            self._check_same_for_each_pixel()
            return 'map'
        if name in JOINS and len(self.inputs) == 2 and self.inputs[0] is not self.inputs[1]:
            return 'join'
        if name == SIGN:
            return 'sign'
        if name == 'Reshape':
            return 'reshape'
        if name == 'Splice' and len(self.inputs) == len(self.operands) and self._is_of_channels():
            return 'splice'
        if name == 'Abs' and one:
            return 'magnitude'
        if (
            name == 'ReduceElements'
            and one
            and self.inputs[0].producer is not None
            and self.inputs[0].producer.kind == 'magnitude'
            and int(np.prod(self.function.shape)) == 1
        ):
            return 'mean_abs'
        if name == 'Pooling' and self.function.attributes['poolingType'] in _POOLS:
            return _POOLS[self.function.attributes['poolingType']]
        kind = next((kind for kind in KINDS if kind.core_op_name == name), None)
        if kind is not None and one:
            self.unit.float_layer = True
            if float_layers == 'apart' or kind is DENSE and float_layers == 'cntk':
                raise Unsupported(
                    self,
                    f"a float {kind.noun} stays in CNTK; Lower(float_layers='native') takes it in",
                )
            return 'float_product'
        raise UnknownOperation(self)

    def _is_of_channels(self):
        shapes = [value.shape for value in self.inputs]
        together = (sum(shape[0] for shape in shapes if shape),) + tuple(shapes[0][1:])
        return tuple(self.function.shape) == together and all(
            shape[1:] == together[1:] for shape in shapes
        )

    def _check_same_for_each_pixel(self):
        reason = per_channel.why_not(
            self.op_name,
            self.inputs[0].shape,
            tuple(self.function.shape),
            [tuple(variable.shape) for variable in self.fixed],
            self.function.attributes,
        )
        if reason is not None:
            raise Unsupported(self, reason)


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
        if function.is_block and not _is_closed(function):
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


def _is_closed(block):
    """Whether a block is one operation."""
    return _CLOSED.get(block.op_name) == {
        function.op_name for function in graph.walk(graph.body(block))
    }


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
