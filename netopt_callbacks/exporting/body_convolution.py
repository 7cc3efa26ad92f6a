"""The convolutions of a program in standard operators: of bits, with the same integers, and of
floats, whose sums another engine adds in another order."""
import numpy as np
from onnx import TensorProto

from .body_value import Unwritable, Value

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

        No standard operator takes four bytes for a float32, so it is put together of their
        integer, as +-2^(e - 150) * (2^23 + fraction), without 2^23 and as of e = 1 where e is 0:
        exact in float32 at each step.
        """
        places = self.integers(op.fields['weights'].size, 4)
        rows = self.add('Reshape', [self._bytes(op, 'weights'), places])
        columns = self.constant(np.int64([[1], [1 << 8], [1 << 16], [1 << 24]]))
        number = self.add('MatMul', [self.cast(rows, TensorProto.INT64), columns])
        unit = self.constant(np.int64(1 << 23))
        above = self.add('Div', [number, unit])  # the sign and e
        fraction = self.cast(self.add('Mod', [number, unit]), TensorProto.FLOAT)
        e = np.arange(512) % 256
        powers = np.ldexp(np.where(np.arange(512) < 256, _F(1), _F(-1)), np.maximum(e, 1) - 150)
        leading = self.add('Gather', [self.constant(np.where(e > 0, _F(2**23), _F(0))), above])
        weights = self.add(
            'Mul',
            [
                self.add('Add', [leading, fraction]),
                self.add('Gather', [self.constant(powers), above]),
            ],
        )
        shape = [int(op.fields[key][0]) for key in ('filters', 'channels')]
        return self.add('Reshape', [weights, self.integers(*shape, *map(int, op.fields['kernel']))])
