"""The program of a segment in standard operators of ONNX: but for the sums of float convolutions,
with the same bits.

Bits are values of +1/2 and -1/2, weights of bits +2 and -2. Sums of their products are integers
that float32 holds exactly, whatever the order, so a convolution of the standard gives the integers
of ours. What follows them is written so that no optimizer of a runtime can move a factor into the
weights, and no rounding is saved: a `Clip` behind the integers, and a fused multiply-add in
float64, with its second rounding undone (`_fused`) unless it undoes nothing in any of the integers
(`body_known`).

Float layers (`float_layer`) are within a tolerance as a whole, so their normalization is in the
weights.
"""
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ..native_program_read import description_of
from .body_convolution import Convolutions
from .body_steps import Steps
from .body_value import Unwritable, Value
from .float_layer import layers_of, own_steps, steps_of

OPSET = 13
MOST_SLICES = 64  # of a window that is summed slice by slice; a larger one is a running sum
_F = np.float32


def function(name, state):
    """Returns the FunctionProto `netopt.<name>` of a program's state (bytes): state, x0, x1, ...
    -> y0, y1, ...

    Raises:
        Unwritable: names the op.
    """
    description = description_of(state)
    xs, ys = _names(description)
    return helper.make_function(
        'netopt',
        name,
        ['state'] + xs,
        ys,
        _Body(description, xs, 'state', ys, '').nodes,
        [helper.make_opsetid('', OPSET)],
    )


def nodes(state, xs, source, ys, prefix):
    """Returns the NodeProtos that compute a program.

    Args:
        state (bytes): of the program.
        xs, ys (list of str): names of its inputs and of its outputs, each given once.
        source (str): name of the state as uint8 [bytes].
        prefix (str): of all other names.

    Raises:
        Unwritable: names the op.
    """
    return _Body(description_of(state), xs, source, ys, prefix).nodes


def products(state, prefix):
    """Returns [(str, str)] of the float layers of a program, in order: the names that what each
    reads and gives have among the `nodes` of this prefix."""
    description = description_of(state)
    xs, ys = _names(description)
    return _Body(description, xs, 'state', ys, prefix).products


def _names(description):
    """Names of the inputs and of the outputs, where nobody has given them others."""
    return (
        [f'x{index}' for index in range(len(description.inputs))],
        [f'y{index}' for index in range(len(description.outputs))],
    )


class _Body(Convolutions, Steps):
    def __init__(self, description, xs, source, ys, prefix):
        self.nodes, self.prefix, self.source, self.products = [], prefix, source, []
        self._count, self._constants, self._integers = 0, {}, {}
        self._float_layers = layers_of(description)
        self.values = {
            number: self._read(x, read.shape)
            for number, (x, read) in enumerate(zip(xs, description.inputs))
        }
        for number, op in enumerate(description.ops):
            try:
                getattr(self, '_' + op.name)(op)
            except (AttributeError, Unwritable) as error:
                reason = 'there is no such op' if isinstance(error, AttributeError) else str(error)
                raise Unwritable(
                    f'op {number} ({op.name}) of the program has no form in standard operators: '
                    f'{reason}'
                ) from error
        if not any(source in node.input for node in self.nodes):
            self.add(
                'Shape', [source]
            )  # ONNX Runtime 1.12 takes no function with an input that nothing reads
        for y, (value, rank) in zip(ys, description.outputs):
            self._give(y, self.values[value], rank)

    def _read(self, x, shape):
        """The Value of an input of this name."""
        shape += (1, 1) if len(shape) == 1 else ()
        # Also where it changes nothing: ONNX Runtime 1.10 would take a Transpose from the network
        # through what is behind, into the function, and find no implementation of it there.
        return Value(
            self.add('Reshape', [x, self.integers(0, *[side or 0 for side in shape])]), shape
        )

    def _give(self, y, value, rank):
        """Gives a Value as an output. It keeps its own name, under which others may read it, or
        another output be the same."""
        if rank == 1 and value.shape[1:] == (1, 1):
            self.add('Reshape', [value.name, self.integers(0, value.shape[0])], y)
        else:
            self.add('Identity', [value.name], y)

    # Names and nodes

    def name(self):
        self._count += 1
        return f'{self.prefix}n{self._count}'

    def add(self, op_type, inputs, output=None, **attributes):
        """Adds a node; returns the name of what it gives."""
        output = output or self.name()
        # Runtimes make names of nodes from names of nodes: each needs one.
        name = f'{self.prefix}{len(self.nodes)}_{op_type}'
        self.nodes.append(helper.make_node(op_type, inputs, [output], name, **attributes))
        return output

    def constant(self, array):
        array = np.asarray(array)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._constants:
            self._constants[key] = self.add('Constant', [], value=numpy_helper.from_array(array))
        return self._constants[key]

    def integers(self, *values):
        """A shape, places or axes.

        Behind an Identity, so that no runtime infers shapes from the Constant itself: ONNX Runtime
        1.14 reads it after it has freed it where the two are in a function, and crashes.
        """
        if values not in self._integers:
            constant = self.constant(np.array(values, np.int64))
            self._integers[values] = self.add('Identity', [constant])
        return self._integers[values]

    def cast(self, value, to):
        return self.add('Cast', [value], to=to)

    def vector(self, values, dtype=_F):
        """A constant along the channels, or one number."""
        values = np.asarray(values).astype(dtype)
        return self.constant(values.reshape(1, -1, 1, 1) if values.size > 1 else values.reshape(()))

    def bits(self, truths):
        """Bits of comparisons; a Where would go over them several times."""
        return self.add('Sub', [self.cast(truths, TensorProto.FLOAT), self.constant(_F(0.5))])

    # Ops

    def _pack(self, op):
        value = self.values[op.reads[0]]
        self.values[op.bits] = Value(self._compared(op, value.name), value.shape)

    def _map(self, op):
        value = self.values[op.reads[0]]
        self._ended(op, value.name, value.shape)

    def _unpack(self, op):
        bits = self.values[op.reads[0]]
        self.values[op.values] = Value(
            self.add('Mul', [bits.name, self.constant(_F(2))]), bits.shape
        )

    def _reshape(self, op):
        value = self.values[op.reads[0]]
        lengths = [int(length) for length in op.fields['shape']]
        if -1 in lengths and None not in value.shape:
            known = int(np.prod([length for length in lengths if length > 0]))
            lengths[lengths.index(-1)] = value.size // known
        name = self.add('Reshape', [value.name, self.integers(0, *lengths)])
        self.values[op.values] = Value(name, [None if length < 0 else length for length in lengths])

    def _splice(self, op):
        values = [self.values[read] for read in op.reads]
        name = self.add('Concat', [value.name for value in values], axis=1)
        shape = [sum(value.shape[0] for value in values)] + list(values[0].shape[1:])
        self.values[op.values] = Value(name, shape)

    def _or_pool(self, op):
        self.values[op.bits] = self._maximum(op, self.values[op.reads[0]])

    def _pool(self, op):
        value = self.values[op.reads[0]]
        if op.fields['maximum'][0] != 1:
            self.values[op.values] = self._average(op, value)
            return
        if self._pools_a_float_layer(op):
            return
        # A maximum passes over NaN.
        numbers = self.add(
            'Where', [self.add('IsNaN', [value.name]), self.constant(_F(-np.inf)), value.name]
        )
        pooled = self._maximum(op, Value(numbers, value.shape))
        # ONNX Runtime's maximum begins with the lowest number, not with -infinity.
        lowest = self.add('Equal', [pooled.name, self.constant(np.finfo(_F).min)])
        name = self.add('Where', [lowest, self.constant(_F(-np.inf)), pooled.name])
        self.values[op.values] = Value(name, pooled.shape)

    def _window(self, op, value):
        """Returns kernel, strides, pads (top, bottom, left, right) and the sides of the output."""
        kernel, strides, pads = (
            [int(number) for number in op.fields[key]] for key in ('kernel', 'strides', 'padding')
        )
        whole = kernel == [0, 0]
        kernel = [size or side for size, side in zip(kernel, value.shape[1:])]
        if None in kernel:
            raise Unwritable('it needs a fixed size')
        sides = [1 if size is None and whole else size for size in value.shape[1:]]
        sides = [
            side and (side + sum(pads[2 * axis : 2 * axis + 2]) - kernel[axis]) // strides[axis] + 1
            for axis, side in enumerate(sides)
        ]
        return kernel, strides, pads, sides

    def _maximum(self, op, value):
        kernel, strides, (top, bottom, left, right), sides = self._window(op, value)
        name = self.add(
            'MaxPool',
            [value.name],
            kernel_shape=kernel,
            strides=strides,
            pads=[top, left, bottom, right],
        )
        return Value(name, [value.shape[0]] + sides)

    def _average(self, op, value):
        """Sums in row order, divided by how many places of the image a window has."""
        kernel, strides, (top, bottom, left, right), sides = self._window(op, value)
        value.size  # must be known
        counts = [
            np.array(
                [
                    min(start + kernel[axis], value.shape[1 + axis]) - max(start, 0)
                    for start in np.arange(sides[axis]) * strides[axis] - before
                ]
            )
            for axis, before in enumerate((top, left))
        ]
        is_whole = kernel == list(value.shape[1:]) and not any((top, bottom, left, right))
        if sides == [1, 1] and is_whole:
            rows = self.add(
                'Reshape', [value.name, self.integers(0, value.shape[0], kernel[0] * kernel[1], 1)]
            )
            total = self._running_sum(rows, 2, kernel[0] * kernel[1])
        elif kernel[0] * kernel[1] <= MOST_SLICES:
            total = self._sum_of_slices(value, kernel, strides, (top, bottom, left, right), sides)
        else:
            raise Unwritable('an average of %d x %d places, of a larger image' % tuple(kernel))
        divisor = self.constant(np.outer(*counts).astype(_F).reshape(1, 1, sides[0], sides[1]))
        return Value(self.add('Div', [total, divisor]), [value.shape[0]] + sides)

    def _running_sum(self, value, axis, length):
        sums = self.add('CumSum', [value, self.constant(np.array(axis, np.int64))])
        return self.add(
            'Slice', [sums, self.integers(length - 1), self.integers(length), self.integers(axis)]
        )

    def _sum_of_slices(self, value, kernel, strides, pads, sides):
        top, bottom, left, right = pads
        padded = value.name
        if any(pads):
            padded = self.add(
                'Pad', [value.name, self.integers(0, 0, top, left, 0, 0, bottom, right)]
            )
        total = None
        for row in range(kernel[0]):
            for column in range(kernel[1]):
                ends = [
                    at + (side - 1) * stride + 1
                    for at, side, stride in zip((row, column), sides, strides)
                ]
                part = self.add(
                    'Slice',
                    [
                        padded,
                        self.integers(row, column),
                        self.integers(*ends),
                        self.integers(2, 3),
                        self.integers(*strides),
                    ],
                )
                total = part if total is None else self.add('Add', [total, part])
        return total

    def _mean_abs(self, op):
        """The sum in float64, of eight parts as the native op has them, rounded, times
        float32(1 / n)."""
        value = self.values[op.reads[0]]
        size, padding = value.size, -value.size % 8
        pixels = self.add('Transpose', [self.add('Abs', [value.name])], perm=[0, 2, 3, 1])
        row = self.cast(self.add('Reshape', [pixels, self.integers(0, size)]), TensorProto.DOUBLE)
        if padding:
            row = self.add('Pad', [row, self.integers(0, 0, 0, padding)])
        count = (size + padding) // 8
        parts = self._running_sum(self.add('Reshape', [row, self.integers(0, count, 8)]), 1, count)
        for length in (8, 4, 2):
            pairs = self.add('Reshape', [parts, self.integers(0, length // 2, 2)])
            first, second = (
                self.add(
                    'Slice', [pairs, self.integers(at), self.integers(at + 1), self.integers(2)]
                )
                for at in (0, 1)
            )
            parts = self.add('Add', [first, second])
        mean = self.add('Mul', [self.cast(parts, TensorProto.FLOAT), self.constant(_F(1.0 / size))])
        self.values[op.values] = Value(
            self.add('Reshape', [mean, self.integers(0, 1, 1, 1)]), (1, 1, 1)
        )

    # Endings

    def _ended(self, op, value, shape):
        """Steps, but for those that belong to a float layer, and what is given of what they
        give."""
        others, forms = list(op.reads[1:]), self._short_forms(op)
        behind = len(own_steps(op)) if op.name == 'float_convolution' else 0
        steps = steps_of(op)
        followers = [name for name, _ in steps[1:]] + ['add_value']  # of another op, maybe
        for index, (name, vectors) in list(enumerate(steps))[behind:]:
            if name in ('add_value', 'multiply_value'):
                other = self.values[others.pop(0)].name
                value = self.add('Add' if name == 'add_value' else 'Mul', [value, other])
            elif index in forms.once:
                value = self._short_normalize(value, shape[0], *vectors)
            elif index in forms.maximum:
                value = self._short_relu(value)
            elif name == 'multiply' and followers[index] == 'add_value':
                value = self._product_in_a_sum(value, *vectors)
            else:
                value = getattr(self, '_step_' + name)(value, *vectors)
        if op.values is not None:
            self.values[op.values] = Value(value, shape)
        if op.bits is not None:
            self.values[op.bits] = Value(self._compared(op, value), shape)

    def _compared(self, op, value):
        """low <= v <= high, negated where flip is 1."""
        low, high, flip = op.fields['low'], op.fields['high'], op.fields.get('flip')
        inside = None
        if not np.all(np.isneginf(low)) or np.all(np.isposinf(high)):
            inside = self.add('GreaterOrEqual', [value, self.vector(low)])
        if not np.all(np.isposinf(high)):
            below = self.add('LessOrEqual', [value, self.vector(high)])
            inside = below if inside is None else self.add('And', [inside, below])
        if flip is not None and np.any(flip):
            inside = self.add('Xor', [inside, self.vector(flip != 0, np.bool_)])
        return self.bits(inside)
