"""One ONNX model of what is mended and of segments: nodes of domain `netopt`, and functions
that say what they compute."""
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ..deploy import ExportError
from ..graph.names import free_name
from ..onnx_file import DOMAIN, MOST_SEGMENTS, MOST_VALUES, OPERATOR, VERSION
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
        NotImplementedError: the network has more segments than there are operators, one of more
            values than a node has, or one that no standard operators give.
        ExportError: what was written has no such segments, or nodes without what they read.
    """
    if len(cut.segments) > MOST_SEGMENTS:
        raise NotImplementedError(
            f'deploy.export: the network has {len(cut.segments)} segments, a file holds at most '
            f'{MOST_SEGMENTS}; make fewer layers binary, or export it in parts'
        )
    for segment in cut.segments:
        _refuse_many_values(segment)
    model = type(mended)()
    model.CopyFrom(mended)
    graph = model.graph
    graph.name = 'network'
    exits = {name for index, segment in enumerate(cut.segments) for name in _exits(index, segment)}
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
            read = [ENTRY % (index, place) for place in range(len(segment.entries))]
            for name, source in zip(read, entries[index]):
                if source != name:
                    graph.node.extend(
                        [helper.make_node('Identity', [source], [name], 'inner ' + name)]
                    )
            for name in read + _exits(index, segment):
                value = graph.output.add()
                value.name = name
                value.type.tensor_type.elem_type = TensorProto.FLOAT
    _name_all(graph, names)
    _name_nodes(graph)
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
    return free_name(''.join(c if c.isalnum() or c in '_-.' else '_' for c in name), taken)


def _operator(index):
    return f'{OPERATOR}{index}'


def _refuse_many_values(segment):
    for does, values in (('reads', segment.entries), ('gives', segment.exits)):
        if len(values) > MOST_VALUES:
            raise NotImplementedError(
                f"deploy.export: segment '{segment.name}' {does} {len(values)} values, a node at "
                f'most {MOST_VALUES}; export the network in parts'
            )


def _exits(index, segment):
    return [EXIT % (index, place) for place in range(len(segment.exits))]


def _inner_outputs(graph, segments):
    """Takes the outputs that segments read out of the graph's; returns their names, a list for each
    segment."""
    outputs = {value.name: value for value in graph.output}
    found = []
    for index, segment in enumerate(segments):
        found.append([])
        for place in range(len(segment.entries)):
            entry = ENTRY % (index, place)
            names = [name for name in (entry, entry + '_Output') if name in outputs]
            if not names:
                raise ExportError(
                    f"deploy.export: CNTK's exporter did not write what segment '{segment.name}' "
                    'reads; keep this layer float, or end the network before it'
                )
            found[-1] += names[:1]
            graph.output.remove(outputs[names[0]])
    return found


def add_segment(graph, index, segment, entries, inline):
    """Adds the nodes of a CutSegment: from `entries` (list of str), what it reads, to EXIT."""
    state = f'netopt_state_{index}'
    graph.initializer.extend(
        [numpy_helper.from_array(np.frombuffer(segment.state, np.uint8), state)]
    )
    add = _Adder(graph, f'netopt_{index}_')
    read = [
        entry if rows is None else add('Reshape', [entry, add.integers(-1, *rows)])
        for entry, rows in zip(entries, segment.rows)
    ]
    exits, lengths = _exits(index, segment), _lengths_around(segment)
    given = [exit if shape is None else add.name() for exit, shape in zip(exits, lengths)]
    if inline:
        graph.node.extend(body.nodes(segment.state, read, state, given, BODY % index))
    else:
        node = helper.make_node(
            _operator(index), [state] + read, given, segment.name, domain=DOMAIN
        )
        graph.node.extend([node])
        # The types, which ONNX Runtime 1.15 and 1.16 do not find by themselves.
        graph.value_info.extend(
            [helper.make_tensor_value_info(value, TensorProto.FLOAT, None) for value in given]
        )
    stepped = [name for name, entry in zip(entries, segment.entries) if len(entry.dynamic_axes) > 1]
    batch = 0 if read == entries else -1
    for value, shape, exit in zip(given, lengths, exits):
        if shape is not None and stepped:
            axes = add('Slice', [add('Shape', stepped[:1]), add.integers(0), add.integers(2)])
            shape = add('Concat', [axes, add.integers(*shape)], axis=0)
            add('Reshape', [value, shape], exit)
        elif shape is not None:
            add('Reshape', [value, add.integers(batch, *shape)], exit)


def _lengths_around(segment):
    """Returns for each exit the shape (list of int) that the network has there; None where the
    program gives that by itself."""
    from ..native_program import Program

    lengths = [[int(length) for length in exit.shape] for exit in segment.exits]
    if any(rows is not None for rows in segment.rows):
        return lengths
    program = Program.from_state(segment.state)
    if any(None in shape for shape in program.inputs):
        return [None] * len(lengths)
    given = program.output_shapes(*[(1,) + tuple(shape) for shape in program.inputs])
    return [None if list(shape[1:]) == wanted else wanted for shape, wanted in zip(given, lengths)]


class _Adder:
    """Adds nodes to a graph under names of their own."""

    def __init__(self, graph, prefix):
        self.graph, self.prefix, self.count = graph, prefix, 0

    def name(self):
        self.count += 1
        return f'{self.prefix}{self.count}'

    def integers(self, *values):
        name = self.name()
        self.graph.initializer.extend([numpy_helper.from_array(np.array(values, np.int64), name)])
        return name

    def __call__(self, op_type, inputs, output=None, **attributes):
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
    for values in (graph.input, graph.output, graph.value_info):
        for value in values:
            value.name = new.get(value.name, value.name)
    for values, order in ((graph.input, names.inputs), (graph.output, names.outputs)):
        place = {name: index for index, name in enumerate(order)}
        kept = sorted(values, key=lambda value: place.get(value.name, len(place)))
        copies = [type(value).FromString(value.SerializeToString()) for value in kept]
        del values[:]
        values.extend(copies)


def _name_nodes(graph):
    """Gives each node a name of its own, which runtimes ask for and users need not; where two have
    one name, that of a segment stays."""
    taken = set()
    for node in sorted(graph.node, key=lambda node: node.domain != DOMAIN):
        if node.name:
            node.name = free_name(node.name, taken)


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
