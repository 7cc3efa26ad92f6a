"""The bit convolution: 1-bit weights and inputs, float32 in and out, without CNTK.

    y[n, f] = scale[f] * conv(sign(x[n]), sign(w[f])) + bias[f]

sign(v) is +1 where v > 0 and -1 elsewhere (so for 0, -0 and NaN); a padded tap contributes exactly 0, as in CNTK's
convolution. The convolution itself is an integer, the same on every implementation and with any number of threads; the
rest is one float32 multiplication, rounded, and one float32 addition, rounded. `docs/native.md` has the details.
"""
import os

import numpy as np

from . import native_limits

try:
    from netopt_callbacks import _native
except ImportError as error:
    raise ImportError('the native extension netopt_callbacks._native is missing or broken (%s); '
                      'reinstall the package with a C++17 compiler at hand' % error) from error

__all__ = ['BinaryConvolution', 'BinaryDense', 'all_implementations', 'clock_rate', 'cpu_name', 'empty',
           'implementation', 'implementations', 'num_threads', 'peak', 'port_limit', 'set_num_threads', 'stream']

STATE_VERSION = 1


def all_implementations():
    """Names of all compiled implementations, best first, whether or not this machine can run them."""
    return _native.all_implementations()


def implementations():
    """Names of the implementations this machine (processor and operating system) can run, best first."""
    return _native.implementations()


def implementation():
    """Name of the implementation that a new object gets: the best one, or the one `NETOPT_NATIVE` names.

    Raises:
        ValueError: `NETOPT_NATIVE` names no implementation.
        RuntimeError: it names one that this machine cannot run. Another one is never taken instead.
    """
    forced = os.environ.get('NETOPT_NATIVE')
    if not forced:
        return implementations()[0]
    if forced not in all_implementations():
        raise ValueError('NETOPT_NATIVE=%s is unknown; known: %s' % (forced, ', '.join(all_implementations())))
    if forced not in implementations():
        raise RuntimeError('NETOPT_NATIVE=%s cannot run on this machine; it can run: %s'
                           % (forced, ', '.join(implementations())))
    return forced


def num_threads():
    """The number of threads a call may use; by default the number of processors this process may run on."""
    return _native.num_threads()


def set_num_threads(threads):
    """Sets the number of threads a call may use, 1 to 256, for the whole process. Results do not depend on it."""
    _native.set_num_threads(_integer(threads, 'threads', 1, 256))


def cpu_name():
    """The processor's name as it gives it itself."""
    return _native.cpu_name().strip('\0 ')


def peak(name, seconds):
    """Binary multiply-adds per second of an implementation's arithmetic in registers, one thread, the best of `seconds`."""
    return _native.peak(name, seconds)


def port_limit(name, seconds):
    """Binary multiply-adds per second that this machine's clock and ports allow an implementation, or None where not known.

    Measured: how many of its instructions of either kind the processor takes when nothing else runs. A check of `peak`,
    which should come near it."""
    return _native.port_limit(name, seconds) or None


def stream(x, out):
    """Seconds to read the float32 array x once and write out once, and nothing else, one thread."""
    return _native.stream(x, out)


def clock_rate(seconds):
    """The processor's clock in Hz now, from a chain of dependent additions, the best of `seconds`."""
    return _native.clock_rate(seconds)


def empty(shape):
    """An array to give as `out`, not filled: its data begin at a multiple of 64 bytes.

    There no vector that is stored crosses a cache line; elsewhere it may, which costs large outputs of
    small kernels a fifth of their time.

    Args:
        shape (tuple of int): of the array.

    Returns:
        float32 array of that shape, C-contiguous.
    """
    size = int(np.prod(shape, dtype=np.int64))
    items = np.empty(size + 15, np.float32)
    first = -items.__array_interface__['data'][0] % 64 // 4
    return items[first:first + size].reshape(shape)


class BinaryConvolution(object):
    """2-D convolution of the signs of the input with the signs of the weights.

    Args:
        weights: float32 `[filters, channels // groups, height, width]`; only the signs are kept, one bit each.
        strides: two ints at least 1, for height and width.
        padding: `((top, bottom), (left, right))`, at least 0; a padded tap contributes 0.
        dilation: two ints at least 1.
        groups: divides channels and filters.
        scale: float32 `[filters]`, or None for no multiplication.
        bias: float32 `[filters]`, or None for no addition.
        threshold: float32 `[channels]`, or None for 0: the input's sign is +1 where x > threshold[channel]. In IEEE
            float32 with gradual underflow this is `x - threshold > 0` for every pair of values, infinities included.
        implementation: a name from `implementations()`; by default what `implementation()` says.

    Raises:
        TypeError: an array that is not float32, a count that is not an integer.
        ValueError: shapes that do not fit together, a negative count, sizes beyond int32, an unknown implementation.
        RuntimeError: an implementation that this machine cannot run.

    Objects are immutable, may be called from several threads at once, pickle as packed bits, and survive a fork.
    """

    def __init__(self, weights, strides=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1, scale=None,
                 bias=None, threshold=None, implementation=None):
        weights = _float32(weights, 'weights', 4)
        if 0 in weights.shape:
            raise ValueError('weights must not be empty, received shape %s' % (weights.shape,))
        self._build(dict(version=STATE_VERSION, words=_native.pack_weights(weights), channels=weights.shape[1],
                         strides=strides, padding=padding, dilation=dilation, groups=groups, scale=scale, bias=bias,
                         threshold=threshold), implementation)

    def __call__(self, x, out=None):
        """Convolves a batch.

        Args:
            x: float32 `[batch, channels, height, width]`, batch 0 included; copied once if it is not C-contiguous.
            out: float32 C-contiguous array of the result's shape to write into, best one of `empty`; None for a new one.

        Returns:
            float32 `[batch, filters, height', width']`; `out` itself if it was given.
        """
        x = _float32(x, 'x', 4)
        channels = self._state['channels'] * self._state['groups']
        if x.shape[1] != channels:
            raise ValueError('x has %d channels (shape %s), the weights expect %d' % (x.shape[1], x.shape, channels))
        shape = self.output_shape(x.shape)
        if out is None:
            out = empty(shape)
        else:
            _check_out(out, shape)
            if np.may_share_memory(x, out):
                x = x.copy()
        self._convolution.run(x, out)
        return out

    def output_shape(self, input_shape):
        """Shape of the result for an input of shape `[batch, channels, height, width]`."""
        batch, _, height, width = input_shape
        return (batch, self._state['words'].shape[0]) + self._convolution.output_size(height, width)

    @property
    def implementation(self):
        """Name of the implementation this object runs on."""
        return self._implementation

    @property
    def words(self):
        """The packed weights, read-only: uint64 `[filters, height, width, ceil(channels / groups / 64)]`.

        Bit c % 64 of word c // 64 is channel c: 1 for +1. Bits beyond the last channel are 0.
        """
        return self._state['words']

    def state(self):
        """Everything the object is, as a dict of ints, tuples and arrays; the weights as packed bits only.

        `BinaryConvolution.from_state` makes an equal object of it on any machine. The arrays are copies.
        """
        return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in self._state.items()}

    @classmethod
    def from_state(cls, state, implementation=None):
        """The object that `state()` described.

        Raises:
            ValueError, TypeError: a state of another version, with missing or unknown entries, or inconsistent ones.
        """
        made = cls.__new__(cls)
        made._build(state, implementation)
        return made

    def __reduce__(self):
        return type(self).from_state, (self.state(),)

    def __repr__(self):
        filters, height, width, _ = self.words.shape
        return '%s(%d filters of %d x %d x %d, groups=%d, %s)' % (
            type(self).__name__, filters, self._state['channels'], height, width, self._state['groups'],
            self._implementation)

    def _build(self, state, name):
        self._implementation = implementation() if name is None else name
        self._state = _checked_state(state)
        arguments = {key: value for key, value in self._state.items() if key != 'version'}
        self._convolution = _native.Convolution(implementation=self._implementation, **arguments)


class BinaryDense(object):
    """y[n, f] = scale[f] * sum over c of sign(x[n, c]) * sign(weights[c, f]) + bias[f].

    Args:
        weights: float32 `[inputs, outputs]`, as CNTK's Dense holds them; only the signs are kept, one bit each.
        scale: float32 `[outputs]`, or None for no multiplication.
        bias: float32 `[outputs]`, or None for no addition.
        threshold: float32 `[inputs]`, or None for 0: the input's sign is +1 where x > threshold[input].
        implementation: as for `BinaryConvolution`.

    Raises:
        TypeError, ValueError, RuntimeError: as `BinaryConvolution`.

    Objects are immutable, may be called from several threads at once, pickle as packed bits, and survive a fork.
    """

    def __init__(self, weights, scale=None, bias=None, threshold=None, implementation=None):
        weights = _float32(weights, 'weights', 2)
        if 0 in weights.shape:
            raise ValueError('weights must not be empty, received shape %s' % (weights.shape,))
        self._convolution = BinaryConvolution(np.ascontiguousarray(weights.T)[:, :, None, None], scale=scale, bias=bias,
                                              threshold=threshold, implementation=implementation)

    def __call__(self, x, out=None):
        """Multiplies a batch.

        Args:
            x: float32 `[batch, inputs]`, batch 0 included; copied once if it is not C-contiguous.
            out: float32 C-contiguous array of the result's shape to write into; None for a new one.

        Returns:
            float32 `[batch, outputs]`; `out` itself if it was given.
        """
        x = _float32(x, 'x', 2)
        if x.shape[1] != self.inputs:
            raise ValueError('x has %d columns (shape %s), the weights expect %d' % (x.shape[1], x.shape, self.inputs))
        shape = self.output_shape(x.shape)
        if out is None:
            out = np.empty(shape, np.float32)
        else:
            _check_out(out, shape)
        if x.shape[0] > 0:
            out[...] = self._convolution(x.T[None, :, None, :])[0, :, 0, :].T
        return out

    def output_shape(self, input_shape):
        """Shape of the result for an input of shape `[batch, inputs]`."""
        return input_shape[0], self.outputs

    @property
    def inputs(self):
        """Number of inputs."""
        return self._convolution._state['channels']

    @property
    def outputs(self):
        """Number of outputs."""
        return self._convolution.words.shape[0]

    @property
    def implementation(self):
        """Name of the implementation this object runs on."""
        return self._convolution.implementation

    @property
    def words(self):
        """The packed weights, read-only: uint64 `[outputs, ceil(inputs / 64)]`; bit c % 64 of word c // 64 is input c."""
        return self._convolution.words[:, 0, 0, :]

    def state(self):
        """As `BinaryConvolution.state`, of the convolution with a 1 x 1 kernel that this is."""
        return self._convolution.state()

    @classmethod
    def from_state(cls, state, implementation=None):
        """The object that `state()` described.

        Raises:
            ValueError, TypeError: as `BinaryConvolution.from_state`; a state of another convolution than that of a Dense.
        """
        made = cls.__new__(cls)
        made._convolution = convolution = BinaryConvolution.from_state(state, implementation)
        plain = dict(strides=(1, 1), dilation=(1, 1), padding=((0, 0), (0, 0)), groups=1)
        if convolution.words.shape[1:3] != (1, 1) or any(convolution._state[key] != plain[key] for key in plain):
            raise ValueError('state describes a %d x %d convolution with strides %s, padding %s and %d groups, not a '
                             'dense layer' % (convolution.words.shape[1:3] + tuple(
                                 convolution._state[key] for key in ('strides', 'padding', 'groups'))))
        return made

    def __reduce__(self):
        return type(self).from_state, (self.state(),)

    def __repr__(self):
        return '%s(%d inputs, %d outputs, %s)' % (type(self).__name__, self.inputs, self.outputs, self.implementation)


_STATE_KEYS = ('version', 'words', 'channels', 'strides', 'padding', 'dilation', 'groups', 'scale', 'bias', 'threshold')
_INT32 = 2 ** 31 - 1


def _checked_state(state):
    """A complete, consistent, immutable copy of a state, or TypeError or ValueError."""
    if not isinstance(state, dict) or set(state) != set(_STATE_KEYS):
        raise ValueError('state must be a dict of %s, received %s' % (
            ', '.join(_STATE_KEYS), sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__))
    if state['version'] != STATE_VERSION:
        raise ValueError('state is of version %s, this package reads version %d' % (state['version'], STATE_VERSION))
    words = state['words']
    if not isinstance(words, np.ndarray) or words.dtype != np.uint64 or words.ndim != 4:
        raise TypeError('words must be a uint64 array of rank 4 in the byte order of this machine, received %s'
                        % ('%s of rank %d' % (words.dtype.str, words.ndim) if isinstance(words, np.ndarray)
                           else type(words).__name__))
    if 0 in words.shape:
        raise ValueError('words must not be empty, received shape %s' % (words.shape,))
    checked = dict(version=STATE_VERSION, words=_frozen(words),
                   channels=_integer(state['channels'], 'channels', 1, _INT32),
                   groups=_integer(state['groups'], 'groups', 1, _INT32),
                   strides=_pair(state['strides'], 'strides', 1), dilation=_pair(state['dilation'], 'dilation', 1))
    filters, channels, groups = words.shape[0], checked['channels'], checked['groups']
    if filters % groups:
        raise ValueError('%d filters cannot be divided into %d groups' % (filters, groups))
    if words.shape[3] != (channels + 63) // 64:
        raise ValueError('words has %d words per tap, %d channels need %d'
                         % (words.shape[3], channels, (channels + 63) // 64))
    sides = _two(state['padding'], 'padding')
    checked['padding'] = tuple(_pair(side, 'padding', 0) for side in sides)
    native_limits.refuse_geometry(filters, words.shape[1:3], checked['strides'], checked['padding'],
                                  checked['dilation'])
    for name, length in (('scale', filters), ('bias', filters), ('threshold', channels * groups)):
        checked[name] = None if state[name] is None else _frozen(_vector(state[name], name, length))
    return checked


def _frozen(array):
    copy = np.array(array, order='C')
    copy.flags.writeable = False
    return copy


def _float32(array, name, rank):
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        received = array.dtype.str if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError('%s must be a float32 array, received %s' % (name, received))
    if array.ndim != rank:
        raise ValueError('%s must have rank %d, received shape %s' % (name, rank, array.shape))
    if array.flags.c_contiguous and array.flags.aligned:
        return array  # np.require would find the same, in 2 microseconds
    return np.require(array, requirements=['C_CONTIGUOUS', 'ALIGNED'])


def _vector(array, name, length):
    array = _float32(array, name, 1)
    if array.shape != (length,):
        raise ValueError('%s must have shape (%d,), received %s' % (name, length, array.shape))
    return array


def _check_out(out, shape):
    if not isinstance(out, np.ndarray) or out.dtype != np.float32:
        raise TypeError('out must be a float32 array')
    if out.shape != shape or not out.flags.carray:
        raise ValueError('out must be C-contiguous, aligned and writable with shape %s, received shape %s'
                         % (shape, out.shape))


def _two(values, name):
    try:
        first, second = values
    except (TypeError, ValueError):
        raise TypeError('%s must be a pair, for height and width, received %r' % (name, values)) from None
    return first, second


def _pair(values, name, least):
    return tuple(_integer(value, name, least, _INT32) for value in _two(values, name))


def _integer(value, name, least, most):
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError('%s must be an integer, received %r' % (name, value))
    if not least <= value <= most:
        raise ValueError('%s must be from %d to %d, received %d' % (name, least, most, value))
    return int(value)
