"""What the native op, inside CNTK and outside, refuses before it takes minutes or gigabytes."""
import json
import time

import cntk as C
import numpy as np
import pytest

from binary_networks import images
from netopt_callbacks import native
from netopt_callbacks.lowering import binary_convolve
from netopt_callbacks.lowering.binary_convolve import BinaryConvolveOp
from netopt_callbacks.optimizations.convolution_geometry import Axis

WEIGHTS = images((4, 3, 3), 6)
AXES = [Axis(3, 1, 1, True), Axis(3, 1, 1, True)]


def operand(*shape, **options):
    return C.input_variable(shape or (4, 8, 9), **options)


def state(**changes):
    return dict(native.BinaryConvolution(WEIGHTS).state(), **changes)


def test_what_fits_is_made():
    x = operand()
    op = C.user_function(BinaryConvolveOp(x, state(), AXES, 'op'))
    values = images((4, 8, 9))
    expected = native.BinaryConvolution(WEIGHTS, padding=((1, 1), (1, 1)))(values)
    assert np.array_equal(op.eval({x: values}), expected)


@pytest.mark.parametrize(
    'changes, said',
    [
        (dict(words=np.zeros((0, 3, 3, 1), np.uint64)), 'must not be empty'),
        (dict(words=np.zeros((6, 3, 0, 1), np.uint64)), 'must not be empty'),
        (dict(words=np.zeros((6, 3, 3, 1), '>u8')), 'byte order of this machine, received >u8'),
        (dict(words=np.zeros((6, 3, 3, 1), np.int64)), 'uint64'),
        (dict(words=[[1]]), 'uint64.*list'),
        (dict(scale=np.ones(6, '>f4')), 'scale must be a float32 array, received >f4'),
        (dict(scale=np.ones(5, np.float32)), 'scale'),
        (dict(channels=65), 'words per tap'),
        (dict(strides=(2, 1)), 'axis of the height must have .* state, .3, 2, 1., got .3, 1, 1.'),
        (dict(dilation=(1, 2)), 'axis of the width'),
        (dict(channels=5), 'operand must be float32 .5, height'),
    ],
)
def test_a_state_that_does_not_fit(changes, said):
    with pytest.raises((TypeError, ValueError), match="BinaryConvolveOp 'op': .*" + said):
        BinaryConvolveOp(operand(), state(**changes), AXES, 'op')
    with pytest.raises((TypeError, ValueError), match="BinaryConvolveOp 'op': "):
        BinaryConvolveOp(operand(), 'state', AXES, 'op')


@pytest.mark.parametrize(
    'axes, said',
    [
        ([], 'two Axis'),
        (AXES + AXES[:1], 'two Axis'),
        ([3, 3], 'two Axis'),
        ([Axis(5, automatic=True), AXES[1]], 'axis of the height .*got .5, 1, 1.'),
        ([AXES[0], Axis(10**9, automatic=True)], 'axis of the width'),
        ([AXES[0], Axis(3, automatic=False, lower=10**9)], 'about as large as the filter'),
        ([Axis(3, lower=0, upper=5000), AXES[1]], 'about as large as the filter'),
    ],
)
@pytest.mark.parametrize(
    'shape', [(4, 8, 9), (4, C.FreeDimension, C.FreeDimension)], ids=['known', 'free']
)
def test_axes_that_do_not_fit(axes, said, shape):
    with pytest.raises((TypeError, ValueError), match="BinaryConvolveOp 'op': .*" + said):
        BinaryConvolveOp(operand(*shape), state(), axes, 'op')


@pytest.mark.parametrize(
    'x, said',
    [
        (operand(5, 8, 9), 'float32 .4, height, width., got float32 of shape'),
        (operand(8, 9), 'float32'),
        (operand(4, 8, 9, dtype=np.float64), 'got float64'),
        (operand(1, 4, 8, 9), 'of shape'),
        (operand(4, 2**16, 2**16), 'the image must be small enough'),
    ],
    ids=str,
)
def test_an_operand_that_does_not_fit(x, said):
    with pytest.raises(ValueError, match=said):
        BinaryConvolveOp(x, state(), AXES, 'op')


def test_an_image_smaller_than_the_filter():
    with pytest.raises(ValueError, match='height must have room for a filter of 3 pixels, got 2'):
        BinaryConvolveOp(operand(4, 2, 9), state(), [Axis(3), Axis(3)], 'op')


@pytest.mark.parametrize('side, padding', [(400, 200), (600, 300), (2000, 1000)])
def test_filters_that_would_take_minutes_or_gigabytes(side, padding):
    before = time.time()
    with pytest.raises(
        ValueError,
        match=f'the filters must be small enough .*{side} x {side} .*leave this layer in float',
    ):
        native.BinaryConvolution(
            np.ones((1, 1, side, side), np.float32), padding=((padding, padding),) * 2
        )
    assert time.time() - before < 2


@pytest.mark.parametrize(
    'padding', [((10**7, 10**7), (0, 0)), ((0, 0), (0, 2**31 - 1)), ((3000, 0), (0, 0))]
)
def test_padding_that_lies_outside(padding):
    with pytest.raises(ValueError, match='padding must be about as large as the filter'):
        native.BinaryConvolution(WEIGHTS, padding=padding)


@pytest.mark.parametrize('side', [11, 31])
def test_large_filters_of_networks_are_taken(side):
    weights = images((3, side, side), 2)
    half = side // 2
    values = images((3, 40, 40), 1)
    assert native.BinaryConvolution(weights, padding=((half, half),) * 2)(values).shape == (
        1,
        2,
        40,
        40,
    )


def test_a_large_dilation_costs_nothing():
    far = 10**6
    weights = images((1, 3, 3), 1)
    op = native.BinaryConvolution(weights, dilation=(far, far), padding=((far, far), (far, far)))
    centre = native.BinaryConvolution(np.ascontiguousarray(weights[:, :, 1:2, 1:2]))
    values = images((1, 5, 5), 1)
    assert np.array_equal(op(values), centre(values))


# Saved.


@pytest.mark.parametrize(
    'part, damage',
    [
        ('axes', lambda axes: axes[:-1]),
        ('axes', lambda axes: '[[3, 1]]'),
        ('axes', lambda axes: '7'),
        ('axes', lambda axes: '[[0, 1, 1, 1, 0, 0], [3, 1, 1, 1, 0, 0]]'),
        ('state', lambda text: text[:50]),
        ('state', lambda text: '[]'),
        ('state', lambda text: text.replace('<u8', '>u8')),
        ('state', lambda text: text.replace('<u8', '|O')),
        ('state', lambda text: text.replace('"base64"', '"base65"')),
        (
            'state',
            lambda text: json.dumps(
                dict(json.loads(text), words=dict(json.loads(text)['words'], base64='?'))
            ),
        ),
    ],
)
def test_a_damaged_saved_state(part, damage):
    saved = BinaryConvolveOp(operand(), state(), AXES, 'op').serialize()
    assert BinaryConvolveOp.deserialize([operand()], 'op', saved).axes[0].state() == AXES[0].state()
    saved[part] = damage(saved[part])
    with pytest.raises(ValueError, match="BinaryConvolveOp 'op': its saved state is damaged"):
        BinaryConvolveOp.deserialize([operand()], 'op', saved)


# The native objects that are kept.


def test_one_native_object_for_each_padding_and_never_many():
    ops, axes = {}, [Axis(3, 2, 1, True), Axis(3, 2, 1, True)]
    strided = state(strides=(2, 2))
    for size in range(5, 40):  # with this stride a side is padded in two ways, by its parity
        values = images((4, size, size + 1), 1)
        got = binary_convolve.convolve(ops, strided, axes, values)
        padding = tuple(axis.padding(side) for axis, side in zip(axes, values.shape[-2:]))
        fresh = native.BinaryConvolution(WEIGHTS, strides=(2, 2), padding=padding)
        assert np.array_equal(got, fresh(values))
    assert len(ops) == 2
    tall, axes = native.BinaryConvolution(images((4, 61, 1), 6), strides=(40, 1)).state(), [
        Axis(61, 40, 1, True),
        Axis(1, 1, 1, True),
    ]
    for size in range(61, 130):
        binary_convolve.convolve(ops, tall, axes, images((4, size, 3), 1))
        assert len(ops) <= 8
