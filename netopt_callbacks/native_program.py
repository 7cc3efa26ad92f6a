"""Programs: networks of binary layers in one native call, without CNTK; `docs/native.md` has
the details."""
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from netopt_callbacks.native_arrays import check_out, empty, float32_array
from netopt_callbacks.native_machine import _native, implementation
from netopt_callbacks.native_program_state import state_of

__all__ = ['Program']

MOST_STEPS = 24  # of an ending; `max_steps` of native/contract.h


class Program:
    """A list of ops, planned once per input size and run in one call.

    Args:
        ops: list of dicts, in an order in which every op reads only what is there already. Every op
            has `op`, its name, `input`, the name of the value it reads, and a name for what it
            gives: `values` (float32), `bits` or both.
        inputs (dict): name to shape, `(channels, height, width)`, height and width None where any
            will do, or `(channels,)`.
        outputs (list of str): names of float values, of which a call gives arrays.
        implementation: a name from `native.implementations()`; by default what
            `native.implementation()` says.

    The ops and their keys; a vector is float32 `[channels]`, or one number for all channels.

    pack: values to bits. The keys of bits.
    map: values through an ending.
    convolution: bits to an ending, or to bits of sums. `weights` (float32 `[filters, channels //
        groups, height, width]`, of which the signs are kept), or `words` and `channels` as
        `BinaryConvolution` holds them; `strides`, `padding`, `dilation`, `groups`; the keys of an
        ending, or `sum_threshold`.
    dense: bits to an ending, or to bits of sums. `weights` (float32 `[inputs, outputs]`); `image`,
        the shape `(channels, height, width)` that its inputs are the flattened values of; the keys
        of an ending, or `sum_threshold`.
    float_convolution, float_dense: values to an ending. As these two, with float32 `weights` that
        are used as they are. Sums are fused multiply-adds; with `rounded=True` each product is
        rounded before it is added. `order` 'taps' (the default) takes the channels of a tap, then
        the next tap; 'channels' the taps of a channel, then the next channel; 'winograd' tiles, in
        fewer multiplications and with other roundings: of one group, no dilation, and a kernel of
        3 to 5 strides, as many down as across. `block`: so many channels (of order 'channels':
        products) are summed on their own, and these sums are added up in turn; 0, the default,
        makes one sum, and 'winograd' takes no other. 'rest_first' is 'channels' with the last block
        first; and the last height * width % 8 pixels of the output take this order without blocks.
    or_pool: bits to bits, max pooling of signs. `kernel` (0, 0: the whole image), `strides`,
        `padding`.
    max_pool, average_pool: values to values. The same keys; padded places are left out, and not
        counted.
    mean_abs: values to values `[1, 1, 1]`, the mean of the absolute values of a sample.
    reshape: values to values. `shape`: three lengths or one, one of them -1, in the order
        [channels, height, width].
    splice: values to values, the channels of `input` and then those of `others` (list of str),
        which have the same height and width.
    unpack: bits to values, +1 where a bit is set, else -1.

    An ending is `steps`, 24 at most, each a tuple of a name and vectors, in order and each rounded
    to float32:
    `('multiply', a)`, `('add', a)`, `('normalize', mean, k, beta)` for fma(v - mean, k, beta),
    `('normalize_apart', mean, k, beta)` for the same with three roundings, `('relu',)` for 0 where
    v < 0, `('relu_halves',)` for 0.5 * v + 0.5 * |v| and `('relu_fused',)` for fma(v, 0.5, 0.5 *
    |v|) (CNTK's own, by machine: -infinity gives NaN), `('leaky', alpha)`, `('clip', least, most)`,
    `('add_value', name)` and `('multiply_value', name)` with another value of the same shape, or of
    one channel, or of one pixel. What the steps give is stored as `values`, compared to give
    `bits`, or both.

    Bits are compared by `threshold`, a vector: the bit is v > threshold, or v < threshold where
    `decreasing` (bool `[channels]`) is True. Or by `low` and `high`, vectors: low <= v <= high,
    negated where `flip` (bool `[channels]`) is True. A NaN is in no range.

    `sum_threshold`, int `[filters]`, gives the bits of dot > sum_threshold, or of dot <
    sum_threshold where `sum_decreasing` (bool `[filters]`) is True; dot is the integer convolution.
    Nothing else is computed then.

    Raises:
        TypeError, ValueError: an op that is not one of these, or values, arrays and numbers that do
            not fit together; a size that does not fit is found here where all inputs have one, else
            by the call.
        RuntimeError: an implementation that this machine cannot run.

    Objects are immutable, may be called from several threads at once, pickle as their state, and
    survive a fork.
    """

    run_arrays: Any
    # One tuple, exchanged whole: other threads may be calling.
    _seen_last: Tuple[Any, Any, Any]

    def __init__(
        self,
        ops: Sequence[Any],
        inputs: Dict[str, Any],
        outputs: Sequence[str],
        implementation: Optional[str] = None,
    ) -> None:
        self._build(state_of(ops, inputs, outputs), implementation)

    def __call__(self, *inputs: np.ndarray, out: Any = None) -> Any:
        """Runs the program on a batch.

        Args:
            inputs: float32 `[batch, channels, height, width]`, or `[batch, channels]`, one per
                input, in order.
            out: a float32 C-contiguous array of the result's shape to write into, a list of them
                where there are several outputs; None for new ones.

        Returns:
            float32 array of the output, `[batch, channels, height, width]` or `[batch, channels]`;
            a tuple of them where there are several outputs. Fresh arrays, or `out` itself.
        """
        if len(inputs) != len(self._inputs):
            raise TypeError(f'the program has {len(self._inputs)} inputs, received {len(inputs)}')
        arrays = [
            float32_array(x, f'input {index}', rank + 1)
            for index, (x, (_, _, _, rank)) in enumerate(zip(inputs, self._inputs))
        ]
        known, shapes, sizes = self._seen_last
        received = [x.shape for x in arrays]
        if received != known:
            shapes, sizes = self.output_shapes(*received), [
                shape[2:] or (1, 1) for shape in received
            ]
            self._seen_last = received, shapes, sizes
        if out is None:
            results = [empty(shape) for shape in shapes]
        else:
            results = [out] if isinstance(out, np.ndarray) else list(out)
            if len(results) != len(shapes):
                raise ValueError(
                    f'the program has {len(shapes)} outputs, out holds {len(results)} arrays'
                )
            for result, shape in zip(results, shapes):
                check_out(result, shape)
            if any(
                np.may_share_memory(one, other)
                for index, one in enumerate(results)
                for other in results[:index]
            ):
                raise ValueError('two arrays of out share memory')
            arrays = [
                x.copy() if any(np.may_share_memory(x, result) for result in results) else x
                for x in arrays
            ]
        self.run_arrays(arrays, sizes, arrays[0].shape[0], results)
        if out is not None:
            return out
        return results[0] if len(results) == 1 else tuple(results)

    def profile(self, *inputs: np.ndarray) -> Any:
        """Runs the program on a batch, as a call does, and says what its ops take; threads share
        each op.

        Args:
            inputs: as of a call.

        Returns:
            list of (str, float): name of the op and seconds, in the order in which they run;
            'conversion' between the caller's layout and the program's, and between groups.
        """
        arrays = [
            float32_array(x, f'input {index}', rank + 1)
            for index, (x, (_, _, _, rank)) in enumerate(zip(inputs, self._inputs))
        ]
        shapes = self.output_shapes(*[x.shape for x in arrays])
        found = self._program.profile(
            arrays,
            [x.shape[2:] or (1, 1) for x in arrays],
            arrays[0].shape[0],
            [empty(shape) for shape in shapes],
        )
        return [
            (
                title[title.index('(') + 1 : title.index(')')] if '(' in title else 'conversion',
                seconds,
            )
            for title, seconds in found
        ]

    def run_at(
        self,
        input_addresses: Sequence[int],
        output_addresses: Sequence[int],
        batch: int,
        sizes: Any = None,
    ) -> None:
        """Runs the program on memory that the caller vouches for: the face for callers that have
        only pointers.

        Args:
            input_addresses (list of int): of contiguous float32 arrays, shaped as a call's inputs.
            output_addresses (list of int): of contiguous float32 arrays, shaped as a call's
                results; no input may overlap.
            batch (int): at least 0.
            sizes: list of (height, width), one per input; None where the program's inputs all have
                one.
        """
        if sizes is None:
            sizes = [(height, width) for _, height, width, _ in self._inputs]
        self._program.run_at(input_addresses, sizes, batch, output_addresses)

    def output_shapes(self, *input_shapes: Sequence[int]) -> Any:
        """Shapes of the results for inputs of these shapes, a list.

        Raises:
            ValueError: shapes of another rank, batch or number of channels than the program's, or
                that do not fit.
        """
        if len(input_shapes) != len(self._inputs):
            raise ValueError(
                f'the program has {len(self._inputs)} inputs, received {len(input_shapes)} shapes'
            )
        sizes = []
        for index, (shape, (channels, _, _, rank)) in enumerate(zip(input_shapes, self._inputs)):
            if len(shape) != rank + 1 or shape[1] != channels:
                raise ValueError(
                    'input %d has shape %s, expected [batch, %d%s]'
                    % (index, tuple(shape), channels, ', height, width' if rank == 3 else '')
                )
            if shape[0] != input_shapes[0][0]:
                raise ValueError(
                    f'input {index} has a batch of {shape[0]}, input 0 one of {input_shapes[0][0]}'
                )
            sizes.append(tuple(shape[2:]) or (1, 1))
        batch = input_shapes[0][0]
        return [
            (batch, channels)
            if rank == 1 and height == width == 1
            else (batch, channels, height, width)
            for (channels, height, width), rank in zip(
                self._program.output_extents(sizes), self._ranks
            )
        ]

    @property
    def implementation(self) -> str:
        """Name of the implementation this object runs on."""
        return self._implementation

    @property
    def inputs(self) -> Any:
        """Shapes of the inputs, a list: `(channels,)` or `(channels, height, width)`, None
        where any will do."""
        return [
            (channels,) if rank == 1 else (channels, height or None, width or None)
            for channels, height, width, rank in self._inputs
        ]

    def state(self) -> bytes:
        """Everything the program is, as bytes: versioned, with a checksum, the weights as packed
        bits; no pickle.

        `Program.from_state` makes an equal object of it on any machine; `native/state.h` has the
        format.
        """
        return self._program.state()

    @classmethod
    def from_state(cls, state: bytes, implementation: Optional[str] = None) -> 'Program':
        """The program that `state()` described.

        Raises:
            TypeError: a state that is not bytes.
            ValueError: a state of another version, damaged, or inconsistent, with a sentence that
                says where.
        """
        if not isinstance(state, bytes):
            raise TypeError(f'the state of a program is bytes, received {type(state).__name__}')
        made = cls.__new__(cls)
        made._build(state, implementation)
        return made

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self).from_state, (self.state(),)

    def __repr__(self) -> str:
        sizes = f'{len(self._inputs)} inputs, {len(self._ranks)} outputs, {len(self.state())} bytes'
        return f'{type(self).__name__}({sizes}, {self._implementation})'

    def _build(self, state: bytes, name: Optional[str]) -> None:
        self._implementation = implementation() if name is None else name
        self._program = _native.Program(state, self._implementation)
        self._inputs = self._program.inputs()
        self._ranks = self._program.output_ranks()
        self._seen_last = (None, None, None)
        self.run_arrays = self._program.run
