"""What CNTK computes of the samples that are compared: the network that was given, and the lowered
one with its segments."""
import numpy as np

from .. import graph
from ..deploy import ExportError
from ..lowering.undilated import without_dilation

TOLERANCE = 1e-4  # of a sample's scale: admits float sums that two engines round differently
MOST_SAMPLES = 64
LEAST_STEPS = 4  # of which shorter sequences are made, since one step shows nothing of the others


def truths(cut, minibatch):
    """Returns the Truths (list) of a CutNetwork: of as many steps as there are, and of few.

    Args:
        minibatch (dict): the arguments of the network to data.
    """
    given = [_long_enough(value) for value in graph.evaluate(cut.arguments, minibatch)]
    axes = [sequence_axis(argument) for argument in cut.arguments]
    try:
        many = Truth(cut, _cut_to(given, axes, _many(given, axes)))
    except NotImplementedError:  # maybe since it adds the steps of one axis to another's
        if len(set(axes) - {None}) < 2:
            raise
        axes = [axis and 'steps' for axis in axes]
        many = Truth(cut, _cut_to(given, axes, _many(given, axes)))
    for few in (1, 2) if any(axes) else ():
        lengths = {axis: few + place for place, axis in enumerate(_many(given, axes))}
        try:
            return [many, Truth(cut, _cut_to(given, axes, lengths))]
        except NotImplementedError:  # as of a sequence.slice that leaves out a step
            pass
    return [many]


def sequence_axis(variable):
    """Returns the name of a Variable's axis of steps; None where it has none."""
    return variable.dynamic_axes[-1].name if len(variable.dynamic_axes) > 1 else None


def _long_enough(value):
    """The first samples, of which those of few steps repeat them."""
    if not isinstance(value, list):
        return np.ascontiguousarray(value[:MOST_SAMPLES])
    return [
        np.concatenate([steps] * -(-LEAST_STEPS // len(steps))) for steps in value[:MOST_SAMPLES]
    ]


def _many(given, axes):
    """Returns {axis: steps}, as many as all samples have, but those of two axes differ."""
    shortest = {}
    for value, axis in zip(given, axes):
        if axis is not None:
            steps = min(map(len, value))
            shortest[axis] = min(steps, shortest.get(axis, steps))
    return {axis: max(steps - place, 1) for place, (axis, steps) in enumerate(shortest.items())}


def _cut_to(given, axes, lengths):
    return [
        value if axis is None else [np.ascontiguousarray(steps[: lengths[axis]]) for steps in value]
        for value, axis in zip(given, axes)
    ]


class Truth:
    """Arrays as the file has them, [batch, ...], or [steps, batch, ...] of equally long sequences.

    Args:
        cut (CutNetwork)
        given (list): the values of its arguments, sequences as lists of equally long arrays.

    Attributes:
        minibatch (dict): the arguments to what is compared.
        samples (int)
        given (list of array): the outputs of the network that was given.
        outputs (list of array): of the lowered one.
        entries, exits (list of list of array): what each of its segments reads and gives.
        output_axes, entry_axes, exit_axes: likewise, the place of the batch in each array.
        tied (array of bool): samples in which the two differ since a bit ties.
    """

    def __init__(self, cut, given):
        variables = list(cut.whole.outputs)
        count = len(variables)
        for segment in cut.segments:
            variables += segment.entries + segment.exits
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
