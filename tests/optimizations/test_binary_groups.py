"""Convolutions with groups: those that CNTK's CPU computes rightly are binarized, the others
refused, and no other.

The oracle is plain CNTK: a convolution with groups is one convolution for each group, and for those
it is right.
"""
import itertools

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from binary_networks import images
from netopt_callbacks import graph
from netopt_callbacks.optimizations.binarize_convolution import binarize_convolution


def every(layer):
    return True


def grouped(W, x, groups, strides, pad):
    return C.convolution(
        W,
        x,
        strides=(W.shape[1],) + strides,
        auto_padding=(False,) + pad,
        groups=groups,
        name='layer',
    )


def group_by_group(W, x, groups, strides, pad):
    """Returns the same from one convolution of plain CNTK for each group; `W` is an array."""
    channels, filters = W.shape[1], len(W) // groups
    parts = [
        C.convolution(
            C.constant(W[k * filters : (k + 1) * filters]),
            C.slice(x, 0, k * channels, (k + 1) * channels),
            strides=(channels,) + strides,
            auto_padding=(False,) + pad,
        )
        for k in range(groups)
    ]
    return C.splice(*parts, axis=0)


def case(side, strides, size, pad=(True, True), groups=2, channels=4):
    x = C.input_variable((channels,) + size, needs_gradient=True)
    W = C.parameter(
        (3 * groups, channels // groups) + side,
        init=images((3 * groups, channels // groups) + side, 1)[0],
    )
    return (
        x,
        W,
        grouped(W, x, groups, strides, pad),
        group_by_group(W.value, x, groups, strides, pad),
    )


def is_right(model, oracle, values):
    one, other = model.eval(values), oracle.eval(values)
    # float32 sums of at most 100 products in another order
    return one.shape == other.shape and np.abs(one - other).max() < 1e-4


def accepted(model):
    try:
        return binarize_convolution(model, every, weight_scale=None, input_scale=None).model
    except NotImplementedError as error:
        assert (
            "'layer' " in str(error)
            and '2 groups' in str(error)
            and 'filters of odd sides' in str(error)
        )
        return None


@pytest.mark.parametrize('side', [1, 2, 3, 4, 5])
@pytest.mark.parametrize('stride', [1, 2, 3])
def test_what_cntk_computes_rightly_is_taken_and_nothing_else(side, stride):
    for size in range(max(side, 4), 10):
        x, _, model, oracle = case((side, side), (stride, stride), (size, size))
        right = is_right(model, oracle, images(x.shape, 3, seed=size))
        binary = accepted(model)
        assert (binary is not None) == right, (side, stride, size)
        if side % 2:
            assert right
        if binary is not None:
            _, found = nc.Lower(tolerance=0).run(binary, [nc.BinarizeConvolution()])
            assert found.layers[0].integers > 0 and found.layers[0].different_integers == 0


@pytest.mark.parametrize(
    'sides, strides, pad, groups',
    [
        ((3, 5), (2, 1), (True, True), 4),
        ((1, 3), (3, 2), (True, True), 4),
        ((3, 3), (2, 2), (True, False), 2),
        ((3, 3), (2, 3), (True, True), 1),
        ((5, 1), (3, 3), (True, True), 2),
        ((2, 3), (1, 2), (False, True), 2),
        ((3, 5), (9, 9), (True, True), 2),
        ((2, 2), (2, 2), (False, False), 4),
    ],
    ids=str,
)
def test_axes_that_differ(sides, strides, pad, groups):
    for size in itertools.product((6, 7, 8), (6, 9)):
        x, _, model, oracle = case(sides, strides, size, pad, groups)
        assert is_right(model, oracle, images(x.shape, 3)), size
        binary = accepted(model)
        assert binary is not None
        signs = binarize_signs(oracle, model)
        values = images(x.shape, 5, seed=1)
        assert np.array_equal(binary.eval(values), signs(values)), size
        assert np.array_equal(
            nc.quantization.convert_to_native_binary_convolution(binary).eval(values), signs(values)
        )


def binarize_signs(oracle, model):
    """Returns a function that gives the integers of the binary layer, from convolutions without
    groups."""
    (layer,) = graph.layers(model)
    W = np.where(layer.W.value > 0, 1, -1).astype(np.float32)
    attributes = layer.attributes
    x = C.input_variable(model.arguments[0].shape)
    signs = group_by_group(
        W,
        x,
        attributes['groups'],
        tuple(attributes['strides'][-2:]),
        tuple(attributes['autoPadding'][-2:]),
    )
    return lambda values: signs.eval({x: np.where(values > 0, 1, -1).astype(np.float32)})


@pytest.mark.parametrize('size, stride', [(6, 2), (8, 2), (5, 3), (9, 2), (7, 3)])
def test_gradients_of_uneven_padding_are_those_of_convolutions_without_groups(size, stride):
    x, W, model, oracle = case((3, 3), (stride, stride), (size, size))
    values = images(x.shape, 3)
    by_x, expected = (function.grad({x: values}, wrt=[x]) for function in (model, oracle))
    np.testing.assert_allclose(by_x, expected, atol=1e-4)  # float32 sums in another order
    # d/dW is linear in W, so a step along it is checked by the loss that plain CNTK gives of the
    # moved weights.
    by_W = model.grad({x: values}, wrt=[W])
    moved = group_by_group(W.value + by_W, x, 2, (stride, stride), (True, True))
    gained = moved.eval(values).sum(dtype=np.float64) - oracle.eval(values).sum(dtype=np.float64)
    np.testing.assert_allclose(gained, (by_W.astype(np.float64) ** 2).sum(), rtol=1e-4)


@pytest.mark.parametrize(
    'side, stride, taken', [(3, 1, True), (3, 2, True), (5, 3, True), (2, 1, False), (4, 2, False)]
)
def test_free_axes_are_taken_where_every_size_is_right(side, stride, taken):
    x = C.input_variable((4, C.FreeDimension, C.FreeDimension))
    W = C.parameter((6, 2, side, side), init=images((6, 2, side, side), 1)[0])
    model = grouped(W, x, 2, (stride, stride), (True, True))
    right = []
    for size in range(5, 5 + 2 * stride):
        values = images((4, size, size), 2)
        fixed = C.input_variable((4, size, size))
        oracle = group_by_group(W.value, fixed, 2, (stride, stride), (True, True))
        right.append(np.abs(model.eval({x: values}) - oracle.eval({fixed: values})).max() < 1e-4)
    assert all(right) == taken
    binary = accepted(model)
    assert (binary is not None) == taken
    if taken:
        lowered = nc.quantization.convert_to_native_binary_convolution(binary)
        for size in range(5, 5 + 2 * stride):
            values = images((4, size, size), 2)
            assert np.array_equal(
                lowered.eval({lowered.arguments[0]: values}), binary.eval({x: values})
            )
