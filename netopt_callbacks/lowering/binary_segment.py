"""A segment of binary layers as a CNTK Function: one crossing into one `nc.native.Program`.

The input is read where CNTK has it and the result is written into a buffer that CNTK copies from,
where the values are dense float32 on the CPU; else (another device) NumPy arrays are exchanged.
"""
import base64
import ctypes
import glob
import json
import os

import cntk as C
import numpy as np
from cntk import cntk_py

from .. import count, graph
from ..graph.blocks import Block, declare
from ..native_program import Program
from .native_op import NativeOp

OP_NAME = 'BinarySegmentOp'
STATE_VERSION = 1
_FLOAT = 1  # CNTK's DataType::Float
_DATA = '_ZNK4CNTK11NDArrayView10DataBufferIfEEPKT_v'  # NDArrayView::DataBuffer<float>() const


class BinarySegmentOp(NativeOp):
    """What a segment computes; evaluation only.

    Args:
        operand (cntk.Variable): float32, of the shape the segment was read off with.
        program (bytes): the state of a `nc.native.Program` of one input and one output.
        shape (tuple of int): of the output, without the batch; sides may be free.
        layers (list of dict): per layer `name`, `kind`, `weights` (shape of those that are bits),
            `floats` (how many numbers are float32), `macs` (with bits) and, of a float layer,
            `float_macs`; None where free sides leave it open.
        machine (str): where the thresholds were read off.
        name (str): of the Function.

    Raises:
        ValueError, TypeError: `program` is none, or does not fit operand and shape.
    """

    block_op_name = OP_NAME

    def __init__(self, operand, program, shape, layers, machine, name=''):
        super().__init__(operand, name)
        self.program_state = program
        self.shape_of_output = tuple(int(side) for side in shape)
        self.layers = list(layers)
        self.machine = machine
        try:
            self.program = Program.from_state(program)
            self._check(operand)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{OP_NAME} '{name}': {error}") from None
        self._buffer = self._array = None
        self._input_rank = len(self.program.inputs[0])

    def infer_outputs(self):
        operand = self.inputs[0]
        return [C.output_variable(self.shape_of_output, np.float32, operand.dynamic_axes)]

    def clone(self, cloned_inputs):
        return BinarySegmentOp(
            cloned_inputs[0],
            self.program_state,
            self.shape_of_output,
            self.layers,
            self.machine,
            self.name,
        )

    def serialize(self):
        return {
            'version': STATE_VERSION,
            'program': base64.b64encode(self.program_state).decode('ascii'),
            'description': json.dumps(
                {'shape': self.shape_of_output, 'layers': self.layers, 'machine': self.machine}
            ),
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
            described = json.loads(state['description'])
            program = base64.b64decode(state['program'], validate=True)
            arguments = described['shape'], described['layers'], described['machine']
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{OP_NAME} '{name}': its saved state is damaged ({type(error).__name__}: "
                f"{error}); save the network again"
            ) from error
        return BinarySegmentOp(inputs[0], program, *arguments, name=name)

    def _check(self, operand):
        read = self.program.inputs
        if len(read) != 1:
            raise ValueError(f'its program must have one input, got {read}')
        expected = tuple(C.FreeDimension if side is None else side for side in read[0])
        if C.FreeDimension not in expected:
            ((_, *computed),) = self.program.output_shapes((1,) + expected)
            if int(np.prod(computed)) != int(np.prod(self.shape_of_output)):
                raise ValueError(
                    f'its program must compute the shape {self.shape_of_output}, got '
                    f'{tuple(computed)}'
                )
        # A placeholder has no type yet, and where C++ calls, as in a clone, the operand may be
        # unknown altogether.
        known = hasattr(operand, 'dtype') and not operand.is_placeholder
        if known and (tuple(operand.shape) != expected or operand.dtype != np.float32):
            raise ValueError(
                f'its operand must be float32 of shape {expected}, got '
                f'{np.dtype(operand.dtype).name} of shape {tuple(operand.shape)}; lower the '
                'trained model for it'
            )

    def _forward(self, arguments, outputs, device=None, outputs_to_retain=None):
        (value,) = arguments
        address = _address(value.data()) if len(outputs) == 1 else None
        if address is None:
            return super()._forward(arguments, outputs, device, outputs_to_retain)
        shape = tuple(value.data().shape().dimensions())
        leading = shape[: len(shape) - self._input_rank]  # batch, and steps of sequences
        image = shape[len(leading) :]
        result_shape = leading + self._shape_for(image)
        if self._buffer is None or self._buffer.shape != result_shape:
            self._buffer = np.empty(result_shape, np.float32)
            self._array = cntk_py.NDArrayView(self._buffer, C.cpu(), False, True)
        self.program.run_at(
            [address],
            [self._buffer.ctypes.data],
            int(np.prod(leading)),
            [image[1:] or (1, 1)],
        )
        # Where sequences have no step, what lies there was computed too.
        mask = value.mask()
        result = cntk_py.Value(self._array) if mask is None else cntk_py.Value(self._array, mask)
        for output in outputs:
            outputs[output] = result
        self._state_wrapped = True
        return self._none_state, outputs

    def _shape_for(self, image):
        """Returns the shape of the output for an input of a shape."""
        if C.FreeDimension not in self.shape_of_output:
            return self.shape_of_output
        return tuple(self.program.output_shapes((1,) + image)[0][1:])

    def _run(self, values):
        """Evaluates [..., ...shape of the operand]; the leading axes are batch and steps."""
        values = np.asarray(values, np.float32)
        leading = values.shape[: values.ndim - self._input_rank]
        image = values.shape[len(leading) :]
        images = np.ascontiguousarray(values.reshape((-1,) + image))
        return self.program(images).reshape(leading + self._shape_for(image))


def _data_buffer():
    """Returns CNTK's function that gives the address of an array's data, or None where it
    exports none."""
    folder = os.path.join(os.path.dirname(C.__file__), 'libs')
    for path in sorted(glob.glob(os.path.join(folder, 'libCntk.Core-*.so'))):
        function = getattr(ctypes.CDLL(path), _DATA, None)
        if function is not None:
            function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
            return function
    return None


_data_buffer_of = _data_buffer()


def _address(data):
    """Returns the address of dense float32 data on the CPU; else None."""
    if (
        _data_buffer_of is None
        or data.is_sparse()
        or data.get_data_type() != _FLOAT
        or data.device().type() != 0
    ):
        return None
    # The SWIG object holds the address of a shared pointer, whose first word is that of the
    # NDArrayView.
    return _data_buffer_of(ctypes.c_void_p.from_address(int(data.this)).value)


def count_segment(block, row):
    """Fills in the row of a summary."""
    op = next(
        function for function in graph.walk(graph.body(block)) if function.op_name == 'UserFunction'
    )
    layers = json.loads(op.serialize()['state']['description'])['layers']
    weights = [
        count.elements(tuple(layer['weights'])) if layer['weights'] else 0 for layer in layers
    ]
    row.shape = tuple(layers[0]['weights']) if len(layers) == 1 else ()
    row.binary_weights += sum(weights)
    row.parameters += row.binary_weights + sum(layer['floats'] for layer in layers)
    row.binary_macs = count.total(layer['macs'] for layer in layers)
    float_macs = count.total(layer.get('float_macs', 0) for layer in layers)
    row.macs = count.total([row.macs, row.binary_macs, float_macs])


declare(BinarySegmentOp, [Block(OP_NAME, count=count_segment)])
