"""The native bit product of a Dense as a CNTK Function; see `binary_convolve` for what is saved
with a model."""
import json

import cntk as C
import numpy as np

from .. import native
from .binary_convolve import from_text, to_text
from .native_op import NativeOp

OP_NAME = 'BinaryDenseOp'
STATE_VERSION = 1


class BinaryDenseOp(NativeOp):
    """y[n, f] = scale[f] * (sign(x_n - threshold) . sign(w_f)) + bias[f]; evaluation only.

    Args:
        operand (cntk.Variable): float32 [..., inputs...], any dynamic axes; leading axes are mapped
            over.
        state (dict): of a `nc.native.BinaryDense`.
        input_shape (tuple of int): the axes that are summed over.
        output_shape (tuple of int): the axes that take their place.
        name (str): of the Function.

    Raises:
        ValueError, TypeError: `state` describes no native product of these shapes, or `operand` is
            of another.
    """

    block_op_name = OP_NAME

    def __init__(self, operand, state, input_shape, output_shape, name=''):
        super().__init__([operand], name)
        self.input_shape = tuple(int(side) for side in input_shape)
        self.output_shape = tuple(int(side) for side in output_shape)
        self.state = dict(state)
        self._product = native.BinaryDense.from_state(self.state)
        self._check(self.inputs[0])

    @property
    def weights_shape(self):
        return self.input_shape + self.output_shape

    def infer_outputs(self):
        operand = self.inputs[0]
        mapped = operand.shape[: len(operand.shape) - len(self.input_shape)]
        return [C.output_variable(mapped + self.output_shape, operand.dtype, operand.dynamic_axes)]

    def clone(self, cloned_inputs):
        return BinaryDenseOp(
            cloned_inputs[0], self.state, self.input_shape, self.output_shape, self.name
        )

    def serialize(self):
        return {
            'version': STATE_VERSION,
            'state': to_text(self.state),
            'shapes': json.dumps([self.input_shape, self.output_shape]),
        }

    @staticmethod
    def deserialize(inputs, name, state):
        """Called by CNTK when it loads a model.

        Raises:
            ValueError: the state was written by another version of this package, or is damaged.
        """
        if state['version'] != STATE_VERSION:
            raise ValueError(
                "%s '%s': state is of version %s, this package reads version %d"
                % (OP_NAME, name, state['version'], STATE_VERSION)
            )
        try:
            input_shape, output_shape = (
                [int(side) for side in shape] for shape in json.loads(state['shapes'])
            )
            arrays = from_text(state['state'])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{OP_NAME} '{name}': its saved state is damaged ({type(error).__name__}: "
                f"{error}); save the network again"
            ) from error
        return BinaryDenseOp(inputs[0], arrays, input_shape, output_shape, name)

    def _check(self, operand):
        sizes = (int(np.prod(self.input_shape)), int(np.prod(self.output_shape)))
        if (self._product.inputs, self._product.outputs) != sizes:
            raise ValueError(
                "%s '%s': its state must be of %d inputs and %d outputs, for the shapes %s and %s, "
                "got one of %d and %d; lower the trained model again"
                % (
                    (OP_NAME, self.name)
                    + sizes
                    + (
                        self.input_shape,
                        self.output_shape,
                        self._product.inputs,
                        self._product.outputs,
                    )
                )
            )
        given = tuple(operand.shape)[-len(self.input_shape) :]
        if operand.shape != C.placeholder().shape and given != self.input_shape:
            raise ValueError(
                f"{OP_NAME} '{self.name}': its input must end in the axes {self.input_shape}, got "
                f"{operand.shape}; apply it to what the trained layer read"
            )

    def _run(self, values):
        return multiply(self._product, np.asarray(values), self.input_shape, self.output_shape)


def multiply(product, values, input_shape, output_shape):
    """Applies a `nc.native.BinaryDense` to float32 [..., inputs...]; returns float32 [...,
    outputs...]."""
    leading = values.shape[: values.ndim - len(input_shape)]
    rows = np.ascontiguousarray(values, np.float32).reshape(-1, product.inputs)
    return product(rows).reshape(leading + output_shape)
