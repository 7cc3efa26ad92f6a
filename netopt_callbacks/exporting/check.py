"""Runs what was written, beside CNTK: does the file compute what the network does?

What is demanded, of the file with the library and of the same in standard operators:

* A segment that reads the same gives the same bits.
* The rest, given what CNTK's segments give, agrees with CNTK within `TOLERANCE` of a sample's
  scale, at the outputs and wherever a segment reads.
* The file as it is, at batch 1 and more, agrees so too, but in samples in which a segment reads the
  same within the tolerance and gives something else: there a bit ties, since two engines round the
  sums of float layers differently.
"""
import numpy as np
import onnxruntime

from .. import graph
from ..deploy import ExportError, library
from ..lowering.output_parity import OutputParity
from .alone import segment_alone
from .assemble import assembled
from .cut import ENTRY, EXIT, INPUT, OUTPUT

TOLERANCE = 1e-4
MOST_SAMPLES = 64


class Comparison:
    """How a file compares with the network it was made of.

    Attributes:
        samples (int): compared.
        segments (int): of which the bits were compared.
        largest_error (float): of an output, as a share of its sample's scale, where no bit ties.
        tied (int): samples in which a bit ties, with the library or without it.
        predictions (int): samples whose argmax was compared; 0 where no output is a vector.
        different_predictions (int): those among them in which the argmax of an output differs,
            likewise, with a tie or not.
    """

    def __init__(self):
        self.samples = self.segments = self.tied = self.predictions = self.different_predictions = 0
        self.largest_error = 0.0

    def __str__(self):
        return (
            f'{self.samples} samples: largest error {self.largest_error:.2g} of the scale, '
            f'{self.tied} with a tie, {self.different_predictions} of {self.predictions} '
            'predictions differ'
        )


def compare(data, mended, cut, names, minibatch):
    """Compares a file with the network.

    Args:
        data (bytes): of the file.
        mended, cut, names: what it was assembled of.
        minibatch (dict): the arguments of `cut.whole` to data.

    Returns:
        Comparison

    Raises:
        ExportError: says in what they differ.
    """
    truth = _Truth(cut, minibatch)
    comparison = Comparison()
    comparison.samples, comparison.segments = truth.samples, len(cut.segments)
    tied, differ = np.zeros((2, truth.samples), bool)  # in any of the runs below
    _compare_rest(mended, cut, truth)
    for with_library in (True, False) if cut.segments else (False,):
        opened = assembled(mended, cut, names, inline=not with_library, inner=True)
        inner = _Session(opened.SerializeToString(), with_library)
        _compare_segments(cut, mended, truth, with_library)
        for first, last in ((0, 1), (0, truth.samples)):
            ties, differs = _compare_whole(inner, names, cut, truth, first, last, comparison)
            tied[first:last] |= ties
            differ[first:last] |= differs
    comparison.tied = int(tied.sum())
    if any(map(_is_vector, truth.outputs, truth.output_axes)):
        comparison.predictions, comparison.different_predictions = truth.samples, int(differ.sum())
    file = _Session(data, bool(cut.segments))
    found = file.run(truth.feed(names.inputs, 0, truth.samples))
    if [value.name for value in file.inputs] != names.inputs or file.outputs != names.outputs:
        raise ExportError(
            'the file has the inputs %s and the outputs %s, expected %s and %s'
            % ([value.name for value in file.inputs], file.outputs, names.inputs, names.outputs)
        )
    for name, output in zip(names.outputs, truth.outputs):
        if found[name].shape != output.shape:
            raise ExportError(
                f"the file gives '{name}' in the shape {found[name].shape}, the network "
                f"{output.shape}"
            )
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


class _Truth:
    """What CNTK computes: arrays as the file has them, [batch, ...], or [steps, batch, ...] of
    equally long sequences."""

    def __init__(self, cut, minibatch):
        variables = list(cut.whole.outputs)
        for segment in cut.segments:
            variables += [segment.entry, segment.exit]
        arguments = list(cut.whole.arguments)
        given = _equally_long(arguments, graph.evaluate(arguments, minibatch))
        try:
            values = graph.evaluate(variables, dict(zip(arguments, given)))
        except RuntimeError as error:
            raise NotImplementedError(
                'deploy.export: CNTK cannot evaluate the network, so there is nothing that a file '
                'could be compared with: %s' % (str(error).strip().splitlines() or [''])[0]
            ) from error
        self.samples = len(given[0])
        self.inputs = [self._array(value) for value in given]
        arrays = [self._array(value) for value in values]
        count = len(cut.whole.outputs)
        self.outputs = arrays[:count]
        self.entries, self.exits = arrays[count::2], arrays[count + 1 :: 2]
        self._is_sequence = [isinstance(value, list) for value in given]
        self.output_axes = [int(isinstance(value, list)) for value in values[:count]]
        self.entry_axes = [int(isinstance(value, list)) for value in values[count::2]]
        self.exit_axes = [int(isinstance(value, list)) for value in values[count + 1 :: 2]]

    @staticmethod
    def _array(value):
        return np.ascontiguousarray(np.stack(value, axis=1) if isinstance(value, list) else value)

    def feed(self, names, first, last):
        return {
            name: self.part(array, int(is_sequence), first, last)
            for name, array, is_sequence in zip(names, self.inputs, self._is_sequence)
        }

    @staticmethod
    def part(array, axis, first, last):
        return np.ascontiguousarray(array[first:last] if axis == 0 else array[:, first:last])


def _equally_long(arguments, values):
    """Cuts sequences to the shortest, and all to MOST_SAMPLES samples."""
    lengths = [
        len(step) for value in values if isinstance(value, list) for step in value[:MOST_SAMPLES]
    ]
    shortest = min(lengths) if lengths else None
    return [
        [np.ascontiguousarray(step[:shortest]) for step in value[:MOST_SAMPLES]]
        if isinstance(value, list)
        else np.ascontiguousarray(value[:MOST_SAMPLES])
        for value in values
    ]


def _compare_rest(mended, cut, truth):
    """The graph between segments, each of which gives what CNTK's does."""
    session = _Session(mended.SerializeToString(), False)
    feed = truth.feed([INPUT % index for index in range(len(truth.inputs))], 0, truth.samples)
    feed.update((EXIT % index, value) for index, value in enumerate(truth.exits))
    wanted = {value.name for value in session.inputs}
    found = session.run({name: value for name, value in feed.items() if name in wanted})
    found = {
        name[: -len('_Output')] if name.endswith('_Output') else name: value
        for name, value in found.items()
    }
    for kind, arrays, axes in (
        (OUTPUT, truth.outputs, truth.output_axes),
        (ENTRY, truth.entries, truth.entry_axes),
    ):
        for index, (expected, axis) in enumerate(zip(arrays, axes)):
            value = found[kind % index]
            what = (
                f"output {index}"
                if kind == OUTPUT
                else f"what segment '{cut.segments[index].name}' reads"
            )
            if value.shape != expected.shape:
                raise ExportError(
                    f'{what} has the shape {value.shape} in the file, {expected.shape} in CNTK'
                )
            error = _parity(expected, value, axis, np.ones(truth.samples, bool))
            if error is not None:
                raise ExportError(f'{what} differs from CNTK: {error}')


def _parity(expected, found, axis, clear, comparison=None):
    """Returns in words how samples differ; None where they agree."""
    expected, found = (np.moveaxis(value, axis, 0) for value in (expected, found))
    parity = OutputParity()
    parity.add(expected.reshape(len(expected), -1), found.reshape(len(found), -1), clear)
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
    for segment, entry, exit in zip(cut.segments, truth.entries, truth.exits):
        session = _Session(
            segment_alone(segment, mended, inline=not with_library).SerializeToString(),
            with_library,
        )
        found = session.run({'x': entry})['y']
        differ = (
            ~((found == exit) | (np.isnan(found) & np.isnan(exit)))
            if found.shape == exit.shape
            else None
        )
        if differ is None or differ.any():
            raise ExportError(
                "segment '{}' {} differs from CNTK's native code {}".format(
                    segment.name,
                    'with the library' if with_library else 'in standard operators',
                    f'in shape: {found.shape}, {exit.shape}'
                    if differ is None
                    else f'in {differ.sum()} of {differ.size} values',
                )
            )


def _compare_whole(session, names, cut, truth, first, last, comparison):
    """The file from one end to the other; returns in which samples a bit ties, and in which an
    argmax differs."""
    found = session.run(truth.feed(names.inputs, first, last))
    count = last - first
    explained, differ = np.zeros(count, bool), np.zeros(count, bool)
    for index in range(len(cut.segments)):
        entry = _differing(
            truth.part(truth.entries[index], truth.entry_axes[index], first, last),
            found[ENTRY % index],
            truth.entry_axes[index],
        )
        if (entry & ~explained).any():
            raise ExportError(
                f"what segment '{cut.segments[index].name}' reads differs from CNTK though no bit "
                "before it does"
            )
        exit = _differing(
            truth.part(truth.exits[index], truth.exit_axes[index], first, last),
            found[EXIT % index],
            truth.exit_axes[index],
        )
        explained |= exit
    for name, expected, axis in zip(names.outputs, truth.outputs, truth.output_axes):
        expected = truth.part(expected, axis, first, last)
        if found[name].shape != expected.shape:
            raise ExportError(
                f"at batch {count} '{name}' has the shape {found[name].shape} in the file, "
                f"{expected.shape} in CNTK"
            )
        error = _parity(expected, found[name], axis, ~explained, comparison)
        if error is not None:
            raise ExportError(f"at batch {count} '{name}' differs from CNTK: {error}")
        if _is_vector(expected, axis):
            differ |= expected.argmax(axis=1) != found[name].argmax(axis=1)
    return explained, differ


def _is_vector(output, axis):
    return axis == 0 and output.ndim == 2 and output.shape[1] > 1


def _differing(expected, found, axis):
    """Which samples differ by more than the tolerance."""
    if expected.shape != found.shape:
        raise ExportError(
            f'a segment reads or gives the shape {found.shape} in the file, {expected.shape} in '
            'CNTK'
        )
    expected, found = (
        np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1).astype(np.float64)
        for value in (expected, found)
    )
    with np.errstate(invalid='ignore'):
        same = (expected == found) | (np.isnan(expected) & np.isnan(found))
        scale = np.where(np.isfinite(expected), np.abs(expected), 0).max(axis=1, initial=0)
        common = (
            scale.mean() if scale.size else 0
        )  # a sample near 0 has the rounding errors of what cancelled in it
        near = np.abs(expected - found) <= TOLERANCE * (common + scale[:, None])
    return ~(same | near).all(axis=1)
