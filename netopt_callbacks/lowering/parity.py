"""The gate between a trained network and its lowered twin: do they compute the same?

What is demanded, and what is admitted:

* A lowered layer or segment that reads the same input computes the same bits: the integers of
  its convolution are ==, and so is everything computed from them, up to the layer's output. Nothing
  is admitted.
* From one end of the network to the other, CNTK evaluates the float layers between twice, in two
  networks. Where it rounds a sum differently, a value that ties with the threshold of a sign may
  fall on the other side. Such a bit is admitted if the two values are within `TIE_ULPS` units in
  the last place of the largest magnitude that the layer reads (a sum's rounding error goes with its
  largest terms, not with its value). It then explains what follows from it in that sample.
* Float layers in segments that native code sums in another order than CNTK have its sums within
  `tolerance` only (see `float_gate`), so behind these a bit ties within `tolerance` of that
  magnitude.
* Samples without such a bit agree, position by position, within `tolerance` of the sample's own
  scale (`output_parity` has it), and predict the same. NaN and infinities are at the same
  positions.
"""
from itertools import islice

import cntk as C
import numpy as np

from .. import graph
from ..graph import evaluate, flat
from ..optimizations import binary_block
from . import binary_segment
from .float_gate import FloatLayerProbe, Signs, name_of, names_of_layers
from .output_parity import OutputParity
from .parity_result import LayerParity, Parity, SegmentParity
from .replace import OP_NAMES, native_integers
from .twin import Twin, check_pairs, places_of_new
from .undilated import without_dilation

TIE_ULPS = 8


def compare(model, lowered, minibatches, tolerance, data='held-out', lowering=None):
    """Evaluates a trained and a lowered network on the same data.

    Args:
        model (cntk.Function): trained; its binary layers are blocks `BinaryConvolution` and
            `BinaryDense`. Native ops that it holds already belong to both networks, so they are
            compared as the rest is, from end to end.
        lowered (cntk.Function): the same outputs, from blocks `BinaryConvolveOp` and
            `BinaryDenseOp`, and `BinarySegmentOp` for the segments of `lowering`.
        minibatches: dicts of the model's arguments to data, at least one.
        tolerance (float): see `Parity`.
        data (str): what the minibatches are, for the report.
        lowering (Lowering): what `lower_segments` made of `model`; None where it is not lowered in
            segments.

    Returns:
        Parity: not passed where no sample was compared.

    Raises:
        ValueError: the two networks do not have the same binary layers in the same order.
    """
    parity = Parity(tolerance, data)
    pair = _Pair(model, lowered, lowering, tolerance)
    parity.layers = [probe.parity for probe in pair.probes]
    parity.segments = [probe.parity for probe in pair.segments]
    if lowering:
        parity.alone = list(lowering.reasons)
        parity.stayed = list(lowering.float_reasons)
    outputs = [OutputParity() for _ in model.outputs]
    for minibatch in minibatches:
        expected, actual, explained = pair.evaluate(minibatch)
        parity.samples += len(explained)
        for output, ours, theirs in zip(outputs, actual, expected):
            theirs, ours = flat(theirs), flat(ours)
            # Where steps and whole sequences meet, which step belongs where is not kept.
            clear = (
                ~explained
                if len(explained) == len(theirs)
                else np.full(len(theirs), not explained.any())
            )
            output.add(theirs, ours, clear)
            parity.values += theirs.size
    _sum_up(parity, outputs)
    return parity


class _Pair:
    """The two networks, layer by layer and segment by segment.

    Attributes:
        probes (list of _Probe): for each binary layer, in the order of the trained network.
        segments (list of _SegmentProbe): for each segment.
    """

    def __init__(self, model, lowered, lowering, tolerance):
        reference = lowering.reference if lowering else model
        layers = [
            binary_block.BinaryLayer(block) for block in binary_block.binary_blocks(reference)
        ]
        parts = lowering.segments if lowering else []
        self._trained = Twin(without_dilation(reference), binary_block.OP_NAMES)
        self._lowered = Twin(lowered, OP_NAMES + (binary_segment.OP_NAME,))
        self._alone = lowering.alone if lowering else list(range(len(layers)))
        blocks = self._lowered.blocks
        self._places = places_of_new(blocks, lowering.model if lowering else model)
        segments = [part.name for part in parts]
        by_name = {
            block.name: place
            for place, block in enumerate(blocks)
            if block.op_name == binary_segment.OP_NAME and block.name in segments
        }
        check_pairs(
            [self._trained.blocks[index] for index in self._alone],
            [blocks[place] for place in self._places],
            segments,
            by_name,
        )
        singles = {index: blocks[place] for index, place in zip(self._alone, self._places)}
        self.probes = [
            _Probe(layer, block, singles.get(index))
            for index, (layer, block) in enumerate(zip(layers, self._trained.blocks))
        ]
        self._entries = [by_name[part.name] for part in parts]
        taken_in = any(part.program.products or part.program.same_floats for part in parts)
        names = names_of_layers(reference) if taken_in else {}
        self.segments = [
            _SegmentProbe(
                part,
                blocks[place],
                [self.probes[index] for index in part.layers_at],
                tolerance,
                names,
            )
            for part, place in zip(parts, self._entries)
        ]
        self._parts = parts

    def evaluate(self, minibatch):
        """Returns (trained outputs, lowered outputs, samples in which a bit differs and ties);
        compares all on the way."""
        expected, actual = self._trained.evaluate(minibatch), self._lowered.evaluate(minibatch)
        entries = sum(len(part.segment.entries) for part in self._parts)
        count = len(expected.outputs) - entries
        read = iter(expected.outputs[count:])
        others = {index: actual.inputs[place][0] for index, place in zip(self._alone, self._places)}
        for part, probe, place in zip(self._parts, self.segments, self._entries):
            probe.compare(list(islice(read, len(part.segment.entries))))
            others.update(zip(part.layers_at, probe.inputs_of(actual.inputs[place])))
        for index in self._alone:
            self.probes[index].compare(expected.inputs[index][0])
        explained = np.zeros(len(flat(expected.outputs[0])), bool)
        for index, probe in enumerate(self.probes):
            explained |= probe.trace(expected.inputs[index][0], others[index], explained)
        return expected.outputs[:count], actual.outputs, explained


def _sum_up(parity, outputs):
    """Fills in what was found out about the outputs, where there was one."""
    if parity.samples:
        for field in (
            'largest_difference',
            'largest_output',
            'unexplained_difference',
            'unexplained_error',
        ):
            setattr(parity, field, max(getattr(output, field) for output in outputs))
        for field in ('not_finite', 'different_not_finite', 'predictions', 'different_predictions'):
            setattr(parity, field, sum(getattr(output, field) for output in outputs))


class _Probe:
    """One layer, trained and lowered, as networks of their own that read the same input.

    In a segment a layer has no lowered block, and `_SegmentProbe` knows its integers.
    """

    def __init__(self, layer, block, lowered_block):
        self.parity = LayerParity(layer.name or '(unnamed)')
        self._native_integers = None if lowered_block is None else native_integers(layer)
        twin = binary_block.BinaryLayer(block)
        source = C.input_variable(
            twin.input.shape, np.float32, dynamic_axes=twin.input.dynamic_axes
        )
        content = C.combine(
            [
                twin.content.outputs[0],
                twin.core.outputs[0],
                C.alias(twin.operand).output,
                C.alias(twin.signed).output,
            ]
        )
        self._trained = _on(content, source)
        self._lowered = None if lowered_block is None else _on(graph.body(lowered_block), source)

    def compare_integers(self, values, found):
        """Compares the integers of a layer in a segment, which reads `values`, with those found
        there."""
        integers = _run(self._trained, values)[1]
        self.parity.integers += integers.size
        self.parity.different_integers += int(np.sum(integers != found.reshape(integers.shape)))

    def compare(self, values):
        """Compares integers and outputs, both networks reading `values`."""
        output, integers, operand, _ = _run(self._trained, values)
        found = self._native_integers(operand)
        (lowered_output,) = _run(self._lowered, values)
        self.parity.integers += integers.size
        self.parity.different_integers += int(np.sum(integers != found))
        self.parity.different_outputs += _count_different(output, lowered_output)

    def trace(self, values, lowered_values, explained):
        """Returns, per sample, whether an input bit differs and ties.

        Args:
            values, lowered_values: what the layer reads in the two networks.
            explained (array of bool): samples in which a bit upstream differs and ties.
        """
        if isinstance(lowered_values, Signs):
            return self._trace_signs(values, lowered_values, explained)
        if np.array_equal(_bits(flat(values)), _bits(flat(lowered_values))):
            return np.zeros(len(explained), bool)
        one, other = (_run(self._trained, read)[3] for read in (values, lowered_values))
        values, lowered_values = flat(values), flat(lowered_values)
        flips = (one > 0) != (other > 0)
        largest = (
            np.maximum(_finite(values), _finite(lowered_values))
            .reshape(len(values), -1)
            .max(axis=1)
        )
        reach = (TIE_ULPS * np.spacing(largest)).reshape((-1,) + (1,) * (one.ndim - 1))
        with np.errstate(invalid='ignore'):
            tied = flips & (np.abs(one - other) <= reach)
        return self._counted(flips, tied, explained)

    def _trace_signs(self, values, signs, explained):
        """As `trace`, of a layer of which the lowered network knows the bits alone."""
        signed = _run(self._trained, values)[3]
        values = flat(values)
        flips = (signed > 0) != signs.positive.reshape(signed.shape)
        largest = _finite(values).reshape(len(values), -1).max(axis=1)
        reach = np.maximum(TIE_ULPS * np.spacing(largest), np.float32(signs.tolerance) * largest)
        with np.errstate(invalid='ignore'):
            tied = flips & (np.abs(signed) <= reach.reshape((-1,) + (1,) * (signed.ndim - 1)))
        return self._counted(flips, tied, explained)

    def _counted(self, flips, tied, explained):
        """Counts the bits that differ; returns, per sample, whether one ties."""
        of_rows = tied.reshape(len(tied), -1).any(axis=1)
        if len(tied) != len(explained):
            # Steps here, whole sequences at the output: which step belongs where is not kept.
            of_rows, explained = (
                np.full(len(other), each.any())
                for each, other in ((of_rows, explained), (explained, of_rows))
            )
        follows = explained.reshape((-1,) + (1,) * (tied.ndim - 1))
        self.parity.ties += int(np.sum(tied & ~follows))
        self.parity.strays += int(np.sum(flips & ~tied & ~follows))
        return of_rows


class _SegmentProbe:
    """A segment, trained and lowered, as networks of their own that read the same input."""

    def __init__(self, part, block, probes, tolerance, names):
        self._tolerance = tolerance
        self._floats = [
            FloatLayerProbe(part, number, tolerance, names)
            for number in range(len(part.program.products))
        ]
        self.parity = SegmentParity(
            block.name,
            [probe.parity for probe in probes],
            [probe.parity for probe in self._floats],
            [name_of(node, names) for node in part.program.same_floats],
        )
        self._probes = probes
        entries = [value.variable for value in part.segment.entries]
        self._sources = [
            C.input_variable(entry.shape, np.float32, dynamic_axes=entry.dynamic_axes)
            for entry in entries
        ]
        self._exits = len(part.segment.exits)
        wanted = (
            [value.variable for value in part.segment.exits]
            + [layer.input for layer in part.segment.layers]
            + [probe.variable for probe in self._floats]
        )
        self._trained = C.combine([C.alias(variable).output for variable in wanted]).clone(
            C.CloneMethod.share, dict(zip(entries, self._sources))
        )
        self._lowered = graph.body(block).clone(
            C.CloneMethod.share, dict(zip(binary_segment.placeholders_of(block), self._sources))
        )
        if self._floats:
            self._own, self._bits = part.program.program(), part.program.program_with_bits()
            self._sums = part.program.program_with_products()
        else:
            self._sums = part.program.program_with_sums()

    def _evaluated(self, network, entries):
        return evaluate(list(network.outputs), dict(zip(self._sources, entries)))

    def compare(self, entries):
        """Compares the outputs and every layer's integers, both networks reading `entries` (list of
        values)."""
        # Sequences stay whole: CNTK's float layers give a step other bits in another packing.
        read = iter(self._evaluated(self._trained, entries))
        expected = [flat(values) for values in islice(read, self._exits)]
        layers_read = list(islice(read, len(self._probes)))
        found = [flat(values) for values in self._evaluated(self._lowered, entries)]
        arrays = [np.ascontiguousarray(flat(values), np.float32) for values in entries]
        if self._floats:
            for own, handed_over in zip(_as_tuple(self._own(*arrays)), found):
                self.parity.different_values += _count_different(
                    own.reshape(handed_over.shape), handed_over
                )
            products = [probe.compare(given) for probe, given in zip(self._floats, read)]
            found = _as_tuple(self._sums(*arrays, *products))
            found, sums = found[: self._exits], found[self._exits :]
        else:
            sums = _as_tuple(self._sums(*arrays))
        for theirs, ours in zip(expected, found):
            self.parity.values += theirs.size
            self.parity.different_values += _count_different(theirs, ours.reshape(theirs.shape))
        for probe, values, integers in zip(self._probes, layers_read, sums):
            probe.compare_integers(values, integers)

    def inputs_of(self, entries):
        """Returns what each layer reads in the trained network where the segment reads `entries`.

        With float layers inside that have other bits than CNTK's, that is not what it reads in the
        lowered one: then the Signs of that.
        """
        if self._floats:
            signs = self._bits(
                *[np.ascontiguousarray(flat(values), np.float32) for values in entries]
            )
            return [Signs(each > 0, self._tolerance) for each in _as_tuple(signs)]
        layers = slice(self._exits, self._exits + len(self._probes))
        return [flat(values) for values in self._evaluated(self._trained, entries)[layers]]


def _as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


def _on(function, source):
    """Returns an unapplied Function of one placeholder, applied to `source`."""
    return function.clone(C.CloneMethod.share, {function.placeholders[0]: source})


def _run(network, values):
    """Returns the outputs of a network of one argument as arrays [samples, ...]."""
    return [
        flat(output) for output in evaluate(list(network.outputs), {network.arguments[0]: values})
    ]


def _bits(values):
    return np.ascontiguousarray(values, np.float32).view(np.uint32)


def _finite(values):
    """Returns the magnitudes, 0 for NaN and infinities."""
    return np.where(np.isfinite(values), np.abs(values), np.float32(0))


def _count_different(expected, found):
    """Returns how many values differ in a bit."""
    differ = _bits(expected) != _bits(found)
    # There are many NaN, and which of them an operation returns is not defined.
    return int(np.sum(differ & ~(np.isnan(expected) & np.isnan(found))))
