"""The float steps of a program's endings in standard operators, each with the same bits."""
import numpy as np
from onnx import TensorProto

_F = np.float32


class Steps:
    """Mixin of a body: the method `_step_<name>` adds the operators of one step to a value.

    It uses `add`, `constant`, `vector` and `cast` of the body.
    """

    def _step_multiply(self, value, a):
        return self.add('Mul', [value, self.vector(a)])

    def _product_in_a_sum(self, value, a):
        """The same of a product that is added to another value, or may be.

        ONNX Runtime 1.32 makes a convolution of a product in its own layout of channels, and takes
        the sum into that. On x86 it rounds the product all the same, but nothing promises it. There
        is no Neg in that layout.
        """
        return self.add('Mul', [self.add('Neg', [value]), self.vector(-a)])

    def _step_add(self, value, a):
        return self.add('Add', [value, self.vector(a)])

    def _step_relu(self, value):
        return self.add(
            'Where', [self.add('Less', [value, self.constant(_F(0))]), self.constant(_F(0)), value]
        )

    def _step_relu_halves(self, value):
        half = self.add('Mul', [value, self.constant(_F(0.5))])
        return self.add('Add', [half, self.add('Abs', [half])])

    # The fused form differs in the sign of a zero alone: of -k * 2^-149 where k % 4 = 1.
    _step_relu_fused = _step_relu_halves

    def _step_leaky(self, value, a):
        return self.add(
            'Where',
            [
                self.add('Greater', [value, self.constant(_F(0))]),
                value,
                self.add('Mul', [value, self.vector(a)]),
            ],
        )

    def _step_clip(self, value, least, most):
        value = self.add(
            'Where', [self.add('Less', [value, self.vector(least)]), self.vector(least), value]
        )
        return self.add(
            'Where', [self.add('Greater', [value, self.vector(most)]), self.vector(most), value]
        )

    def _step_normalize_apart(self, value, mean, k, beta):
        return self._step_add(
            self._step_multiply(self.add('Sub', [value, self.vector(mean)]), k), beta
        )

    def _step_normalize(self, value, mean, k, beta):
        difference = self.cast(self.add('Sub', [value, self.vector(mean)]), TensorProto.DOUBLE)
        return self._fused(
            self.add('Mul', [difference, self.vector(k, np.float64)]), self.vector(beta, np.float64)
        )

    def _short_normalize(self, value, channels, mean, k, beta):
        """float32(float64 sum), where `body_known.forms_behind` says that it has the bits.

        The product and the sum are one BatchNormalization, of the mean 0 and the variance 1: with
        these it is exactly difference * k + beta, and reads and writes the long numbers once.
        """
        difference = self.cast(self.add('Sub', [value, self.vector(mean)]), TensorProto.DOUBLE)
        scale, offset, none, one = (
            self.constant(np.broadcast_to(np.float64(each), channels)) for each in (k, beta, 0, 1)
        )
        total = self.add('BatchNormalization', [difference, scale, offset, none, one], epsilon=0.0)
        return self.cast(total, TensorProto.FLOAT)

    def _short_relu(self, value):
        """Where no value is NaN, or one whose half is not exact; or in a float layer."""
        return self.add('Relu', [value])

    def _affine(self, value, affine):
        """factor * value + offset, within the tolerance of a float layer."""
        value = self.add('Mul', [value, self.vector(affine.factor)])
        return self.add('Add', [value, self.vector(affine.offset)])

    def _fused(self, product, c):
        """float32(product + c) of float64, rounded once.

        The sum is rounded to 53 bits, then to 24: twice where the first rounding falls on the
        middle of two float32 numbers, and only there the second one can go the wrong way. Then the
        error of the first (Knuth's TwoSum, exact) says which of the two is nearer.
        """
        total = self.add('Add', [product, c])
        part = self.add('Sub', [total, product])
        error = self.add('Sub', [product, self.add('Sub', [total, part])])
        error = self.add('Add', [error, self.add('Sub', [c, part])])
        near = self.cast(total, TensorProto.FLOAT)
        # `other` is as far on the other side of the sum as `near` is on this: a float32 number only
        # if the sum is in the middle. Negated on the way back to float64, since optimizers take a
        # cast there and back for nothing; infinities give NaN.
        rest = self.add('Add', [total, self._negated(near)])
        mirrored = self.add('Add', [rest, total])
        other = self.cast(mirrored, TensorProto.FLOAT)
        zero = self.constant(np.float64(0))
        middle = self.add('Equal', [self.add('Add', [mirrored, self._negated(other)]), zero])
        beyond = self.add(
            'Greater', [self.add('Mul', [error, rest]), zero]
        )  # the error points to the other side
        return self.add('Where', [self.add('And', [middle, beyond]), other, near])

    def _negated(self, value):
        return self.cast(self.add('Neg', [value]), TensorProto.DOUBLE)
