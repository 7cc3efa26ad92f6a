"""A segment of binary layers as a CNTK Function: one crossing into one `nc.native.Program`.

Inputs are read where CNTK has them and results are written into buffers that CNTK copies from,
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
STATE_VERSION = 2
_UNKNOWN, _FLOAT = 0, 1  # CNTK's DataType
_DATA = '_ZNK4CNTK11NDArrayView10DataBufferIfEEPKT_v'  # NDArrayView::DataBuffer<float>() const


class BinarySegmentOp(NativeOp):
    """What a segment computes; evaluation only.

    Args:
        operands (list of cntk.Variable): float32, of the shapes the segment was read off with, all
            with the same dynamic axes.
        program (bytes): the state of a `nc.native.Program`.
        shapes (list of tuple of int): of the outputs, without the batch; sides may be free.
        layers (list of dict): per layer `name`, `kind`, `weights` (shape of those that are bits),
            `floats` (how many numbers are float32), `macs` (with bits) and, of a float layer,
            `float_macs`; None where free sides leave it open.
        machine (str): where the thresholds were read off.
        name (str): of the Function.

    Raises:
        ValueError, TypeError: `program` is none, or does not fit operands and shapes.
    """

    block_op_name = OP_NAME

    def __init__(self, operands, program, shapes, layers, machine, name=''):
        super().__init__(operands, name)
        self.program_state = program
        self.shapes_of_outputs = [tuple(int(side) for side in shape) for shape in shapes]
        self.layers = list(layers)
        self.machine = machine
        try:
            self.program = Program.from_state(program)
            self._check(operands)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{OP_NAME} '{name}': {error}") from None
        self._ranks = [len(shape) for shape in self.program.inputs]
        self._room = None
        self._places = {}  # by uid of an output, which it is

    def infer_outputs(self):
        axes = self.inputs[0].dynamic_axes
        return [C.output_variable(shape, np.float32, axes) for shape in self.shapes_of_outputs]

    def clone(self, cloned_inputs):
        return BinarySegmentOp(
            list(cloned_inputs),
            self.program_state,
            self.shapes_of_outputs,
            self.layers,
            self.machine,
            self.name,
        )

    def serialize(self):
        return {
            'version': STATE_VERSION,
            'program': base64.b64encode(self.program_state).decode('ascii'),
            'description': json.dumps(
                {'shapes': self.shapes_of_outputs, 'layers': self.layers, 'machine': self.machine}
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
            arguments = described['shapes'], described['layers'], described['machine']
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{OP_NAME} '{name}': its saved state is damaged ({type(error).__name__}: "
                f"{error}); save the network again"
            ) from error
        return BinarySegmentOp(list(inputs), program, *arguments, name=name)

    def _check(self, operands):
        read = self.program.inputs
        if len(read) != len(operands):
            raise ValueError(f'its program must have {len(operands)} inputs, got {read}')
        expected = [
            tuple(C.FreeDimension if side is None else side for side in shape) for shape in read
        ]
        if not any(C.FreeDimension in shape for shape in expected):
            computed = self.program.output_shapes(*[(1,) + shape for shape in expected])
            if [int(np.prod(shape[1:])) for shape in computed] != [
                int(np.prod(shape)) for shape in self.shapes_of_outputs
            ]:
                raise ValueError(
                    f'its program must compute the shapes {self.shapes_of_outputs}, got '
                    f'{[shape[1:] for shape in computed]}'
                )
        for operand, shape in zip(operands, expected):
            # What is not applied yet has no type, and where C++ calls, as in a clone, the operand
            # may be unknown altogether.
            if (
                hasattr(operand, 'dtype')
                and operand.get_data_type() != _UNKNOWN
                and (tuple(operand.shape) != shape or operand.get_data_type() != _FLOAT)
            ):
                raise ValueError(
                    f'its operand must be float32 of shape {shape}, got '
                    f'{np.dtype(operand.dtype).name} of shape {tuple(operand.shape)}; lower the '
                    'trained model for it'
                )

    def _forward(self, arguments, outputs, device=None, outputs_to_retain=None):
        data = [value.data() for value in arguments]
        addresses = [_address(each) for each in data]
        room = None if None in addresses else self._room_for(data)
        if room is None:
            return super()._forward(arguments, outputs, device, outputs_to_retain)
        self.program.run_at(addresses, room.addresses, room.samples, room.sizes)
        # CNTK copies from these before it goes on, so that the next call may write there. Where
        # sequences have no step, what lies there was computed too.
        mask = arguments[0].mask()
        values = room.values if mask is None else [cntk_py.Value(view, mask) for view in room.views]
        for output in outputs:
            outputs[output] = values[self._place_of(output.uid())]  # C++'s Variable, not Python's
        self._state_wrapped = True
        return self._none_state, outputs

    def _room_for(self, data):
        """Returns the _Room for inputs of the shapes that these arrays have, the last one where
        they are the same; None where batch or steps differ."""
        shapes = [tuple(each.shape().dimensions()) for each in data]
        if self._room is None or self._room.shapes != shapes:
            # Batch, and steps of sequences.
            leading = [shape[: len(shape) - rank] for shape, rank in zip(shapes, self._ranks)]
            if any(axes != leading[0] for axes in leading):
                return None
            images = [shape[len(leading[0]) :] for shape in shapes]
            self._room = _Room(shapes, leading[0], images, self._shapes_for(images))
        return self._room

    def _place_of(self, uid):
        """Returns which of the outputs has a uid."""
        if len(self.shapes_of_outputs) == 1:
            return 0
        if not self._places:
            # Once: CNTK makes a composite each time it is asked for the outputs.
            self._places = {one.uid: place for place, one in enumerate(self.outputs)}
        return self._places[uid]

    def _shapes_for(self, images):
        """Returns the shapes of the outputs for inputs of these shapes."""
        if not any(C.FreeDimension in shape for shape in self.shapes_of_outputs):
            return self.shapes_of_outputs
        computed = self.program.output_shapes(*[(1,) + image for image in images])
        return [tuple(shape[1:]) for shape in computed]

    def forward(self, arguments, *rest):
        arguments = arguments if isinstance(arguments, tuple) else (arguments,)
        if isinstance(arguments[0], list):
            sequences = [self._run(steps) for steps in zip(*arguments)]
            results = [list(steps) for steps in zip(*sequences)]
        else:
            results = self._run(arguments)
        outputs = rest[0] if len(rest) == 3 else None  # where there are several
        if outputs is None:
            return None, results[0]
        for output in outputs:
            outputs[output] = results[self._place_of(output.uid)]
        return None

    def _run(self, arguments):
        """Returns the results for arrays [..., ...shape of the operand]; the leading axes are batch
        and steps."""
        arguments = [np.asarray(values, np.float32) for values in arguments]
        leading = arguments[0].shape[: arguments[0].ndim - self._ranks[0]]
        images = [values.shape[len(leading) :] for values in arguments]
        results = self.program(
            *[
                np.ascontiguousarray(values.reshape((-1,) + image))
                for values, image in zip(arguments, images)
            ]
        )
        results = results if isinstance(results, tuple) else (results,)
        return [
            result.reshape(leading + tuple(shape))
            for result, shape in zip(results, self._shapes_for(images))
        ]


class _Room:
    """Where the results for inputs of some shapes are written, and what the program is told.

    Attributes:
        shapes (list of tuple of int): of the inputs.
        samples (int), sizes (list): as of `Program.run_at`.
        addresses (list of int): of the buffers.
        views (list of NDArrayView): of the buffers; CNTK copies from them.
        values (list of Value): of these, where every step is there.
    """

    def __init__(self, shapes, leading, images, shapes_of_outputs):
        self.shapes = shapes
        self.samples = int(np.prod(leading))
        self.sizes = [image[1:] or (1, 1) for image in images]
        self._buffers = [np.empty(leading + shape, np.float32) for shape in shapes_of_outputs]
        self.addresses = [buffer.ctypes.data for buffer in self._buffers]
        self.views = [cntk_py.NDArrayView(each, C.cpu(), False, True) for each in self._buffers]
        self.values = [cntk_py.Value(view) for view in self.views]


def operands_of(block):
    """Returns the Variables that a block of this op reads, in the order of its program's inputs."""
    actual = {inner.uid: outer for inner, outer in block.block_arguments_mapping}
    return [actual[inner.uid] for inner in placeholders_of(block)]


def placeholders_of(block):
    """Returns those inside such a block, in the same order."""
    read = op_in(block).inputs
    return [each.owner.inputs[0] if each.is_output else each for each in read]


def op_in(block):
    """Returns the native Function in a block of this op."""
    return next(
        function for function in graph.walk(graph.body(block)) if function.op_name == 'UserFunction'
    )


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
    layers = json.loads(op_in(block).serialize()['state']['description'])['layers']
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
