"""Checks held-out data given as arrays, and cuts it into minibatches.

It refuses data that CNTK would refuse, or misread, in the middle of training. The error names
`data` and the argument that the array belongs to.
"""
import reprlib
import sys
import warnings

import cntk as C
import numpy as np
from cntk.io import MinibatchData
from scipy import sparse

# Rows per minibatch if the metric does not depend on the size of a minibatch.
ROWS = 256


def _shaped(values, argument):
    """Reshapes rows of one array to the shape of their argument, if they have as many elements.

    Rows of any other data are returned unchanged.
    """
    shape = tuple(argument.shape)
    if (
        not isinstance(values, np.ndarray)
        or values.dtype == object
        or len(argument.dynamic_axes) != 1
        or any(side < 0 for side in shape)
        or values.shape[1:] == shape
        or values[:1].size != np.prod(shape)
    ):
        return values
    return values.reshape((-1,) + shape)


class Arrays:
    """Held-out data as arrays, one for each of the criterion's arguments, in their order.

    Args:
        arrays (tuple): NumPy arrays, SciPy sparse matrices, lists of sequences, or CNTK's Values.
        arguments (tuple of cntk.Variable): the criterion's.
        minibatch_size (int or minibatch_size_schedule): the user's minibatch size in training, in
            samples; None if not known.

    Raises:
        ValueError: the arrays are not one for each argument, differ in length or are empty, or CNTK
            cannot read one of them as its argument.
    """

    def __init__(self, arrays, arguments, minibatch_size=None):
        names = [name_of(argument) for argument in arguments]
        if len(arrays) < len(arguments):
            raise ValueError(
                'data must be one array for each argument, in the '
                'order %s; got %d; give all of them in a tuple' % (', '.join(names), len(arrays))
            )
        if len(arrays) > len(arguments):
            raise ValueError(
                'data must hold no more arrays than the network has arguments, %d (%s), got %d; a '
                'model without its loss needs no labels: data=(%s,)'
                % (len(names), ', '.join(names), len(arrays), ', '.join(names))
            )
        columns = [_Column(argument, array, names) for argument, array in zip(arguments, arrays)]
        rows = [len(column) for column in columns]
        if len(set(rows)) != 1 or rows[0] == 0:
            raise ValueError(
                'data must hold the same number of samples, at least 1, for each '
                'argument, got %s; cut the arrays alike'
                % ', '.join('%s: %d' % pair for pair in zip(names, rows))
            )
        for column in columns:
            column.check()
        self._rows = rows[0]
        self._columns = dict(zip(arguments, columns))
        self._size = minibatch_size

    def learn_size(self, samples):
        """Does nothing: if a hand-written loop gives no size, `read` takes all data at once."""

    def read(self, arguments, as_trained=False):
        """Yields dicts of up to `ROWS` rows.

        Args:
            arguments (list of cntk.Variable): which of the criterion's arguments to give.
            as_trained (bool): whether the result depends on the size of a minibatch. Minibatches
                then have the size used in training, or all rows if that is not known.
        """
        if not arguments:
            yield {}  # what reads Parameters alone is the same on any data
            return
        columns = {argument: self._columns[argument] for argument in arguments}
        start = samples = 0
        while start < self._rows:
            size = (size_at(self._size, samples) or sys.maxsize) if as_trained else None
            end, steps = self._end(start, columns.values(), size)
            yield {
                argument: _shaped(column.values[start:end], argument)
                for argument, column in columns.items()
            }
            start, samples = end, samples + steps

    def _end(self, start, columns, size):
        """Returns the end of a minibatch and its samples.

        The steps of a sequence count as samples. A minibatch holds at least one row.
        """
        if not size and not any(column.may_change for column in columns):
            return min(start + ROWS, self._rows), 0
        end, samples = start, 0
        while end < self._rows:
            steps = max(column.steps(end) for column in columns)
            if end > start and (samples + steps > size if size else end - start >= ROWS):
                break
            if any(column.changes(start, end) for column in columns):
                break
            end, samples = end + 1, samples + steps
        return end, samples


def size_at(size, samples):
    """Returns a minibatch size (int or schedule, None for unknown) after `samples` samples."""
    return size if size is None or isinstance(size, int) else size[samples]


def name_of(argument):
    """Returns the name of an argument for an error message."""
    return argument.name or argument.uid


class _Column:
    """The data for one argument.

    Attributes:
        values: an array or CSR matrix, samples first, or a list of one array or matrix for each
            sample or sequence. It can be sliced, and CNTK reads a slice as that many rows.
    """

    def __init__(self, argument, data, names):
        self._argument = argument
        self._order = 'data is in the order %s' % ', '.join(names)
        self._of_sequences = len(argument.dynamic_axes) > 1
        self._free = any(side < 0 for side in argument.shape)
        self.values = self._sliceable(data)

    def __len__(self):
        return self.values.shape[0] if hasattr(self.values, 'shape') else len(self.values)

    def steps(self, row):
        """Returns the samples in a row: 1, or the steps of a sequence."""
        return self.values[row].shape[0] if self._of_sequences else 1

    @property
    def may_change(self):
        """Whether rows may differ in shape from the first."""
        return self._free and isinstance(self.values, list)

    def changes(self, start, row):
        """Whether a row differs from the first along free axes: CNTK takes one shape at a time."""
        return self.may_change and self._shape(self.values[row]) != self._shape(self.values[start])

    def _shape(self, row):
        return row.shape[1:] if self._of_sequences else row.shape

    def _sliceable(self, data):
        if isinstance(data, MinibatchData):
            data = data.data
        if isinstance(data, C.cntk_py.Value):
            data = self._of_value(data)
        if isinstance(data, C.cntk_py.NDArrayView):
            data = data.asarray()
        if sparse.issparse(data):
            data = data.tocsr()
            return [data] if self._of_sequences else data
        if isinstance(data, (list, tuple)):
            return self._joined([self._row(row) for row in data])
        data = self._as_expected(data)
        if not data.ndim:
            raise self._refused('one number', 'samples are the first axis')
        if self._of_sequences and data.ndim == 1 + len(self._argument.shape):
            return [data]  # CNTK reads it as one sequence
        return list(data) if self._of_sequences else data

    def _row(self, row):
        if isinstance(row, C.cntk_py.NDArrayView):
            row = row.asarray()
        if sparse.issparse(row):
            return row.tocsr()
        if hasattr(row, 'shape'):
            return self._as_expected(row)
        try:
            return np.asarray(row, self._argument.dtype)
        except (TypeError, ValueError) as error:
            raise self._refused(f'a list that holds {reprlib.repr(row)}', error)

    def _as_expected(self, data):
        """Converts a float array to the argument's type once; CNTK would do it every time."""
        if not hasattr(data, '__array__'):
            raise self._refused(
                type(data).__name__, 'give a NumPy array, a SciPy matrix or a list of them'
            )
        array = data if isinstance(data, np.ndarray) else np.asarray(data)
        return array.astype(self._argument.dtype, copy=False) if array.dtype.kind == 'f' else array

    def _joined(self, rows):
        """Stacks a list of samples into one array, if they allow it."""
        alike = not self._of_sequences and all(
            isinstance(row, np.ndarray) and row.shape == rows[0].shape for row in rows
        )
        return np.stack(rows) if rows and alike else rows

    def _of_value(self, value):
        argument = self._argument
        try:
            if not self._of_sequences and not value.is_sparse:
                array = np.asarray(value.asarray())
                return array.reshape((-1,) + array.shape[array.ndim - len(argument.shape) :])
            parts = value.as_sequences(argument)
        except (RuntimeError, ValueError, TypeError) as error:
            raise self._refused(f'the Value of shape {value.shape}', error)
        return parts if self._of_sequences else sparse.vstack(parts, 'csr')

    def check(self):
        """Refuses what CNTK cannot read, and warns of NaN."""
        rows = self.values if isinstance(self.values, list) else [self.values]
        whole = not isinstance(self.values, list)
        if self._argument.is_sparse and not sparse.issparse(rows[0]):
            raise self._refused(
                'dense numbers',
                'CNTK takes SciPy matrices or cntk.Value.one_hot for a sparse input',
            )
        for number, row in enumerate(rows):
            self._check_shape(row, whole)
            self._check_numbers(row, None if whole else number)
        try:
            C.Value.create(self._argument, self.values[:1])
        except (RuntimeError, ValueError, TypeError) as error:
            dtype = getattr(rows[0], 'dtype', np.dtype(object))
            # CNTK's own words are that integers are supported; of those, int64 alone is.
            raise self._refused(
                f'{type(rows[0]).__name__} of {dtype}',
                f'convert it with .astype(numpy.{self._argument.dtype.__name__})'
                if dtype.kind in 'iu'
                else error,
            )

    def _check_shape(self, row, whole):
        expected, shape = self._argument.shape, getattr(row, 'shape', None)
        if shape is None or not expected:
            return
        got = shape[1:] if whole or self._of_sequences else shape
        if sparse.issparse(row) and not whole and not self._of_sequences:
            got = shape[1:]
        if not _fits(got, expected):
            raise ValueError(
                'data for argument %s must have shape [%s, %s], got %s; samples are the '
                'first axis, the others those of the input_variable, and %s'
                % (
                    name_of(self._argument),
                    'steps' if self._of_sequences else 'samples',
                    ', '.join('any' if side < 0 else str(side) for side in expected),
                    list(shape if whole or self._of_sequences else (len(self),) + shape),
                    self._order,
                )
            )

    def _check_numbers(self, row, number):
        numbers = row.data if sparse.issparse(row) else row
        if (
            not isinstance(numbers, np.ndarray)
            or numbers.dtype.kind != 'f'
            or not np.isnan(numbers).any()
        ):
            return
        if number is None:
            number = (
                int(np.argmax(np.isnan(numbers.reshape(len(numbers), -1)).any(axis=1)))
                if numbers is row
                else int(np.searchsorted(row.indptr, np.argmax(np.isnan(numbers)), 'right')) - 1
            )
        warnings.warn(
            f'data for argument {name_of(self._argument)} holds NaN, first in sample {number}, so '
            'what is measured on it may be no number: take such samples out',
            stacklevel=2,
        )

    def _refused(self, what, error):
        return ValueError(
            'data for argument {} must be what CNTK can read as {}, got {}: {}; {}'.format(
                name_of(self._argument),
                self._argument,
                what,
                str(error).split('\n')[0].rstrip('. '),
                self._order,
            )
        )


def _fits(shape, expected):
    """Whether an argument accepts a shape; a free side (negative) accepts any size.

    CNTK accepts axes of size 1 before the argument's own. Flat samples, which CNTK's readers give,
    are unambiguous.
    """
    if any(side < 0 for side in expected):
        return len(shape) == len(expected) and all(
            side < 0 or side == size for size, side in zip(shape, expected)
        )
    shape, expected = tuple(shape), tuple(expected)
    while len(shape) > len(expected) and shape[0] == 1:
        shape = shape[1:]
    return shape == expected or shape == (int(np.prod(expected)),)
