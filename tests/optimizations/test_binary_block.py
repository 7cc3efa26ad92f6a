"""The trainable block: its values and gradients against NumPy, and reading it back."""
import itertools

import cntk as C
import numpy as np
import pytest

from binary_networks import binary_layer, convolutions, images, signs
from netopt_callbacks import graph
from netopt_callbacks.optimizations import binary_block
from netopt_callbacks.optimizations.binary_block import BinaryLayer, Recipe, binary_blocks, build


def one_layer(shift=None, **recipe):
    """Returns (input, float network, binary network) of one padded 3x3 convolution."""
    features = C.input_variable((2, 5, 6))
    model = C.layers.Convolution2D(
        (3, 3), 4, pad=True, activation=C.relu, init_bias=0.2, name='layer'
    )(features)
    (layer,) = graph.layers(model)
    constant = None if shift is None else C.constant(shift)
    return (
        features,
        model,
        graph.replace(model, {layer: build(layer, Recipe(shift=constant, **recipe))}),
    )


@pytest.mark.parametrize(
    'weight_scale, input_scale, shifted',
    itertools.product(('channel', 'layer', None), ('sample', None), (False, True)),
)
def test_forward_is_the_formula(weight_scale, input_scale, shifted):
    shift = np.array([0.3, -0.2], np.float32).reshape(2, 1, 1) if shifted else None
    _, model, binary = one_layer(shift, weight_scale=weight_scale, input_scale=input_scale)
    x = images((2, 5, 6))
    expected = binary_layer(
        x, model.layer.W.value, model.layer.b.value, weight_scale, input_scale, shift
    )
    # Float32 rounds a sum of 72 magnitudes and three products; the largest outputs are about 20.
    np.testing.assert_allclose(binary.eval(x), expected, rtol=1e-5, atol=1e-5)


def test_gradient_is_straight_through_inside_the_window():
    features = C.input_variable((2, 5, 6), needs_gradient=True)
    model = C.layers.Convolution2D((3, 3), 4, pad=True, bias=False, name='layer')(features)
    (layer,) = graph.layers(model)
    binary = graph.replace(model, {layer: build(layer, Recipe(None, None))})
    W = model.layer.W
    W.value = images(W.shape[1:], W.shape[0], seed=4)
    x = images((2, 5, 6), 1, seed=5)
    by_x = binary.grad({features: x}, wrt=[features])
    by_W = binary.grad({features: x}, wrt=[W])
    float_model = graph.clone_shared(model)
    trained = W.value
    W.value = signs(trained).astype(np.float32)
    plain_x = float_model.grad({features: x}, wrt=[features])
    plain_W = float_model.grad({features: signs(x).astype(np.float32)}, wrt=[W])
    # Gradients of +-1 through +-1 are integers, exact in float32.
    np.testing.assert_array_equal(by_x, plain_x * (np.abs(x) <= 1))
    np.testing.assert_array_equal(by_W, plain_W * (np.abs(trained) <= 1))


def test_clip_changes_no_value_and_widens_the_window():
    _, model, plain = one_layer()
    features = C.input_variable((2, 5, 6), needs_gradient=True)
    (layer,) = graph.layers(model)
    clipped = build(layer, Recipe(input_clip=0.25, weight_clip=0.5))(features)
    x = 3 * images((2, 5, 6))
    np.testing.assert_array_equal(clipped.eval(x), plain.eval(x))
    unclipped = build(layer, Recipe(None, None))(features).grad({features: x}, wrt=[features])
    widened = build(layer, Recipe(None, None, input_clip=0.25))(features).grad(
        {features: x}, wrt=[features]
    )
    assert (
        np.count_nonzero(widened[np.abs(x) > 1]) > 0 == np.count_nonzero(unclipped[np.abs(x) > 1])
    )


def test_block_keeps_name_parameters_and_what_the_user_finds_by_name():
    _, model, binary = one_layer()
    block = binary.layer
    assert (block.op_name, block.name) == ('BinaryConvolution', 'layer')
    assert block.W.uid == model.layer.W.uid and block.b.uid == model.layer.b.uid


@pytest.mark.parametrize('shift', [None, np.array([0.25, -1], np.float32).reshape(2, 1, 1)])
@pytest.mark.parametrize('input_scale', ['sample', None])
def test_a_reloaded_block_reads_back(tmp_path, shift, input_scale):
    _, model, binary = one_layer(shift, input_scale=input_scale)
    path = str(tmp_path / 'binary.model')
    binary.save(path)
    (block,) = binary_blocks(C.load_model(path))
    layer = BinaryLayer(block)
    W = model.layer.W.value
    assert layer.name == 'layer' and layer.W.shape == W.shape
    np.testing.assert_array_equal(layer.signs(), signs(W))
    # Both are float32 means of 18 magnitudes, summed in another order.
    np.testing.assert_allclose(layer.scale(), np.abs(W).mean(axis=(1, 2, 3)), rtol=1e-6)
    if shift is None:
        assert layer.threshold() is None
    else:
        np.testing.assert_array_equal(layer.threshold(), shift.ravel())
    if input_scale is None:
        np.testing.assert_array_equal(layer.bias(), model.layer.b.value.ravel())
    else:
        assert layer.bias() is None, 'the input scale stands between the scale and the bias'


def test_a_foreign_block_of_that_name_is_refused():
    features = C.input_variable((2, 5, 6))
    convolution = C.layers.Convolution2D((3, 3), 4)

    @C.BlockFunction('BinaryConvolution', 'foreign')
    def foreign(x):
        return convolution(x)

    with pytest.raises(ValueError, match="'foreign'.*this package did not make it"):
        BinaryLayer(foreign(features).root_function)


def test_blocks_are_found_inside_blocks():
    features, model = convolutions()

    @C.BlockFunction('Mine', 'mine')
    def mine(x):
        return model.clone('share', {features: x})

    nested = mine(C.input_variable(features.shape))
    layers = [layer for layer in graph.layers(nested) if layer.name in ('second', 'third')]
    binary = graph.replace(nested, {layer: build(layer, Recipe()) for layer in layers})
    assert [block.name for block in binary_block.binary_blocks(binary)] == ['second', 'third']
