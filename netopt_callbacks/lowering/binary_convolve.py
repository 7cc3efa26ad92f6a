"""The native bit convolution as a CNTK Function.

It holds packed bits, one per weight, and float32 scale, bias and threshold per filter or
channel; no float weight. CNTK finds the class by module and name when it loads a model, so a saved
network needs nothing registered; the package only has to be importable.
"""
import base64
import json

import cntk as C
import numpy as np

from .. import native
from ..optimizations.convolution_geometry import Axis
from .native_op import NativeOp

OP_NAME = 'BinaryConvolveOp'
STATE_VERSION = 1


class BinaryConvolveOp(NativeOp):
    """y[n, f] = scale[f] * (sign(w_f) (*) sign(x_n - threshold)) + bias[f]; evaluation only.

    Args:
        operand (cntk.Variable): float32 [channels, height, width], any dynamic axes; height and
            width may be free.
        state (dict): of a `nc.native.BinaryConvolution`; its padding is not used.
        axes (sequence of Axis): height and width: strides, dilation, padding.
        name (str): of the Function.

    Raises:
        ValueError: `state` describes no native convolution.
    """

    block_op_name = OP_NAME

    def __init__(self, operand, state, axes, name=''):
        super(BinaryConvolveOp, self).__init__(operand, name)
        self.state = dict(state)
        self.axes = list(axes)
        self._ops = {}

    def infer_outputs(self):
        operand = self.inputs[0]
        sides = [size if size == C.FreeDimension else axis.outputs(size)
                 for axis, size in zip(self.axes, operand.shape[-2:])]
        shape = (self.state['words'].shape[0],) + tuple(sides)
        return [C.output_variable(shape, operand.dtype, operand.dynamic_axes)]

    @property
    def weights_shape(self):
        words = self.state['words'].shape
        return (words[0], self.state['channels']) + words[1:3]

    def clone(self, cloned_inputs):
        return BinaryConvolveOp(cloned_inputs[0], self.state, self.axes, self.name)

    def serialize(self):
        return {'version': STATE_VERSION, 'state': to_text(self.state),
                'axes': json.dumps([axis.state() for axis in self.axes])}

    @staticmethod
    def deserialize(inputs, name, state):
        """Called by CNTK when it loads a model.

        Raises:
            ValueError: the state was written by another version of this package.
        """
        if state['version'] != STATE_VERSION:
            raise ValueError("%s '%s': state is of version %s, this package reads version %d"
                             % (OP_NAME, name, state['version'], STATE_VERSION))
        axes = [Axis.from_state(axis) for axis in json.loads(state['axes'])]
        return BinaryConvolveOp(inputs[0], from_text(state['state']), axes, name)

    def _run(self, values):
        """Convolves [..., channels, height, width]; the leading axes are batch and steps."""
        values = np.asarray(values)
        images = values.reshape((-1,) + values.shape[-3:])
        result = convolve(self._ops, self.state, self.axes, images)
        return result.reshape(values.shape[:-3] + result.shape[1:])


def convolve(ops, state, axes, images):
    """Runs the native op with the padding that CNTK gives images of this size.

    Args:
        ops (dict): the native op for each size of image met so far; one is added for a new size.
        state (dict): of a `nc.native.BinaryConvolution`.
        axes (sequence of Axis): height and width.
        images (array): float32 [batch, channels, height, width].

    Returns:
        array: float32 [batch, filters, height', width'].
    """
    sizes = images.shape[-2:]
    (top, bottom), (left, right) = (axis.padding(size) for axis, size in zip(axes, sizes))
    if sizes not in ops:
        padding = ((max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0)))
        ops[sizes] = native.BinaryConvolution.from_state(dict(state, padding=padding))
    # Negative padding: rows and columns that no filter reads.
    rows = slice(max(-top, 0), sizes[0] - max(-bottom, 0))
    columns = slice(max(-left, 0), sizes[1] - max(-right, 0))
    return ops[sizes](images[:, :, rows, columns])


def to_text(state):
    """Returns a native state as JSON: arrays as base64 of their little-endian bytes."""
    fields = {}
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            little = np.ascontiguousarray(value, value.dtype.newbyteorder('<'))
            value = {'dtype': little.dtype.str, 'shape': list(little.shape),
                     'base64': base64.b64encode(little.tobytes()).decode('ascii')}
        fields[name] = value
    return json.dumps(fields, sort_keys=True)


def from_text(text):
    """Inverse of `to_text`."""
    state = json.loads(text)
    for name, value in state.items():
        if isinstance(value, dict):
            array = np.frombuffer(base64.b64decode(value['base64']), np.dtype(value['dtype']))
            state[name] = array.astype(array.dtype.newbyteorder('=')).reshape(value['shape'])
    return state
