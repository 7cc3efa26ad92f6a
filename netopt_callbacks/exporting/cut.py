"""A network without its segments: what CNTK's exporter writes, and the programs that belong in
between.

Where the network reads what a segment gives, the cut one reads an argument, and each value that the
segment read is one more output: so CNTK's exporter, which has no form for native code, meets none.
"""
import base64
import json
import re

import cntk as C
import numpy as np

from .. import graph, native
from ..graph.names import free_name
from ..lowering import binary_convolve, binary_dense, binary_segment
from ..lowering.replace import lower_binary_layers
from ..lowering.segment_pass import lower_segments
from ..native_program import Program
from ..optimizations.convolution_geometry import Axis
from . import crop

_MODULES = tuple(module.__name__ for module in (binary_segment, binary_convolve, binary_dense))
# ENTRY and EXIT have the number of a segment, and the place among what it reads or gives. So what
# two segments read has two names, and each is an output of its own.
INPUT, OUTPUT, ENTRY, EXIT = (
    'netopt_input_%d',
    'netopt_output_%d',
    'netopt_entry_%d_%d',
    'netopt_exit_%d_%d',
)
_OWN_NAME = re.compile(r'netopt_(input|output|entry|exit|state|inner|\d+)_')  # `assemble`'s, too


class CutSegment:
    """A segment on its own.

    Attributes:
        name (str): of the block or Function in the network; with a number behind it where another
            segment has that name.
        state (bytes): of its program.
        entries, exits (list of cntk.Variable): what it reads and gives, in the program's order,
            over Variables of `CutNetwork.whole`.
        rows (list): for each entry the shape (tuple of int) of one row that the program reads; None
            where each sample is one as it is.
        machine (str): where thresholds were read off; '' where none were.
    """

    def __init__(self, name, state, rows, entries, exits, machine):
        self.name, self.state, self.rows = name, state, rows
        self.entries, self.exits, self.machine = entries, exits, machine


class CutNetwork:
    """A network, cut.

    Args:
        model (cntk.Function): any, applied.
        float_layers (str): as of `nc.Lower`.

    Attributes:
        arguments (list of cntk.Variable): in the order in which INPUT counts them.
        given (cntk.Function): what the file must compute; native Functions that it came with are
            out of their blocks.
        lowering, lowered (Lowering, cntk.Function): what was made of it, segments and the rest.
        whole (cntk.Function): `lowered`, with all its native Functions on its own level.
        model (cntk.Function): the cut one: arguments INPUT and EXIT, outputs OUTPUT and ENTRY.
        segments (list of CutSegment): in an order in which each reads only what is there already.
            An entry may be that of others, too, and may be an exit of one before.
    """

    def __init__(self, model, float_layers='cntk'):
        self.arguments = list(model.arguments)
        _refuse_foreign(model)
        _refuse_own_names(model)
        self.given = graph.opened(model, _is_native)
        self.lowering = lower_segments(self.given, float_layers)
        self.lowered = lower_binary_layers(self.lowering.model)
        self.whole = graph.opened(self.lowered, _is_native)
        self.segments = [
            _segment(function) for function in graph.primitives(self.whole) if _is_native(function)
        ]
        taken = set()
        for segment in self.segments:  # a network may be read twice, and others beside it
            segment.name = free_name(segment.name, taken)
        read = {output.uid for output in self.whole.outputs}
        for function in graph.primitives(self.whole):
            read.update(variable.uid for variable in function.inputs)
        outputs = [
            C.alias(output, OUTPUT % index).output
            for index, output in enumerate(self.whole.outputs)
        ]
        outputs += [
            C.alias(entry, ENTRY % (index, place)).output
            for index, segment in enumerate(self.segments)
            for place, entry in enumerate(segment.entries)
        ]
        replacements = {
            argument: _like(argument, INPUT % index)
            for index, argument in enumerate(self.arguments)
        }
        replacements.update(
            (exit, _like(exit, EXIT % (index, place)))
            for index, segment in enumerate(self.segments)
            for place, exit in enumerate(segment.exits)
            if exit.uid in read
        )
        self.model = graph.substitute(C.combine(outputs), replacements)

    @property
    def fewer_float_layers(self):
        """The `float_layers` with which segments have fewer of them; None where those that were
        made here have none."""
        programs = [part.program for part in self.lowering.segments]
        products = [op for program in programs for _, op in program.products]
        if products:
            return 'taps' if any(op.get('order') == 'winograd' for op in products) else 'cntk'
        return 'apart' if any(program.same_floats for program in programs) else None


def _refuse_foreign(model):
    for function in graph.walk(model):
        if function.op_name == 'UserFunction' and not _is_native(function):
            raise NotImplementedError(
                "deploy.export: '%s' is a UserFunction, whose Python does not leave CNTK; write "
                "what it computes with operations of CNTK" % (function.name or function.uid)
            )


def _refuse_own_names(model):
    names = {model.name}
    for function in graph.walk(model):
        names.add(function.name)
        names.update(variable.name for variable in function.inputs)
    for name in sorted(names):
        if _OWN_NAME.match(name):
            raise NotImplementedError(
                f"deploy.export: '{name}' is a name that the file needs for values of its own; "
                "give what you named so another name, of another beginning than 'netopt_'"
            )


def _is_native(function):
    return function.op_name == 'UserFunction' and _state_of(function) is not None


def _state_of(function):
    """Returns the saved state of one of our native Functions, a dict; None of any other."""
    try:
        saved = function.serialize()
        module, state = saved['module'], saved['state']
    except Exception:  # whatever the user's own serialize raises, or leaves out
        return None
    return state if str(module) in _MODULES and isinstance(state, dict) else None


def _segment(function):
    state, name = _state_of(function), function.name or function.uid
    entries, exits = list(function.inputs), list(function.outputs)
    if 'program' in state:
        entries = [_behind_stop_gradient(entry) for entry in entries]
        described = json.loads(state['description'])
        program, machine = base64.b64decode(state['program']), described['machine']
        rows = [
            tuple(shape) if _has_steps(entry) else None
            for entry, shape in zip(entries, Program.from_state(program).inputs)
        ]
        return CutSegment(name, program, rows, entries, exits, machine)
    (entry,) = entries
    native_state = binary_convolve.from_text(state['state'])
    if 'axes' in state:
        axes = [Axis.from_state(axis) for axis in json.loads(state['axes'])]
        for place, axis in zip((-2, -1), axes):
            size = entry.shape[place]
            if size != C.FreeDimension and min(axis.padding(size)) < 0:
                entry = crop.crop(entry, place, axis)
        program = _convolution(native_state, axes, entry, name)
        rows = program.inputs[0] if _has_steps(entry) else None
    else:
        inputs, outputs = json.loads(state['shapes'])
        program = _dense(native_state)
        rows = (
            program.inputs[0]
            if _has_steps(entry) or tuple(entry.shape) != program.inputs[0]
            else None
        )
    return CutSegment(name, program.state(), [rows], [entry], exits, '')


def _behind_stop_gradient(entry):
    """What a segment of several entries reads; `segment_pass` puts these in between."""
    owner = entry.owner if entry.is_output else None
    return entry if owner is None or owner.op_name != 'StopGradient' else owner.inputs[0]


def _has_steps(variable):
    return len(variable.dynamic_axes) > 1


def _ending(state):
    return [
        (step, np.array(state[key]))
        for step, key in (('multiply', 'scale'), ('add', 'bias'))
        if state.get(key) is not None
    ]


def _threshold(state):
    threshold = state.get('threshold')
    return 0.0 if threshold is None else np.array(threshold)


def _convolution(state, axes, entry, name):
    sizes = [None if size == C.FreeDimension else size for size in entry.shape[-2:]]
    if None in sizes and any(axis.automatic for axis in axes):
        raise NotImplementedError(
            f"deploy.export: '{name}' pads automatically an image of free size: the padding would "
            "have to go with the size; give the input a fixed size, or the layer pad=False"
        )
    padding = [
        axis.padding(axis.extent if size is None else size) for axis, size in zip(axes, sizes)
    ]
    channels = state['channels'] * state['groups']
    ops = [
        dict(op='pack', input='x', bits='b', threshold=_threshold(state)),
        dict(
            op='convolution',
            input='b',
            values='y',
            words=np.array(state['words']),
            channels=int(state['channels']),
            strides=tuple(state['strides']),
            padding=padding,
            dilation=tuple(state['dilation']),
            groups=int(state['groups']),
            steps=_ending(state),
        ),
    ]
    return Program(ops, {'x': (channels,) + tuple(sizes)}, ['y'])


def _dense(state):
    product = native.BinaryDense.from_state(state)
    words = np.array(state['words'])
    words = words.reshape(words.shape[0], 1, 1, -1)
    ops = [
        dict(op='pack', input='x', bits='b', threshold=_threshold(state)),
        dict(
            op='convolution',
            input='b',
            values='y',
            words=words,
            channels=product.inputs,
            steps=_ending(state),
        ),
    ]
    return Program(ops, {'x': (product.inputs, 1, 1)}, ['y'])


def _like(variable, name):
    return C.input_variable(
        variable.shape, variable.dtype, dynamic_axes=variable.dynamic_axes, name=name
    )
