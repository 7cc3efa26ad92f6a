"""The native bit convolution as a CNTK Function.

It holds packed bits, one per weight, and float32 scale, bias and threshold per filter or
channel; no float weight. CNTK finds the class by module and name when it loads a model, so a saved
network needs nothing registered; the package only has to be importable.
"""
import base64
import json

import cntk as C
import numpy as np

from .. import native, native_limits
from ..optimizations.convolution_geometry import Axis
from .native_op import NativeOp

OP_NAME = 'BinaryConvolveOp'
STATE_VERSION = 1
_TYPES = {'<u8': np.uint64, '<f4': np.float32}  # little-endian, as the state is kept
_KEPT_OPS = 8
_UNPADDED = ((0, 0), (0, 0))


class BinaryConvolveOp(NativeOp):
    """y[n, f] = scale[f] * (sign(w_f) (*) sign(x_n - threshold)) + bias[f]; evaluation only.

    Args:
        operand (cntk.Variable): float32 [channels, height, width], any dynamic axes; height and
            width may be free.
        state (dict): of a `nc.native.BinaryConvolution`; its padding is not used.
        axes (sequence of Axis): height and width: strides, dilation, padding.
        name (str): of the Function.

    Raises:
        TypeError, ValueError: `state` describes no native convolution; or it does not fit the
            operand or the axes; or it would need minutes or gigabytes.
    """

    block_op_name = OP_NAME

    def __init__(self, operand, state, axes, name=''):
        try:
            words = _check(state, axes)
            if hasattr(operand, 'dtype'):  # where C++ calls, as in a clone, it may still be unknown
                _check_operand(operand, words, state, axes)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{OP_NAME} '{name}': {error}") from None
        super().__init__([operand], name)
        self.state = dict(state)
        self.axes = list(axes)
        self._ops = {}

    def infer_outputs(self):
        operand = self.inputs[0]
        sides = [
            size if size == C.FreeDimension else axis.outputs(size)
            for axis, size in zip(self.axes, operand.shape[-2:])
        ]
        shape = (self.state['words'].shape[0],) + tuple(sides)
        return [C.output_variable(shape, operand.dtype, operand.dynamic_axes)]

    @property
    def weights_shape(self):
        words = self.state['words'].shape
        return (words[0], self.state['channels']) + words[1:3]

    def clone(self, cloned_inputs):
        return BinaryConvolveOp(cloned_inputs[0], self.state, self.axes, self.name)

    def serialize(self):
        return {
            'version': STATE_VERSION,
            'state': to_text(self.state),
            'axes': json.dumps([axis.state() for axis in self.axes]),
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
            axes = [Axis.from_state(axis) for axis in json.loads(state['axes'])]
            arrays = from_text(state['state'])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{OP_NAME} '{name}': its saved state is damaged ({type(error).__name__}: "
                f"{error}); save the network again"
            ) from error
        return BinaryConvolveOp(inputs[0], arrays, axes, name)

    def _run(self, values):
        """Convolves [..., channels, height, width]; the leading axes are batch and steps."""
        values = np.asarray(values)
        images = values.reshape((-1,) + values.shape[-3:])
        result = convolve(self._ops, self.state, self.axes, images)
        return result.reshape(values.shape[:-3] + result.shape[1:])


def convolve(ops, state, axes, images):
    """Runs the native op with the padding that CNTK gives images of this size.

    Args:
        ops (dict): the native op for each padding met lately; one is added for a new padding.
        state (dict): of a `nc.native.BinaryConvolution`.
        axes (sequence of Axis): height and width.
        images (array): float32 [batch, channels, height, width].

    Returns:
        array: float32 [batch, filters, height', width'].

    Raises:
        ValueError: the images are smaller than a filter, or larger than is affordable.
    """
    sizes = images.shape[-2:]
    (top, bottom), (left, right) = (axis.padding(size) for axis, size in zip(axes, sizes))
    padding = ((max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0)))
    if padding not in ops:
        if len(ops) >= _KEPT_OPS:
            del ops[next(iter(ops))]
        ops[padding] = native.BinaryConvolution.from_state(dict(state, padding=padding))
    # Negative padding: rows and columns that no filter reads.
    rows = slice(max(-top, 0), sizes[0] - max(-bottom, 0))
    columns = slice(max(-left, 0), sizes[1] - max(-right, 0))
    return ops[padding](images[:, :, rows, columns])


def _check(state, axes):
    """Returns the packed weights; raises TypeError or ValueError where state and axes make no
    convolution."""
    if not isinstance(state, dict):
        raise TypeError(
            'state must be the dict that nc.native.BinaryConvolution.state() returns, got '
            f'{type(state).__name__}'
        )
    words = native.BinaryConvolution.from_state(dict(state, padding=_UNPADDED)).words
    axes = list(axes)
    if len(axes) != 2 or not all(isinstance(axis, Axis) for axis in axes):
        raise TypeError(f'axes must be two Axis, height and width, got {axes!r}')
    for what, axis, side, stride, dilation in zip(
        ('height', 'width'), axes, words.shape[1:3], state['strides'], state['dilation']
    ):
        expected, found = (side, stride, dilation), (axis.side, axis.stride, axis.dilation)
        if found != expected:
            raise ValueError(
                f'the axis of the {what} must have the side, stride and dilation of the state, '
                f'{expected}, got {found}'
            )
    _check_sizes(words, axes, [C.FreeDimension] * 2)
    return words


def _check_operand(operand, words, state, axes):
    """Raises ValueError where an operand is none for these filters."""
    channels = state['channels'] * state['groups']
    if operand.dtype != np.float32 or len(operand.shape) != 3 or operand.shape[0] != channels:
        raise ValueError(
            f'the operand must be float32 [{channels}, height, width], got '
            f'{np.dtype(operand.dtype).name} of shape {operand.shape}'
        )
    _check_sizes(words, axes, operand.shape[-2:])


def _check_sizes(words, axes, sizes):
    """Raises ValueError where images, of which a side may be free, do not suit the filters."""
    known = [None if size == C.FreeDimension else size for size in sizes]
    for what, axis, size in zip(('height', 'width'), axes, known):
        if size is not None and axis.outputs(size) < 1:
            raise ValueError(
                f'the {what} must have room for a filter of {axis.extent} pixels, got {size}'
            )
    # Where it is free, the padding of the smallest image is that of any, but for a pixel.
    padding = [
        axis.padding(axis.extent if size is None else size) for axis, size in zip(axes, known)
    ]
    native_limits.refuse_geometry(
        words.shape[0],
        words.shape[1:3],
        [axis.stride for axis in axes],
        [[max(side, 0) for side in sides] for sides in padding],
        [axis.dilation for axis in axes],
    )
    if None not in known:
        native_limits.refuse_image(
            [axis.outputs(size) for axis, size in zip(axes, known)], words.shape[1:3]
        )


def to_text(state):
    """Returns a native state as JSON: arrays as base64 of their little-endian bytes."""
    fields = {}
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            little = np.ascontiguousarray(value, value.dtype.newbyteorder('<'))
            value = {
                'dtype': little.dtype.str,
                'shape': list(little.shape),
                'base64': base64.b64encode(little.tobytes()).decode('ascii'),
            }
        fields[name] = value
    return json.dumps(fields, sort_keys=True)


def from_text(text):
    """Inverse of `to_text`."""
    state = json.loads(text)
    if not isinstance(state, dict):
        raise ValueError(f'expected an object, got {type(state).__name__}')
    for name, value in state.items():
        if isinstance(value, dict):
            if value['dtype'] not in _TYPES:
                raise ValueError(
                    "%s must be of type %s, got '%s'"
                    % (name, ' or '.join(sorted(_TYPES)), value['dtype'])
                )
            array = np.frombuffer(
                base64.b64decode(value['base64'], validate=True), np.dtype(value['dtype'])
            )
            state[name] = array.astype(_TYPES[value['dtype']]).reshape(value['shape'])
    return state
