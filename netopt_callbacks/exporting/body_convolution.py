"""The convolutions of a program in standard operators: of bits, with the same integers, and of
floats, whose sums another engine adds in another order."""
import numpy as np
from onnx import TensorProto

from . import body_known, float_layer
from .body_value import Unwritable, Value

# Float weights that are read from the state; of more there is a constant, since a runtime takes
# about 100 bytes each while it loads the file.
MOST_READ = 1 << 20
EXACT = 1 << 23  # float32 holds all halves of integers below
_F = np.float32


class Convolutions:
    """Mixin of a body: the ops `convolution` and `float_convolution`, with weights of the state.

    It uses `values`, `source`, `add`, `constant`, `integers`, `vector`, `cast`, `_float_layers`,
    `_ended`, `_maximum` and the steps of the body.

    Attributes:
        products (list of (str, str)): by float layer, the names of what it reads and of what it
            gives, [batch, channels, height, width] each.
    """

    def _convolution(self, op):
        most = _terms(op) + 1
        if 2 * most >= EXACT:
            raise Unwritable('its sums are beyond what float32 holds exactly')
        if 'thresholds' not in op.fields:
            sums, shape = self._sums(op, self._weights(op))
            # What is done with the sums must not move into the weights: it stays behind an
            # operator that changes none, a Clip since runtimes do it in the convolution.
            self._ended(op, self._clipped(sums, most), shape)
            return
        # Greater than t is greater than t + 1/2, and then by 1/2 at least: what is left of the
        # difference within +-1/2 is the bit. A Clip, unlike a comparison, is done in the
        # convolution. What is beyond all sums stays beyond them.
        limits = np.clip(op.fields['thresholds'].astype(np.int64), -most, most) + 0.5
        differences, shape = self._sums(op, self._weights(op), self.constant(_F(-limits)))
        self.values[op.bits] = Value(self._clipped(differences, 0.5), shape)

    def _clipped(self, value, most):
        return self.add('Clip', [value, self.constant(_F(-most)), self.constant(_F(most))])

    def _short_forms(self, op):
        """The steps of an op that have a short form, since the integers are known."""
        if op.name != 'convolution':
            return body_known.NONE
        steps, is_padded = float_layer.own_steps(op), bool(op.fields['padding'].any())
        return body_known.forms_behind(steps, _terms(op), is_padded)

    def _float_convolution(self, op):
        """A float layer: its first affine steps in the weights and a bias, as the runtimes
        themselves would do it."""
        parts, weights, bias = float_layer.merged(float_layer.own_steps(op)), self._floats(op), None
        if parts and isinstance(parts[0], float_layer.Affine):
            filters = int(op.fields['filters'][0])
            factor, offset = (np.broadcast_to(each, filters) for each in parts.pop(0))
            if (factor != 1).any():
                factor = self.constant(factor.astype(_F).reshape(-1, 1, 1, 1))
                weights = self.add('Mul', [weights, factor])
            bias = self.constant(offset.astype(_F))
        value, shape = self._sums(op, weights, bias)
        for part in parts:
            if isinstance(part, float_layer.Affine):
                value = self._affine(value, part)
            elif part[0].startswith('relu'):
                value = self._short_relu(value)
            else:
                value = getattr(self, '_step_' + part[0])(value, *part[1])
        self.products.append((self.values[op.reads[0]].name, value))
        self._ended(op, value, shape)

    def _pools_a_float_layer(self, op):
        """Adds the pooling that belongs to a float layer, if this does."""
        for number, layer in enumerate(self._float_layers):
            if layer.pool is op:
                pooled = self._maximum(op, self.values[op.reads[0]])
                self.products[number] = self.products[number][0], pooled.name
                self.values[op.values] = pooled
                return True
        return False

    def _sums(self, op, weights, bias=None):
        """Returns the name of the sums that follow from these weights, and their shape; the bias
        is [filters]."""
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
            if bias is not None:
                product = self.add('Add', [product, bias])
            sums = self.add('Reshape', [product, self.integers(0, filters, 1, 1)])
        else:
            sums = self.add(
                'Conv',
                [value.name, weights] + ([] if bias is None else [bias]),
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
        """The weights of bits, float32 [filters, channels, height, width] of +-2."""
        filters, channels = int(op.fields['filters'][0]), int(op.fields['channels'][0])
        kernel = [int(size) for size in op.fields['kernel']]
        words = op.fields['words'].size // (filters * kernel[0] * kernel[1])
        part = self._bytes(op, 'words')
        bits = np.arange(256)[:, None] >> np.arange(8) & 1
        signs = self.add(
            'Gather',
            [self.constant((bits * 4 - 2).astype(np.int8)), self.cast(part, TensorProto.INT32)],
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


def _terms(op):
    """Of how many products a sum of a convolution is."""
    return int(op.fields['channels'][0] * np.prod(op.fields['kernel'], dtype=np.int64))
