"""The transform of Dense layers: which layers, what it keeps, what is calibrated, what it says
and refuses."""
import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from binary_networks import blocks, dense_layers, images, parameter_values
from netopt_callbacks import graph
from netopt_callbacks.optimizations.binarize_dense import binarize_dense
from netopt_callbacks.optimizations.binary_block import BinaryLayer, binary_blocks


def every(layer):
    return True


def named(*names):
    return lambda layer: layer.name in names


def binary_names(model):
    return sorted(block.name for block in binary_blocks(model))


def notes_of(transformed):
    return {note.name: note for note in transformed.layers}


# Which layers


def test_without_a_filter_the_last_dense_is_left():
    _, model = dense_layers(('a', 'b', 'c'))
    transformed = binarize_dense(model)
    assert binary_names(transformed.model) == ['a', 'b']
    notes = notes_of(transformed)
    assert list(notes) == ['a', 'b', 'c']
    assert (
        notes['c'].skipped
        == 'last Dense of the network: left out unless a filter_function takes it'
    )
    assert notes['a'].skipped is notes['b'].skipped is None


def test_a_filter_decides_alone_and_convolutions_stay():
    x = C.input_variable((2, 7, 7))
    model = C.layers.Sequential(
        [
            C.layers.Convolution2D((3, 3), 4, name='conv'),
            C.layers.Dense(5, name='a'),
            C.layers.Dense(3, name='b'),
        ]
    )(x)
    transformed = binarize_dense(model, named('b'))
    assert (
        binary_names(transformed.model) == ['b'] and transformed.model.conv.op_name == 'Convolution'
    )
    assert list(notes_of(transformed)) == ['a', 'b']
    assert notes_of(transformed)['a'].skipped == 'filter_function leaves it out'


def test_the_last_stays_so_when_others_are_binary_or_factored():
    _, model = dense_layers(('a', 'b', 'c'))
    assert binary_names(binarize_dense(binarize_dense(model, named('a', 'c')).model).model) == [
        'a',
        'b',
        'c',
    ]
    factored = nc.FactorDense(rank=1, filter_function=named('c')).transform(model).model
    assert binary_names(binarize_dense(factored).model) == ['a', 'b']


def heads(loss=False):
    x, target = C.input_variable(6), C.input_variable(3)
    trunk = C.layers.Dense(5, activation=C.relu, name='trunk')(x)
    one = C.layers.Dense(3, name='one')(C.layers.Dense(4, activation=C.relu, name='inner')(trunk))
    other = C.layers.Dense(3, name='other')(trunk)
    both = C.cross_entropy_with_softmax(one, target) + 0.3 * C.cross_entropy_with_softmax(
        other, target
    )
    return C.combine([one, other, both] if loss else [one, other])


@pytest.mark.parametrize('loss', [False, True])
def test_each_head_keeps_its_last_dense(loss):
    assert binary_names(binarize_dense(heads(loss)).model) == ['inner', 'trunk']


def test_an_inner_output_is_no_head():
    _, model = dense_layers()
    assert binary_names(binarize_dense(C.combine([model.second, model])).model) == [
        'first',
        'second',
    ]
    several = C.combine([C.relu(model.first), model.second * 2, model])
    assert binary_names(binarize_dense(several).model) == ['first', 'second']


@pytest.mark.parametrize(
    'names, filter_function', [(('a',), None), (('a', 'b'), lambda layer: False)]
)
def test_nothing_left_is_an_error_that_lists_what_was_seen(names, filter_function):
    _, model = dense_layers(names)
    with pytest.raises(ValueError) as caught:
        binarize_dense(model, filter_function)
    for name in names:
        assert f"Dense '{name}'" in str(caught.value)
    assert str(caught.value).startswith(
        'BinarizeDense: expected a Dense layer'
    ) and 'filter_function' in str(caught.value)


def test_nothing_left_says_what_is_binary_and_what_is_factored():
    _, model = dense_layers(('a', 'b', 'c'))
    taken = (
        nc.FactorDense(rank=1, filter_function=named('b'))
        .transform(binarize_dense(model, named('a')).model)
        .model
    )
    with pytest.raises(ValueError) as caught:
        binarize_dense(taken)
    for words in ("'c'", "BinaryDense 'a' (W of 12x8): 1-bit already", "DenseFactored 'b'"):
        assert words in str(caught.value)


def test_lstm_gru_and_embedding_are_no_dense_layers():
    x = C.sequence.input_variable(7)
    model = C.layers.Sequential(
        [
            C.layers.Embedding(5),
            C.layers.Recurrence(C.layers.LSTM(4)),
            C.layers.Recurrence(C.layers.GRU(4)),
            C.layers.Dense(6, name='a'),
            C.layers.Dense(3, name='b'),
        ]
    )(x)
    assert binary_names(binarize_dense(model, every).model) == ['a', 'b']


def test_products_that_are_no_dense_layers_are_named():
    x = C.input_variable(6)
    left = C.times(C.parameter((6, 6), name='L'), C.layers.Dense(6, name='a')(x), name='left')
    model = C.layers.Dense(3, name='b')(left)
    notes = binarize_dense(model).layers
    assert [note.name for note in notes] == ['a', 'b', "product 'left' (W of 6x6)"]
    assert 'W is on the left of the data' in notes[-1].skipped


# What it keeps


def test_the_given_model_and_its_values_stay_as_they_are():
    features, model = dense_layers()
    values = images(features.shape)
    before, output = parameter_values(model), model.eval(values)
    new_model = binarize_dense(model, minibatches=[{features: values}]).model
    assert {p.uid for p in new_model.parameters} == {p.uid for p in model.parameters}
    after = parameter_values(model)
    assert all(np.array_equal(before[uid], after[uid]) for uid in before)
    np.testing.assert_array_equal(model.eval(values), output)
    assert new_model.arguments == model.arguments and new_model.shape == model.shape
    assert new_model.first.W.uid == model.first.W.uid and new_model.first.b.uid == model.first.b.uid
    assert 'UserFunction' not in {function.op_name for function in graph.walk(new_model)}


def test_notes_count_parameters_and_multiply_adds():
    features, model = dense_layers(shape=(4, 9))
    notes = notes_of(binarize_dense(model, minibatches=[{features: images(features.shape)}]))
    weights, bias, outputs = 4 * 9 * 8, 8, 8
    first = notes['first']
    assert first.shape == (4, 9, 8) and first.bits_after == 1 and 0 < first.error < 1
    shift = 4  # one for each row of the input: its first axis
    assert (first.parameters_before, first.parameters_after) == (
        weights + bias,
        weights + bias + shift + 2 * outputs,
    )
    assert first.macs_before == first.macs_after == first.binary_macs_after == weights
    assert (
        notes['second'].parameters_after == 64 + 8 + 8 + 2 * 8
    )  # a vector has a shift for each element


def test_the_error_is_that_of_the_weights_scaled_per_output():
    _, model = dense_layers()
    W = model.first.W.value
    error = np.linalg.norm(W - np.abs(W).mean(axis=0) * np.where(W > 0, 1, -1)) / np.linalg.norm(W)
    assert notes_of(binarize_dense(model))['first'].error == pytest.approx(error, rel=1e-6)


def test_layers_that_share_weights_change_together():
    features, model = dense_layers()
    twice = C.combine([model, model(features * 2)])
    assert binary_names(binarize_dense(twice).model) == ['first', 'first', 'second', 'second']
    taken = iter([True, False, True, False, False, False])
    with pytest.raises(ValueError, match='same weights.*both or in neither'):
        binarize_dense(twice, lambda layer: next(taken))


# Calibration


def two_level_error(values, threshold):
    """Returns the squared error of the best two levels on the two sides of a threshold."""
    sides = [
        side for side in (values[values > threshold], values[values <= threshold]) if len(side)
    ]
    return sum(((side - side.mean()) ** 2).sum() for side in sides) / len(values)


@pytest.mark.parametrize('shape', [(10,), (3, 4, 5)], ids=['vector', 'feature map'])
def test_calibrated_shift_quantizes_each_channel(shape):
    features, model = dense_layers(shape=shape)
    data = np.abs(images(features.shape, 60))
    thresholds = []
    for split in ([data], [data[:25], data[25:]]):
        optimization = nc.BinarizeDense(filter_function=named('first'))
        optimization.prepare(model, [{features: part} for part in split])
        (layer,) = (
            BinaryLayer(block) for block in binary_blocks(optimization.transform(model).model)
        )
        thresholds.append(layer.threshold())
    np.testing.assert_array_equal(*thresholds)
    assert thresholds[0].shape == shape[:1]
    for channel, threshold in enumerate(thresholds[0]):
        values = data[:, channel].ravel().astype(np.float64)
        # Lloyd's iteration ends in a local minimum; on these it is within 10 % of the best of a
        # fine grid.
        best = min(two_level_error(values, level) for level in np.linspace(0, values.max(), 200))
        assert two_level_error(values, threshold) < 1.1 * best


def test_positions_that_are_mapped_over_are_samples():
    x = C.input_variable((4, 6))
    model = C.layers.Dense(5, map_rank=1, name='layer')(x)
    data = np.abs(images(x.shape, 30))
    flat_x = C.input_variable((6,))
    flat_model = C.times(flat_x, model.layer.W, name='layer') + model.layer.b
    mapped, plain = (
        BinaryLayer(
            binary_blocks(binarize_dense(each, every, minibatches=[{source: values}]).model)[0]
        )
        for each, source, values in ((model, x, data), (flat_model, flat_x, data.reshape(-1, 6)))
    )
    np.testing.assert_array_equal(mapped.threshold(), plain.threshold())


def test_fitted_output_comes_closer_to_the_float_layer():
    features, model = dense_layers(shape=(40,), width=30)
    data = np.abs(images(features.shape, 300))
    wanted = data.dot(model.first.W.value) + model.first.b.value
    errors = {}
    for kind in ('calibrate', None):
        new_model = binarize_dense(
            model, named('first'), output_scale=kind, minibatches=[{features: data}]
        ).model
        found = C.combine([new_model.first]).eval(data)
        errors[kind] = np.linalg.norm(found - np.maximum(wanted, 0))
    assert errors['calibrate'] < 0.8 * errors[None]


def test_without_data_the_shift_falls_back_and_says_so():
    _, model = dense_layers()
    transformed = binarize_dense(model)
    assert BinaryLayer(binary_blocks(transformed.model)[0]).threshold() is None
    assert (
        'no held-out data to calibrate input_shift and output_scale on, so it does without'
        == notes_of(transformed)['first'].message
    )


def test_starved_gradients_are_told_and_clip_mends_them():
    features, model = dense_layers()
    data = [{features: 100 * images(features.shape, 30)}]
    message = notes_of(binarize_dense(model, minibatches=data))['first'].message
    assert (
        'of its inputs lie outside the straight-through window' in message
        and "clip='calibrate'" in message
    )
    plain, clipped = (
        binarize_dense(model, clip=clip, minibatches=data) for clip in (None, 'calibrate')
    )
    assert notes_of(clipped)['first'].message is None
    np.testing.assert_array_equal(clipped.model.eval(data[0]), plain.model.eval(data[0]))


def test_in_a_trainer_what_is_trained_is_calibrated():
    """CNTK 103D trains z(x / 255): z itself, which the Trainer also holds, reads inputs 255
    times as large."""
    features, model = dense_layers()
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
    optimization = nc.BinarizeDense()
    optimization.prepare(whole, [{features: data, target: np.ones((12, 3), np.float32)}])
    layers = [BinaryLayer(block) for block in binary_blocks(optimization.transform(whole).model)]
    alone = binarize_dense(model, minibatches=[{features: data / np.float32(255)}]).model
    expected = {layer.name: layer for layer in map(BinaryLayer, binary_blocks(alone))}
    assert len(layers) == 4
    for layer in layers:
        # The same threshold and gain from the same values, but for CNTK's rounding of x / 255.
        np.testing.assert_allclose(
            layer.threshold(), expected[layer.name].threshold(), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(layer.scale(), expected[layer.name].scale(), rtol=1e-3)


def test_learned_shift_is_one_parameter_per_weights():
    features, model = dense_layers()
    optimization = nc.BinarizeDense(
        input_shift='learn', learner=lambda parameters: C.sgd(parameters, 0.1)
    )
    transformed = optimization.transform(C.combine([model, model(features * 2)]))
    new = {p.uid for p in transformed.model.parameters} - {p.uid for p in model.parameters}
    added = [replaced.added[0] for replaced in transformed.replaced]
    assert new == {shift.uid for shift in added} and [shift.shape for shift in added] == [
        (12,),
        (8,),
    ]


# Stages


def test_activations_first_then_weights_is_the_same_as_both_at_once():
    features, model = dense_layers()
    data = [{features: images(features.shape, 12)}]
    first = binarize_dense(
        model, named('first'), operands='inputs', output_scale=None, minibatches=data
    )
    assert binary_names(first.model) == [] and len(blocks(first.model, 'BinaryInputDense')) == 1
    note = notes_of(first)['first']
    assert (
        'only its input is 1-bit' in note.message
        and note.bits_after == 32
        and note.binary_macs_after is None
    )
    # The signs are real: the layer computes with +-1 for each input, whatever its size.
    read = C.combine([first.model.first]).eval(data[0][features])
    shifted = data[0][features] - first.model.first.input_shift.value
    expected = (
        np.where(shifted > 0, 1, -1).dot(model.first.W.value.astype(np.float64))
        + model.first.b.value
    )
    np.testing.assert_allclose(
        read, np.maximum(expected, 0), rtol=1e-5, atol=1e-5
    )  # float32 sums of 12
    lowered, parity = nc.Lower().run(first.model, [nc.BinarizeDense(operands='inputs')], data)
    assert lowered is first.model and parity.layers == []
    second = binarize_dense(first.model, named('first'), output_scale=None, minibatches=data)
    assert (
        binary_names(second.model) == ['first']
        and 'now its weights are' in notes_of(second)['first'].message
    )
    at_once = binarize_dense(model, named('first'), output_scale=None, minibatches=data).model
    values = images(features.shape, seed=6)
    np.testing.assert_array_equal(second.model.eval(values), at_once.eval(values))
    fitted = binarize_dense(
        binarize_dense(model, named('first'), operands='inputs', minibatches=data).model,
        named('first'),
        minibatches=data,
    )
    for staged in (second.model, fitted.model):
        assert nc.Lower(tolerance=0).run(staged, [nc.BinarizeDense()], data)[1].passed


def test_a_staged_layer_is_no_dense_layer_for_another_optimization():
    _, model = dense_layers()
    first = binarize_dense(model, named('first'), operands='inputs').model
    assert [layer.name for layer in graph.layers(first, op_name='Dense')] == ['second', 'last']


def test_inputs_of_a_layer_with_binary_inputs_is_a_conflict():
    _, model = dense_layers()
    first = binarize_dense(model, named('second'), operands='inputs').model
    with pytest.raises(ValueError, match="'second'.*its input must be float"):
        binarize_dense(first, named('second'), operands='inputs')


def test_layer_after_layer():
    features, model = dense_layers()
    two = binarize_dense(binarize_dense(model, named('second')).model, named('first')).model
    both = binarize_dense(model, named('first', 'second')).model
    values = images(features.shape)
    np.testing.assert_array_equal(two.eval(values), both.eval(values))


# What is not possible


@pytest.mark.parametrize(
    'build, error, message',
    [
        (
            lambda: C.times(
                C.input_variable(9, np.float64),
                C.parameter((9, 4), dtype=np.float64),
                name='double',
            ),
            NotImplementedError,
            "'double'.*must be float32.*float64",
        ),
        (lambda: C.layers.Dense(4, name='loose'), ValueError, "'loose'.*not applied to an input"),
        (
            lambda: C.layers.Dense(4, name='sparse')(C.input_variable(9, is_sparse=True)),
            NotImplementedError,
            "'sparse'.*its input must be dense, got a sparse one",
        ),
        (
            lambda: C.times(C.input_variable(3), C.parameter((3, 2), init=np.nan), name='bad'),
            ValueError,
            "'bad'.*weights must be finite",
        ),
    ],
    ids=['float64', 'unapplied', 'sparse', 'NaN'],
)
def test_what_cannot_be_binarized_is_named(build, error, message):
    with pytest.raises(error, match=message):
        binarize_dense(build(), every)


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
    with pytest.raises(ValueError, match=f'BinarizeDense: {option} must be one of .*got {value!r}'):
        nc.BinarizeDense(**{option: value})


def test_a_learned_shift_needs_a_learner():
    with pytest.raises(ValueError, match="BinarizeDense: input_shift='learn'.*give learner="):
        nc.BinarizeDense(input_shift='learn')


@pytest.mark.parametrize(
    'arguments', [dict(epoch=-1), dict(epoch=0.5), dict(filter_function='first')], ids=str
)
def test_common_arguments_are_checked(arguments):
    with pytest.raises((TypeError, ValueError), match='BinarizeDense: '):
        nc.BinarizeDense(**arguments)
