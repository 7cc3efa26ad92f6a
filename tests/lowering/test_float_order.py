"""Float convolutions in segments with every bit of CNTK's, since native code adds in its order.

Which order that is depends on the processor and on MKL. Where none is found, which these tests
cannot change, a layer stays in CNTK: that is shown with an order that is hidden.
"""
import cntk as C
import numpy as np
import pytest

import native_program_oracle
import netopt_callbacks as nc
from binary_networks import convolutions, images
from netopt_callbacks.lowering import (
    Lower,
    LoweringError,
    compare,
    float_order,
    lower_segments,
    segment_pass,
)
from netopt_callbacks.lowering.flat import FlatGraph, opened_for_segments
from netopt_callbacks.lowering.float_order import order_of_sums
from segment_networks import SPECIAL, binarized, residual_network, unsettle
from test_segments import (
    assert_programs_give_cntk_s_bits,
    binary_net,
    of_segments,
    same_bits,
)

KINDS = [nc.BinarizeConvolution, nc.BinarizeDense]

# (channels, filters), side, options. CNTK hands some to MKL-DNN, the others to MKL's product of
# matrices.
LAYERS = [
    ((3, 16), 9, dict()),
    ((3, 64), 18, dict(filter_shape=(7, 7), strides=2)),
    ((1, 20), 12, dict(filter_shape=(5, 5), pad=False)),
    ((32, 32), 8, dict(bias=False)),
    ((64, 32), 8, dict(filter_shape=(1, 1), strides=2)),
    ((48, 16), 7, dict(strides=(2, 1))),
    ((20, 12), 9, dict()),
    ((20, 50), 9, dict(filter_shape=(5, 5))),
    ((512, 16), 4, dict(filter_shape=(1, 1))),
    ((16, 12), 10, dict()),
]


NONE = "this machine's CNTK adds in an order that native code does not have"


def network(planes, side, options):
    """Returns (input, trained): the float convolution 'float', then a binary one 'one'."""
    options = dict(dict(filter_shape=(3, 3), pad=True), **options)
    x = C.input_variable((planes[0], side, side))
    model = C.layers.Sequential(
        [
            C.layers.Convolution2D(num_filters=planes[1], name='float', **options),
            C.layers.BatchNormalization(map_rank=1),
            C.relu,
            C.layers.Convolution2D((2, 2), 5, name='one'),
        ]
    )(x)
    unsettle(model, np.random.RandomState(3))
    return x, binarized(model, images(x.shape, 20), input_scale=None)


def node_of(trained):
    flat = FlatGraph(opened_for_segments(trained))
    node = next(node for unit in flat.units for node in unit.nodes if node.kind == 'float_product')
    return flat, node  # a Node does not keep its graph alive


def found_order(trained):
    """Returns the order in which CNTK sums in 'float'; skips where it has one of its own."""
    keys = order_of_sums(node_of(trained)[1])
    if keys is None:
        pytest.skip(NONE)
    return keys


@pytest.mark.parametrize('planes, side, options', LAYERS, ids=str)
def test_every_bit_is_cntk_s_on_every_implementation(planes, side, options):
    x, trained = network(planes, side, options)
    keys = found_order(trained)
    lowering = lower_segments(trained)
    (part,) = lowering.segments
    first = part.program.ops[0]
    assert first['op'] == 'float_convolution' and {key: first[key] for key in keys} == keys
    assert part.segment.entries[0].variable.uid == x.uid and not part.program.products
    for samples in (1, 2, 5, 16):
        values = images(x.shape, samples, seed=samples)
        values[-1, :, 0, :: x.shape[2] - 1] = np.resize(SPECIAL, (x.shape[0], 2))
        assert_programs_give_cntk_s_bits(lowering, {x: values})
        assert same_bits(lowering.model.eval(values), trained.eval(values))


@pytest.mark.parametrize('planes', [(20, 12), (65, 5), (16, 16)], ids=str)
def test_a_layer_whose_bits_go_with_the_minibatch_stays_in_cntk(planes):
    # (65, 5) has the same bits in minibatches of 1, 2 and 7 samples, and others in 16.
    _, trained = network(planes, 12, dict(filter_shape=(2, 4)))
    lowered, parity = Lower().run(trained, [KINDS[0]()])
    assert [layer.name for layer in nc.graph.layers(lowered)] == ['float']
    ((name, reason),) = parity.stayed
    assert name == 'float' and 'native code does not give the bits' in reason
    for samples in (1, 2, 7, 16, 64):
        values = images(trained.arguments[0].shape, samples, seed=samples)
        assert same_bits(lowered.eval(values), trained.eval(values)), samples


@pytest.mark.parametrize('planes, side, options', LAYERS, ids=str)
def test_the_order_is_that_of_an_oracle_in_numpy(planes, side, options):
    x, trained = network(planes, side, dict(options, bias=False))
    keys = found_order(trained)
    lowering = lower_segments(trained)
    op = dict(lowering.segments[0].program.ops[0], steps=[], values='y')
    for key in ('bits', 'low', 'high', 'flip', 'threshold', 'decreasing'):
        op.pop(key, None)
    values = images(x.shape, 2)
    _, node = node_of(trained)
    source = C.input_variable(x.shape)
    alone = C.as_composite(node.function).clone(C.CloneMethod.share, {node.data: source})
    sums, _ = native_program_oracle.float_convolution(op, values, {})
    assert same_bits(sums, alone.eval(values)) and keys


def test_a_residual_network_is_one_segment_and_every_bit_is_cntk_s():
    x, trained = residual_network(3, 32)
    (apart,) = lower_segments(trained, 'apart').segments
    assert len(apart.segment.exits) == 2  # what the shortcut reads, too
    lowered, parity = Lower().run(
        trained, [kind() for kind in KINDS], [{x: images(x.shape, 30)}], timed=True
    )
    found_order(trained)
    (part,) = parity.segments
    assert part.same_floats == ['float', 'down'] and part.floats == [] and len(part.layers) == 2
    assert "float layer 'down', taken in: summed in CNTK's order" in str(parity)
    assert parity.to_dict()['segments'][0]['same_floats'] == ['float', 'down']
    assert parity.largest_difference == 0 and sum(layer.ties for layer in parity.layers) == 0
    assert [layer.name for layer in nc.graph.layers(lowered)] == ['float']  # the Dense
    assert [name for name, _ in parity.stayed] == ['float']


def test_where_the_order_is_not_known_a_layer_stays_in_cntk_and_says_why(monkeypatch):
    monkeypatch.setattr(segment_pass, 'order_of_sums', lambda node: None)
    x, trained = binary_net()
    lowering = lower_segments(trained)
    assert [op['op'] for op in lowering.segments[0].program.ops][0] == 'pack'
    assert [layer.name for layer in nc.graph.layers(lowering.model)] == ['float', 'float']
    flat = FlatGraph(opened_for_segments(trained))
    segment_pass._written(flat)
    reasons = [unit.reason for unit in flat.units if unit.name == 'float']
    assert any('native code does not give the bits' in reason for reason in reasons if reason)


def test_images_of_free_size_stay_in_cntk():
    x = C.input_variable((3, C.FreeDimension, C.FreeDimension))
    model = C.layers.Sequential(
        [
            C.layers.Convolution2D((3, 3), 16, pad=True, name='float'),
            C.layers.Convolution2D((3, 3), 8, pad=True, name='one'),
        ]
    )(x)
    lowering = lower_segments(binarized(model, input_scale=None))
    assert [op['op'] for op in lowering.segments[0].program.ops][0] == 'pack'


def test_one_wrong_bit_of_a_weight_is_found(monkeypatch):
    _, trained = network((32, 32), 8, dict(bias=False))
    found_order(trained)
    honest = float_order.float_convolution

    def wrong(of):
        op = honest(of)
        weights = op['weights'].copy()
        weights[7, 3, 1, 1] = np.nextafter(weights[7, 3, 1, 1], np.float32(9))
        return dict(op, weights=weights)

    monkeypatch.setattr(float_order, 'float_convolution', wrong)
    assert order_of_sums(node_of(trained)[1]) is None


@pytest.mark.parametrize('keys', [dict(order='channels', block=0), dict(order='taps', block=7)])
def test_the_gate_refuses_another_order(keys, monkeypatch):
    x = C.input_variable((32, 8, 8))
    y = C.layers.Convolution2D((3, 3), 32, pad=True, name='float')(x)
    trained = binarized(y + C.layers.Convolution2D((3, 3), 32, pad=True, name='one')(y))
    if order_of_sums(node_of(trained)[1]) == keys:
        pytest.skip("this is the order of this machine's CNTK")
    monkeypatch.setattr(segment_pass, 'order_of_sums', lambda node: keys)
    data = [{x: images(x.shape, 9)}]
    lowering = lower_segments(trained)
    found = compare(trained, lowering.model, data, 1e-5, lowering=lowering)
    assert not found.passed
    assert found.first_difference == "segment 'one', behind its last layer 'one'"
    # No network is refused because of a float layer.
    lowered, parity = Lower().run(trained, [KINDS[0]()], data)
    assert parity.passed and parity.same_floats == []
    assert parity.left_apart == parity.to_dict()['left_apart'] == found.first_difference
    assert 'float layers stay in CNTK: with them in native code the network differs' in str(parity)
    assert [layer.name for layer in nc.graph.layers(lowered)] == ['float']


def test_a_fault_elsewhere_is_refused_all_the_same(monkeypatch):
    class Wrong(segment_pass.SegmentProgram):
        def __init__(self, segment):
            super().__init__(segment)
            for op in self.ops:
                if 'sum_threshold' in op:
                    op['sum_threshold'] = op['sum_threshold'] + 9

    x, trained = binary_net()
    found_order(trained)
    monkeypatch.setattr(segment_pass, 'SegmentProgram', Wrong)
    with pytest.raises(LoweringError, match="layer 'third'"):
        Lower().run(trained, [kind() for kind in KINDS], [{x: images(x.shape, 9)}])


def test_layers_have_an_order_on_processors_that_were_met():
    """Else all that is shown here may be skipped."""
    with open('/proc/cpuinfo') as lines:
        cpu = lines.read()
    if 'AuthenticAMD' not in cpu and ('GenuineIntel' not in cpu or 'avx2' not in cpu):
        pytest.skip('MKL has other code for other processors')
    assert all(order_of_sums(node_of(network(*layer)[1])[1]) for layer in LAYERS[:3])


def test_a_size_that_native_code_does_not_take_stays_in_cntk():
    x = C.input_variable((1, 1, 1 << 17))
    model = C.layers.Sequential(
        [
            C.layers.Convolution2D((1, 3), 2, strides=(1, 1 << 12), name='float'),
            C.layers.Convolution2D((1, 2), 5, name='one'),
        ]
    )(x)
    trained = binarized(model, input_scale=None)
    assert order_of_sums(node_of(trained)[1]) is None
    lowered, parity = Lower().run(trained, [KINDS[0]()], [{x: images(x.shape, 2)}])
    assert parity.passed and [layer.name for layer in nc.graph.layers(lowered)] == ['float']


def test_more_layers_than_a_program_had_outputs():
    x = C.input_variable((2, 3, 3))
    model = C.layers.Sequential(
        [C.layers.Convolution2D((1, 1), 2, name=f'layer{number}') for number in range(70)]
    )(x)
    trained = binarized(model, keep=(), input_scale=None)
    _, parity = Lower().run(trained, [KINDS[0]()], [{x: images(x.shape, 2)}])
    assert len(parity.segments) == 1 and len(parity.layers) == 70


def test_optimize_is_called_once_for_each_as_its_message_says():
    features, model = convolutions(('first', 'second', 'third'), filters=16)
    values = images(features.shape, 20)
    for name, kind in (('classify', nc.BinarizeDense), ('third', KINDS[0]), ('second', KINDS[0])):
        model = nc.optimize(
            model, kind(filter_function=lambda layer: layer.name == name), data=(values,)
        )
    assert [layer.name for layer in nc.graph.layers(model)] == ['first']
    _, model = convolutions(('first', 'second', 'third'), filters=16)
    choose = KINDS[0](filter_function=lambda layer: layer.name == 'second')
    whole = nc.optimize(model, choose, data=(values,), float_layers='cntk')
    if [layer.name for layer in nc.graph.layers(whole)] != ['classify']:
        assert order_of_sums(node_of(choose.transform(model).model)[1]) is None
    with pytest.raises(ValueError, match='float_layers must be'):
        nc.optimize(model, choose, float_layers='none')


def test_float_layers_are_left_to_a_lower_of_ones_own():
    class Own(nc.Optimization):
        def transform(self, model):
            return model

        def lower(self, model):
            self.seen = [layer.name for layer in nc.graph.layers(model)]
            return model

    features, model = convolutions(filters=16)
    own, data = Own(), [{features: images(features.shape)}]
    trained = nc.quantization.convert_to_binary_convolution(
        model, lambda layer: layer.name == 'second'
    )
    assert len(nc.graph.layers(Lower().run(trained, [], data)[0])) < 3 or not order_of_sums(
        node_of(trained)[1]
    )
    lowered, _ = Lower().run(trained, [own], data)
    assert own.seen == ['first', 'third', 'classify'] and of_segments(lowered) == ['second']
    lowered, _ = Lower(float_layers='apart').run(trained, [], data)
    assert [layer.name for layer in nc.graph.layers(lowered)] == own.seen


def test_saved_loaded_and_cloned(tmp_path):
    x, trained = network((3, 16), 9, dict())
    found_order(trained)
    lowered = lower_segments(trained).model
    lowered.save(str(tmp_path / 'lowered.model'))
    values = images(x.shape, 4)
    expected = trained.eval(values)
    assert same_bits(C.load_model(str(tmp_path / 'lowered.model')).eval(values), expected)
    assert same_bits(lowered.clone('freeze').eval(values), expected)


def test_steps_of_sequences():
    x = C.sequence.input_variable((3, 8, 8))
    model = C.layers.Sequential(
        [
            C.layers.Convolution2D((3, 3), 16, pad=True, activation=C.relu, name='float'),
            C.layers.Convolution2D((3, 3), 5, pad=True, name='one'),
        ]
    )(x)
    trained = binarized(model)
    found_order(trained)
    data = [images(x.shape, steps, seed=steps) for steps in (3, 1, 5, 2)]
    lowered, parity = Lower().run(trained, [KINDS[0]()], [{x: data}])
    assert parity.segments[0].same_floats == ['float']
    for found, expected in zip(lowered.eval({x: data}), trained.eval({x: data})):
        assert same_bits(found, expected)
