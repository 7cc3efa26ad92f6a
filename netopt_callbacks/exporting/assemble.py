"""One ONNX model of what is mended and of segments: nodes of domain `netopt`, and functions
that say what they compute."""
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ..deploy import ExportError
from ..onnx_file import DOMAIN, MOST_SEGMENTS, OPERATOR, VERSION
from . import body
from .cut import ENTRY, EXIT, INPUT, OUTPUT

IR_VERSION, IR_VERSION_OF_FUNCTIONS = 7, 8
BODY = 'netopt_%d_body_'  # prefix of what a segment is inline


def assembled(mended, cut, names, inline=False, inner=False):
    """Returns the ModelProto of a network.

    Args:
        mended (ModelProto): of `mend.exported`; left as it is.
        cut (CutNetwork): what it was made of.
        names (Names): of inputs and outputs.
        inline (bool): whether segments are standard operators in the graph itself; else nodes and
            functions.
        inner (bool): whether what segments read and give are outputs, too, under ENTRY and EXIT.

    Raises:
        NotImplementedError: the network has more segments than there are operators, or one that no
            standard operators give.
        ExportError: what was written has no such segments, or nodes without what they read.
    """
    if len(cut.segments) > MOST_SEGMENTS:
        raise NotImplementedError(
            f'deploy.export: the network has {len(cut.segments)} segments, a file holds at most '
            f'{MOST_SEGMENTS}; make fewer layers binary, or export it in parts'
        )
    model = type(mended)()
    model.CopyFrom(mended)
    graph = model.graph
    graph.name = 'network'
    exits = {EXIT % index for index in range(len(cut.segments))}
    for value in [value for value in graph.input if value.name in exits]:
        graph.input.remove(value)
    entries = _inner_outputs(graph, cut.segments)
    for index, segment in enumerate(cut.segments):
        try:
            add_segment(graph, index, segment, entries[index], inline)
            if not inline:
                model.functions.extend([body.function(_operator(index), segment.state)])
        except body.Unwritable as error:
            raise NotImplementedError(
                f"deploy.export: segment '{segment.name}': {error}; build that layer of others, or "
                "keep the layers around it float"
            ) from error
        if inner:
            for name, source in ((ENTRY % index, entries[index]), (EXIT % index, None)):
                if source is not None and source != name:
                    graph.node.extend(
                        [helper.make_node('Identity', [source], [name], 'inner ' + name)]
                    )
                value = graph.output.add()
                value.name = name
                value.type.tensor_type.elem_type = TensorProto.FLOAT
    _name_all(graph, names)
    sort_nodes(graph)
    model.ir_version = IR_VERSION
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid('', body.OPSET)])
    if cut.segments and not inline:
        model.ir_version = IR_VERSION_OF_FUNCTIONS
        model.opset_import.extend([helper.make_opsetid(DOMAIN, VERSION)])
    return model


class Names:
    """The user's names of inputs and outputs, each once; what has none gets one.

    Attributes:
        inputs, outputs (list of str)
    """

    def __init__(self, model):
        taken = set()
        self.inputs = [_free(argument.name or 'input', taken) for argument in model.arguments]
        only = len(model.outputs) == 1
        self.outputs = [
            _free(
                _name_of(output) or (model.name if only else '') or output.name or 'output', taken
            )
            for output in model.outputs
        ]


def _name_of(output):
    """Returns the name of the Function that computes an output; '' of an input that is one."""
    return output.owner.name if output.is_output else ''


def _free(name, taken):
    name = ''.join(c if c.isalnum() or c in '_-.' else '_' for c in name)
    number, free = 1, name
    while free in taken:
        number += 1
        free = f'{name}_{number}'
    taken.add(free)
    return free


def _operator(index):
    return f'{OPERATOR}{index}'


def _inner_outputs(graph, segments):
    """Takes the outputs that segments read out of the graph's; returns their names, in order."""
    outputs = {value.name: value for value in graph.output}
    found = []
    for index, segment in enumerate(segments):
        names = [name for name in (ENTRY % index, ENTRY % index + '_Output') if name in outputs]
        if not names:
            raise ExportError(
                f"deploy.export: CNTK's exporter did not write what segment '{segment.name}' "
                'reads; keep this layer float, or end the network before it'
            )
        found += names[:1]
        graph.output.remove(outputs[names[0]])
    return found


def add_segment(graph, index, segment, entry, inline):
    state = f'netopt_state_{index}'
    graph.initializer.extend(
        [numpy_helper.from_array(np.frombuffer(segment.state, np.uint8), state)]
    )
    add = _Adder(graph, f'netopt_{index}_')
    exit = EXIT % index
    steps = len(segment.entry.dynamic_axes) > 1
    if segment.rows is not None:
        entry = add('Reshape', [entry, add.integers(-1, *segment.rows)])
        around = add.name()
    else:
        around = exit if _shape_is_known(segment) else add.name()
    if inline:
        graph.node.extend(body.nodes(segment.state, entry, state, around, BODY % index))
    else:
        node = helper.make_node(
            _operator(index), [entry, state], [around], segment.name, domain=DOMAIN
        )
        graph.node.extend([node])
    if around == exit:
        return
    lengths = [int(length) for length in segment.exit.shape]
    if steps:
        axes = add('Slice', [add('Shape', [add.source]), add.integers(0), add.integers(2)])
        add('Reshape', [around, add('Concat', [axes, add.integers(*lengths)], axis=0)], exit)
    elif segment.rows is not None:
        add('Reshape', [around, add.integers(-1, *lengths)], exit)
    else:
        add('Reshape', [around, add.integers(0, *lengths)], exit)


def _shape_is_known(segment):
    """Whether the program gives the shape that the network has there."""
    from ..native_program import Program

    program = Program.from_state(segment.state)
    (shape,) = program.inputs
    if None in shape:
        return True
    (given,) = program.output_shapes((1,) + tuple(shape))
    return tuple(given[1:]) == tuple(segment.exit.shape)


class _Adder:
    """Adds nodes to a graph under names of their own."""

    def __init__(self, graph, prefix):
        self.graph, self.prefix, self.count, self.source = graph, prefix, 0, None

    def name(self):
        self.count += 1
        return f'{self.prefix}{self.count}'

    def integers(self, *values):
        name = self.name()
        self.graph.initializer.extend([numpy_helper.from_array(np.array(values, np.int64), name)])
        return name

    def __call__(self, op_type, inputs, output=None, **attributes):
        if self.source is None:
            self.source = inputs[0]
        output = output or self.name()
        name = self.prefix + op_type + output
        self.graph.node.extend([helper.make_node(op_type, inputs, [output], name, **attributes)])
        return output


def _name_all(graph, names):
    """Gives inputs and outputs the user's names, in the user's order."""
    new = {INPUT % index: name for index, name in enumerate(names.inputs)}
    new.update((OUTPUT % index + '_Output', name) for index, name in enumerate(names.outputs))
    inside = {name for node in graph.node for name in list(node.input) + list(node.output)}
    inside.update(tensor.name for tensor in graph.initializer)
    clashes = inside.intersection(new.values()) - set(new)
    new.update((name, 'netopt_inner_' + name) for name in clashes)
    for tensor in graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    for node in graph.node:
        for names_of in (node.input, node.output):
            for place, name in enumerate(names_of):
                names_of[place] = new.get(name, name)
    for values in (graph.input, graph.output):
        for value in values:
            value.name = new.get(value.name, value.name)
    for values, order in ((graph.input, names.inputs), (graph.output, names.outputs)):
        place = {name: index for index, name in enumerate(order)}
        kept = sorted(values, key=lambda value: place.get(value.name, len(place)))
        copies = [type(value).FromString(value.SerializeToString()) for value in kept]
        del values[:]
        values.extend(copies)


def sort_nodes(graph):
    """Puts nodes behind what they read."""
    left, known = list(graph.node), {''}
    known.update(value.name for value in list(graph.input) + list(graph.initializer))
    ordered = []
    while left:
        ready, rest = [], []
        for node in left:
            if known.issuperset(node.input):
                known.update(node.output)
                ready.append(node)
            else:
                rest.append(node)
        if not ready:
            raise ExportError(
                "deploy.export: what CNTK's exporter wrote cannot be put together: the nodes %s "
                "read what no node gives; export the network up to a layer to find the operation "
                "that it is, and write that with others" % ', '.join(node.name for node in rest[:3])
            )
        ordered += ready
        left = rest
    del graph.node[:]
    graph.node.extend(ordered)
