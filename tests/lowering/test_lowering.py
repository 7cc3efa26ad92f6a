"""The native op inside CNTK, the pass that puts it there, and the gate."""
import os
import subprocess
import sys

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from binary_networks import binarized, binary_layer, blocks, convolutions, images, same_bits
from netopt_callbacks.lowering import Lower, binary_convolve, compare
from netopt_callbacks.lowering.replace import lower_binary_layers
from netopt_callbacks.lowering.undilated import spread
from netopt_callbacks.optimizations.binarize_convolution import binarize_convolution
from netopt_callbacks.optimizations.binary_block import BinaryLayer, binary_blocks
from netopt_callbacks.optimizations.convolution_geometry import Axis


# Geometry


def test_automatic_padding_is_that_of_cntk():
    """CNTK convolves one pixel of each position in turn: the result shows which tap lies where."""
    checked = 0
    for size, side, stride in [
        (n, k, s) for n in (4, 5, 6, 7, 11) for k in (1, 2, 3, 4) for s in (1, 2, 3)
    ]:
        axis = Axis(side, stride, automatic=True)
        x = C.input_variable((1, size, 1))
        taps = np.arange(1, side + 1, dtype=np.float32).reshape(1, 1, side, 1)
        convolution = C.convolution(
            C.constant(taps), x, strides=(1, stride, 1), auto_padding=[False, True, False]
        )
        responses = convolution.eval(np.eye(size, dtype=np.float32).reshape(size, 1, size, 1))[
            :, 0, :, 0
        ]
        lower, upper = axis.padding(size)
        expected = np.zeros((size, axis.outputs(size)))
        for output in range(axis.outputs(size)):
            for tap in range(side):
                pixel = output * stride + tap - lower
                if 0 <= pixel < size:
                    expected[pixel, output] = tap + 1
        assert np.array_equal(responses, expected), (size, side, stride)
        assert (axis.outputs(size) - 1) * stride + axis.extent == size + lower + upper
        checked += 1
    assert checked == 60


def test_spread_filters_keep_their_taps():
    wide = spread(np.ones((2, 3, 2, 3), np.float32), (3, 2))
    assert wide.shape == (2, 3, 4, 5) and wide.sum() == 36
    assert wide[0, 0, ::3, ::2].all()


# The op in a network

LAYERS = [
    dict(side=(3, 3), pad=(True, True)),
    dict(side=(5, 5), pad=(True, True), strides=(2, 2)),
    dict(side=(2, 4), pad=(True, True)),
    dict(side=(3, 2), pad=(True, False), strides=(2, 1)),
    dict(side=(1, 1), pad=(True, True), strides=(3, 2)),
    dict(side=(4, 3), pad=(False, False), strides=(1, 3)),
    dict(side=(3, 3), pad=(True, True), groups=2),
    dict(side=(2, 3), pad=(False, True), groups=4, strides=(2, 1)),
    dict(side=(3, 3), pad=(True, True), dilation=(2, 2)),
    dict(side=(2, 3), pad=(False, True), dilation=(2, 3), groups=2),
]


def bare_convolution(
    side, pad, strides=(1, 1), groups=1, dilation=(1, 1), channels=4, filters=8, size=(9, 12)
):
    side, strides = (tuple(int(number) for number in pair) for pair in (side, strides))
    x = C.input_variable((channels,) + size)
    W = C.parameter((filters, channels // groups) + side, init=C.glorot_uniform(), name='W')
    b = C.parameter((filters, 1, 1), init=images((filters, 1, 1), 1)[0], name='b')
    return C.relu(
        C.convolution(
            W,
            x,
            strides=(channels // groups,) + strides,
            groups=groups,
            auto_padding=(False,) + pad,
            dilation=(1,) + dilation,
            name='bare',
        )
        + b
    )


@pytest.mark.parametrize('case', LAYERS, ids=str)
def test_lowered_equals_trained_for_every_kind_of_convolution(case):
    model = bare_convolution(**case)
    trained = nc.quantization.convert_to_binary_convolution(model)
    lowered, found = Lower(tolerance=0).run(trained, [nc.BinarizeConvolution()])
    assert found.passed and found.largest_difference == 0
    assert found.layers[0].integers > 0 and found.layers[0].different_integers == 0
    if (
        'dilation' not in case
    ):  # CNTK's CPU has no dilated convolution: the gate compares an undilated twin
        x = images(model.arguments[0].shape, seed=9)
        assert same_bits(trained.eval(x), lowered.eval(x))


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(40))
def test_lowered_equals_trained_for_random_convolutions(seed):
    random = np.random.RandomState(seed)
    side = tuple(random.randint(1, 6, 2))
    odd = all(length % 2 for length in side)
    model = bare_convolution(
        side,
        pad=tuple(bool(flag) for flag in random.randint(0, 2, 2)),
        strides=tuple(random.randint(1, 4, 2)),
        groups=int(random.choice([1, 2, 4])) if odd else 1,
        channels=int(random.choice([4, 8, 68])),
        size=tuple(int(length) for length in random.randint(7, 13, 2)),
    )
    trained = nc.quantization.convert_to_binary_convolution(model)
    found = Lower(tolerance=0).run(trained, [nc.BinarizeConvolution()])[1]
    assert found.layers[0].integers > 0 and found.largest_difference == 0


@pytest.mark.parametrize('channels', [1, 3, 64, 65, 130])
def test_lowered_equals_the_numpy_formula(channels):
    x = C.input_variable((channels, 5, 6))
    model = C.layers.Convolution2D(
        (3, 3), 5, pad=True, activation=C.relu, init_bias=0.5, name='layer'
    )(x)
    lowered = nc.quantization.convert_to_native_binary_convolution(
        nc.quantization.convert_to_binary_convolution(model)
    )
    values = images((channels, 5, 6))
    expected = binary_layer(values, model.layer.W.value, model.layer.b.value)
    # Three float32 roundings of each output, and those of two means.
    np.testing.assert_allclose(lowered.eval(values), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(weight_scale='layer'),
        dict(weight_scale=None, input_scale=None),
        dict(input_scale=None),
        dict(clip='calibrate'),
        dict(input_shift=None),
    ],
    ids=str,
)
def test_lowered_equals_trained_for_every_option(options):
    features, model = convolutions()
    data = [{features: 3 * images(features.shape, 20)}]
    trained = binarized(model, minibatches=data, **options)
    lowered, found = Lower(tolerance=0).run(trained, [nc.BinarizeConvolution()], data)
    assert [layer.name for layer in found.layers] == ['second', 'third']
    assert found.samples == found.predictions == 20
    values = images(features.shape, 5, seed=3)
    assert same_bits(lowered.eval(values), trained.eval(values))


def test_any_batch_sequences_and_free_axes():
    for x, batches in (
        (C.input_variable((2, 6, 7)), [images((2, 6, 7), count) for count in (1, 3, 64)]),
        (
            C.sequence.input_variable((2, 6, 7)),
            [[images((2, 6, 7), count) for count in (3, 1, 2)], [images((2, 6, 7), 2)] * 2],
        ),
        (
            C.input_variable((2, C.FreeDimension, C.FreeDimension)),
            [images((2, 6, 7)), images((2, 9, 5)), images((2, 6, 7), 2)],
        ),
    ):
        trained = nc.quantization.convert_to_binary_convolution(
            C.layers.Convolution2D((3, 4), 5, pad=True, strides=2, name='layer')(x)
        )
        lowered = nc.quantization.convert_to_native_binary_convolution(trained)
        for batch in batches:
            for one, other in zip(trained.eval({x: batch}), lowered.eval({x: batch})):
                assert same_bits(one, other)


def test_inside_a_recurrence_and_inside_a_block():
    x = C.sequence.input_variable((4, 5, 6))
    convolution = C.layers.Convolution2D((3, 3), 4, pad=True, name='inner')

    @C.Function
    def step(state, value):
        return C.tanh(convolution(state) + value)

    start = C.constant(np.full((4, 5, 6), 0.1, np.float32))
    trained = nc.quantization.convert_to_binary_convolution(
        C.layers.Recurrence(step, initial_state=start)(x)
    )
    lowered = nc.quantization.convert_to_native_binary_convolution(trained)
    data = {x: [images((4, 5, 6), 4), images((4, 5, 6), 2)]}
    for one, other in zip(trained.eval(data), lowered.eval(data)):
        assert same_bits(one, other)


def test_the_lowered_network_is_an_ordinary_function(tmp_path):
    features, model = convolutions()
    trained = binarized(model)
    lowered = lower_binary_layers(trained)
    values = images(features.shape)
    expected = trained.eval(values)
    labels = np.eye(3, dtype=np.float32)[np.arange(7) % 3]
    target = C.input_variable(3)
    for function in (lowered, lowered.clone('clone'), lowered.clone('share', {features: features})):
        assert same_bits(function.eval({function.arguments[0]: values}), expected)
    by_trained, by_lowered = (
        C.Evaluator(C.classification_error(function, target)).test_minibatch(
            {features: values, target: labels}
        )
        for function in (trained, lowered)
    )
    assert by_trained == by_lowered
    assert [block.name for block in blocks(lowered, 'BinaryConvolveOp')] == ['third', 'second']
    assert lowered.second.is_block and not blocks(lowered, 'BinaryConvolution')


def test_loads_in_a_process_that_has_not_imported_the_package(tmp_path):
    features, model = convolutions()
    lowered = lower_binary_layers(binarized(model))
    values = images(features.shape)
    lowered.save(str(tmp_path / 'lowered.model'))
    np.save(str(tmp_path / 'values.npy'), values)
    script = (
        'import sys, cntk as C, numpy as np\n'
        'model = C.load_model("lowered.model")\n'
        'np.save("result.npy", model.eval(np.load("values.npy")))\n'
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


def test_a_trained_model_lowers_after_a_reload(tmp_path):
    features, model = convolutions()
    trained = binarized(model, minibatches=[{features: images(features.shape)}])
    path = str(tmp_path / 'trained.model')
    trained.save(path)
    lowered = lower_binary_layers(C.load_model(path))
    values = images(features.shape, seed=8)
    assert same_bits(lowered.eval({lowered.arguments[0]: values}), trained.eval(values))
    # Lowering must leave the trained model whole: CNTK would save it and be unable to load it.
    lower_binary_layers(trained)
    trained.save(path)
    assert same_bits(C.load_model(path).eval(values), trained.eval(values))


def test_holds_no_float_weight_of_a_lowered_layer(tmp_path):
    features, model = convolutions(filters=64)
    trained = binarized(model)
    lowered = lower_binary_layers(trained)
    kept = {parameter.uid for parameter in lowered.parameters}
    for layer in [BinaryLayer(block) for block in binary_blocks(trained)]:
        assert layer.W.uid not in kept
        assert all(
            np.prod(leaf.shape) < layer.W.value.size
            for leaf in lowered.second.constants + lowered.second.parameters
        )
    assert model.first.W.uid in kept and model.classify.W.uid in kept
    sizes = []
    for name, function in (('trained', trained), ('lowered', lowered)):
        function.save(str(tmp_path / name))
        sizes.append(os.path.getsize(str(tmp_path / name)))
    # Two layers of 64 x 64 x 3 x 3 weights: 32 bits each before, 1 bit (as 4/3 bit of text) after.
    assert sizes[0] - sizes[1] > 0.9 * 2 * 64 * 64 * 9 * 4


def flipped(op):
    """Returns the op with one bit of its packed weights flipped."""
    state = dict(op.state, words=op.state['words'].copy())
    state['words'][0, 0, 0, 0] ^= np.uint64(1)
    return binary_convolve.BinaryConvolveOp(op.inputs[0], state, op.axes, op.name)


def test_flipping_one_packed_weight_bit_changes_the_output(monkeypatch):
    features, model = convolutions()
    trained = binarized(model)
    values = images(features.shape)
    honest = lower_binary_layers(trained)
    plain = C.user_function

    def tampering(op):
        return plain(flipped(op) if op.name == 'second' else op)

    monkeypatch.setattr('netopt_callbacks.lowering.replace.C.user_function', tampering)
    tampered = lower_binary_layers(trained)
    monkeypatch.undo()
    assert not same_bits(tampered.eval(values), honest.eval(values))
    found = compare(trained, tampered, [{features: values}], tolerance=1)
    assert not found.passed
    assert found.layers[0].different_outputs > 0 and found.layers[1].different_outputs == 0


def test_training_a_lowered_network_says_what_to_do():
    features, model = convolutions()
    lowered = lower_binary_layers(binarized(model))
    target = C.input_variable(3)
    learner = C.sgd(lowered.parameters, C.learning_parameter_schedule(0.1))
    trainer = C.Trainer(lowered, C.cross_entropy_with_softmax(lowered, target), [learner])
    with pytest.raises(RuntimeError, match='no gradient. Train the model that was lowered'):
        trainer.train_minibatch(
            {features: images(features.shape), target: np.ones((7, 3), np.float32)}
        )


def test_a_state_of_another_version_is_refused():
    with pytest.raises(ValueError, match='version 99.*reads version 1'):
        binary_convolve.BinaryConvolveOp.deserialize([None], 'op', {'version': 99})


def test_input_without_a_channel_axis():
    x = C.input_variable((9, 8))
    bare = C.convolution(
        C.parameter((6, 3, 3), init=C.glorot_uniform(), name='W'),
        x,
        reduction_rank=0,
        auto_padding=[True, True],
        name='bare',
    )
    layer = C.layers.Convolution2D((3, 3), 6, reduction_rank=0, pad=True, name='layer')(x)
    data = [{x: np.abs(images((9, 8), 20))}]

    def every(_):
        return True

    for model in (bare, layer):
        at_once = binarize_convolution(model, every, minibatches=data).model
        staged = binarize_convolution(
            binarize_convolution(model, every, operands='inputs', minibatches=data).model,
            every,
            minibatches=data,
        ).model
        for trained in (at_once, staged):
            lowered, found = Lower(tolerance=0).run(trained, [nc.BinarizeConvolution()], data)
            assert found.layers[0].integers == 20 * np.prod(model.shape)
            assert BinaryLayer(binary_blocks(trained)[0]).threshold().shape == (1,)
