"""The convolutions of a program in standard operators: of bits, with the same integers, and of
floats, whose sums another engine adds in another order."""
import numpy as np
from onnx import TensorProto

from .body_value import Unwritable, Value

# Float weights that are read from the state; of more there is a constant, since a runtime takes
# about 100 bytes each while it loads the file.
MOST_READ = 1 << 20
_F = np.float32


class Convolutions:
    """Mixin of a body: the ops `convolution` and `float_convolution`, with weights of the state.

    It uses `values`, `source`, `add`, `constant`, `integers`, `vector`, `cast`, `signs` and
    `_ended` of the body.

    Attributes:
        products (list of (str, str)): by float convolution, the names of what it reads and of its
            sums, [batch, channels, height, width] each.
    """

    def _convolution(self, op):
        dots, shape = self._sums(op, self._weights(op))
        if 'thresholds' in op.fields:
            # Of an integer: greater than t is greater than t + 1/2. What is beyond all sums stays
            # beyond them.
            most = int(op.fields['channels'][0] * np.prod(op.fields['kernel'])) + 1
            limits = np.clip(op.fields['thresholds'], -most, most) + 0.5
            self.values[op.bits] = Value(
                self.signs(self.add('Greater', [dots, self.vector(limits)])), shape
            )
        else:
            self._ended(op, self.add('Floor', [dots]), shape)

    def _float_convolution(self, op):
        sums, shape = self._sums(op, self._floats(op))
        self.products.append((self.values[op.reads[0]].name, sums))
        self._ended(op, sums, shape)

    def _sums(self, op, weights):
        """Returns the name of the sums that follow from these weights, and their shape."""
        value = self.values[op.reads[0]]
        kernel, strides, (top, bottom, left, right), dilation = (
            [int(number) for number in op.fields[key]]
            for key in ('kernel', 'strides', 'padding', 'dilation')
        )
        groups, filters = int(op.fields['groups'][0]), int(op.fields['filters'][0])
        sides = [
            side and (side + sum(pads) - apart * (size - 1) - 1) // stride + 1
            for side, pads, apart, size, stride in zip(
                value.shape[1:], ((top, bottom), (left, right)), dilation, kernel, strides
            )
        ]
        if tuple(kernel) == value.shape[1:] and groups == 1 and not any((top, bottom, left, right)):
            flat = self.add('Reshape', [value.name, self.integers(0, value.size)])
            table = self.add('Reshape', [weights, self.integers(filters, value.size)])
            product = self.add('MatMul', [flat, self.add('Transpose', [table], perm=[1, 0])])
            sums = self.add('Reshape', [product, self.integers(0, filters, 1, 1)])
        else:
            sums = self.add(
                'Conv',
                [value.name, weights],
                group=groups,
                kernel_shape=kernel,
                strides=strides,
                dilations=dilation,
                pads=[top, left, bottom, right],
            )
        return sums, [filters] + sides

    def _bytes(self, op, key):
        """The bytes of a field, cut out of the state."""
        place, field = op.places[key], op.fields[key]
        ends = self.integers(place), self.integers(place + field.nbytes)
        return self.add('Slice', [self.source, *ends, self.integers(0)])

    def _weights(self, op):
        """The weights of bits, float32 [filters, channels, height, width] of +-1."""
        filters, channels = int(op.fields['filters'][0]), int(op.fields['channels'][0])
        kernel = [int(size) for size in op.fields['kernel']]
        words = op.fields['words'].size // (filters * kernel[0] * kernel[1])
        if channels * kernel[0] * kernel[1] >= 1 << 24:
            raise Unwritable('its sums are beyond what float32 holds exactly')
        part = self._bytes(op, 'words')
        bits = np.arange(256)[:, None] >> np.arange(8) & 1
        signs = self.add(
            'Gather',
            [self.constant((bits * 2 - 1).astype(np.int8)), self.cast(part, TensorProto.INT32)],
        )
        rows = self.add(
            'Reshape', [signs, self.integers(filters, kernel[0], kernel[1], words * 64)]
        )
        if words * 64 != channels:
            rows = self.add(
                'Slice', [rows, self.integers(0), self.integers(channels), self.integers(3)]
            )
        return self.add('Transpose', [self.cast(rows, TensorProto.FLOAT)], perm=[0, 3, 1, 2])

    def _floats(self, op):
        """The float weights, [filters, channels, height, width], where they are finite.

        No standard operator takes four bytes for a float32, so it is put together as
        +-2^(e - 150) * (2^23 + fraction), without 2^23 and as of e = 1 where e is 0. Each step is
        exact in float32, which holds 24 bits: those of three bytes, of which the highest is the
        lowest of e, and the others of e with the sign.
        """
        shape = [
            int(length) for key in ('filters', 'channels', 'kernel') for length in op.fields[key]
        ]
        if op.fields['weights'].size > MOST_READ:
            return self.constant(op.fields['weights'].reshape(shape))
        places = self.integers(op.fields['weights'].size, 4)
        rows = self.add('Reshape', [self._bytes(op, 'weights'), places])
        rows = self.cast(rows, TensorProto.FLOAT)
        three, fourth = (
            self.add('MatMul', [rows, self.constant(np.array(column, _F).reshape(4, 1))])
            for column in ((1, 1 << 8, 1 << 16, 0), (0, 0, 0, 2))
        )
        unit = self.constant(_F(1 << 23))
        # By a cast: ONNX Runtime 1.32 computes a comparison of constants whenever it runs.
        lowest = self.add('Mul', [three, self.constant(_F(2.0**-23))])
        lowest = self.cast(self.cast(lowest, TensorProto.INT32), TensorProto.FLOAT)
        fraction = self.add('Sub', [three, self.add('Mul', [lowest, unit])])
        signed = self.cast(self.add('Add', [fourth, lowest]), TensorProto.INT32)  # with e
        e = np.arange(512) % 256
        powers = np.ldexp(np.repeat(_F([1, -1]), 256), np.maximum(e, 1) - 150)
        leading = self.add('Gather', [self.constant(np.where(e > 0, _F(1 << 23), _F(0))), signed])
        power = self.add('Gather', [self.constant(powers), signed])
        weights = self.add('Mul', [self.add('Add', [leading, fraction]), power])
        return self.add('Reshape', [weights, self.integers(*shape)])
