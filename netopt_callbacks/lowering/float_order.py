"""In which order CNTK adds the products of a float convolution: native code that adds in the same
order gives the same bits.

No order is assumed. CNTK evaluates the convolution, with its own weights, on random values and
special ones, and an order counts if native code in that order gives every bit. Another order gives
other bits in most outputs.

Where CNTK makes one product of matrices of a whole minibatch, MKL adds otherwise from one size of
minibatch, and number of threads, to another. So there is no order for a Dense, nor for a
convolution whose padding MKL-DNN does not take.
"""
import cntk as C
import numpy as np

from .. import graph
from ..native_program import Program
from ..optimizations.convolution_geometry import axes_of
from .layer_ops import float_convolution
from .read_off import same_bits

# An odd number: MKL adds otherwise at the end of what it cuts into blocks. One and two samples are
# evaluated alone, too.
SAMPLES = 7
FEW = 3  # of images of more than LARGE values
LARGE = 1 << 20
SSE_BLOCK = 112  # terms of a sum of MKL's product of matrices with SSE


def order_of_sums(node):
    """Finds the order.

    Args:
        node (Node): a float convolution, of one input of fixed size.

    Returns:
        dict: the keys `order`, `block` and `rounded` of a program's op `float_convolution`; None
        where no order that native code knows gives CNTK's bits, or where it cannot be looked for.

    Raises:
        Unsupported: a convolution that programs cannot do at all.
    """
    op = dict(float_convolution(node), op='float_convolution', input='x', values='y')
    shape = node.inputs[0].shape
    axes = axes_of(node.function)
    if any(axis.is_left_to_fallback(size) for axis, size in zip(axes, shape[1:])):
        return None
    source = C.input_variable(shape)
    function = C.as_composite(node.function).clone(C.CloneMethod.share, {node.data: source})
    values = _values(shape)
    try:
        expected = [
            np.asarray(graph.evaluate(list(function.outputs), {source: part})[0], np.float32)
            for part in (values[:1], values[:2], values)
        ]
        for keys in _orders(op['weights'].shape):
            program = Program([dict(op, **keys)], {'x': shape}, ['y'])
            if all(same_bits(program(values[: len(each)]), each).all() for each in expected):
                return keys
    except (MemoryError, RuntimeError, TypeError, ValueError):
        pass  # a size that native code does not take, or what CNTK cannot evaluate
    return None


def _orders(shape):
    """Yields the orders that were met: MKL-DNN's in blocks of channels (16 with AVX-512, 8 with
    AVX2; one block of few channels), and MKL's product of matrices, which cuts long sums. With
    SSE, as on AMD's processors, there is that product alone, and products are rounded."""
    channels, terms = shape[1], int(np.prod(shape[1:]))
    for block in (0, 16, 8):
        if block < channels:
            yield dict(order='taps', block=block)
    for block in (0, (terms + 1) // 2, 256, 384):
        if block < terms:
            yield dict(order='channels', block=block)
    yield dict(order='channels', block=0, rounded=True)
    if SSE_BLOCK < terms:
        yield dict(order='rest_first', block=SSE_BLOCK, rounded=True)


def _values(shape):
    """Returns float32 [samples, ...shape]: normal numbers, some of all magnitudes; one sample of
    zeros of both signs and subnormals, one of zeros alone, one with NaN and infinities in a few
    places."""
    random = np.random.RandomState(3)
    values = random.standard_normal((SAMPLES if np.prod(shape) <= LARGE else FEW,) + tuple(shape))
    values[1] *= 10.0 ** random.uniform(-4, 4, shape)
    values[2] = random.choice([0.0, -0.0, 1e-40, -1e-40, 1e-38], shape)
    if len(values) > FEW:
        values[3] = random.choice([0.0, -0.0], shape)
        places = random.randint(0, values[4].size, 3)
        values[4].ravel()[places] = [np.inf, -np.inf, np.nan]
    return values.astype(np.float32)
