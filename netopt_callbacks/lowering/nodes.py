"""The operations of a flat graph (`flat`), and what each is in a segment."""
import numpy as np

from .. import graph
from ..optimizations import binary_block
from ..optimizations.binary_kinds import DENSE, KINDS
from . import per_channel

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
        place (int): of a Variable of the top level, when CNTK comes across it (`Level.places`).
    """

    def __init__(self, variable):
        self.uid = variable.uid
        self.variable = variable
        self.fixed = variable.is_parameter or variable.is_constant
        self.producer = None
        self.readers = []
        self.place = -1

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
        sums (dict): of a float convolution in a segment, the keys that say in which order its op
            adds.
        same_bits (bool): whether CNTK adds in that order (`float_order`).
    """

    def __init__(self, function, operands, unit, float_layers='cntk'):
        self.function = function
        self.operands = operands
        self.inputs = [value for _, value in operands if not value.fixed]
        self.unit = unit
        self.output = None
        self.sums, self.same_bits = {}, False
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


def is_closed(block):
    """Whether a block is one operation."""
    return _CLOSED.get(block.op_name) == {
        function.op_name for function in graph.walk(graph.body(block))
    }
