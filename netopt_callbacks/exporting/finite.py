"""Where CNTK gives a number, and ONNX's operator infinity or NaN: the file gives CNTK's number.

CNTK's `Source/Math/TensorOps.h`, measured on version 2.7, x of any float:

    reciprocal(x)       0 where x = 0, else 1 / x
    x / y               x * reciprocal(y)
    log(x)              -85.1 where x < 1e-37, else log(x)
    sqrt(x)             0 where x > 0 does not hold, else sqrt(x)
    pow(x, y)           0 where x = 0 and y is not 0, else pow(x, y) (of x = -infinity NaN, as of
                        any negative x, unless y is whole; that is not written)
    element_select      one operand or the other; CNTK's exporter adds products with 0 and 1

So infinity comes of small numbers whose 1 / x is beyond the largest float, as it does in CNTK.
"""
import numpy as np
from onnx import TensorProto, helper, numpy_helper

LEAST_OF_LOG, LOG_OF_LESS = 1e-37, -85.1
_FLOATS = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64}


def make_finite(graph):
    """Rewrites the nodes of a graph, as CNTK's exporter wrote it, with the types of values.

    What divides by a constant, none of which is 0 or so small that its reciprocal is infinite,
    stays a Div; what has a constant exponent that is not negative stays a Pow.
    """
    types = {
        value.name: value.type.tensor_type.elem_type
        for values in (graph.input, graph.value_info, graph.output)
        for value in values
    }
    weights = {tensor.name: tensor for tensor in graph.initializer}
    types.update((name, tensor.data_type) for name, tensor in weights.items())
    constants = {name: numpy_helper.to_array(tensor) for name, tensor in weights.items()}
    producer = {name: node for node in graph.node for name in node.output}
    for node in list(graph.node):
        write = _WRITERS.get(node.op_type)
        dtype = _FLOATS.get(types.get(node.input[0] if node.input else '', TensorProto.FLOAT))
        if write is None or dtype is None:
            continue
        add = _Adder(graph, node, dtype)
        if write(add, node, constants, producer):
            add.replace()


class _Adder:
    """Makes what stands in the place of a node."""

    def __init__(self, graph, node, dtype):
        self.graph, self.node, self.dtype = graph, node, dtype
        self.nodes, self.tensors = [], []

    def number(self, value):
        name = f'{self.node.output[0]}_number_{len(self.tensors)}'
        self.tensors.append(numpy_helper.from_array(np.array(value, self.dtype), name))
        return name

    def __call__(self, op_type, *inputs, last=False, **attributes):
        name = f'{self.node.output[0]}_finite_{len(self.nodes)}'
        output = self.node.output[0] if last else name
        self.nodes.append(helper.make_node(op_type, inputs, [output], name, **attributes))
        return output

    def replace(self):
        place = list(self.graph.node).index(self.node)
        self.graph.node.remove(self.node)
        for number, node in enumerate(self.nodes):
            self.graph.node.insert(place + number, node)
        self.graph.initializer.extend(self.tensors)


def _reciprocal(add, x, last=False):
    zero = add.number(0)
    of_x = add('Div', add.number(1), x)
    return add('Where', add('Equal', x, zero), zero, of_x, last=last)


def _of_reciprocal(add, node, *_):
    return _reciprocal(add, node.input[0], last=True)


def _of_quotient(add, node, constants, _):
    x, y = node.input
    if y in constants:
        with np.errstate(divide='ignore', over='ignore'):
            if np.isfinite(1 / constants[y]).all():
                return None
    return add('Mul', x, _reciprocal(add, y), last=True)


def _of_logarithm(add, node, *_):
    (x,) = node.input
    less = add('Less', x, add.number(LEAST_OF_LOG))
    return add('Where', less, add.number(LOG_OF_LESS), add('Log', x), last=True)


def _of_root(add, node, *_):
    (x,) = node.input
    zero = add.number(0)
    return add('Sqrt', add('Where', add('Greater', x, zero), x, zero), last=True)


def _of_power(add, node, constants, _):
    x, y = node.input
    if (constants.get(y, np.array(-1)) >= 0).all() or constants.get(x, np.zeros(1)).all():
        return None
    zero = add.number(0)
    none = add('Equal', x, zero)
    if not constants.get(y, np.zeros(1)).all():
        none = add('And', none, add('Not', add('Equal', y, zero)))
    return add('Where', none, zero, add('Pow', x, y), last=True)


def _of_choice(add, node, _, producer):
    """A Sum of two products with what is 1 where a flag is not 0, and with 1 less that."""
    products = [producer.get(name) for name in node.input]
    if len(products) != 2 or any(made is None or made.op_type != 'Mul' for made in products):
        return None
    (ceil, of_true), (other, of_false) = (made.input for made in products)
    up, less = producer.get(ceil), producer.get(other)
    if up is None or less is None or up.op_type != 'Ceil' or less.op_type != 'Sub':
        return None
    clipped = producer.get(up.input[0])
    size = producer.get(clipped.input[0]) if clipped is not None else None
    if ceil != less.input[1] or size is None or (clipped.op_type, size.op_type) != ('Clip', 'Abs'):
        return None
    flag = add('Cast', size.input[0], to=TensorProto.BOOL)
    return add('Where', flag, of_true, of_false, last=True)


_WRITERS = {
    'Reciprocal': _of_reciprocal,
    'Div': _of_quotient,
    'Log': _of_logarithm,
    'Sqrt': _of_root,
    'Pow': _of_power,
    'Sum': _of_choice,
}
