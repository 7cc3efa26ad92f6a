"""The transform: which layers, what it keeps, what it says."""
import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from binary_networks import blocks, convolutions, images, padded_same, parameter_values
from netopt_callbacks import graph
from netopt_callbacks.optimizations.binarize_convolution import binarize_convolution
from netopt_callbacks.optimizations.binary_block import BinaryLayer, binary_blocks


def named(*names):
    return lambda layer: layer.name in names


def binary_names(model):
    return sorted(block.name for block in binary_blocks(model))


def notes_of(transformed):
    return {note.name: note for note in transformed.layers}


def test_without_a_filter_the_first_and_the_last_convolution_are_left():
    _, model = convolutions(('a', 'b', 'c', 'd'))
    transformed = binarize_convolution(model)
    assert binary_names(transformed.model) == ['b', 'c']
    notes = notes_of(transformed)
    assert list(notes) == ['a', 'b', 'c', 'd']
    assert notes['a'].skipped.startswith('first convolution') and notes['d'].skipped.startswith(
        'last convolution'
    )
    assert notes['b'].skipped is None and notes['c'].skipped is None


def test_first_and_last_stay_so_when_others_are_binary_already():
    _, model = convolutions(('a', 'b', 'c', 'd'))
    once = binarize_convolution(model, named('a', 'd')).model
    assert binary_names(binarize_convolution(once).model) == ['a', 'b', 'c', 'd']


def test_a_filter_decides_alone():
    _, model = convolutions()
    transformed = binarize_convolution(model, named('first', 'third'))
    assert binary_names(transformed.model) == ['first', 'third']
    assert notes_of(transformed)['second'].skipped == 'filter_function leaves it out'


@pytest.mark.parametrize(
    'names, filter_function',
    [(('a', 'b'), None), (('a',), None), (('a', 'b', 'c'), lambda layer: False)],
)
def test_nothing_left_is_an_error_that_lists_what_was_seen(names, filter_function):
    _, model = convolutions(names)
    with pytest.raises(ValueError) as caught:
        binarize_convolution(model, filter_function)
    for name in names:
        assert f"'{name}'" in str(caught.value)
    assert 'BinarizeConvolution' in str(caught.value) and 'filter_function' in str(caught.value)


def test_nothing_left_says_what_is_binary_already():
    _, model = convolutions()
    every = binarize_convolution(model, lambda layer: True).model
    with pytest.raises(ValueError, match="'second'.*1-bit already"):
        binarize_convolution(every, named('second'))


def test_the_given_model_and_its_values_stay_as_they_are():
    features, model = convolutions()
    before, output = parameter_values(model), model.eval(images(features.shape))
    new_model = binarize_convolution(model, minibatches=[{features: images(features.shape)}]).model
    assert {p.uid for p in new_model.parameters} == {p.uid for p in model.parameters}
    after = parameter_values(model)
    assert all(np.array_equal(before[uid], after[uid]) for uid in before)
    np.testing.assert_array_equal(model.eval(images(features.shape)), output)
    assert new_model.arguments == model.arguments and new_model.shape == model.shape


def test_note_of_a_free_axis_leaves_multiply_adds_open():
    features = C.input_variable((2, C.FreeDimension, 9))
    model = C.layers.Convolution2D((3, 3), 4, pad=True, name='only')(features)
    (note,) = binarize_convolution(model, named('only')).layers
    assert note.macs_before is note.macs_after is note.binary_macs_after is None
    assert note.parameters_before == 2 * 4 * 9 + 4 and note.bits_after == 1


def test_note_counts_parameters_and_multiply_adds():
    features, model = convolutions(shape=(2, 9, 9), filters=4)
    note = notes_of(binarize_convolution(model, minibatches=[{features: images(features.shape)}]))[
        'second'
    ]
    weights, shift, offset, scale = 4 * 4 * 9, 4, 4, 4
    assert note.shape == (4, 4, 3, 3)
    assert (note.parameters_before, note.parameters_after) == (
        weights + 4,
        weights + 4 + shift + offset + scale,
    )
    assert note.macs_before == note.macs_after == note.binary_macs_after == 9 * 9 * 4 * weights // 4
    assert note.bits_after == 1 and 0 < note.error < 1 and note.message is None


def two_level_error(values, threshold):
    """Returns the squared error of the best two levels on the two sides of a threshold."""
    sides = [
        side for side in (values[values > threshold], values[values <= threshold]) if len(side)
    ]
    return sum(((side - side.mean()) ** 2).sum() for side in sides) / len(values)


def test_calibrated_shift_quantizes_what_the_layer_reads():
    features, model = convolutions()
    data = images(features.shape, 12)
    read = C.combine([model.first]).eval({features: data}).astype(np.float64)
    thresholds = []
    for split in ([data], [data[:5], data[5:]]):
        optimization = nc.BinarizeConvolution(filter_function=named('second'))
        optimization.prepare(model, [{features: part} for part in split])
        (layer,) = (
            BinaryLayer(block) for block in binary_blocks(optimization.transform(model).model)
        )
        thresholds.append(layer.threshold())
    np.testing.assert_array_equal(*thresholds)
    for channel, threshold in enumerate(thresholds[0]):
        values = read[:, channel].ravel()
        # Lloyd's iteration ends in a local minimum; on these it is within 2 % of the best of a fine
        # grid.
        best = min(two_level_error(values, level) for level in np.linspace(0, values.max(), 200))
        assert two_level_error(values, threshold) < 1.02 * best


def test_fitted_output_has_the_mean_and_the_slope_of_the_float_layer():
    features, model = convolutions(filters=16)
    data = images(features.shape, 50)
    read = C.combine([model.first]).eval({features: data})
    wanted = float_convolution(read, model.second.W.value)
    errors = {}
    for kind in ('calibrate', None):
        new_model = binarize_convolution(
            model, named('second'), output_scale=kind, minibatches=[{features: data}]
        ).model
        inner = C.combine([new_model.second]).eval({features: data})
        target = np.maximum(wanted + model.second.b.value, 0)
        errors[kind] = np.linalg.norm(inner - target) / np.linalg.norm(target)
    assert errors['calibrate'] < 0.8 * errors[None]


def float_convolution(values, W):
    taps = padded_same(values, 3)
    result = 0
    for row in range(3):
        for column in range(3):
            window = taps[:, :, row : row + values.shape[2], column : column + values.shape[3]]
            result = result + np.tensordot(window, W[:, :, row, column], axes=([1], [1])).transpose(
                0, 3, 1, 2
            )
    return result


def test_without_data_the_shift_falls_back_and_says_so():
    _, model = convolutions()
    transformed = binarize_convolution(model, named('second'))
    assert BinaryLayer(binary_blocks(transformed.model)[0]).threshold() is None
    assert (
        'no held-out data to calibrate input_shift and output_scale on, so it does without'
        == notes_of(transformed)['second'].message
    )
    plain = binarize_convolution(model, named('second'), input_shift=None, output_scale=None)
    assert notes_of(plain)['second'].message is None


@pytest.mark.parametrize(
    'options', [{}, dict(clip='calibrate', input_shift='learn')], ids=['default', 'learned']
)
def test_no_python_in_the_training_loop(options):
    features, model = convolutions()
    new_model = binarize_convolution(
        model, minibatches=[{features: images(features.shape)}], **options
    ).model
    assert 'UserFunction' not in {function.op_name for function in graph.walk(new_model)}


def test_in_a_trainer_what_is_trained_is_calibrated():
    """CNTK 103D trains z(x / 255): z itself, which the Trainer also holds, reads inputs 255
    times as large."""
    features, model = convolutions()
    target = C.input_variable(3)
    scaled = model(features / 255)
    whole = C.combine(
        [
            model,
            C.cross_entropy_with_softmax(scaled, target),
            C.classification_error(scaled, target),
        ]
    )
    data = 255 * images(features.shape, 12)
    optimization = nc.BinarizeConvolution(filter_function=named('second'))
    optimization.prepare(whole, [{features: data, target: np.ones((12, 3), np.float32)}])
    transformed = optimization.transform(whole)
    layers = [BinaryLayer(block) for block in binary_blocks(transformed.model)]
    alone = binarize_convolution(
        model, named('second'), minibatches=[{features: data / np.float32(255)}]
    ).model
    expected = BinaryLayer(binary_blocks(alone)[0])
    assert len(layers) == 2 and len(transformed.layers) == 3
    for layer in layers:
        # The same threshold and gain from the same values, but for CNTK's rounding of x / 255.
        np.testing.assert_allclose(layer.threshold(), expected.threshold(), rtol=1e-4)
        np.testing.assert_allclose(layer.scale(), expected.scale(), rtol=1e-3)


def test_layers_that_share_weights_change_together():
    features, model = convolutions()
    twice = C.combine([model, model(features * 2)])
    assert binary_names(binarize_convolution(twice).model) == ['second', 'second']
    taken = iter([False, True, False, False, False, False])
    with pytest.raises(ValueError, match='same weights.*both or in neither'):
        binarize_convolution(twice, lambda layer: next(taken))


def test_learned_shift_is_one_parameter_per_weights():
    features, model = convolutions()
    optimization = nc.BinarizeConvolution(
        filter_function=named('second'),
        input_shift='learn',
        learner=lambda parameters: C.sgd(parameters, 0.1),
    )
    transformed = optimization.transform(C.combine([model, model(features * 2)]))
    new = {p.uid for p in transformed.model.parameters} - {p.uid for p in model.parameters}
    (replaced,) = transformed.replaced
    (shift,) = replaced.added
    assert replaced.layer == 'second' and replaced.retired == ()
    assert new == {shift.uid} and shift.shape == (4, 1, 1) and shift.name == 'input_shift'
    data = images(features.shape, 12)
    optimization.prepare(model, [{features: data}])
    (shift,) = optimization.transform(model).replaced[0].added
    constant = binarize_convolution(model, named('second'), minibatches=[{features: data}]).model
    np.testing.assert_array_equal(
        shift.value.ravel(), BinaryLayer(binary_blocks(constant)[0]).threshold()
    )


def test_starved_gradients_are_told_and_clip_mends_them():
    features, model = convolutions()
    model.first.W.value = model.first.W.value * np.float32(100)
    data = [{features: images(features.shape, 12)}]
    message = notes_of(binarize_convolution(model, named('second'), minibatches=data))[
        'second'
    ].message
    assert (
        'of its inputs lie outside the straight-through window' in message
        and "clip='calibrate'" in message
    )
    clipped = binarize_convolution(model, named('second'), clip='calibrate', minibatches=data)
    assert notes_of(clipped)['second'].message is None
    plain = binarize_convolution(model, named('second'), minibatches=data).model
    np.testing.assert_array_equal(clipped.model.eval(data[0]), plain.eval(data[0]))

    def flowing(function):
        gradient = function.grad(data[0], wrt=[model.first.b])
        return np.abs(gradient).sum()

    assert flowing(clipped.model) > 0
    model.second.W.value = model.second.W.value * np.float32(100)
    message = notes_of(binarize_convolution(model, named('second'), minibatches=data))[
        'second'
    ].message
    assert 'of its weights lie outside' in message


# Stages


def test_activations_first_then_weights_is_the_same_as_both_at_once():
    features, model = convolutions()
    data = [{features: images(features.shape, 12)}]
    first = binarize_convolution(
        model, named('second'), operands='inputs', output_scale=None, minibatches=data
    )
    assert (
        binary_names(first.model) == [] and len(blocks(first.model, 'BinaryInputConvolution')) == 1
    )
    assert 'only its input is 1-bit' in notes_of(first)['second'].message
    assert notes_of(first)['second'].bits_after == 32
    lowered, parity = nc.Lower().run(first.model, [nc.BinarizeConvolution(operands='inputs')], data)
    assert lowered is first.model and parity.layers == []
    second = binarize_convolution(first.model, named('second'), output_scale=None, minibatches=data)
    assert binary_names(second.model) == ['second']
    assert 'now its weights are' in notes_of(second)['second'].message
    at_once = binarize_convolution(
        model, named('second'), output_scale=None, minibatches=data
    ).model
    values = images(features.shape, seed=6)
    np.testing.assert_array_equal(second.model.eval(values), at_once.eval(values))
    fitted = binarize_convolution(
        binarize_convolution(model, named('second'), operands='inputs', minibatches=data).model,
        named('second'),
        minibatches=data,
    )
    for staged in (second.model, fitted.model):
        assert nc.Lower(tolerance=0).run(staged, [nc.BinarizeConvolution()], data)[1].passed


def test_inputs_of_a_layer_with_binary_inputs_is_a_conflict():
    _, model = convolutions()
    first = binarize_convolution(model, named('second'), operands='inputs').model
    with pytest.raises(ValueError, match="'second'.*its input must be float"):
        binarize_convolution(first, named('second'), operands='inputs')


def test_layer_after_layer():
    features, model = convolutions()
    # Without data: calibrated, 'third' would be fitted to what it reads while 'second' is float.
    one = binarize_convolution(model, named('third')).model
    two = binarize_convolution(one, named('second')).model
    both = binarize_convolution(model, named('second', 'third')).model
    values = images(features.shape)
    np.testing.assert_array_equal(two.eval(values), both.eval(values))


# What is not possible


@pytest.mark.parametrize(
    'build, error, message',
    [
        (
            lambda: C.layers.Convolution1D(3, 4, name='line')(C.input_variable((2, 9))),
            NotImplementedError,
            "'line'.*only 2-D convolutions",
        ),
        (
            lambda: C.layers.Convolution3D((3, 3, 3), 4, name='cube')(
                C.input_variable((2, 9, 9, 9))
            ),
            NotImplementedError,
            "'cube'.*only 2-D convolutions",
        ),
        (
            lambda: C.convolution(
                C.parameter((4, 2, 3, 3), name='W'), C.input_variable((2, 9, 9)), name='slides'
            ),
            NotImplementedError,
            "'slides'.*slide along the channels",
        ),
        (
            lambda: C.convolution(
                C.parameter((4, 2, 3, 3), dtype=np.float64),
                C.input_variable((2, 9, 9), np.float64),
                auto_padding=[False, True, True],
                name='double',
            ),
            NotImplementedError,
            "'double'.*float64.*float32",
        ),
        (
            lambda: C.convolution(
                C.parameter((4, 1, 2, 3)),
                C.input_variable((2, 9, 9)),
                groups=2,
                auto_padding=[False, True, True],
                name='grouped',
            ),
            NotImplementedError,
            "'grouped'.*2 groups.*odd sides",
        ),
        (
            lambda: C.layers.Convolution2D((3, 3), 4, name='loose'),
            ValueError,
            "'loose'.*not applied to an input",
        ),
    ],
    ids=['1-D', '3-D', 'channels', 'float64', 'groups', 'unapplied'],
)
def test_what_cannot_be_binarized_is_named(build, error, message):
    with pytest.raises(error, match=message):
        binarize_convolution(build(), lambda layer: True)


@pytest.mark.parametrize(
    'option, value',
    [
        ('weight_scale', 'filter'),
        ('input_scale', 'channel'),
        ('input_shift', True),
        ('output_scale', 'learn'),
        ('clip', 1),
        ('operands', 'weights'),
    ],
)
def test_options_are_checked(option, value):
    with pytest.raises(
        ValueError, match=f'BinarizeConvolution: {option} must be one of .*got {value!r}'
    ):
        nc.BinarizeConvolution(**{option: value})


def test_a_learned_shift_needs_a_learner():
    with pytest.raises(ValueError, match="input_shift='learn'.*give learner="):
        nc.BinarizeConvolution(input_shift='learn')


def test_layers_inside_blocks_are_calibrated_and_binarized():
    features, model = convolutions()

    @C.BlockFunction('Mine', 'mine')
    def mine(x):
        return model.clone('share', {features: x})

    outer = C.input_variable(features.shape)
    nested, data = mine(outer), images(features.shape, 12)
    new_model = binarize_convolution(nested, named('second'), minibatches=[{outer: data}]).model
    flat = binarize_convolution(model, named('second'), minibatches=[{features: data}]).model
    np.testing.assert_array_equal(new_model.eval(data), flat.eval(data))
    lowered, parity = nc.Lower(tolerance=0).run(
        new_model, [nc.BinarizeConvolution()], [{outer: data}]
    )
    assert parity.layers[0].integers > 0
    assert 'BinaryConvolution' not in [
        block.op_name for block in graph.walk(lowered, into_blocks=True)
    ]
    np.testing.assert_array_equal(lowered.eval(data), new_model.eval(data))


def test_a_filter_that_takes_a_dense_is_told_what_binarizes_one():
    _, model = convolutions()
    with pytest.raises(ValueError, match="Dense 'classify' .* is taken: use nc.BinarizeDense"):
        binarize_convolution(model, named('classify'))
    with pytest.raises(
        ValueError, match="Convolution 'first' .* is taken: use nc.BinarizeConvolution"
    ):
        nc.BinarizeDense(filter_function=named('first')).transform(model)
    with pytest.raises(ValueError, match='filter_function leaves it out'):
        binarize_convolution(
            model, lambda layer: layer.W.shape[3] == 7
        )  # no Dense has such an axis
