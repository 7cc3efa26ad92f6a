"""Runs what was written, beside CNTK: does the file compute what the network does?

What is demanded first, as of any lowered network, is what the gate of `lowering.parity` demands of
the one that the file is made of. Then, of the file with the library and of the same in standard
operators:

* A segment that reads the same gives the same bits. In standard operators, whose sums of float
  convolutions have another order, it is taken apart at its float layers (`float_layer`): each alone
  gives what native code's does, but for `SHARE_OF_TERMS` of what the terms of a filter add up to,
  and all the rest, which reads native code's values in the place of its own, gives the same bits.
* What is between segments, given what CNTK's give, agrees with CNTK within `TOLERANCE` of a
  sample's scale, at the outputs and wherever a segment reads.
* The file as it is, at batch 1 and more, agrees so too with the network that was given, but in
  samples in which a segment reads the same within the tolerance and gives something else: there a
  bit ties, since two engines round the sums of float layers differently. With the library, those
  inside of a segment are CNTK's.
"""
import warnings

import numpy as np
import onnxruntime

from ..deploy import ExportError, library
from ..lowering import parity as gate
from ..lowering.output_parity import OutputParity
from ..native_program_read import description_of
from . import alone
from .assemble import assembled
from .cut import ENTRY, EXIT, INPUT, OUTPUT
from .float_layer import layers_of, sizes_of_terms
from .products import products_of
from .truth import TOLERANCE, differing, truths

SHARE_OF_TERMS = 1e-5  # that sums of floats in another order may differ by
MOST_WRONG = 0.05  # of the predictions, in samples with a tie
_OF_TIES = (
    'two engines round differently, which shows everywhere if a feature is the same number in all '
    'samples, as of a dead unit, and its threshold is that number; take the unit out, or train on'
)


class Comparison:
    """How a file compares with the network it was made of.

    Attributes:
        samples (int): compared.
        clear (int): among them those in which no bit ties with the library, or none without it.
        segments (int): of which the bits were compared.
        largest_error (float): of an output, as a share of its sample's scale, where no bit ties.
        tied (int): samples in which a bit ties, with the library or without it.
        tied_error (float): as `largest_error`, with these samples.
        predictions (int): samples whose argmax was compared; 0 where no output is a vector.
        different_predictions (int): those among them in which the argmax of an output differs,
            likewise, with a tie or not.
    """

    def __init__(self):
        self.samples = self.clear = self.segments = self.tied = 0
        self.predictions = self.different_predictions = 0
        self.largest_error = self.tied_error = 0.0

    def __str__(self):
        said = f'largest error {self.largest_error:.2g} of the scale'
        if not self.clear:
            said = 'none without a tie, so end to end nothing could be compared'
        said = f'{self.samples} samples: {said}, {self.tied} with a tie'
        if self.tied:
            said += f' (largest error {self.tied_error:.2g})'
        return f'{said}, {self.different_predictions} of {self.predictions} predictions differ'


def compare(data, mended, cut, names, minibatch):
    """Compares a file with the network.

    Args:
        data (bytes): of the file.
        mended, cut, names: what it was assembled of.
        minibatch (dict): the arguments of `cut.given` to data.

    Returns:
        Comparison

    Raises:
        ExportError: says in what they differ.
    """
    comparison = Comparison()
    compared = truths(cut, minibatch)
    samples = compared[0].samples
    comparison.samples, comparison.segments = samples, len(cut.segments)
    ways = (True, False) if cut.segments else (False,)  # with the library, and without it
    tied, differ = ({way: np.zeros(samples, bool) for way in ways} for _ in range(2))
    for truth in compared:
        _compare_lowered(cut, truth)
        _compare_rest(mended, cut, truth)
    for with_library in ways:
        opened = assembled(mended, cut, names, inline=not with_library, inner=True)
        inner = _Session(opened.SerializeToString(), with_library)
        for truth in compared:
            tied[with_library] |= truth.tied
            _compare_segments(cut, mended, truth, with_library)
            for first, last in ((0, 1), (0, samples)):
                ties, differs = _compare_whole(inner, names, cut, truth, first, last, comparison)
                tied[with_library][first:last] |= ties
                differ[with_library][first:last] |= differs
    comparison.tied = int(np.any(list(tied.values()), axis=0).sum())
    comparison.clear = int((~np.all(list(tied.values()), axis=0)).sum())
    _judge_ties(tied, differ)
    if any(map(_is_vector, compared[0].given, compared[0].output_axes)):
        comparison.predictions = samples
        comparison.different_predictions = int(np.any(list(differ.values()), axis=0).sum())
    for with_library in ways:
        file, clear = _Session(data, with_library), ~tied[with_library]
        for truth in compared:
            _compare_file(file, names, truth, clear, comparison)
    return comparison


class _Session:
    def __init__(self, data, with_library):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        if with_library:
            options.register_custom_ops_library(library())
        try:
            self._session = onnxruntime.InferenceSession(
                data, options, providers=['CPUExecutionProvider']
            )
        except Exception as error:  # its classes have no base but this
            raise ExportError(
                'ONNX Runtime %s does not load what was written: %s'
                % (onnxruntime.__version__, ' '.join(str(error).split())[:500])
            ) from error
        self.inputs = self._session.get_inputs()
        self.outputs = [value.name for value in self._session.get_outputs()]

    def run(self, feed):
        """Returns the outputs by name."""
        try:
            return dict(zip(self.outputs, self._session.run(None, feed)))
        except Exception as error:
            raise ExportError(
                'ONNX Runtime %s does not run what was written: %s'
                % (onnxruntime.__version__, ' '.join(str(error).split())[:500])
            ) from error


def _compare_lowered(cut, truth):
    """The network that the file is made of, beside the one that was given: the gate of `Lower`."""
    parity = gate.compare(
        cut.given, cut.lowered, [truth.minibatch], TOLERANCE, 'of export', cut.lowering
    )
    if parity.values <= parity.not_finite:
        raise ExportError(
            'nothing could be compared: in all %s samples every output of the network is NaN or '
            'infinite; train it first, as BatchNormalization without statistics overflows, or '
            'look for weights that are not finite' % format(parity.samples, ',')
        )
    if not parity.passed:
        raise ExportError(
            'the network on native code, of which the file is made, does not compute what the '
            'given one does%s\n%s'
            % (
                ''
                if parity.first_difference is None
                else f'; it first differs in {parity.first_difference}',
                parity,
            )
        )
    if any(layer.ties for layer in parity.layers):
        truth.admit_ties()


def _compare_rest(mended, cut, truth):
    """The graph between segments, each of which gives what CNTK's does."""
    session = _Session(mended.SerializeToString(), False)
    feed = truth.feed([INPUT % index for index in range(len(truth.inputs))], 0, truth.samples)
    for index, exits in enumerate(truth.exits):
        feed.update((EXIT % (index, place), value) for place, value in enumerate(exits))
    wanted = {value.name for value in session.inputs}
    found = session.run({name: value for name, value in feed.items() if name in wanted})
    found = {
        name[: -len('_Output')] if name.endswith('_Output') else name: value
        for name, value in found.items()
    }
    compared = [
        (f'output {index}', OUTPUT % index, expected, axis)
        for index, (expected, axis) in enumerate(zip(truth.outputs, truth.output_axes))
    ]
    for index, segment in enumerate(cut.segments):
        compared += [
            (f"what segment '{segment.name}' reads", ENTRY % (index, place), expected, axis)
            for place, (expected, axis) in enumerate(
                zip(truth.entries[index], truth.entry_axes[index])
            )
        ]
    for what, name, expected, axis in compared:
        value = found[name]
        if value.shape != expected.shape:
            raise ExportError(
                f'{what} has the shape {value.shape} in the file, {expected.shape} in CNTK'
            )
        error = _parity(expected, value, axis, np.ones(truth.samples, bool))
        if error is not None:
            raise ExportError(f'{what} differs from CNTK: {error}')


def _outputs(expected, found, axis, clear):
    expected, found = (np.moveaxis(value, axis, 0) for value in (expected, found))
    parity = OutputParity()
    parity.add(expected.reshape(len(expected), -1), found.reshape(len(found), -1), clear)
    return parity


def _parity(expected, found, axis, clear, comparison=None):
    """Returns in words how samples differ; None where they agree."""
    parity = _outputs(expected, found, axis, clear)
    if comparison is not None:
        comparison.largest_error = max(comparison.largest_error, parity.unexplained_error)
    if parity.different_not_finite:
        return f'{parity.different_not_finite} values are infinite or NaN in one of them'
    if not parity.unexplained_error <= TOLERANCE:
        return (
            f"by {parity.unexplained_error:.2g} of a sample's scale, "
            f'at most {TOLERANCE:g} is admitted'
        )
    return None


def _compare_segments(cut, mended, truth, with_library):
    """Every segment on its own, fed with what CNTK's reads."""
    for segment, entries, exits in zip(cut.segments, truth.entries, truth.exits):
        what = f"segment '{segment.name}' "
        what += 'with the library' if with_library else 'in standard operators'
        rows = [
            entry if shape is None else entry.reshape((-1,) + tuple(shape))
            for entry, shape in zip(entries, segment.rows)
        ]
        products = [] if with_library else products_of(segment.state, rows)
        model = (
            alone.segment_apart(segment, mended)
            if products
            else alone.segment_alone(segment, mended, inline=not with_library)
        )
        feed = {alone.X % place: entry for place, entry in enumerate(entries)}
        feed.update((alone.GIVEN % number, given) for number, (_, given) in enumerate(products))
        found = _Session(model.SerializeToString(), with_library).run(feed)
        layers = layers_of(description_of(segment.state))
        for number, (layer, (read, given)) in enumerate(zip(layers, products)):
            name, own = f'float layer {number} of {what}', found[alone.OWN % number]
            _demand_bits(f'what {name} reads', read, found[alone.READ % number])
            _demand_shape(name, given, own)
            _demand_sums(name, given, own, sizes_of_terms(layer, read))
        for place, exit in enumerate(exits):
            _demand_bits(what, exit, found[alone.Y % place])


def _demand_sums(what, expected, found, sizes):
    """Sums of floats in another order."""
    expected, found = expected.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid='ignore'):
        same = (expected == found) | (np.isnan(expected) & np.isnan(found))
        errors = np.abs(expected - found)
        wrong = ~(same | (errors <= SHARE_OF_TERMS * sizes + np.finfo(np.float32).tiny))
    if wrong.any():
        filters = sorted(set(np.nonzero(wrong)[1].tolist()))
        shares = errors[wrong] / np.broadcast_to(sizes, errors.shape)[wrong]
        raise ExportError(
            f"{what} differs from CNTK's native code in {wrong.sum()} of {wrong.size} values, in "
            f'{len(filters)} of {wrong.shape[1]} filters, the first {filters[0]}: by '
            f'{shares.max():.2g} of what its terms add up to, at most {SHARE_OF_TERMS:g} is '
            'admitted'
        )


def _demand_bits(what, expected, found):
    _demand_shape(what, expected, found)
    differ = ~((found == expected) | (np.isnan(found) & np.isnan(expected)))
    if differ.any():
        raise ExportError(
            f"{what} differs from CNTK's native code in {differ.sum()} of {differ.size} values"
        )


def _demand_shape(what, expected, found):
    if found.shape != expected.shape:
        raise ExportError(
            f"{what} differs from CNTK's native code in shape: {found.shape}, {expected.shape}"
        )


def _compare_whole(session, names, cut, truth, first, last, comparison):
    """The file from one end to the other; returns in which samples a bit ties, and in which an
    argmax differs."""
    found = session.run(truth.feed(names.inputs, first, last))
    count = last - first
    explained, differ = np.zeros(count, bool), np.zeros(count, bool)
    for index, segment in enumerate(cut.segments):
        entries, exits = (
            [
                differing(
                    truth.part(expected, axis, first, last), found[kind % (index, place)], axis
                )
                for place, (expected, axis) in enumerate(zip(arrays[index], axes[index]))
            ]
            for kind, arrays, axes in (
                (ENTRY, truth.entries, truth.entry_axes),
                (EXIT, truth.exits, truth.exit_axes),
            )
        )
        if (np.any(entries, axis=0) & ~explained).any():
            raise ExportError(
                f"what segment '{segment.name}' reads differs from CNTK though no bit before it "
                "does"
            )
        explained |= np.any(exits, axis=0)
    clear = ~(explained | truth.tied[first:last])
    for name, expected, axis in zip(names.outputs, truth.given, truth.output_axes):
        expected = truth.part(expected, axis, first, last)
        if found[name].shape != expected.shape:
            raise ExportError(
                f"at batch {count} '{name}' has the shape {found[name].shape} in the file, "
                f"{expected.shape} in CNTK"
            )
        error = _parity(expected, found[name], axis, clear, comparison)
        with_ties = _outputs(expected, found[name], axis, np.ones_like(clear)).unexplained_error
        comparison.tied_error = max(comparison.tied_error, with_ties)
        if error is not None:
            raise ExportError(f"at batch {count} '{name}' differs from CNTK: {error}")
        if _is_vector(expected, axis):
            differ |= expected.argmax(axis=1) != found[name].argmax(axis=1)
    return explained, differ


def _compare_file(file, names, truth, clear, comparison):
    """The very file that is handed over, in samples in which no bit ties."""
    if [value.name for value in file.inputs] != names.inputs or file.outputs != names.outputs:
        raise ExportError(
            'the file has the inputs %s and the outputs %s, expected %s and %s'
            % ([value.name for value in file.inputs], file.outputs, names.inputs, names.outputs)
        )
    found = file.run(truth.feed(names.inputs, 0, truth.samples))
    for name, expected, axis in zip(names.outputs, truth.given, truth.output_axes):
        if found[name].shape != expected.shape:
            raise ExportError(
                f"the file gives '{name}' in the shape {found[name].shape}, the network "
                f"{expected.shape}"
            )
        error = _parity(expected, found[name], axis, clear, comparison)
        if error is not None:
            raise ExportError(f"what the file gives as '{name}' differs from CNTK: {error}")


def _judge_ties(tied, differ):
    """Refuses a file in which what follows from ties are wrong predictions.

    Args:
        tied, differ (dict of bool to array): samples in which a bit ties, and an argmax differs,
            with the library (True) and without it (False).
    """
    blind, of_blind = [], 0
    for way, ties in tied.items():
        wrong = int((ties & differ[way]).sum())
        how = 'with the library' if way else 'without the library'
        said = f'{how} a bit ties in {ties.sum()} of {len(ties)} samples'
        if wrong > max(1, MOST_WRONG * len(ties)):
            raise ExportError(
                f'{said}, and {wrong} predictions differ in these: {_OF_TIES}; or give data= with '
                'more samples, if these were few'
            )
        if ties.all():
            blind, of_blind = blind + [how], max(of_blind, wrong)
    if blind:
        said = ' and '.join(blind)
        what = 'nothing' if len(blind) == len(tied) else f'nothing {said}'
        warnings.warn(
            f'deploy.export: {said} a bit ties in all samples, so end to end {what} could be '
            f'compared, but its parts alone; {of_blind} predictions differ: {_OF_TIES}',
            UserWarning,
            stacklevel=5,
        )


def _is_vector(output, axis):
    return axis == 0 and output.ndim == 2 and output.shape[1] > 1
