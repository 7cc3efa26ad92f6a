"""Reads held-out data for recovery, calibration and the parity gate; measures the metric on it."""
import math
import os
import sys
import warnings

import cntk as C
import numpy as np
from cntk.io import (
    INFINITELY_REPEAT,
    MinibatchData,
    MinibatchSource,
    MinibatchSourceFromData,
    UserMinibatchSource,
)

from .. import graph
from ..trainers.random_state import draws_when_evaluated
from ..trainers.state import own
from .arrays import ROWS, Arrays, name_of, size_at
from .sources import has_position, next_minibatch


class Minibatches:
    """Held-out minibatches as dicts {argument: data}; can be iterated any number of times.

    Args:
        data: an `Arrays` or `Source`, or None if the run has no held-out data.
        arguments (list of cntk.Variable): which of the criterion's arguments to give.
    """

    def __init__(self, data, arguments):
        self._data = data
        self._arguments = list(arguments)

    def __bool__(self):
        return self._data is not None

    def __iter__(self):
        return iter(()) if self._data is None else self._data.read(self._arguments)


class Source:
    """Held-out data of a minibatch source; reading it leaves the source's position unchanged.

    Args:
        source (cntk.io.MinibatchSource or cntk.io.UserMinibatchSource): a finite source.
        streams (dict): the criterion's arguments to the source's stream infos.
        minibatch_size (int or minibatch_size_schedule): the user's, in samples, since a source may
            give nothing for another size; None if not known yet.
        max_samples (int): how many samples to read; None for all.
    """

    def __init__(self, source, streams, minibatch_size=None, max_samples=None):
        self._source = source
        self._streams = streams
        self._size = minibatch_size
        self._limit = sys.maxsize if max_samples is None else max_samples
        if self._limit >= sys.maxsize and _is_endless(source):
            raise ValueError(
                'the minibatch source of held-out data must end, got one that repeats for ever; '
                'give it max_sweeps=1 or max_samples='
            )
        if not has_position(source):
            raise ValueError(
                f'the held-out minibatch source {type(source).__name__} has no position to go back '
                'to after a measurement: override get_checkpoint_state() and '
                'restore_from_checkpoint(state), or give NumPy arrays'
            )

    def learn_size(self, samples):
        """Sets the minibatch size to that of the training, if it is not known."""
        self._size = self._size or samples

    def read(self, arguments, as_trained=False):
        """Yields dicts of MinibatchData, always in minibatches of the user's size."""
        state = self._source.get_checkpoint_state()
        seen = 0
        try:
            while seen < self._limit:
                size = size_at(self._size, seen) or ROWS
                minibatch = next_minibatch(self._source, min(size, self._limit - seen))
                if not minibatch:
                    return
                yield {argument: minibatch[self._streams[argument]] for argument in arguments}
                seen += max(data.num_samples for data in minibatch.values())
        finally:
            self._source.restore_from_checkpoint(state)


def _is_endless(source):
    """Whether a source repeats forever.

    `is_infinite` of a `MinibatchSourceFromData` is always False.
    """
    return (
        source.is_infinite()
        or isinstance(source, MinibatchSourceFromData)
        and source._max_samples >= INFINITELY_REPEAT
    )


def held_out_data(data, arguments, streams=None, cross_validation=None, minibatch_size=None):
    """Returns the held-out data of a run, or None if it has none.

    Args:
        data: what the user gave as `data=`: arrays in the order of the criterion's arguments, a
            dict of them by argument or its name, or a minibatch source; None takes
            `cross_validation`.
        arguments (tuple of cntk.Variable): the criterion's.
        streams (dict): the training's map of arguments to stream infos; a source given as `data`
            must have streams of the same names.
        cross_validation (dict): a remembered CrossValidationConfig's arguments.
        minibatch_size (int or minibatch_size_schedule): that of the training; None if not known.

    Raises:
        TypeError, ValueError: `data` is neither, or does not fit the criterion.
    """
    if data is None:
        return _of_cross_validation(cross_validation or {}, streams)
    if isinstance(data, (MinibatchSource, UserMinibatchSource)):
        return Source(data, _streams_of(data, arguments, streams), minibatch_size)
    if isinstance(data, (str, bytes, os.PathLike)):
        raise TypeError(
            f'data must be arrays or a minibatch source, got the {type(data).__name__} {data!r}; '
            'open a file with a MinibatchSource of CNTK, with max_sweeps=1'
        )
    if isinstance(data, dict):
        data = _in_order(data, arguments)
    if isinstance(data, np.ndarray) or not isinstance(data, (tuple, list)):
        data = (data,)
    if not all(
        hasattr(array, '__len__') or hasattr(array, 'shape') or isinstance(array, MinibatchData)
        for array in data
    ):
        raise TypeError(
            'data must be NumPy arrays in the order of the arguments, or a '
            f'minibatch source, got {data!r}; give for example data=(images, labels)'
        )
    return Arrays(tuple(data), arguments, minibatch_size)


def _in_order(data, arguments):
    """Returns the arrays of a dict {argument or its name: array}, in the order of the arguments.

    As in CNTK, a name has to be that of one argument alone.
    """
    found = [
        [place for place, argument in enumerate(arguments) if _is_key_of(key, argument)]
        for key in data
    ]
    if sorted(found) != [[place] for place in range(len(arguments))]:
        raise ValueError(
            'data as a dict must have one array for each argument of the network, %s, by the '
            'argument or by its name if no other has it; got %s; add what is missing, and leave '
            'out the rest'
            % tuple(', '.join(map(_shown, keys)) or 'none' for keys in (arguments, data))
        )
    arrays = list(data.values())
    return tuple(arrays[found.index([place])] for place in range(len(arguments)))


def _is_key_of(key, argument):
    if isinstance(key, str):
        return key in (argument.name, argument.uid)
    return getattr(key, 'uid', None) == argument.uid


def _shown(key):
    """Returns a key of a dict of data as text; two Variables may have one name."""
    return f'{key.name} ({key.uid})'.lstrip() if isinstance(key, C.Variable) else repr(key)


def _of_cross_validation(given, streams):
    """Returns the cross-validation data, or None if there is none or CNTK will refuse it.

    CNTK itself refuses an endless source of its own. A source that cannot go back to its position
    is left to CNTK, so that CNTK's cross-validation reads the same data as without this package.

    Raises:
        ValueError: a source in Python never ends: CNTK would cross-validate for ever.
    """
    source, limit = given.get('source'), given.get('max_samples')
    if source is None:
        return None
    if limit in (None, sys.maxsize) and _is_endless(source):
        if not isinstance(source, UserMinibatchSource):
            return None
        raise ValueError(
            'the cross-validation source must end, got one that repeats for ever; give the source '
            'max_sweeps=1 or max_samples=, or CrossValidationConfig max_samples='
        )
    if not has_position(source):
        warnings.warn(
            f'the cross-validation source {type(source).__name__} has no position to go back to, '
            'so nothing of it is read for recovery and calibration: override '
            'restore_from_checkpoint, or give data='
        )
        return None
    return Source(source, given.get('streams') or streams, given.get('minibatch_size'), limit)


def _streams_of(source, arguments, streams):
    found = {}
    for argument in arguments:
        name = streams[argument].name if streams and argument in streams else argument.name
        if not name:
            raise ValueError(
                'the argument %s has no name, and a minibatch source given as data is read by '
                'names, got the streams %s; name the input as its stream: input_variable(%s, '
                'name=%r)'
                % (
                    argument.uid,
                    ', '.join(sorted(source.streams.keys())),
                    argument.shape[0] if len(argument.shape) == 1 else argument.shape,
                    min(source.streams.keys(), default='features'),
                )
            )
        if name not in source.streams.keys():
            raise ValueError(
                'the minibatch source given as data must have a stream %r for the argument %s, '
                'got one with the streams %s; name the stream or the argument alike'
                % (name, name_of(argument), ', '.join(sorted(source.streams.keys())))
            )
        found[argument] = source.streams[name]
    return found


def samples_of(minibatch):
    """Returns the samples of a minibatch as `train_minibatch` takes it; None if not known."""
    data = minibatch[0] if isinstance(minibatch, tuple) and len(minibatch) == 2 else minibatch
    counts = [_samples(each) for each in (data.values() if isinstance(data, dict) else [data])]
    return max([count for count in counts if count] or [0]) or None


def _samples(data):
    if isinstance(data, MinibatchData):
        return data.num_samples
    if isinstance(data, (list, tuple)):
        return sum(row.shape[0] if getattr(row, 'ndim', 0) > 1 else 1 for row in data)
    return data.shape[0] if getattr(data, 'shape', None) else None


class Measure:
    """The average of a metric over held-out data, on a network of its own.

    The copy shares only the Parameters with the trainer, so a measurement changes no random state,
    no recurrence and no statistics of the training network. It can be called any number of times
    while the trainer has the same network.

    A metric that is one number for a whole minibatch is averaged as in CNTK: the sum of the
    numbers, divided by the number of samples in the first input of its last operation.

    Args:
        metric (cntk.Function): summed over its elements for each sample, as in CNTK's trainer.

    Attributes:
        error (float): standard error of the last average, which is the spread of the metric over
            the samples, divided by the root of their number; None if that is not finite, or the
            metric is one number for a minibatch.
    """

    def __init__(self, metric):
        copy = own(graph.clone_shared(metric))
        self._counted = copy.root_function.inputs[0]
        if copy.output.shape:
            copy = own(C.reduce_sum(copy, C.Axis.all_static_axes()))
        self.arguments = list(copy.arguments)
        self._per_sample = bool(copy.output.dynamic_axes)
        self.error = None
        # A copy that draws random numbers would draw other numbers in a second measurement.
        self.repeats = not draws_when_evaluated(copy)
        if self._per_sample:
            every = C.Axis.all_axes()
            self._sums = C.combine(
                [C.reduce_sum(each, every) for each in (copy, C.ones_like(copy), C.square(copy))]
            )
        else:
            self._counted = (
                self._counted if self._counted.is_output else C.alias(self._counted).output
            )
            self._sums = C.combine([copy.output, self._counted])
        own(self._sums)

    def __call__(self, data, device=None):
        """Returns the average over `data`, an `Arrays` or `Source`, as a float."""
        total, count, squares = 0.0, 0.0, 0.0
        for minibatch in data.read(self.arguments, as_trained=not self._per_sample):
            _, values = self._sums.forward(
                minibatch, list(self._sums.outputs), device=device, as_numpy=False
            )
            summed, counted, *squared = (values[output] for output in self._sums.outputs)
            total += _number(summed)
            count += _number(counted) if self._per_sample else _sample_count(self._counted, counted)
            squares += sum(map(_number, squared))
        if not count:
            raise ValueError('the held-out data is empty')
        mean = total / count
        if self._per_sample:
            variance = squares / count - mean * mean
            self.error = math.sqrt(max(0.0, variance) / count) if math.isfinite(variance) else None
        return mean


def _number(value):
    return float(np.asarray(value.asarray()).ravel()[0])


def _sample_count(variable, value):
    """Returns how many samples a Value holds, counted as in CNTK's trainer."""
    shape = value.shape
    return int(np.prod(shape[: len(shape) - len(variable.shape)])) - value.masked_count()
