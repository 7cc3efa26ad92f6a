"""A segment as a model of its own: X % k -> Y % k, whole or taken apart."""
from onnx import TensorProto, helper

from ..onnx_file import DOMAIN, VERSION
from . import assemble, body

X, Y = 'x%d', 'y%d'
READ, OWN, GIVEN = 'read_%d', 'own_%d', 'given_%d'


def segment_alone(segment, like, inline):
    """Returns the ModelProto of a CutSegment; `inline` as of `assemble.assembled`."""
    model = type(like)()
    graph = model.graph
    graph.name = 'segment'
    xs = [X % place for place in range(len(segment.entries))]
    for x, entry in zip(xs, segment.entries):
        _add_value(graph.input, x, len(entry.shape) + len(entry.dynamic_axes))
    assemble.add_segment(graph, 0, segment, xs, inline)
    for place in range(len(segment.exits)):
        _add_output(graph, assemble.EXIT % (0, place), Y % place)
    assemble.sort_nodes(graph)
    model.ir_version = assemble.IR_VERSION
    model.opset_import.extend([helper.make_opsetid('', body.OPSET)])
    if not inline:
        model.opset_import.extend([helper.make_opsetid(DOMAIN, VERSION)])
    return model


def segment_apart(segment, like):
    """Returns the ModelProto of a CutSegment in standard operators, taken apart at its float
    layers: it reads GIVEN % k, too, of the k-th of them, and gives READ % k and OWN % k.

    What follows a layer reads GIVEN % k in the place of OWN % k, all [batch, channels, height,
    width].
    """
    model = segment_alone(segment, like, inline=True)
    graph = model.graph
    products = body.products(segment.state, assemble.BODY % 0)
    for number, (read, _) in enumerate(products):
        _add_output(graph, read, READ % number)  # maybe what a layer gives; then it reads the given
    for number, (_, own) in enumerate(products):
        for node in graph.node:
            node.input[:] = [GIVEN % number if name == own else name for name in node.input]
        _add_value(graph.input, GIVEN % number, 4)
    for number, (_, own) in enumerate(products):
        _add_output(graph, own, OWN % number)
    return model


def _add_value(values, name, rank):
    values.extend([helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)])


def _add_output(graph, source, name):
    graph.node.extend([helper.make_node('Identity', [source], [name], name)])
    result = graph.output.add()
    result.name = name
    result.type.tensor_type.elem_type = TensorProto.FLOAT
