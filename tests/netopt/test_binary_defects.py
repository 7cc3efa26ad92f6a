"""Rows 5 to 12 of what is wrong with `cntk.contrib.netopt` in the released CNTK 2.7."""
import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
import netopt_callbacks.quantization as cq
from binary_networks import binary_layer, blocks, convolutions, images, parameter_values


def not_first(layer):
    return layer.name != 'first'


def trained_in_place(model, features, minibatches=5):
    """Trains all Parameters of a model a little."""
    target = C.input_variable(3)
    learner = C.sgd(model.parameters, C.learning_parameter_schedule(0.1))
    trainer = C.Trainer(model, C.cross_entropy_with_softmax(model, target), [learner])
    labels = np.eye(3, dtype=np.float32)[np.arange(7) % 3]
    for seed in range(minibatches):
        trainer.train_minibatch({features: images(features.shape, seed=seed), target: labels})


def test_defect_5_binarize_convolution_honours_its_filter():
    _, model = convolutions()
    native = cq.binarize_convolution(model, lambda new_model: None, not_first)
    assert sorted(block.name for block in blocks(native, 'BinaryConvolveOp')) == ['second', 'third']
    assert native.first.op_name == 'Convolution'


def test_defect_6_latent_weights_are_the_trained_weights():
    _, model = convolutions()
    values = parameter_values(model)
    binary = cq.convert_to_binary_convolution(model, not_first)
    assert {p.uid: p.value.tolist() for p in binary.parameters} == {
        uid: v.tolist() for uid, v in values.items()
    }
    assert binary.second.W.uid == model.second.W.uid


def test_defect_7_the_binarized_filter_is_trained_by_the_learner_of_the_old_network():
    features, model = convolutions()
    learner = C.sgd(model.parameters, C.learning_parameter_schedule(0.1))
    binary = cq.convert_to_binary_convolution(model, not_first)
    before = parameter_values(model)
    target = C.input_variable(3)
    trainer = C.Trainer(binary, C.cross_entropy_with_softmax(binary, target), [learner])
    labels = np.eye(3, dtype=np.float32)[np.arange(7) % 3]
    trainer.train_minibatch({features: images(features.shape), target: labels})
    for name in ('second', 'third'):
        W = getattr(binary, name).W
        assert not np.array_equal(W.value, before[W.uid])


def test_defect_8_lowered_is_trained():
    features, model = convolutions()
    seen = []

    def train(binary):
        trained_in_place(binary, features)
        seen.append(binary)

    native = cq.binarize_convolution(model, train, not_first)
    values = images(features.shape, seed=11)
    np.testing.assert_array_equal(
        native.eval(values).view(np.uint32), seen[0].eval(values).view(np.uint32)
    )


@pytest.mark.parametrize('channels, side', [(8, 5), (1, 1), (3, 3), (7, 3), (64, 3), (65, 2)])
def test_defect_9_padding_and_every_filter_size(channels, side):
    """5 x 5 x 8 is the manual's own layer: 200 bits, no multiple of 64."""
    x = C.input_variable((channels, 7, 6))
    model = C.layers.Convolution2D((side, side), 3, pad=True, bias=False, name='layer')(x)
    native = cq.convert_to_native_binary_convolution(cq.convert_to_binary_convolution(model))
    values = images(x.shape)
    expected = binary_layer(values, model.layer.W.value, relu=False)
    # Float32 means and two products; outputs up to about 10.
    np.testing.assert_allclose(native.eval(values), expected, rtol=1e-5, atol=1e-5)


def test_defect_10_any_batch_any_shape_saved_and_loaded(tmp_path):
    x = C.input_variable((3, 5, 9))
    model = C.layers.Convolution2D((3, 2), 4, pad=True, strides=(1, 2), name='layer')(x)
    binary = cq.convert_to_binary_convolution(model)
    native = cq.convert_to_native_binary_convolution(binary)
    path = str(tmp_path / 'native.model')
    native.save(path)
    loaded = C.load_model(path)
    for batch in (1, 2, 33):
        values = images(x.shape, batch, seed=batch)
        np.testing.assert_array_equal(native.eval(values), binary.eval(values))
        np.testing.assert_array_equal(loaded.eval(values), binary.eval(values))
    assert nc.native_convolve_function_registered


def test_defect_11_dilation_and_strides_are_kept():
    x = C.input_variable((3, 9, 9))
    dilated = C.layers.Convolution2D((3, 3), 4, dilation=(2, 2), name='dilated')(x)
    native = cq.convert_to_native_binary_convolution(cq.convert_to_binary_convolution(dilated))
    assert native.shape == (4, 5, 5)
    values = images(x.shape)
    W = dilated.dilated.W.value
    wide = np.zeros((4, 3, 5, 5), np.float32)
    wide[:, :, ::2, ::2] = W
    taps = np.zeros((7, 4, 5, 5))
    for row in range(0, 5, 2):
        for column in range(0, 5, 2):
            window = np.where(values[:, :, row : row + 5, column : column + 5] > 0, 1, -1)
            filters = np.where(wide[:, :, row, column] > 0, 1, -1)
            taps += np.tensordot(window, filters, axes=([1], [1])).transpose(0, 3, 1, 2)
    scale = (
        np.abs(W).mean(axis=(1, 2, 3))[:, None, None]
        * np.abs(values).mean(axis=(1, 2, 3))[:, None, None, None]
    )
    np.testing.assert_allclose(native.eval(values), taps * scale, rtol=1e-5, atol=1e-5)  # float32

    uneven = C.layers.Convolution2D((3, 3), 4, pad=True, strides=(2, 1), name='uneven')(x)
    binary = cq.convert_to_binary_convolution(uneven)
    assert binary.shape == uneven.shape == (4, 5, 9)
    np.testing.assert_array_equal(
        cq.convert_to_native_binary_convolution(binary).eval(values), binary.eval(values)
    )

    line = C.layers.Convolution1D(3, 4, name='line')(C.input_variable((3, 9)))
    with pytest.raises(NotImplementedError, match="'line'"):
        cq.convert_to_binary_convolution(line)


def test_defect_12_what_is_binarized_has_a_gradient():
    features, model = convolutions()
    binary = cq.convert_to_binary_convolution(model)
    gradients = binary.grad({features: images(features.shape)}, wrt=[model.first.W, model.third.W])
    assert all(np.abs(gradient).sum() > 0 for gradient in gradients.values())
