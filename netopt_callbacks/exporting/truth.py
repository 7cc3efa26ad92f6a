"""What CNTK computes of the samples that are compared: the network that was given, and the lowered
one with its segments."""
import numpy as np

from .. import graph
from ..deploy import ExportError
from ..lowering.undilated import without_dilation

TOLERANCE = 1e-4  # of a sample's scale: admits float sums that two engines round differently
MOST_SAMPLES = 64


class Truth:
    """Arrays as the file has them, [batch, ...], or [steps, batch, ...] of equally long sequences.

    Args:
        cut (CutNetwork)
        minibatch (dict): its arguments to data.

    Attributes:
        minibatch (dict): what of it is compared.
        samples (int)
        given (list of array): the outputs of the network that was given.
        outputs (list of array): of the lowered one.
        entries, exits (list of list of array): what each of its segments reads and gives.
        output_axes, entry_axes, exit_axes: likewise, the place of the batch in each array.
        tied (array of bool): samples in which the two differ since a bit ties.
    """

    def __init__(self, cut, minibatch):
        variables = list(cut.whole.outputs)
        count = len(variables)
        for segment in cut.segments:
            variables += segment.entries + segment.exits
        given = _equally_long(graph.evaluate(cut.arguments, minibatch))
        self.minibatch = dict(zip(cut.arguments, given))
        try:
            wanted = graph.evaluate(list(without_dilation(cut.given).outputs), self.minibatch)
            values = graph.evaluate(variables, self.minibatch)
        except (RuntimeError, ValueError) as error:
            raise NotImplementedError(
                'deploy.export: CNTK cannot evaluate the network, so there is nothing that a file '
                'could be compared with: %s' % (str(error).strip().splitlines() or [''])[0]
            ) from error
        self.samples = len(given[0])
        self.inputs = [self._array(value) for value in given]
        self.given = [self._array(value) for value in wanted]
        self._is_sequence = [isinstance(value, list) for value in given]
        arrays = [self._array(value) for value in values]
        self.outputs, self.entries, self.exits = _parted(arrays, count, cut.segments)
        axes = [int(isinstance(value, list)) for value in values]
        self.output_axes, self.entry_axes, self.exit_axes = _parted(axes, count, cut.segments)
        self.tied = np.zeros(self.samples, bool)

    def admit_ties(self):
        """Takes samples in which the two differ for tied; of a gate that passed and met a tie."""
        for one, other, axis in zip(self.given, self.outputs, self.output_axes):
            self.tied |= differing(one, other, axis)

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


def _parted(values, count, segments):
    """Returns the first values, and two lists of those of each segment's entries and exits, which
    follow in turns."""
    rest = iter(values[count:])
    entries, exits = [], []
    for segment in segments:
        entries.append([next(rest) for _ in segment.entries])
        exits.append([next(rest) for _ in segment.exits])
    return values[:count], entries, exits


def _equally_long(values):
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


def differing(expected, found, axis):
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
