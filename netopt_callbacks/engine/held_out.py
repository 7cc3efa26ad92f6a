"""The data that recovery, calibration and the parity gate are measured on."""
import sys
import warnings

import cntk as C
import numpy as np
from cntk.io import (INFINITELY_REPEAT, MinibatchSource, MinibatchSourceFromData,
                     UserMinibatchSource)

from .. import graph
from .sources import has_position

ROWS = 256


class Minibatches(object):
    """Held-out minibatches as dicts {argument: data}; may be iterated any number of times.

    Args:
        data: an `Arrays` or `Source`, or None where the run has no held-out data.
        arguments (list of cntk.Variable): which of the criterion's arguments to give.
    """

    def __init__(self, data, arguments):
        self._data = data
        self._arguments = list(arguments)

    def __bool__(self):
        return self._data is not None

    def __iter__(self):
        return iter(()) if self._data is None else self._data.read(self._arguments)


class Arrays(object):
    """Held-out data as arrays, one for each of the criterion's arguments, in their order.

    Args:
        arrays (tuple): NumPy arrays, SciPy sparse matrices or lists of sequences.
        arguments (tuple of cntk.Variable): the criterion's.

    Raises:
        ValueError: not one array for each argument, or different lengths, or none at all.
    """

    def __init__(self, arrays, arguments):
        names = [argument.name or argument.uid for argument in arguments]
        if len(arrays) != len(arguments):
            raise ValueError('data must be one array for each argument, in the '
                             'order %s; got %d; give all of them in a tuple' % (', '.join(names), len(arrays)))
        rows = [_rows(array) for array in arrays]
        if len(set(rows)) != 1 or rows[0] == 0:
            raise ValueError('data must hold the same number of samples, at least 1, for each '
                             'argument, got %s; cut the arrays alike' % ', '.join(
                                 '%s: %d' % pair for pair in zip(names, rows)))
        for name, array, argument in zip(names, arrays, arguments):
            shape = getattr(array, 'shape', None)
            if isinstance(array, np.ndarray) and argument.shape and -1 not in argument.shape \
                    and len(argument.dynamic_axes) == 1 \
                    and np.prod(shape[1:]) != np.prod(argument.shape):
                raise ValueError('data for argument %s must have shape [samples, %s], got %s; samples are the '
                                 'first axis, the others those of the input_variable'
                                 % (name, ', '.join(map(str, argument.shape)), list(shape)))
        self._rows = rows[0]
        self._arrays = dict(zip(arguments, arrays))

    def read(self, arguments):
        """Yields dicts of up to `ROWS` rows."""
        for start in range(0, self._rows, ROWS):
            yield {argument: self._arrays[argument][start:start + ROWS] for argument in arguments}


class Source(object):
    """Held-out data of a minibatch source, whose position is left as it was.

    Args:
        source (cntk.io.MinibatchSource or cntk.io.UserMinibatchSource): a finite source.
        streams (dict): the criterion's arguments to the source's stream infos.
        minibatch_size (int): samples per minibatch.
        max_samples (int): how many samples to read, None for all.
    """

    def __init__(self, source, streams, minibatch_size=ROWS, max_samples=None):
        self._source = source
        self._streams = streams
        self._size = minibatch_size
        self._limit = sys.maxsize if max_samples is None else max_samples
        if self._limit >= sys.maxsize and _is_endless(source):
            raise ValueError('the minibatch source of held-out data must end, got one that repeats for ever; give '
                             'it max_sweeps=1 or max_samples=')
        if not has_position(source):
            raise ValueError('the held-out minibatch source %s has no position to go back to after '
                             'a measurement: override get_checkpoint_state() and '
                             'restore_from_checkpoint(state), or give NumPy arrays'
                             % type(source).__name__)

    def read(self, arguments):
        """Yields dicts of MinibatchData."""
        state = self._source.get_checkpoint_state()
        left = self._limit
        try:
            while left > 0:
                minibatch = _next(self._source, min(self._size, left))
                if not minibatch:
                    return
                yield {argument: minibatch[self._streams[argument]] for argument in arguments}
                left -= max(data.num_samples for data in minibatch.values())
        finally:
            self._source.restore_from_checkpoint(state)


def _is_endless(source):
    """Whether a source repeats for ever; of `MinibatchSourceFromData`, `is_infinite` is always False."""
    return source.is_infinite() \
        or isinstance(source, MinibatchSourceFromData) and source._max_samples >= INFINITELY_REPEAT


def _next(source, size):
    """Returns the next minibatch as {StreamInformation: MinibatchData}, empty at the end."""
    if isinstance(source, UserMinibatchSource):
        return source.next_minibatch(size, 1, 0)
    return source.next_minibatch(size)


def _rows(array):
    return array.shape[0] if hasattr(array, 'shape') else len(array)


def held_out(data, arguments, streams=None, cross_validation=None):
    """Returns the held-out data of a run, or None where it has none.

    Args:
        data: what the user gave as `data=`: arrays in the order of the criterion's
            arguments, or a minibatch source; None falls back to `cross_validation`.
        arguments (tuple of cntk.Variable): the criterion's.
        streams (dict): the training's map of arguments to stream infos, whose names a
            source given as `data` must have too.
        cross_validation (dict): a remembered CrossValidationConfig's arguments.

    Raises:
        TypeError, ValueError: `data` is neither, or does not fit the criterion.
    """
    if data is None:
        return _of_cross_validation(cross_validation or {}, streams)
    if isinstance(data, (MinibatchSource, UserMinibatchSource)):
        return Source(data, _streams_of(data, arguments, streams))
    if isinstance(data, np.ndarray) or not isinstance(data, (tuple, list)):
        data = (data,)
    if not all(hasattr(array, '__len__') or hasattr(array, 'shape') for array in data):
        raise TypeError('data must be NumPy arrays in the order of the arguments, or a '
                        'minibatch source, got %r; give for example data=(images, labels)' % (data,))
    return Arrays(tuple(data), arguments)


def _of_cross_validation(given, streams):
    """Returns the cross-validation data, or None where there is none or no end of it.

    CNTK refuses an endless source itself, when it comes to cross-validate. One that cannot go
    back is left to CNTK, so that its own cross-validation finds in it what it would without us.
    """
    source, limit = given.get('source'), given.get('max_samples')
    if source is None or (limit in (None, sys.maxsize) and _is_endless(source)):
        return None
    if not has_position(source):
        warnings.warn('the cross-validation source %s has no position to go back to, so nothing of '
                      'it is read for recovery and calibration: override restore_from_checkpoint, '
                      'or give data=' % type(source).__name__)
        return None
    return Source(source, given.get('streams') or streams, max_samples=limit)


def _streams_of(source, arguments, streams):
    found = {}
    for argument in arguments:
        name = streams[argument].name if streams and argument in streams else argument.name
        if name not in source.streams.keys():
            raise ValueError('the minibatch source given as data must have a stream %r for the argument %s, '
                             'got one with the streams %s; name the stream or the argument alike'
                             % (name, argument.name or argument.uid,
                                ', '.join(sorted(source.streams.keys()))))
        found[argument] = source.streams[name]
    return found


class Measure(object):
    """The average of a metric over held-out data, on a network of its own.

    The copy shares the Parameters and nothing else with the trainer, so that measuring
    moves no random state, no recurrence and no statistics of the training network.

    Args:
        metric (cntk.Function): summed over its elements, as CNTK's trainer does, for each sample.
    """

    def __init__(self, metric):
        copy = graph.clone_shared(metric)
        if copy.output.shape:
            copy = C.reduce_sum(copy, C.Axis.all_static_axes())
        self.arguments = list(copy.arguments)
        self._per_sample = bool(copy.output.dynamic_axes)
        if self._per_sample:
            every = C.Axis.all_axes()
            self._sums = C.combine([C.reduce_sum(copy, every),
                                    C.reduce_sum(C.ones_like(copy), every)])
        else:
            self._sums = copy

    def __call__(self, data, device=None):
        """Returns the average over `data`, an `Arrays` or `Source`, as a float."""
        total, count = 0.0, 0.0
        for minibatch in data.read(self.arguments):
            values = self._sums.eval(minibatch, device=device)
            if self._per_sample:
                summed, samples = (float(np.asarray(values[output]).ravel()[0])
                                   for output in self._sums.outputs)
            else:
                samples = _samples(minibatch)
                summed = float(np.asarray(values).ravel()[0]) * samples
            total += summed
            count += samples
        if not count:
            raise ValueError('the held-out data is empty')
        return total / count


def _samples(minibatch):
    data = next(iter(minibatch.values()))
    return data.num_sequences if hasattr(data, 'num_sequences') else _rows(data)
