"""Networks that hold native code already: optimized, trained in part and lowered once more."""
import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from binary_networks import blocks, convolutions, images, same_bits
from netopt_callbacks.lowering import Lower
from netopt_callbacks.lowering.binary_segment import OP_NAME

ALONE = 'BinaryConvolveOp'


def binarize(model, *places):
    """Returns the model with those convolutions binary that are at these places among the float
    ones, whatever their names."""
    weights = [layer.W.uid for layer in nc.graph.layers(model, op_name='Convolution')]
    chosen = [weights[place] for place in places]
    optimization = nc.BinarizeConvolution(filter_function=lambda layer: layer.W.uid in chosen)
    return optimization.transform(model).model


def named(name):
    return lambda layer: layer.name == name


@pytest.mark.parametrize('again_in_segments', [True, False])
@pytest.mark.parametrize('first_in_segments', [True, False])
def test_layers_around_a_lowered_one_of_the_same_name(first_in_segments, again_in_segments):
    features, model = convolutions(('layer', 'layer', 'layer'))
    data = [{features: images(features.shape)}]
    once, _ = Lower(float_layers='apart').run(
        binarize(model, 1), [], data, segments=first_in_segments
    )
    trained = binarize(once, 0, 1)
    twice, found = Lower().run(trained, [], data, segments=again_in_segments, timed=True)
    assert [(layer.name, layer.integers) for layer in found.layers] == [('layer', 7 * 4 * 81)] * 2
    assert found.passed and found.speed.timings
    assert len(found.segments) == 2 * again_in_segments
    segments = [block.name for block in blocks(twice, OP_NAME)]
    assert len(segments) == len(set(segments)) == first_in_segments + 2 * again_in_segments
    assert len(blocks(twice, ALONE)) == 3 - len(segments)
    values = images(features.shape, seed=3)
    assert same_bits(twice.eval(values), trained.eval(values))


@pytest.mark.parametrize('in_segments', [True, False])
@pytest.mark.parametrize('turned', [True, False])
def test_a_segment_in_a_block_that_lists_its_arguments_in_another_order(turned, in_segments):
    """A block of the user's own holds a segment; its arguments are a native and a binary layer."""

    def binary(layer, x):
        optimization = nc.BinarizeDense(filter_function=lambda one: True)
        return optimization.transform(layer(x)).model

    x, inner = C.input_variable(16), C.input_variable(12)
    pair = [C.layers.Dense(12, activation=C.relu, name=name) for name in ('s1', 's2')]
    segment, _ = Lower().run(binary(C.layers.Sequential(pair), inner), [])
    assert [block.name for block in blocks(segment, OP_NAME)] == ['s1_to_s2']
    u, v = C.placeholder(12), C.placeholder(12)
    content = C.plus(segment.clone('share', {segment.arguments[0]: v}), u)
    native = nc.quantization.convert_to_native_binary_convolution(
        binary(C.layers.Dense(12, name='native'), x)
    )
    trained = binary(C.layers.Dense(12, name='trained'), x)
    given = [(u, native.output), (v, trained.output)]
    whole = C.as_composite(C.as_block(content, given[:: -1 if turned else 1], 'Mine', 'mine'))
    lowered, found = Lower().run(whole, [], segments=in_segments)
    assert found.passed and [layer.name for layer in found.layers] == ['trained']
    values = np.random.RandomState(1).randn(9, 16).astype(np.float32)
    assert same_bits(lowered.eval(values), whole.eval(values))


def test_the_gate_still_finds_what_differs_in_the_new_layers(monkeypatch):
    features, model = convolutions()
    data = [{features: images(features.shape)}]
    once, _ = Lower().run(binarize(model, 1), [], data, segments=False)
    other = binarize(once, 0, 1)
    weights = [layer.W for layer in nc.graph.layers(once, op_name='Convolution')]
    lowered = nc.lowering.lower_binary_layers(other)
    weights[1].value = -weights[1].value
    found = nc.lowering.compare(other, lowered, data, tolerance=1e-5)
    assert [layer.passed for layer in found.layers] == [True, False] and not found.passed
    assert found.first_difference == "layer 'third'"


@pytest.mark.parametrize('loaded', [False, True])
@pytest.mark.parametrize('in_segments', [True, False])
@pytest.mark.parametrize(
    'optimization, op_name',
    [
        (lambda: nc.BinarizeDense(filter_function=named('classify')), OP_NAME),
        (lambda: nc.FactorDense(rank=2, filter_function=named('classify')), 'DenseFactored'),
    ],
    ids=['BinarizeDense', 'FactorDense'],
)
def test_optimize_takes_a_lowered_network(optimization, op_name, in_segments, loaded, tmp_path):
    features, model = convolutions()
    lowered, _ = Lower().run(binarize(model, 1, 2), [], segments=in_segments)
    if loaded:
        lowered.save(str(tmp_path / 'lowered.model'))
        lowered = C.load_model(str(tmp_path / 'lowered.model'))
    seen = []
    values = images(features.shape)
    both = nc.optimize(lowered, optimization(), seen.append, data=values)
    assert same_bits(both.eval(values), seen[0].eval(values))
    assert [block.name for block in blocks(both, op_name)][-1:] != []
    native = [block.name for block in blocks(both, OP_NAME if in_segments else ALONE)]
    assert set(native) >= ({'second_to_third'} if in_segments else {'second', 'third'})


def test_lowering_a_lowered_network_again_changes_nothing():
    _, model = convolutions()
    binary = nc.quantization.convert_to_binary_convolution(model)
    for lowered in (
        nc.quantization.convert_to_native_binary_convolution(binary),
        nc.optimize(model, nc.BinarizeConvolution(filter_function=lambda layer: True)),
    ):
        assert nc.quantization.convert_to_native_binary_convolution(lowered) is lowered
        again, found = Lower().run(lowered, [])
        assert again is lowered and found.passed and 'nothing to lower' in str(found)


@pytest.mark.parametrize('float_layers', ['cntk', 'native'])
def test_the_float_tail_of_a_lowered_network_is_trained_binarized_and_lowered(float_layers):
    features, model = convolutions(classes=8)
    model = C.layers.Dense(3, name='float')(C.relu(model))
    label = C.input_variable(3)
    lowered = nc.optimize(model, nc.BinarizeConvolution(filter_function=named('second')))
    values, labels = images(features.shape, 12), np.eye(3, dtype=np.float32)[np.arange(12) % 3]
    criterion = (
        C.cross_entropy_with_softmax(lowered, label),
        C.classification_error(lowered, label),
    )
    tail = [
        parameter
        for name in ('third', 'classify', 'float')
        for parameter in lowered.find_by_name(name).parameters
    ]
    trainer = C.Trainer(lowered, criterion, [C.sgd(tail, C.learning_parameter_schedule(0.01))])
    with nc.attach(
        trainer,
        [
            nc.BinarizeDense(epoch=1, filter_function=named('classify')),
            nc.Lower(float_layers=float_layers),
        ],
        epoch_size=12,
        data=(values, labels),
    ) as run:
        for _ in range(3):
            trainer.train_minibatch({lowered.arguments[0]: values, label: labels})
    parity = run.result.parity
    assert parity.passed and [layer.name for layer in parity.layers] == ['classify']
    assert {block.name for block in blocks(run.result.lowered, OP_NAME)} == {'second', 'classify'}
    assert "segment 'classify' of 1 layers" in run.result.summary()
    assert "'second'" not in str(parity)
