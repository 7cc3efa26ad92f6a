"""The gate between a trained network and its lowered twin: do they compute the same?

What is demanded, and what is admitted:

* A lowered layer that reads the same input computes the same bits: the integers of
  its convolution are ==, and so is everything computed from them, up to the layer's output. Nothing is admitted.
* From one end of the network to the other, CNTK evaluates the float layers between twice, in two networks.
  Where it rounds a sum differently, a value that ties with the threshold of a sign may fall on the
  other side. Such a bit is admitted if the two values are within `TIE_ULPS` units in the last place of the
  largest magnitude that the layer reads (a sum's rounding error goes with its largest
  terms, not with its value). It then explains what follows from it in that sample.
* Samples without such a bit agree, position by position, within `tolerance` of the sample's own scale
  (`output_parity` has it), and predict the same. NaN and infinities are at the same positions.
"""
import cntk as C
import numpy as np

from .. import graph
from ..graph import evaluate, flat, opened
from ..optimizations import binary_block
from .output_parity import OutputParity
from .replace import OP_NAMES, native_integers
from .undilated import undilated

TIE_ULPS = 8


class LayerParity(object):
    """How one lowered layer compares with the trained one.

    Attributes:
        name (str): of the layer.
        integers (int): accumulators compared, given the same input.
        different_integers (int): how many of them differ.
        different_outputs (int): outputs of the layer that differ in any bit, given the same input.
        ties (int): input bits that differ end to end, and tie.
        strays (int): input bits that differ end to end for no reason that is admitted.
    """

    FIELDS = ('name', 'integers', 'different_integers', 'different_outputs', 'ties', 'strays')

    def __init__(self, name, integers=0, different_integers=0, different_outputs=0, ties=0, strays=0):
        self.name = name
        self.integers = integers
        self.different_integers = different_integers
        self.different_outputs = different_outputs
        self.ties = ties
        self.strays = strays

    @property
    def passed(self):
        return not (self.different_integers or self.different_outputs or self.strays)

    def to_dict(self):
        """Returns the JSON-ready fields."""
        return {field: getattr(self, field) for field in self.FIELDS}

    def __str__(self):
        if not self.integers:
            return "'%s': nothing compared" % self.name
        said = '%s integers ==' % format(self.integers, ',')
        if self.different_integers:
            said = '%s of %s integers differ' % (format(self.different_integers, ','),
                                                 format(self.integers, ','))
        for count, what in ((self.different_outputs, 'outputs differ given the same input'),
                            (self.ties, 'input bits tie'), (self.strays, 'input bits differ and do not tie')):
            if count:
                said += ', %s %s' % (format(count, ','), what)
        return "'%s': %s" % (self.name, said)


class Parity(object):
    """How a lowered network compares with the trained one; see the module for what is admitted.

    Attributes:
        layers (list of LayerParity): the lowered layers; [] where there was nothing to lower.
        samples (int): samples compared end to end (of a sequence output, its steps).
        data (str): what they are: 'held-out' or 'seeded random input'.
        largest_difference (float): between finite outputs, over all samples.
        largest_output (float): largest finite magnitude of a trained output.
        unexplained_difference (float): as `largest_difference`, over the samples in which no bit ties.
        unexplained_error (float): as a share of the sample's scale, see `OutputParity`.
        not_finite (int): trained outputs that are NaN or infinite.
        different_not_finite (int): how many outputs are so in one network alone, or otherwise so, among
            the samples in which no bit ties.
        values (int): outputs compared.
        predictions (int): argmax compared; 0 where no output is a vector.
        different_predictions (int): how many differ, among the samples in which no bit ties.
        tolerance (float): admitted `unexplained_error`.
    """

    FIELDS = ('samples', 'data', 'values', 'largest_difference', 'largest_output', 'unexplained_difference',
              'unexplained_error', 'not_finite', 'different_not_finite', 'predictions',
              'different_predictions', 'tolerance')

    def __init__(self, tolerance, data='held-out'):
        self.layers = []
        self.samples = 0
        self.data = data
        self.values = 0
        self.largest_difference = 0.0
        self.largest_output = 0.0
        self.unexplained_difference = 0.0
        self.unexplained_error = 0.0
        self.not_finite = 0
        self.different_not_finite = 0
        self.predictions = 0
        self.different_predictions = 0
        self.tolerance = tolerance

    @property
    def same_predictions(self):
        """Whether all predictions compared are the same."""
        return self.different_predictions == 0

    @property
    def passed(self):
        """Whether the lowered network may be handed over; not where no finite output was compared."""
        return (self.samples > 0 and self.values > self.not_finite
                and self.same_predictions and not self.different_not_finite
                and all(layer.passed for layer in self.layers)
                and self.unexplained_error <= self.tolerance)

    def to_dict(self):
        """Returns the JSON-ready fields, `layers` as a list of dicts."""
        fields = {field: getattr(self, field) for field in self.FIELDS}
        fields.update(layers=[layer.to_dict() for layer in self.layers], passed=self.passed)
        return fields

    def __str__(self):
        lines = ['Lowered against trained, %s samples (%s): largest difference %.3g of outputs up to %.3g'
                 % (format(self.samples, ','), self.data, self.largest_difference, self.largest_output)]
        if self.predictions:
            lines[0] += ', predictions %s' % ('the same' if self.same_predictions else
                                              'differ in %d' % self.different_predictions)
        if self.not_finite or self.different_not_finite:
            lines.append('  %s of %s outputs are NaN or infinite: %s' % (
                format(self.not_finite, ','), format(self.values, ','),
                '%s differ' % format(self.different_not_finite, ',') if self.different_not_finite else
                'the same' if self.values > self.not_finite else 'nothing could be compared'))
        if not self.layers:
            lines.append('  nothing to lower: the lowered network is the exported one')
        lines += ['  %s' % layer for layer in self.layers]
        if not self.passed:
            lines.append('  REFUSED (tolerance %g)' % self.tolerance)
        return '\n'.join(lines)


def compare(model, lowered, minibatches, tolerance, data='held-out'):
    """Evaluates a trained and a lowered network on the same data.

    Args:
        model (cntk.Function): trained; its binary convolutions are blocks `BinaryConvolution`.
        lowered (cntk.Function): the same outputs, from blocks `BinaryConvolveOp`.
        minibatches: dicts of the model's arguments to data, at least one.
        tolerance (float): see `Parity`.
        data (str): what the minibatches are, for the report.

    Returns:
        Parity: not passed where no sample was compared.

    Raises:
        ValueError: the two networks do not have the same binary layers in the same order.
    """
    parity = Parity(tolerance, data)
    trained = _Twin(undilated(model), binary_block.OP_NAMES)
    twin = _Twin(lowered, OP_NAMES)
    _check_pairs(trained.blocks, twin.blocks)
    layers = [binary_block.BinaryLayer(block) for block in binary_block.binary_blocks(model)]
    probes = [_Probe(*each) for each in zip(layers, trained.blocks, twin.blocks)]
    parity.layers = [probe.parity for probe in probes]
    outputs = [OutputParity() for _ in model.outputs]
    for minibatch in minibatches:
        expected, actual = trained.evaluate(minibatch), twin.evaluate(minibatch)
        count = len(flat(expected.outputs[0]))
        explained = np.zeros(count, bool)
        for probe, read, read_lowered in zip(probes, expected.inputs, actual.inputs):
            probe.compare(read)
            explained |= probe.trace(read, read_lowered, explained)
        parity.samples += count
        for output, ours, theirs in zip(outputs, actual.outputs, expected.outputs):
            theirs, ours = flat(theirs), flat(ours)
            # Where steps and whole sequences meet, which step belongs where is not kept.
            clear = ~explained if len(explained) == len(theirs) else np.full(len(theirs), not explained.any())
            output.add(theirs, ours, clear)
            parity.values += theirs.size
    _sum_up(parity, outputs)
    return parity


def _sum_up(parity, outputs):
    """Fills in what was found out about the outputs, where there was one."""
    if parity.samples:
        for field in ('largest_difference', 'largest_output', 'unexplained_difference', 'unexplained_error'):
            setattr(parity, field, max(getattr(output, field) for output in outputs))
        for field in ('not_finite', 'different_not_finite', 'predictions', 'different_predictions'):
            setattr(parity, field, sum(getattr(output, field) for output in outputs))


class _Twin(object):
    """One of the two networks, with everything that is compared on its own level."""

    def __init__(self, model, op_names):
        self._model = opened(model, lambda block: block.is_block and block.op_name in op_names)
        self.blocks = [function for function in graph.primitives(self._model)
                       if function.is_block and function.op_name in op_names]
        self._inputs = [block.block_arguments_mapping[0][1] for block in self.blocks]
        self.outputs = self.inputs = None

    def evaluate(self, minibatch):
        """Returns itself, with `outputs` and the layers' `inputs` as `graph.values.evaluate` gives them."""
        outputs = list(self._model.outputs)
        values = evaluate(outputs + self._inputs, minibatch)
        self.outputs, self.inputs = values[:len(outputs)], values[len(outputs):]
        return self


class _Probe(object):
    """One layer, trained and lowered, as networks of their own that read the same input."""

    def __init__(self, layer, block, lowered_block):
        self.parity = LayerParity(layer.name or '(unnamed)')
        self._native_integers = native_integers(layer)
        twin = binary_block.BinaryLayer(block)
        source = C.input_variable(twin.input.shape, np.float32, dynamic_axes=twin.input.dynamic_axes)
        content = C.combine([twin.content.outputs[0], twin.core.outputs[0], C.alias(twin.operand).output,
                             C.alias(twin.signed).output])
        self._trained = _on(content, source)
        self._lowered = _on(graph.body(lowered_block), source)

    def compare(self, values):
        """Compares integers and outputs, both networks reading `values`."""
        output, integers, operand, _ = _run(self._trained, values)
        found = self._native_integers(operand)
        lowered_output, = _run(self._lowered, values)
        self.parity.integers += integers.size
        self.parity.different_integers += int(np.sum(integers != found))
        differ = _bits(output) != _bits(lowered_output)
        # There are many NaN, and which of them an operation returns is not defined.
        self.parity.different_outputs += int(np.sum(differ & ~(np.isnan(output) & np.isnan(lowered_output))))

    def trace(self, values, lowered_values, explained):
        """Returns, per sample, whether an input bit differs and ties.

        Args:
            values, lowered_values: what the layer reads in the two networks.
            explained (array of bool): samples in which a bit upstream differs and ties.
        """
        none = np.zeros(len(explained), bool)
        if np.array_equal(_bits(flat(values)), _bits(flat(lowered_values))):
            return none
        one, other = (_run(self._trained, read)[3] for read in (values, lowered_values))
        values, lowered_values = flat(values), flat(lowered_values)
        flips = (one > 0) != (other > 0)
        largest = np.maximum(_finite(values), _finite(lowered_values)).reshape(len(values), -1).max(axis=1)
        reach = (TIE_ULPS * np.spacing(largest)).reshape((-1,) + (1,) * (one.ndim - 1))
        with np.errstate(invalid='ignore'):
            tied = flips & (np.abs(one - other) <= reach)
        if len(values) != len(explained):
            # Steps here, whole sequences at the output: which step belongs where is not kept.
            explained, none = np.full(len(values), explained.any()), np.full(len(explained), tied.any())
        follows = explained.reshape((-1,) + (1,) * (one.ndim - 1))
        self.parity.ties += int(np.sum(tied & ~follows))
        self.parity.strays += int(np.sum(flips & ~tied & ~follows))
        return none if len(none) != len(tied) else tied.reshape(len(tied), -1).any(axis=1)


def _on(function, source):
    """Returns an unapplied Function of one placeholder, applied to `source`."""
    return function.clone(C.CloneMethod.share, {function.placeholders[0]: source})


def _run(network, values):
    """Returns the outputs of a network of one argument as arrays [samples, ...]."""
    return [flat(output) for output in
            evaluate(list(network.outputs), {network.arguments[0]: values})]


def _bits(values):
    return np.ascontiguousarray(values, np.float32).view(np.uint32)


def _finite(values):
    """Returns the magnitudes, 0 for NaN and infinities."""
    return np.where(np.isfinite(values), np.abs(values), np.float32(0))


def _check_pairs(blocks, lowered_blocks):
    names = [[block.name for block in each] for each in (blocks, lowered_blocks)]
    if names[0] != names[1]:
        raise ValueError('the lowered network should hold the native ops %s, one for each block '
                         'BinaryConvolution of the trained one, but holds %s' % tuple(names))
