"""The trainable binary Dense and its native op: values, integers and gradients against NumPy,
in every form."""
import os
import subprocess
import sys

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from binary_networks import binary_dense, binary_product, blocks, dense_layers, images, signs
from netopt_callbacks import graph, native
from netopt_callbacks.lowering import (
    Lower,
    binary_convolve,
    binary_dense as native_dense,
    compare,
    lower_binary_layers,
)
from netopt_callbacks.optimizations.binarize_dense import binarize_dense
from netopt_callbacks.optimizations.binary_block import BinaryLayer, Recipe, binary_blocks, build


def every(layer):
    return True


def same_bits(one, other):
    return np.array_equal(np.asarray(one).view(np.uint32), np.asarray(other).view(np.uint32))


def parameter(shape, seed=0):
    return C.parameter(shape, init=images(shape, 1, seed)[0], name='W')


# One layer each, called 'layer', without activation; the oracle adds b.
FORMS = {
    'vector': ((9,), lambda x: C.layers.Dense(7, init_bias=0.3, name='layer')(x)),
    'one input': ((1,), lambda x: C.layers.Dense(3, name='layer')(x)),
    'one output': ((70,), lambda x: C.layers.Dense(1, name='layer')(x)),
    'feature map': ((3, 4, 5), lambda x: C.layers.Dense(6, init_bias=0.3, name='layer')(x)),
    'tensor output': ((2, 5), lambda x: C.layers.Dense((3, 4), init_bias=0.3, name='layer')(x)),
    'mapped': ((4, 9), lambda x: C.layers.Dense(6, map_rank=1, init_bias=0.3, name='layer')(x)),
    'mapped twice': ((3, 2, 5, 4), lambda x: C.layers.Dense((2, 3), map_rank=2, name='layer')(x)),
    'input rank': ((4, 9), lambda x: C.layers.Dense(6, input_rank=1, name='layer')(x)),
    'without bias': ((9,), lambda x: C.layers.Dense(7, bias=False, name='layer')(x)),
    'times': ((9,), lambda x: C.times(x, parameter((9, 7)), name='layer')),
    'times and plus': (
        (9,),
        lambda x: C.plus(
            C.times(x, parameter((9, 7))), C.parameter((7,), init=0.3, name='b'), name='layer'
        ),
    ),
    'times of feature maps': (
        (3, 4, 5),
        lambda x: C.times(x, parameter((3, 4, 5, 2, 6)), output_rank=2, name='layer'),
    ),
}

IMPLEMENTATIONS = native.implementations()


def of_form(form):
    """Returns (input, model, its layer) of one of FORMS."""
    shape, make = FORMS[form]
    x = C.input_variable(shape)
    model = make(x)
    (layer,) = graph.layers(model)
    layer.W.value = images(layer.W.shape, 1, seed=3)[0]
    return x, model, layer


def shift_for(layer):
    """Returns a different threshold for each channel, in the shape that broadcasts over the
    input axes."""
    inputs = len(layer.W.shape) - layer.output_rank
    return (np.arange(layer.W.shape[0], dtype=np.float32) / 8 - 0.5).reshape(
        (-1,) + (1,) * (inputs - 1)
    )


@pytest.mark.parametrize('form', sorted(FORMS))
@pytest.mark.parametrize(
    'weight_scale, input_scale, shifted',
    [
        ('channel', 'sample', True),
        ('layer', 'sample', False),
        (None, None, True),
        ('channel', None, False),
    ],
)
def test_forward_is_the_formula(form, weight_scale, input_scale, shifted):
    x, model, layer = of_form(form)
    shift = shift_for(layer) if shifted else None
    recipe = Recipe(weight_scale, input_scale, None if shift is None else C.constant(shift))
    binary = graph.replace(model, {layer: build(layer, recipe)})
    values = images(x.shape)
    b = 0 if layer.b is None else layer.b.value
    expected = binary_dense(
        values, layer.W.value, b, weight_scale, input_scale, 0 if shift is None else shift
    )
    assert binary.shape == model.shape
    # float32 means and three products
    np.testing.assert_allclose(binary.eval(values), expected, rtol=1e-5, atol=1e-5)


def test_gradient_is_straight_through_inside_the_window():
    x = C.input_variable((6,), needs_gradient=True)
    model = C.layers.Dense(4, bias=False, name='layer')(x)
    (layer,) = graph.layers(model)
    binary = graph.replace(model, {layer: build(layer, Recipe(None, None))})
    W = layer.W
    W.value = 2 * images(W.shape[1:], W.shape[0], seed=4)
    trained, values = W.value, 2 * images((6,), 5, seed=5)
    by_x, by_W = binary.grad({x: values}, wrt=[x]), binary.grad({x: values}, wrt=[W])
    # With a gradient of 1 for each output, d/dx is sum over outputs of sign(W), d/dW the sum of
    # sign(x).
    np.testing.assert_array_equal(by_x, signs(trained).sum(axis=1) * (np.abs(values) <= 1))
    np.testing.assert_array_equal(by_W, signs(values).sum(axis=0)[:, None] * (np.abs(trained) <= 1))
    assert (np.abs(values) > 1).any() and (np.abs(trained) > 1).any()


@pytest.mark.few(8)
@pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
@pytest.mark.parametrize('form', sorted(FORMS))
def test_lowered_equals_trained_in_every_form_on_every_implementation(
    form, implementation, monkeypatch
):
    monkeypatch.setenv('NETOPT_NATIVE', implementation)
    x, model, layer = of_form(form)
    data = [{x: images(x.shape, 20, seed=2)}]
    trained = binarize_dense(model, every, minibatches=data).model
    lowered, found = Lower(tolerance=0).run(trained, [nc.BinarizeDense()], data)
    assert found.passed and found.largest_difference == 0
    assert (
        found.layers[0].integers == 20 * np.prod(model.shape)
        and found.layers[0].different_integers == 0
    )
    assert [
        block.name
        for op_name in ('BinaryDenseOp', 'BinarySegmentOp')
        for block in blocks(lowered, op_name)
    ] == ['layer']
    assert lowered.shape == model.shape
    for batch in (1, 3, 64):
        values = images(x.shape, batch, seed=batch)
        assert same_bits(lowered.eval(values), trained.eval(values))


@pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
@pytest.mark.parametrize('inputs', [1, 3, 63, 64, 65, 511, 512, 513])
def test_integers_are_those_of_numpy(inputs, implementation, monkeypatch):
    monkeypatch.setenv('NETOPT_NATIVE', implementation)
    for outputs in (1, 17, 65):
        x = C.input_variable((inputs,))
        W = parameter((inputs, outputs), seed=outputs)
        trained = binarize_dense(C.times(x, W), every, weight_scale=None, input_scale=None).model
        values = images((inputs,), 9, seed=1)
        values[0, 0], values[1, 0], values[2, 0] = 0, -0.0, np.float32(1e-45)
        expected = binary_product(values, W.value)
        assert np.array_equal(trained.eval(values), expected)
        assert np.array_equal(lower_binary_layers(trained).eval(values), expected)


@pytest.mark.parametrize('seed', range(25))
def test_lowered_equals_trained_for_random_layers(seed):
    random = np.random.RandomState(seed)

    def sides(rank):
        return tuple(int(side) for side in random.choice([1, 2, 3, 5, 9, 33], rank))

    mapped, inputs, outputs = (
        sides(random.randint(3)),
        sides(random.randint(1, 3)),
        sides(random.randint(1, 3)),
    )
    x = C.input_variable(mapped + inputs)
    layer = C.layers.Dense(
        outputs,
        map_rank=len(mapped),
        bias=bool(random.randint(2)),
        init_bias=0.2,
        name='layer',
        activation=[None, C.relu, C.tanh, C.sigmoid][random.randint(4)],
    )
    options = dict(
        weight_scale=random.choice(['channel', 'layer', None]),
        input_scale=random.choice(['sample', None]),
        input_shift=random.choice(['calibrate', None]),
        output_scale=random.choice(['calibrate', None]),
        clip=random.choice(['calibrate', None]),
    )
    data = [{x: images(x.shape, 12, seed)}] if random.randint(4) else ()
    trained = binarize_dense(layer(x), every, minibatches=data, **options).model
    lowered, found = Lower(tolerance=0).run(trained, [nc.BinarizeDense()], data)
    assert found.layers[0].integers > 0 and found.largest_difference == 0
    for batch in (1, 2, 7):
        values = images(x.shape, batch, seed=100 + batch)
        assert same_bits(lowered.eval(values), trained.eval(values))


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(weight_scale='layer'),
        dict(weight_scale=None),
        dict(input_scale='sample'),
        dict(clip='calibrate'),
        dict(input_shift=None),
        dict(output_scale=None),
        dict(input_shift='learn'),
    ],
    ids=str,
)
def test_lowered_equals_trained_for_every_option(options):
    features, model = dense_layers()
    data = [{features: 3 * images(features.shape, 20)}]
    trained = binarize_dense(model, minibatches=data, **options).model
    lowered, found = Lower(tolerance=0).run(trained, [nc.BinarizeDense()], data)
    assert [layer.name for layer in found.layers] == ['first', 'second']
    assert found.samples == found.predictions == 20
    values = images(features.shape, 5, seed=3)
    assert same_bits(lowered.eval(values), trained.eval(values))


@pytest.mark.parametrize('scale', ['sample', None])
def test_fitted_values_are_where_the_formula_has_them(scale):
    features, model = dense_layers(names=('layer', 'last'))
    data = images(features.shape, 40)
    trained = binarize_dense(model, minibatches=[{features: data}], input_scale=scale).model
    block = trained.layer
    named = {constant.name: constant.value for constant in block.constants}
    expected = binary_dense(
        data,
        model.layer.W.value,
        model.layer.b.value,
        shift=named['input_shift'],
        gain=named['gain'],
        offset=named['offset'],
        input_scale=scale,
    )
    np.testing.assert_allclose(
        C.combine([block]).eval(data), np.maximum(expected, 0), rtol=1e-5, atol=1e-5
    )


def test_sequences_free_axes_and_any_batch():
    for x, batches in (
        (C.input_variable((6,)), [images((6,), count) for count in (1, 3, 64)]),
        (
            C.sequence.input_variable((6,)),
            [[images((6,), count) for count in (3, 1, 2)], [images((6,), 2)] * 2],
        ),
        (
            C.input_variable((C.FreeDimension, 6)),
            [images((4, 6)), images((2, 6)), images((4, 6), 2)],
        ),
    ):
        trained = binarize_dense(
            C.layers.Dense(5, map_rank=len(x.shape) - 1, activation=C.tanh, name='layer')(x), every
        ).model
        lowered, found = Lower(tolerance=0).run(
            trained, [nc.BinarizeDense()], [{x: batch} for batch in batches]
        )
        assert found.layers[0].integers > 0
        for batch in batches:
            for one, other in zip(trained.eval({x: batch}), lowered.eval({x: batch})):
                assert same_bits(one, other)


def test_inside_a_recurrence():
    x = C.sequence.input_variable((5,))
    step = C.layers.Dense(5, name='inner')
    model = C.layers.Recurrence(lambda state, value: C.tanh(step(state) + value))(x)
    data = {x: [images((5,), 4), images((5,), 2)]}
    trained = binarize_dense(model, every, minibatches=[data]).model
    lowered, found = Lower(tolerance=0).run(trained, [nc.BinarizeDense()], [data])
    assert found.layers[0].integers == 6 * 5
    for one, other in zip(trained.eval(data), lowered.eval(data)):
        assert same_bits(one, other)


def test_layers_inside_blocks_are_calibrated_binarized_and_lowered():
    features, model = dense_layers()

    @C.BlockFunction('Mine', 'mine')
    def mine(x):
        return model.clone('share', {features: x})

    outer = C.input_variable(features.shape)
    data = images(features.shape, 12)
    nested = binarize_dense(mine(outer), minibatches=[{outer: data}]).model
    flat = binarize_dense(model, minibatches=[{features: data}]).model
    assert same_bits(nested.eval(data), flat.eval(data))
    lowered, found = Lower(tolerance=0).run(nested, [nc.BinarizeDense()], [{outer: data}])
    assert [layer.integers for layer in found.layers] == [12 * 8] * 2
    assert 'BinaryDense' not in [block.op_name for block in graph.walk(lowered, into_blocks=True)]
    assert same_bits(lowered.eval(data), nested.eval(data))


def test_convolutions_and_dense_layers_of_one_network():
    x = C.input_variable((2, 8, 8))
    model = C.layers.Sequential(
        [
            C.layers.Convolution2D((3, 3), 4, pad=True, activation=C.relu, name=name)
            for name in ('a', 'b', 'c')
        ]
        + [C.layers.Dense(9, activation=C.relu, name='d'), C.layers.Dense(3, name='e')]
    )(x)
    data = [{x: images(x.shape, 20)}]
    one = nc.BinarizeConvolution()
    one.prepare(model, data)
    convolved = one.transform(model).model
    other = nc.BinarizeDense()
    other.prepare(convolved, data)
    trained = other.transform(convolved).model
    lowered, found = Lower(tolerance=0, float_layers='apart').run(trained, [one, other], data)
    assert [layer.name for layer in found.layers] == ['b', 'd']
    assert sorted(
        block.op_name
        for block in graph.walk(lowered)
        if block.is_block and block.op_name.endswith('Op')
    ) == ['BinarySegmentOp', 'BinarySegmentOp']


# Saved, loaded, read back


@pytest.mark.parametrize('form', sorted(FORMS))
def test_a_reloaded_model_lowers_like_the_trained_one(form, tmp_path):
    x, model, layer = of_form(form)
    trained = binarize_dense(model, every, minibatches=[{x: images(x.shape, 20)}]).model
    path = str(tmp_path / 'trained.model')
    trained.save(path)
    loaded = C.load_model(path)
    (block,) = binary_blocks(loaded)
    read = BinaryLayer(block)
    assert read.name == 'layer' and read.label.startswith("BinaryDense 'layer' (W of ")
    assert (
        np.array_equal(read.signs(), signs(layer.W.value))
        and read.threshold().shape == layer.W.shape[:1]
    )
    lowered = lower_binary_layers(loaded)
    values = images(x.shape, seed=8)
    assert same_bits(lowered.eval({lowered.arguments[0]: values}), trained.eval(values))
    lowered.save(path)
    again = C.load_model(path)
    assert same_bits(again.eval({again.arguments[0]: values}), trained.eval(values))


def test_the_lowered_network_is_an_ordinary_function():
    features, model = dense_layers()
    trained = binarize_dense(model).model
    lowered = lower_binary_layers(trained)
    values = images(features.shape)
    expected = trained.eval(values)
    for function in (lowered, lowered.clone('clone'), lowered.clone('share', {features: features})):
        assert same_bits(function.eval({function.arguments[0]: values}), expected)
    labels, target = np.eye(3, dtype=np.float32)[np.arange(7) % 3], C.input_variable(3)
    by_trained, by_lowered = (
        C.Evaluator(C.classification_error(function, target)).test_minibatch(
            {features: values, target: labels}
        )
        for function in (trained, lowered)
    )
    assert by_trained == by_lowered
    assert same_bits(C.softmax(lowered).eval(values), C.softmax(trained).eval(values))


def test_loads_in_a_process_that_has_not_imported_the_package(tmp_path):
    features, model = dense_layers()
    lowered = lower_binary_layers(binarize_dense(model).model)
    values = images(features.shape)
    lowered.save(str(tmp_path / 'lowered.model'))
    np.save(str(tmp_path / 'values.npy'), values)
    script = (
        'import cntk as C, numpy as np\n'
        'np.save("result.npy", C.load_model("lowered.model").eval(np.load("values.npy")))\n'
    )
    root = os.path.dirname(os.path.dirname(os.path.abspath(nc.__file__)))
    subprocess.check_call(
        [sys.executable, '-W', 'ignore', '-c', script],
        cwd=str(tmp_path),
        env=dict(os.environ, PYTHONPATH=root),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert same_bits(np.load(str(tmp_path / 'result.npy')), lowered.eval(values))


def test_holds_no_float_weight_of_a_lowered_layer(tmp_path):
    _, model = dense_layers(shape=(256,), width=256)
    trained = binarize_dense(model).model
    lowered = lower_binary_layers(trained)
    kept = {leaf.uid for leaf in lowered.parameters}
    assert (
        model.first.W.uid not in kept
        and model.second.W.uid not in kept
        and model.last.W.uid in kept
    )
    sizes = []
    for name, function in (('trained', trained), ('lowered', lowered)):
        function.save(str(tmp_path / name))
        sizes.append(os.path.getsize(str(tmp_path / name)))
    # Two layers of 256 x 256 weights: 32 bits each before, 1 bit (as 4/3 bit of text) after.
    assert sizes[0] - sizes[1] > 0.9 * 2 * 256 * 256 * 4


# What is wrong is found, what cannot be is refused


def test_flipping_one_packed_weight_bit_is_found(monkeypatch):
    features, model = dense_layers()
    trained = binarize_dense(model).model
    plain = C.user_function

    def tampering(op):
        if op.name != 'second':
            return plain(op)
        state = dict(op.state, words=op.state['words'].copy())
        state['words'][0, 0, 0, 0] ^= np.uint64(1)
        return plain(
            native_dense.BinaryDenseOp(
                op.inputs[0], state, op.input_shape, op.output_shape, op.name
            )
        )

    monkeypatch.setattr('netopt_callbacks.lowering.replace.C.user_function', tampering)
    tampered = lower_binary_layers(trained)
    monkeypatch.undo()
    found = compare(trained, tampered, [{features: images(features.shape)}], tolerance=1)
    assert not found.passed
    assert found.layers[1].different_outputs > 0 == found.layers[0].different_outputs


def test_training_a_lowered_network_says_what_to_do():
    features, model = dense_layers()
    lowered = lower_binary_layers(binarize_dense(model, lambda layer: layer.name == 'second').model)
    target = C.input_variable(3)
    trainer = C.Trainer(
        lowered,
        C.cross_entropy_with_softmax(lowered, target),
        [C.sgd(lowered.parameters, C.learning_parameter_schedule(0.1))],
    )
    with pytest.raises(
        RuntimeError, match="BinaryDenseOp 'second' is native and for evaluation only"
    ):
        trainer.train_minibatch(
            {features: images(features.shape), target: np.ones((7, 3), np.float32)}
        )


def state_of(inputs=6, outputs=4):
    return native.BinaryDense(images((outputs,), inputs)).state()


@pytest.mark.parametrize(
    'arguments, words',
    [
        (
            (state_of(), (5,), (4,)),
            r"'op': its state must be of 5 inputs and 4 outputs.*got one of 6 and 4",
        ),
        ((state_of(), (6,), (2,)), r'6 inputs and 2 outputs'),
        ((dict(state_of(), version=99), (6,), (4,)), 'version 99'),
        ((state_of(8), (2, 4), (4,)), r'must end in the axes \(2, 4\), got \(6,\)'),
        ((native.BinaryConvolution(images((6, 2, 1), 4)).state(), (6,), (4,)), '2 x 1 convolution'),
    ],
    ids=['inputs', 'outputs', 'version', 'operand', 'convolution'],
)
def test_a_state_that_does_not_fit_is_refused_at_construction(arguments, words):
    with pytest.raises(ValueError, match=words):
        native_dense.BinaryDenseOp(C.input_variable((6,)), *arguments, name='op')


def test_a_saved_state_of_another_version_is_refused():
    with pytest.raises(ValueError, match="BinaryDenseOp 'op'.*version 99.*reads version 1"):
        native_dense.BinaryDenseOp.deserialize([None], 'op', {'version': 99})
    assert binary_convolve.STATE_VERSION == native_dense.STATE_VERSION == 1


@pytest.mark.parametrize(
    'field, value',
    [
        ('shapes', '[[6]]'),
        ('shapes', '[[6], ["x"]]'),
        ('shapes', '6'),
        ('shapes', '{'),
        ('state', '{"words": 1'),
        ('state', '{"words": {"dtype": "<u8", "shape": [4, 1, 1, 1], "base64": "AAAA"}}'),
        ('state', None),
    ],
)
def test_a_damaged_saved_state_is_told_as_such(field, value):
    op = native_dense.BinaryDenseOp(C.input_variable((6,)), state_of(), (6,), (4,), name='op')
    saved = dict(op.serialize())
    assert native_dense.BinaryDenseOp.deserialize(
        [C.input_variable((6,))], 'op', saved
    ).input_shape == (6,)
    saved[field] = value
    if value is None:
        del saved[field]
    with pytest.raises(
        ValueError, match="BinaryDenseOp 'op': its saved state is damaged .*save the network again"
    ):
        native_dense.BinaryDenseOp.deserialize([C.input_variable((6,))], 'op', saved)


def test_a_foreign_block_of_that_name_is_refused():
    dense = C.layers.Dense(4)

    @C.BlockFunction('BinaryDense', 'foreign')
    def foreign(x):
        return dense(x)

    with pytest.raises(
        ValueError, match="'foreign' must hold one Dense of two signs.*nc.BinarizeDense"
    ):
        BinaryLayer(foreign(C.input_variable(5)).root_function)
