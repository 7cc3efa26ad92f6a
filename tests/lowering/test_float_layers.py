"""`Lower(float_layers='native')` where CNTK adds in an order of its own: float layers in segments
are CNTK's within the tolerance, and all the rest is ==. Where its order is known, see
test_float_order."""
import json

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from binary_networks import images
from netopt_callbacks import count
from netopt_callbacks.lowering import Lower, LoweringError, float_gate, lower_segments, segment_pass
from segment_networks import (
    binarized,
    random_network,
    residual_network,
    unsettle,
    values_of,
)
from test_segments import binary_net, of_segments, same_bits

KINDS = [nc.BinarizeConvolution, nc.BinarizeDense]


@pytest.fixture(autouse=True)
def no_order_is_known(monkeypatch):
    monkeypatch.setattr(segment_pass, 'order_of_sums', lambda node: None)


def entry_and_products(part, lowering, values):
    """Returns (entry, CNTK's sums of the float layers, exit)."""
    data = {lowering.reference.arguments[0]: values}
    entry, found = nc.graph.evaluate(
        [part.segment.entries[0].variable, part.segment.exits[0].variable], data
    )
    probes = [
        float_gate.FloatLayerProbe(part, number, 1e-5, {})
        for number in range(len(part.program.products))
    ]
    products = [
        probe.compare(read)
        for probe, read in zip(
            probes, nc.graph.evaluate([probe.variable for probe in probes], data)
        )
    ]
    assert all(probe.parity.passed for probe in probes), [str(probe.parity) for probe in probes]
    return entry, products, found


def test_the_default_leaves_float_layers_to_cntk_and_says_so():
    x, trained = binary_net()
    lowered, found = Lower().run(trained, [kind() for kind in KINDS], [{x: images(x.shape, 9)}])
    assert of_segments(lowered) == ['second_to_dense'] and found.segments[0].floats == []
    assert [layer.name for layer in nc.graph.layers(lowered)] == ['float', 'float']
    (convolution, no_bits), (dense, its_kind) = found.stayed
    assert convolution == dense == 'float'
    assert no_bits.startswith('a float convolution of which native code does not give the bits')
    assert its_kind == "a float Dense stays in CNTK; Lower(float_layers='native') takes it in"
    assert f"'float' is not lowered: {its_kind}" in str(found)
    assert json.loads(json.dumps(found.to_dict()))['stayed'][1] == ['float', its_kind]
    _, found = Lower(float_layers='apart').run(trained, [kind() for kind in KINDS])
    assert found.stayed == [] and 'not lowered' not in str(found)
    with pytest.raises(
        ValueError, match="must be 'cntk', 'native' or 'taps', or 'apart' to leave .* got 'both'"
    ):
        Lower(float_layers='both')


def test_float_layers_that_no_segment_reaches_are_named_once_a_reason():
    x = C.input_variable((4, 6, 6))
    y = C.layers.Convolution2D((3, 3), 8, activation=C.sin, name='one')(x)
    y = C.layers.Convolution2D((3, 3), 8, activation=C.sin, name='two')(y)
    y = C.layers.Convolution2D((2, 2), 3, name='binary')(y)
    trained = binarized(y, keep=('one', 'two'))
    _, found = Lower().run(trained, [nc.BinarizeConvolution()], [{x: images(x.shape, 9)}])
    reason = 'Sin is not an operation of programs'
    assert found.stayed == [('one', reason), ('two', reason)]
    assert f"'one', 'two' are not lowered: {reason}" in str(found)


def test_a_float_layer_that_segments_cannot_even_read_is_named():
    x = C.input_variable((4, 6, 6))
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='binary')(x)
    y = C.layers.Dense(6, name='float')(C.reshape(y, (8, 36)))
    _, found = Lower().run(binarized(y), [nc.BinarizeConvolution()], [{x: images(x.shape, 9)}])
    ((name, reason),) = found.stayed
    assert name == 'float' and reason.startswith('programs know float32 [channels, height, width]')


def test_a_layer_without_a_block_is_named_once():
    x = C.input_variable(9)
    y = C.layers.Dense(20, name='binary')(x)
    y = C.times(y, C.parameter((20, 3), init=C.normal(1)), name='product') + C.parameter(3)
    _, found = Lower().run(binarized(y, keep=('product',)), [nc.BinarizeDense()])
    assert [name for name, _ in found.stayed] == ['product']


def test_a_whole_network_is_one_program():
    x, trained = binary_net()
    lowering = lower_segments(trained, 'native')
    (part,) = lowering.segments
    assert [op['op'] for op in part.program.ops] == [
        'float_convolution',
        'convolution',
        'convolution',
        'or_pool',
        'dense',
        'float_dense',
    ]
    lowered, found = Lower(float_layers='native').run(
        trained, [kind() for kind in KINDS], [{x: images(x.shape, 50)}]
    )
    assert [each.name for each in found.segments[0].floats] == ['float', 'float']
    assert found.segments[0].floats[0].values == 50 * 17 * 64 and found.segments[0].values == 50 * 3
    assert "float layer 'float', taken in: 54,400 sums within" in str(found)
    assert json.loads(json.dumps(found.to_dict()))['segments'][0]['floats'][1]['name'] == 'float'
    assert not nc.graph.layers(lowered)
    values = images(x.shape, 3, seed=4)
    assert np.allclose(lowered.eval(values), part.program.program()(values), rtol=0, atol=0)


@pytest.mark.parametrize('seed', [0, 1, 3, 4, 7, 8])
def test_random_networks_with_their_last_layer(seed):
    compare_random(seed)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(9, 60))
def test_more_random_networks_with_their_last_layer(seed):
    compare_random(seed)


def compare_random(seed):
    x, model = random_network(seed, layers=2 + seed % 3)
    random = np.random.RandomState(seed)
    trained = binarized(
        model, values_of(x, 16, random, 0), **[dict(), dict(input_scale=None)][seed % 2]
    )
    lowering = lower_segments(trained, 'native')
    for samples in (1, 3, 16):
        values = values_of(x, samples, random, 0)
        for part in lowering.segments:
            entry, products, expected = entry_and_products(part, lowering, values)
            fed = part.program.program_with_products()
            for implementation in nc.native.implementations():
                program = nc.native.Program.from_state(fed.state(), implementation)
                found = program(entry, *products)[0]
                assert same_bits(found.reshape(expected.shape), expected), (
                    part.name,
                    implementation,
                )
                whole = part.program.program(implementation)(entry)
                assert same_bits(whole, part.program.program()(entry)), (part.name, implementation)


GEOMETRIES = [
    dict(strides=2),
    dict(strides=(2, 1)),
    dict(groups=2),
    dict(pad=False),
    dict(bias=False),
    dict(strides=(1, 3), pad=False),
]


@pytest.mark.parametrize('options', GEOMETRIES, ids=str)
@pytest.mark.parametrize('implementation', nc.native.implementations())
def test_a_float_convolution_of_every_geometry(options, implementation):
    x = C.input_variable((6, 9, 8))
    with C.layers.default_options(pad=True):
        if 'groups' in options:  # CNTK's layer has none
            W = C.parameter((10, 3, 3, 3), init=C.glorot_uniform())
            y = C.convolution(W, x, auto_padding=[False, True, True], name='float', **options)
        else:
            y = C.layers.Convolution2D((3, 3), 10, name='float', **options)(x)
        y = C.relu(C.layers.BatchNormalization(map_rank=1)(y))
        model = C.layers.Convolution2D((2, 2), 4, name='one')(y)
    unsettle(model, np.random.RandomState(3))
    trained = binarized(model, images(x.shape, 20), input_scale=None)
    lowering = lower_segments(trained, 'native')
    (part,) = lowering.segments
    assert part.program.ops[0]['op'] == 'float_convolution' and not lowering.reasons
    values = images(x.shape, 5, seed=2)
    entry, products, expected = entry_and_products(part, lowering, values)
    program = nc.native.Program.from_state(
        part.program.program_with_products().state(), implementation
    )
    assert same_bits(program(entry, *products)[0], expected)
    sums = nc.native.Program.from_state(part.program.program_of_product(0).state(), implementation)(
        entry
    )
    assert np.abs(sums - products[0]).max() <= 1e-5 * np.abs(products[0]).max()


def test_the_network_of_cntk_103d_with_its_division_is_one_program():
    x = C.input_variable((1, 28, 28))
    with C.layers.default_options(activation=C.relu, pad=True):
        model = C.layers.Sequential(
            [
                C.layers.Convolution2D((5, 5), 8, strides=2, name='first_conv'),
                C.layers.Convolution2D((5, 5), 16, strides=2, name='second_conv'),
                C.layers.Dense(10, activation=None, name='classify'),
            ]
        )(x / 255.0)
    trained = binarized(model, keep=('first_conv', 'classify'), input_scale=None)
    data = np.random.RandomState(0).randint(0, 256, (20, 1, 28, 28)).astype(np.float32)
    lowering = lower_segments(trained, 'native')
    (part,) = lowering.segments
    assert part.segment.entries[0].variable.uid == x.uid
    entry, products, expected = entry_and_products(part, lowering, data)
    assert same_bits(part.program.program_with_products()(entry, *products)[0], expected)
    _, found = Lower(float_layers='native').run(trained, [KINDS[0]()], [{x: data}])
    assert [each.name for each in found.segments[0].floats] == ['first_conv', 'classify']


def test_float_layers_without_a_name_are_told_apart_as_in_records():
    x = C.input_variable((4, 6, 6))
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='first')(x)
    for _ in range(3):
        y = C.layers.Convolution2D((3, 3), 8, pad=True)(y)
    model = C.layers.Dense(3)(C.layers.Dense(5)(y))
    first = nc.BinarizeConvolution(filter_function=lambda layer: layer.name == 'Convolution_3')
    replaced = first.transform(model)
    _, found = Lower(float_layers='native').run(replaced.model, [first], [{x: images(x.shape, 9)}])
    (part,) = found.segments
    assert [layer.name for layer in part.layers] == ['Convolution_3']
    assert [layer.name for layer in part.floats] == [
        'first',
        'Convolution_2',
        'Convolution_4',
        'Dense_1',
        'Dense_2',
    ]
    assert "float layer 'Dense_2', taken in" in str(found)


def test_layers_without_blocks_are_taken_in():
    x = C.input_variable((4, 6, 6))
    W = C.parameter((8, 4, 3, 3), init=C.glorot_uniform())
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='one')(
        C.convolution(W, x, auto_padding=[False, True, True], name='float') + 0.25
    )
    V = C.parameter((8, 6, 6, 3), init=C.glorot_uniform())
    trained = binarized(C.times(y, V, name='float'), input_scale=None)
    lowered, found = Lower(float_layers='native').run(
        trained, [kind() for kind in KINDS], [{x: images(x.shape, 9)}]
    )
    assert len(found.segments[0].floats) == 2 and of_segments(lowered) == ['one']


def test_a_residual_network_is_one_segment():
    x, trained = residual_network(4, 8)
    (apart,) = lower_segments(trained).segments
    assert len(apart.segment.exits) == 2  # what the shortcut reads, too
    lowered, found = Lower(float_layers='native').run(
        trained, [kind() for kind in KINDS], [{x: images(x.shape, 30)}]
    )
    (part,) = found.segments
    assert [each.name for each in part.floats] == ['float', 'down', 'float'] and len(
        part.layers
    ) == 2


def test_what_cannot_be_taken_in_is_left_to_cntk():
    x = C.input_variable((4, 6, 6))
    y = C.layers.Convolution2D((3, 3), 8, pad=True, dilation=2, name='float')(x)
    trained = binarized(
        C.layers.Convolution2D((3, 3), 8, pad=True, name='one')(C.layers.Dropout(0.5)(y)),
        input_scale=None,
    )
    lowering = lower_segments(trained, 'native')
    assert [op['op'] for op in lowering.segments[0].program.ops] == ['pack', 'convolution']
    y = C.layers.ConvolutionTranspose2D((3, 3), 8, pad=True, name='float')(x)
    trained = binarized(
        C.layers.Convolution2D((3, 3), 8, pad=True, name='one')(y), input_scale=None
    )
    lowering = lower_segments(trained, 'native')
    assert [op['op'] for op in lowering.segments[0].program.ops] == ['pack', 'convolution']


# The gate


def changed(monkeypatch, change):
    """Lets programs be written wrongly."""
    honest = segment_pass.SegmentProgram

    class Wrong(honest):
        def __init__(self, segment):
            super().__init__(segment)
            change(self)

    monkeypatch.setattr(segment_pass, 'SegmentProgram', Wrong)


def refused(match):
    x, trained = binary_net()
    with pytest.raises(LoweringError, match=match) as caught:
        Lower(float_layers='native').run(
            trained, [kind() for kind in KINDS], [{x: images(x.shape, 20)}]
        )
    return caught.value.parity.segments[0]


def test_a_wrong_float_layer_is_named(monkeypatch):
    def change(program):
        _, op = program.products[0]
        op['weights'] = op['weights'] * np.float32(1.001)

    changed(monkeypatch, change)
    part = refused("segment 'float_to_float'|segment 'second_to_dense', layer 'float'")
    assert (
        1e-4 < part.floats[0].error < 1e-2
        and part.floats[1].passed
        and all(layer.integers for layer in part.layers)
    )


def test_a_wrong_threshold_behind_a_float_layer_is_found_bit_by_bit(monkeypatch):
    def change(program):
        program.ops[1]['sum_threshold'] = program.ops[1]['sum_threshold'] + 5

    changed(monkeypatch, change)
    part = refused("layer 'third'")
    assert (
        part.floats[0].passed
        and part.layers[0].different_integers == 0
        and part.layers[1].different_integers > 0
    )


def test_a_bit_that_ties_within_the_tolerance_is_admitted_and_no_other(monkeypatch):
    def change(program):
        _, op = program.products[0]
        op['low'] = np.where(np.isfinite(op['low']), op['low'] + np.float32(shift), op['low'])
        op['high'] = np.where(np.isfinite(op['high']), op['high'] + np.float32(shift), op['high'])

    shift = 0.5
    changed(monkeypatch, change)
    part = refused("layer 'second'")
    assert part.layers[0].different_integers > 0


def test_a_summary_counts_float_layers_of_a_segment():
    x, trained = binary_net()
    rows = count.rows(lower_segments(trained, 'native').model)
    (row,) = (row for row in rows if row.kind == 'BinarySegmentOp')
    by_cntk = count.rows(lower_segments(trained).model)
    (inside,) = (row for row in by_cntk if row.kind == 'BinarySegmentOp')
    floats = [row for row in by_cntk if row.name == 'float']
    assert (
        row.macs == inside.macs + sum(each.macs for each in floats)
        and row.binary_macs == inside.binary_macs
    )
    assert row.binary_weights == inside.binary_weights
    assert row.parameters >= inside.parameters + 17 * 27 + 40 * 3


def test_the_report_says_what_it_buys():
    x, trained = binary_net()
    _, found = Lower(float_layers='native').run(
        trained, [kind() for kind in KINDS], [{x: images(x.shape, 9)}], timed=True
    )
    assert all(
        timing.in_cntk_seconds > 0 for timing in found.speed.timings
    ) and "float_layers='native' makes it" in str(found)


def test_saved_and_loaded(tmp_path):
    x, trained = binary_net()
    lowered = lower_segments(trained, 'native').model
    lowered.save(str(tmp_path / 'lowered.model'))
    values = images(x.shape, 4)
    assert same_bits(
        C.load_model(str(tmp_path / 'lowered.model')).eval(values), lowered.eval(values)
    )
