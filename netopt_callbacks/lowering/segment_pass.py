"""The pass that puts one native Function in the place of each segment of a trained graph.

What cannot be done exactly is left to the pass that lowers layers one by one (`replace`), with a
reason: a segment that is refused because of one node is looked for again without that node's unit.
"""
import platform

import cntk as C
import numpy as np

from .. import count, graph
from ..graph.names import free_name
from ..optimizations import binary_block
from ..optimizations.binary_kinds import DENSE
from . import winograd
from .binary_segment import OP_NAME, BinarySegmentOp
from .flat import FlatGraph, named_output, opened_for_segments
from .float_order import order_of_sums
from .layer_ops import can_be_compared, terms
from .nodes import Unsupported
from .segment import segments_of
from .segment_program import SegmentProgram


class LoweredSegment:
    """A segment and its program.

    Attributes:
        name (str): of the block around the native Function; each has another one.
        segment (Segment): of the trained graph.
        program (SegmentProgram): what was written for it.
        layers_at (list of int): where its layers are among the binary blocks of
            `Lowering.reference`.
    """

    def __init__(self, segment, program):
        self.name = segment.name
        self.segment = segment
        self.program = program
        self.layers_at = []


class Lowering:
    """What the pass made of a model.

    Attributes:
        model (cntk.Function): the lowered one; the given one where there is no segment.
        reference (cntk.Function): the trained one: its outputs, then what each segment reads.
        segments (list of LoweredSegment): in the order of the network.
        alone (list of int): where the other binary layers are among the binary blocks of
            `reference`, in the order that they have in `model`.
        reasons (list of (str, str)): of each of these its name and why it is in no segment.
        float_reasons (list of (str, str)): the same of float layers; [] where they were to stay.
    """

    def __init__(self, model, segments=(), reference=None, reasons=(), float_reasons=()):
        self.model = model
        self.segments = list(segments)
        self.reference = model if reference is None else reference
        self.reasons = list(reasons)
        self.float_reasons = list(float_reasons)
        blocks = binary_block.binary_blocks(self.reference)
        inside = {
            unit.function.uid: part
            for part in self.segments
            for unit in part.segment.units
            if unit.layer is not None
        }
        left = []
        for index, block in enumerate(blocks):
            if block.uid in inside:
                inside[block.uid].layers_at.append(index)
            else:
                left.append((_key(block), index))
        self.alone = (
            [_taken(left, _key(block)) for block in binary_block.binary_blocks(model)]
            if self.segments
            else [index for _, index in left]
        )


def _key(block):
    """What a layer has in common with its copy: the name and the Parameter."""
    W = binary_block.BinaryLayer(block).W
    return block.name, None if W is None else W.uid


def _taken(left, key):
    """Takes the first of (key, index) with that key out of a list; returns its index."""
    place = next(place for place, (other, _) in enumerate(left) if other == key)
    return left.pop(place)[1]


def lower_segments(model, float_layers='cntk'):
    """Lowers the segments of a trained model; other binary layers stay as they are.

    Args:
        model (cntk.Function): trained, or loaded from a file.
        float_layers (str): as of `Lower`.

    Returns:
        Lowering: `model` with a block `BinarySegmentOp` for each segment; evaluation only.

    Raises:
        ValueError: a binary block that this package did not make.
    """
    if not binary_block.binary_blocks(model):
        return Lowering(model)
    flat = FlatGraph(opened_for_segments(model), float_layers)
    written = _written(flat)
    told = dict(reasons=_reasons(flat, written), float_reasons=_float_reasons(flat, written))
    if not written:
        return Lowering(model, **told)
    replacements = {}
    for part in written:
        for variable, value in zip(_block(part).outputs, part.segment.exits):
            replacements[value.variable] = named_output(variable, value.variable.name)
    reference = C.combine(
        list(flat.model.outputs)
        + [C.alias(value.variable).output for part in written for value in part.segment.entries]
    )
    return Lowering(graph.substitute(flat.model, replacements), written, reference, **told)


def _written(flat):
    """Returns the LoweredSegments of a FlatGraph, in its order; notes in the units why others
    are in none."""
    known, programs = set(), {}
    while True:
        segments = segments_of(flat)
        if all(_is_written(flat, segment, known, programs) for segment in segments):
            parts = [LoweredSegment(segment, programs[_key_of(segment)]) for segment in segments]
            return _named(parts, _names_of_native(flat.model))


def _key_of(segment):
    return tuple(id(unit) for unit in segment.units)


def _is_written(flat, segment, known, programs):
    """Writes the program of a segment; returns False, with a reason in the unit at fault or in all,
    where there is none.

    Args:
        flat (FlatGraph): of the model.
        segment (Segment): of it.
        known (set of int): as of `_float_layers_refused`.
        programs (dict of tuple to SegmentProgram): by `_key_of` those that are written; grows.
    """
    if _key_of(segment) in programs:
        return True
    if _float_layers_refused(flat, segment, known):
        return False
    try:
        program = SegmentProgram(segment)
        program.program()
    except Unsupported as refused:
        refused.node.unit.reason = refused.reason
        return False
    except (RuntimeError, TypeError, ValueError) as error:
        # Of native code (a size that it does not take) or of CNTK (an operation it cannot evaluate
        # so): no node is named, so the whole segment is left to the pass that lowers layers one by
        # one.
        for unit in segment.units:
            unit.reason = (
                'no program can be made of it: %s' % (str(error).strip().splitlines() or [''])[0]
            )
        return False
    programs[_key_of(segment)] = program
    return True


def _float_layers_refused(flat, segment, known):
    """Finds in which order to sum in the float convolutions of a segment. Returns whether one of
    them cannot be part of it; notes in its unit why.

    Args:
        flat (FlatGraph): of the model.
        segment (Segment): of which a program is to be made.
        known (set of int): ids of the Nodes whose order was looked for; grows.
    """
    refused = False
    for node in _float_products(segment):
        if node.op_name == DENSE.core_op_name or id(node) in known:
            continue
        known.add(id(node))
        try:
            if flat.float_layers == 'native' and winograd.pays(node) and can_be_compared(node):
                node.sums = dict(order='winograd')
                continue
            order = None if node.inputs[0].is_free else order_of_sums(node)
        except Unsupported as error:
            node.unit.reason, refused = error.reason, True
            continue
        node.sums, node.same_bits = order or {}, order is not None
        if order is None and flat.float_layers == 'cntk':
            node.unit.reason, refused = (
                'a float convolution of which native code does not give the bits, or one of images '
                "of free size, stays in CNTK; Lower(float_layers='native') takes it in",
                True,
            )
    return refused


def _float_products(segment):
    return [node for node in segment.nodes if node.kind == 'float_product']


def _named(parts, taken):
    """Gives each part a name of its own, not among those that are `taken`; returns the parts."""
    for part in parts:
        part.name = free_name(part.name, taken)
    return parts


def _names_of_native(model):
    """Returns the names of what a model has in native code already, opened (as for an export) or
    not."""
    return {
        function.name
        for function in graph.walk(model)
        if function.op_name in ('UserFunction', OP_NAME)
    }


def _outside(flat, written):
    inside = {id(unit) for lowered in written for unit in lowered.segment.units}
    return [unit for unit in flat.units if id(unit) not in inside]


def _reasons(flat, written):
    return [
        (unit.layer.name or '(unnamed)', unit.reason)
        for unit in _outside(flat, written)
        if unit.layer is not None
    ]


def _float_reasons(flat, written):
    if flat.float_layers == 'apart':
        return []
    return [
        (
            unit.name,
            unit.reason
            or 'between it and a binary layer is an operation that segments do not have, or a '
            'path that leaves the segment and comes back',
        )
        for unit in _outside(flat, written)
        if unit.float_layer and unit.layer is None
    ]


def _block(lowered):
    """Returns the segment on its native Function: a block, applied to what the segment reads."""
    segment = lowered.segment
    entries = [value.variable for value in segment.entries]
    inner, outer = ([graph.placeholder_like(entry) for entry in entries] for _ in range(2))
    # So that the op reads as many Variables whatever the block is applied to: of one that it read
    # twice, CNTK would hand it a single value.
    read = [C.stop_gradient(each).output for each in inner] if len(inner) > 1 else inner
    op = BinarySegmentOp(
        read,
        lowered.program.program().state(),
        [value.shape for value in segment.exits],
        [_described(layer) for layer in segment.layers]
        + [_described_float(node) for node in _float_products(segment)],
        machine(),
        lowered.name,
    )
    block = C.as_block(C.user_function(op), list(zip(inner, outer)), OP_NAME, lowered.name)
    return block.clone(C.CloneMethod.share, dict(zip(outer, entries)))


def _described(layer):
    """Returns what a summary says of a binary layer in a segment."""
    weights = tuple(layer.kind.weights_of(layer.core).shape)
    floats = [layer.scale(), layer.bias(), layer.threshold()]
    computed = count.elements(layer.core.outputs[0].shape)
    return {
        'name': layer.name,
        'kind': layer.kind.op_name,
        'weights': weights,
        'floats': sum(numbers.size for numbers in floats if numbers is not None),
        'macs': None if computed is None else terms(layer) * computed,
    }


def _described_float(node):
    """The same of a float layer, of which no weight is a bit."""
    weights = tuple(node.fixed[0].shape)
    outputs = count.elements(node.output.shape)
    taps = int(np.prod(weights[1:] if node.op_name == 'Convolution' else weights[:-1]))
    return {
        'name': node.unit.function.name,
        'kind': node.op_name,
        'weights': [],
        'floats': int(np.prod(weights)),
        'macs': 0,
        'float_macs': None if outputs is None else taps * outputs,
    }


def machine():
    """Returns the processor and the CNTK whose bits were read off."""
    name = platform.processor() or platform.machine()
    try:
        with open('/proc/cpuinfo') as lines:
            name = next(
                (line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')),
                name,
            )
    except OSError:
        pass
    return f'{name}, CNTK {C.__version__}'
