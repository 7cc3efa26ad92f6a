"""A segment as a model of its own: x -> y."""
from onnx import TensorProto, helper

from ..onnx_file import DOMAIN, VERSION
from . import assemble, body


def segment_alone(segment, like, inline):
    """Returns the ModelProto of a CutSegment; `inline` as of `assemble.assembled`."""
    model = type(like)()
    graph = model.graph
    graph.name = 'segment'
    free = [None] * (len(segment.entry.shape) + len(segment.entry.dynamic_axes))
    value = helper.make_tensor_value_info('x', TensorProto.FLOAT, free)
    graph.input.extend([value])
    assemble.add_segment(graph, 0, segment, 'x', inline)
    graph.node.extend([helper.make_node('Identity', [assemble.EXIT % 0], ['y'], 'result')])
    result = graph.output.add()
    result.name = 'y'
    result.type.tensor_type.elem_type = TensorProto.FLOAT
    assemble.sort_nodes(graph)
    model.ir_version = assemble.IR_VERSION
    model.opset_import.extend([helper.make_opsetid('', body.OPSET)])
    if not inline:
        model.opset_import.extend([helper.make_opsetid(DOMAIN, VERSION)])
    return model
