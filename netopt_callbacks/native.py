"""The bit convolution: 1-bit weights and inputs, float32 in and out, without CNTK.

    y[n, f] = scale[f] * conv(sign(x[n]), sign(w[f])) + bias[f]

sign(v) is +1 where v > 0 and -1 elsewhere (so for 0, -0 and NaN); a padded tap contributes exactly
0, as in CNTK's convolution. The convolution itself is an integer, the same on every implementation
and with any number of threads; the rest is one float32 multiplication, rounded, and one float32
addition, rounded. `docs/native.md` has the details.
"""
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from netopt_callbacks.native_arrays import (
    check_out,
    empty,
    float32_array,
)
from netopt_callbacks.native_machine import (
    _native,
    all_implementations,
    clock_rate,
    cpu_name,
    implementation,
    implementations,
    least_shared_seconds,
    num_threads,
    peak,
    port_limit,
    set_least_shared_seconds,
    set_num_threads,
    stream,
)
from netopt_callbacks.native_program import Program
from netopt_callbacks.native_state import STATE_VERSION, checked_state, copied

__all__ = [
    'BinaryConvolution',
    'BinaryDense',
    'Program',
    'all_implementations',
    'clock_rate',
    'cpu_name',
    'empty',
    'implementation',
    'implementations',
    'least_shared_seconds',
    'num_threads',
    'peak',
    'port_limit',
    'set_least_shared_seconds',
    'set_num_threads',
    'stream',
]


class BinaryConvolution:
    """2-D convolution of the signs of the input with the signs of the weights.

    Args:
        weights: float32 `[filters, channels // groups, height, width]`; only the signs are kept,
            one bit each.
        strides: two ints at least 1, for height and width.
        padding: `((top, bottom), (left, right))`, at least 0; a padded tap contributes 0.
        dilation: two ints at least 1.
        groups: divides channels and filters.
        scale: float32 `[filters]`, or None for no multiplication.
        bias: float32 `[filters]`, or None for no addition.
        threshold: float32 `[channels]`, or None for 0: the input's sign is +1 where x >
            threshold[channel]. In IEEE float32 with gradual underflow this is `x - threshold > 0`
            for every pair of values, infinities included.
        implementation: a name from `implementations()`; by default what `implementation()` says.

    Raises:
        TypeError: an array that is not float32, a count that is not an integer.
        ValueError: shapes that do not fit together, a negative count, sizes beyond int32, an
            unknown implementation.
        RuntimeError: an implementation that this machine cannot run.

    Objects are immutable, may be called from several threads at once, pickle as packed bits, and
    survive a fork.
    """

    def __init__(
        self,
        weights: np.ndarray,
        strides: Sequence[int] = (1, 1),
        padding: Sequence[Sequence[int]] = ((0, 0), (0, 0)),
        dilation: Sequence[int] = (1, 1),
        groups: int = 1,
        scale: Optional[np.ndarray] = None,
        bias: Optional[np.ndarray] = None,
        threshold: Optional[np.ndarray] = None,
        implementation: Optional[str] = None,
    ) -> None:
        weights = float32_array(weights, 'weights', 4)
        if 0 in weights.shape:
            raise ValueError(f'weights must not be empty, received shape {weights.shape}')
        self._build(
            dict(
                version=STATE_VERSION,
                words=_native.pack_weights(weights),
                channels=weights.shape[1],
                strides=strides,
                padding=padding,
                dilation=dilation,
                groups=groups,
                scale=scale,
                bias=bias,
                threshold=threshold,
            ),
            implementation,
        )

    def __call__(self, x: np.ndarray, out: Optional[np.ndarray] = None) -> np.ndarray:
        """Convolves a batch.

        Args:
            x: float32 `[batch, channels, height, width]`, batch 0 included; copied once if it is
                not C-contiguous.
            out: float32 C-contiguous array of the result's shape to write into, best one of
                `empty`; None for a new one.

        Returns:
            float32 `[batch, filters, height', width']`; `out` itself if it was given.
        """
        x = float32_array(x, 'x', 4)
        channels = self._state['channels'] * self._state['groups']
        if x.shape[1] != channels:
            raise ValueError(
                f'x has {x.shape[1]} channels (shape {x.shape}), the weights expect {channels}'
            )
        shape = self.output_shape(x.shape)
        if out is None:
            out = empty(shape)
        else:
            check_out(out, shape)
            if np.may_share_memory(x, out):
                x = x.copy()
        self._convolution.run(x, out)
        return out

    def output_shape(self, input_shape: Sequence[int]) -> Tuple[int, ...]:
        """Shape of the result for an input of shape `[batch, channels, height, width]`."""
        batch, _, height, width = input_shape
        return (batch, self._state['words'].shape[0]) + self._convolution.output_size(height, width)

    @property
    def implementation(self) -> str:
        """Name of the implementation this object runs on."""
        return self._implementation

    @property
    def words(self) -> np.ndarray:
        """The packed weights, read-only: uint64 `[filters, height, width, ceil(channels / groups /
        64)]`.

        Bit c % 64 of word c // 64 is channel c: 1 for +1. Bits beyond the last channel are 0.
        """
        return self._state['words']

    def state(self) -> Dict[str, Any]:
        """Everything the object is, as a dict of ints, tuples and arrays; the weights as packed
        bits only.

        `BinaryConvolution.from_state` makes an equal object of it on any machine. The arrays are
        copies.
        """
        return copied(self._state)

    @classmethod
    def from_state(
        cls, state: Dict[str, Any], implementation: Optional[str] = None
    ) -> 'BinaryConvolution':
        """The object that `state()` described.

        Raises:
            ValueError, TypeError: a state of another version, with missing or unknown entries, or
                inconsistent ones.
        """
        made = cls.__new__(cls)
        made._build(state, implementation)
        return made

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self).from_state, (self.state(),)

    def __repr__(self) -> str:
        filters, height, width, _ = self.words.shape
        return '%s(%d filters of %d x %d x %d, groups=%d, %s)' % (
            type(self).__name__,
            filters,
            self._state['channels'],
            height,
            width,
            self._state['groups'],
            self._implementation,
        )

    def _build(self, state: Dict[str, Any], name: Optional[str]) -> None:
        self._implementation = implementation() if name is None else name
        self._state = checked_state(state)
        arguments = {key: value for key, value in self._state.items() if key != 'version'}
        self._convolution = _native.Convolution(implementation=self._implementation, **arguments)


class BinaryDense:
    """y[n, f] = scale[f] * sum over c of sign(x[n, c]) * sign(weights[c, f]) + bias[f].

    Args:
        weights: float32 `[inputs, outputs]`, as CNTK's Dense holds them; only the signs are kept,
            one bit each.
        scale: float32 `[outputs]`, or None for no multiplication.
        bias: float32 `[outputs]`, or None for no addition.
        threshold: float32 `[inputs]`, or None for 0: the input's sign is +1 where x >
            threshold[input].
        implementation: as for `BinaryConvolution`.

    Raises:
        TypeError, ValueError, RuntimeError: as `BinaryConvolution`.

    Objects are immutable, may be called from several threads at once, pickle as packed bits, and
    survive a fork.
    """

    _program: Program

    def __init__(
        self,
        weights: np.ndarray,
        scale: Optional[np.ndarray] = None,
        bias: Optional[np.ndarray] = None,
        threshold: Optional[np.ndarray] = None,
        implementation: Optional[str] = None,
    ) -> None:
        weights = float32_array(weights, 'weights', 2)
        if 0 in weights.shape:
            raise ValueError(f'weights must not be empty, received shape {weights.shape}')
        words = _native.pack_weights(np.ascontiguousarray(weights.T)[:, :, None, None])
        self._build(
            dict(
                _PLAIN,
                version=STATE_VERSION,
                words=words,
                channels=weights.shape[0],
                scale=scale,
                bias=bias,
                threshold=threshold,
            ),
            implementation,
        )

    def __call__(self, x: np.ndarray, out: Optional[np.ndarray] = None) -> np.ndarray:
        """Multiplies a batch.

        Args:
            x: float32 `[batch, inputs]`, batch 0 included; copied once if it is not C-contiguous.
            out: float32 C-contiguous array of the result's shape to write into; None for a new one.

        Returns:
            float32 `[batch, outputs]`; `out` itself if it was given.
        """
        x = float32_array(x, 'x', 2)
        if x.shape[1] != self.inputs:
            raise ValueError(
                f'x has {x.shape[1]} columns (shape {x.shape}), the weights expect {self.inputs}'
            )
        if out is None:
            out = empty((x.shape[0], self.outputs))
        else:
            check_out(out, (x.shape[0], self.outputs))
            if np.may_share_memory(x, out):
                x = x.copy()
        self._program.run_arrays([x], _ONE_PIXEL, x.shape[0], [out])
        return out

    def output_shape(self, input_shape: Sequence[int]) -> Tuple[int, ...]:
        """Shape of the result for an input of shape `[batch, inputs]`."""
        return input_shape[0], self.outputs

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return self._state['channels']

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return self._state['words'].shape[0]

    @property
    def implementation(self) -> str:
        """Name of the implementation this object runs on."""
        return self._program.implementation

    @property
    def words(self) -> np.ndarray:
        """The packed weights, read-only: uint64 `[outputs, ceil(inputs / 64)]`; bit c % 64 of
        word c // 64 is input c."""
        return self._state['words'][:, 0, 0, :]

    def state(self) -> Dict[str, Any]:
        """As `BinaryConvolution.state`, of the convolution with a 1 x 1 kernel that this is."""
        return copied(self._state)

    @classmethod
    def from_state(
        cls, state: Dict[str, Any], implementation: Optional[str] = None
    ) -> 'BinaryDense':
        """The object that `state()` described.

        Raises:
            ValueError, TypeError: as `BinaryConvolution.from_state`; a state of another convolution
                than that of a Dense.
        """
        made = cls.__new__(cls)
        made._build(state, implementation)
        return made

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self).from_state, (self.state(),)

    def __repr__(self) -> str:
        sizes = f'{self.inputs} inputs, {self.outputs} outputs'
        return f'{type(self).__name__}({sizes}, {self.implementation})'

    def _build(self, state: Dict[str, Any], name: Optional[str]) -> None:
        self._state = state = checked_state(state)
        if state['words'].shape[1:3] != (1, 1) or any(state[key] != _PLAIN[key] for key in _PLAIN):
            raise ValueError(
                'state describes a %d x %d convolution with %s, not a dense layer'
                % (
                    state['words'].shape[1:3]
                    + (', '.join(f'{key} {state[key]}' for key in sorted(_PLAIN)),)
                )
            )
        steps = [
            (step, state[key])
            for step, key in (('multiply', 'scale'), ('add', 'bias'))
            if state[key] is not None
        ]
        threshold = 0.0 if state['threshold'] is None else state['threshold']
        threshold = np.where(np.isnan(threshold), np.float32(np.inf), threshold).reshape(
            -1
        )  # nothing is above either
        self._program = Program(
            [
                dict(op='pack', input='x', bits='signs', threshold=threshold.astype(np.float32)),
                dict(
                    op='convolution',
                    input='signs',
                    words=state['words'],
                    channels=state['channels'],
                    steps=steps,
                    values='y',
                ),
            ],
            dict(x=(state['channels'],)),
            ['y'],
            implementation=name,
        )


# Of a Dense as a convolution; and the size of its images.
_PLAIN = dict(strides=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1)
_ONE_PIXEL = [(1, 1)]
