"""The pass that puts one native Function in the place of each segment of a trained graph.

What cannot be done exactly is left to the pass that lowers layers one by one (`replace`), with a reason: a
segment that is refused because of one node is looked for again without that node's unit.
"""
import platform

import cntk as C
import numpy as np

from .. import graph
from ..optimizations import binary_block
from .binary_segment import OP_NAME, BinarySegmentOp
from .flat import FlatGraph, Unsupported, opened_for_segments
from .segment import largest_segment
from .segment_program import SegmentProgram, terms


class LoweredSegment(object):
    """A segment and its program.

    Attributes:
        name (str): of the block around the native Function.
        segment (Segment): of the trained graph.
        program (SegmentProgram): what was written for it.
        trained (cntk.Function): what the segment computes in the trained graph, over `source`: its output, then
            for each layer what its block reads and its integers.
        source (cntk.Variable): an input.
    """

    def __init__(self, segment, program):
        self.name = segment.name
        self.segment = segment
        self.program = program


class Lowering(object):
    """What a pass made of a model.

    Attributes:
        model (cntk.Function): the lowered one; the given one where there is no segment.
        segments (list of LoweredSegment): in the order of their layers.
        reasons (list of (str, str)): of each binary layer that is in none, its name and why.
    """

    def __init__(self, model, segments=(), reasons=()):
        self.model = model
        self.segments = list(segments)
        self.reasons = list(reasons)


def lower_segments(model):
    """Lowers the segments of a trained model; other binary layers stay as they are.

    Args:
        model (cntk.Function): trained, or loaded from a file.

    Returns:
        Lowering: `model` with a block `BinarySegmentOp` for each segment; evaluation only.

    Raises:
        ValueError: a binary block that this package did not make.
    """
    if not binary_block.binary_blocks(model):
        return Lowering(model)
    flat = FlatGraph(opened_for_segments(model))
    written = _written(flat)
    reasons = _reasons(flat, written)
    if not written:
        return Lowering(model, reasons=reasons)
    replacements = {}
    for lowered in written:
        entry, result = lowered.segment.entry.variable, lowered.segment.units[-1].function.outputs[0]
        replacements[result] = _block(lowered, entry)(entry).outputs[0]
    new_model = graph.substitute(flat.model, replacements)
    return Lowering(new_model, written, reasons)


def _written(flat):
    """Returns the LoweredSegments of a FlatGraph, in its order; notes in the units why others are in none."""
    written, taken = [], set()
    index_of = {id(unit): index for index, unit in enumerate(flat.units)}
    while True:
        segment = largest_segment(flat, taken)
        if segment is None:
            return sorted(written, key=lambda lowered: index_of[id(lowered.segment.units[0])])
        try:
            program = SegmentProgram(segment)
            program.program()
        except Unsupported as refused:
            refused.node.unit.reason = refused.reason
            continue
        written.append(LoweredSegment(segment, program))
        taken.update(index_of[id(unit)] for unit in segment.units)


def _reasons(flat, written):
    inside = {id(unit) for lowered in written for unit in lowered.segment.units}
    return [(unit.layer.name or '(unnamed)', unit.reason or 'what it computes is read in more than one place')
            for unit in flat.units if unit.layer is not None and id(unit) not in inside]


def _block(lowered, entry):
    """Returns the segment on its native Function: a block, unapplied, with one placeholder."""
    segment, result = lowered.segment, lowered.segment.exit
    inner, outer = graph.placeholder_like(entry), graph.placeholder_like(entry)
    op = BinarySegmentOp(inner, lowered.program.program().state(), result.shape,
                         [_described(layer) for layer in segment.layers], machine(), lowered.name)
    return C.as_block(C.user_function(op), [(inner, outer)], OP_NAME, lowered.name)


def _described(layer):
    """Returns what a summary says of a binary layer in a segment."""
    weights = tuple(layer.kind.weights_of(layer.core).shape)
    floats = [layer.scale(), layer.bias(), layer.threshold()]
    computed = int(np.prod(layer.core.outputs[0].shape, dtype=np.int64))
    return {'name': layer.name, 'kind': layer.kind.op_name, 'weights': weights,
            'floats': sum(numbers.size for numbers in floats if numbers is not None),
            'macs': terms(layer) * computed}


def machine():
    """Returns the processor and the CNTK whose bits were read off."""
    name = platform.processor() or platform.machine()
    try:
        with open('/proc/cpuinfo') as lines:
            name = next((line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')), name)
    except OSError:
        pass
    return '%s, CNTK %s' % (name, C.__version__)
