"""Segments: CNTK itself is the oracle of every bit that a program of a segment computes."""
import json
import os
import subprocess
import sys

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from binary_networks import blocks, images
from netopt_callbacks import summary
from netopt_callbacks.lowering import Lower, LoweringError, lower_segments, read_off, segment_pass
from netopt_callbacks.lowering.binary_segment import BinarySegmentOp
from netopt_callbacks.lowering.flat import FlatGraph, opened_for_segments
from segment_networks import binarized, random_network, unsettle, values_of


def same_bits(one, other):
    one, other = (np.ascontiguousarray(values, np.float32) for values in (one, other))
    return one.shape == other.shape and bool(
        ((one.view(np.uint32) == other.view(np.uint32)) | np.isnan(one) & np.isnan(other)).all()
    )


def binary_net(pool_first=False, keep=('float',), shape=(3, 8, 8), **options):
    """Returns (input, trained): a float convolution, binary ones with BatchNormalization, a
    binary Dense, a float one."""
    x = C.input_variable(shape, name='features')

    def layer(filters, name, pool):
        normalize = C.layers.BatchNormalization(map_rank=1)
        pools = [C.layers.MaxPooling((2, 2), 2)] if pool else []
        return [C.layers.Convolution2D((3, 3), filters, pad=True, bias=False, name=name)] + (
            pools + [normalize] if pool_first else [normalize, C.relu] + pools
        )

    model = C.layers.Sequential(
        layer(17, 'float', False)
        + layer(33, 'second', False)
        + layer(20, 'third', True)
        + [
            C.layers.Dense(40, name='dense'),
            C.layers.BatchNormalization(),
            C.relu,
            C.layers.Dense(3, name='float'),
        ]
    )(x)
    unsettle(model, np.random.RandomState(5), odd=0.1)
    return x, binarized(model, images(shape, 20), keep, **dict(dict(input_scale=None), **options))


def of_segments(model, op_name='BinarySegmentOp'):
    return [block.name for block in blocks(model, op_name)]


def assert_programs_give_cntk_s_bits(lowering, data):
    """Runs the program of every segment, on every implementation, on what CNTK computes where the
    segment reads; data: of all arguments, dict of Variable to array."""
    for part in lowering.segments:
        entries, exits = part.segment.entries, part.segment.exits
        values = nc.graph.evaluate([value.variable for value in entries + exits], data)
        values = [nc.graph.flat(each) for each in values]
        for implementation in nc.native.implementations():
            found = part.program.program(implementation)(*values[: len(entries)])
            found = found if isinstance(found, tuple) else (found,)
            for value, result, expected in zip(exits, found, values[len(entries) :]):
                assert same_bits(result, expected), (part.name, implementation, value)


# Exact


@pytest.mark.slow
@pytest.mark.parametrize('instructions', ['SSE4_2', 'AVX', 'AVX2', 'AVX512'])
def test_cntk_s_bits_are_met_whatever_instructions_mkl_takes(instructions, tmp_path):
    # On another processor than Intel's MKL may take the same ones in all four.
    subprocess.check_call(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-k', 'same_bits']
        + ['--basetemp', str(tmp_path / 'inner'), os.path.abspath(__file__)],
        env=dict(os.environ, MKL_ENABLE_INSTRUCTIONS=instructions),
    )


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(pool_first=True),
        dict(input_scale='sample'),
        dict(input_shift=None, output_scale=None),
        dict(weight_scale=None),
        dict(pool_first=True, input_scale='sample', clip='calibrate'),
    ],
    ids=str,
)
def test_a_chain_is_one_segment_and_computes_the_same_bits(options):
    x, trained = binary_net(**options)
    lowering = lower_segments(trained)
    (part,) = lowering.segments
    assert part.name == 'second_to_dense' and [layer.name for layer in part.segment.layers] == [
        'second',
        'third',
        'dense',
    ]
    assert not lowering.reasons
    for samples in (1, 2, 7, 64):
        values = values_of(x, samples, np.random.RandomState(samples))
        assert_programs_give_cntk_s_bits(lowering, {x: values})
        if samples < 64:  # CNTK's float Dense gives a sample other bits in another batch
            assert same_bits(lowering.model.eval(values), trained.eval(values))


def test_between_its_layers_a_chain_holds_bits_alone():
    _, trained = binary_net()
    (part,) = lower_segments(trained, 'apart').segments
    assert [kind for _, kind in part.program.decisions] == ['values', 'integers', 'integers']
    assert [op['op'] for op in part.program.ops] == [
        'pack',
        'convolution',
        'convolution',
        'or_pool',
        'dense',
    ]
    assert [op['op'] for op in part.program.ops if 'values' in op] == ['dense']


def test_max_pooling_before_a_falling_normalization_is_the_and_of_bits():
    _, trained = binary_net(pool_first=True)
    (part,) = lower_segments(trained).segments
    assert [kind for _, kind in part.program.decisions] == ['values', 'integers', 'integers']
    pooled = next(
        node.output
        for node in part.segment.nodes
        if node.kind == 'sign' and node.unit.layer.name == 'dense'
    )
    inverted = part.program._known[id(pooled)].inverted
    assert inverted.any() and not inverted.all()


@pytest.mark.few(2)
@pytest.mark.parametrize('seed', range(12))
def test_random_networks_compute_the_same_bits(seed):
    compare_random(seed)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(12, 120))
def test_more_random_networks_compute_the_same_bits(seed):
    compare_random(seed)


def compare_random(seed):
    x, model = random_network(seed, layers=2 + seed % 4)
    random = np.random.RandomState(seed)
    options = [dict(), dict(input_scale=None), dict(input_shift=None, input_scale=None)][seed % 3]
    trained = binarized(model, values_of(x, 16, random, 0), **options)
    lowering = lower_segments(trained)
    inside = sum(len(part.layers_at) for part in lowering.segments)
    assert inside + len(lowering.reasons) == len(
        [
            layer
            for layer in nc.graph.walk(trained)
            if layer.is_block and layer.op_name in ('BinaryConvolution', 'BinaryDense')
        ]
    )
    for samples in (1, 3, 16):
        assert_programs_give_cntk_s_bits(lowering, {x: values_of(x, samples, random)})


def test_skip_links_are_inside():
    x = C.input_variable((4, 6, 6))

    def block(y, name):
        convolution = C.layers.Convolution2D((3, 3), 8, pad=True, bias=False, name=name)
        return C.relu(C.layers.BatchNormalization(map_rank=1)(convolution(y)) + y)

    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='float')(x)
    model = C.layers.Dense(3, name='float')(
        C.layers.GlobalAveragePooling()(block(block(y, 'one'), 'two'))
    )
    unsettle(model, np.random.RandomState(1))
    trained = binarized(model, images((4, 6, 6), 20))
    (part,) = lower_segments(trained).segments
    assert (
        part.name == 'one_to_two' and sum(node.kind == 'join' for node in part.segment.nodes) == 4
    )
    lowered, found = Lower(tolerance=0).run(
        trained, [nc.BinarizeConvolution()], [{x: images((4, 6, 6), 9, seed=3)}]
    )
    assert found.largest_difference == 0 and of_segments(lowered) == ['one_to_two']


def test_thresholds_are_those_of_cntk_at_every_integer():
    _, trained = binary_net()
    (part,) = lower_segments(trained).segments
    op = part.program.ops[1]
    sign = next(
        node
        for node in part.segment.nodes
        if node.kind == 'sign' and node.unit.layer.name == 'third'
    )
    integers = next(node.output for node in part.segment.nodes if node.kind == 'product')
    most = 17 * 9
    found = (
        read_off.Chain(part.program._path(sign)[0] + [sign], integers)(
            np.repeat(np.arange(-most, most + 1, dtype=np.float32)[:, None], 33, axis=1)
        )[-1]
        > 0
    )
    every = np.arange(-most, most + 1)[:, None]
    thresholds = np.where(
        op['sum_decreasing'], every < op['sum_threshold'], every > op['sum_threshold']
    )
    assert np.array_equal(found, thresholds)
    assert 0 < op['sum_decreasing'].sum() < 33


# What is left to CNTK


def test_what_no_program_does_stays_in_cntk_and_is_named():
    x = C.input_variable((4, 6, 6))
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='one')(x)
    y = C.layers.Convolution2D((3, 3), 8, pad=True, activation=C.sin, name='two')(y)
    model = C.layers.Convolution2D((3, 3), 8, pad=True, name='three')(y)
    trained = binarized(model, images((4, 6, 6), 20), input_scale=None)
    lowered, found = Lower().run(trained, [nc.BinarizeConvolution()], [{x: images((4, 6, 6), 9)}])
    assert found.alone == [('two', 'Sin is not an operation of programs')]
    assert of_segments(lowered) == ['three', 'one'] or of_segments(lowered) == ['one', 'three']
    assert of_segments(lowered, 'BinaryConvolveOp') == ['two']
    assert "'two' is lowered alone: Sin is not an operation of programs" in str(found)
    assert json.loads(json.dumps(found.to_dict()))['alone'] == [
        ['two', 'Sin is not an operation of programs']
    ]


def test_layers_are_named_with_the_reason_where_there_is_no_segment():
    x = C.input_variable(20)
    y = C.layers.Dense(16, activation=C.sin, name='one')(x)
    y = C.layers.Dense(16, activation=C.sin, name='two')(y)
    trained = binarized(y, input_scale=None)
    lowered, found = Lower().run(trained, [nc.BinarizeDense()])
    reason = 'Sin is not an operation of programs'
    assert found.segments == [] and found.alone == [('one', reason), ('two', reason)]
    assert f"'two' is lowered alone: {reason}" in str(found)
    # Whoever asks for one block a layer is not told why.
    _, found = Lower().run(trained, [nc.BinarizeDense()], segments=False)
    assert found.alone == [] and 'alone' not in str(found)
    assert of_segments(lowered, 'BinaryDenseOp') == ['two', 'one']


def per_pixel(shape, seed=7):
    """Returns a Constant with another number for each pixel of a channel."""
    return C.constant(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


PER_PIXEL = {
    'BatchNormalization': lambda x: C.layers.BatchNormalization()(x),
    'Plus': lambda x: x + per_pixel(x.shape),
    'Minus': lambda x: x - per_pixel((1, 1) + x.shape[2:]),
    'ElementTimes': lambda x: x * C.parameter(x.shape, init=C.uniform(1, seed=3)),
    'ElementDivide': lambda x: x / per_pixel(x.shape),
    'PReLU': lambda x: C.param_relu(per_pixel(x.shape), x),
    'Clip': lambda x: C.clip(x, -1, per_pixel(x.shape)),
}


@pytest.mark.parametrize('op_name', sorted(PER_PIXEL))
@pytest.mark.parametrize('place, names', [(0, ['one_to_two']), (1, ['one', 'two'])])
@pytest.mark.parametrize('maps', [8, 1])
def test_what_is_not_the_same_for_each_pixel_stays_in_cntk(op_name, place, names, maps):
    x = C.input_variable((maps, 6, 6))
    y = x
    for number, name in enumerate(('one', 'two')):
        if number == place:
            y = C.relu(PER_PIXEL[op_name](y))
        y = C.layers.Convolution2D((3, 3), maps, pad=True, name=name)(y)
    unsettle(y, np.random.RandomState(3))
    trained = binarized(y, input_scale=None)
    lowering = lower_segments(trained)
    assert [part.name for part in lowering.segments] == names
    for samples in (1, 16):
        values = images(x.shape, samples)
        assert same_bits(lowering.model.eval(values), trained.eval(values))
    (reason,) = [
        unit.reason
        for unit in FlatGraph(opened_for_segments(trained)).units
        if unit.function.op_name == op_name
    ]
    assert 'statistics for each pixel' in reason or 'is not one number per channel' in reason


def divided_in_blocks(x):
    """A division in a block in a block, by an operand of the outer one."""

    @C.BlockFunction('Outer', 'outer')
    def divided(x, factor):
        return x * (factor / 7) / factor

    return divided(x, C.parameter((8, 1, 1), init=0.3))


DIVISIONS = {
    'a number': lambda x: x / 255.0,
    'a number per channel': lambda x: x / per_pixel((8, 1, 1)),
    'a Parameter': lambda x: C.element_divide(x, C.parameter((8, 1, 1), init=-0.7)),
    'an expression over one': lambda x: x / C.softplus(C.parameter((1,), init=0.1)),
    'a zero': lambda x: x / C.constant(np.array([0, -0.0] + [3] * 6, np.float32).reshape(8, 1, 1)),
    'in a block': divided_in_blocks,
    'with a Stabilizer': lambda x: C.layers.Stabilizer()(x),
}


@pytest.mark.parametrize('divided', sorted(DIVISIONS))
def test_a_division_by_what_is_fixed_is_inside(divided):
    x = C.input_variable((8, 6, 6))
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='one')(DIVISIONS[divided](x))
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='two')(DIVISIONS[divided](y))
    y = DIVISIONS[divided](y)
    unsettle(y, np.random.RandomState(3))
    trained = binarized(y, input_scale=None)
    lowering = lower_segments(trained)
    (part,) = lowering.segments
    assert part.name == 'one_to_two' and part.segment.entries[0].variable.uid == x.uid
    assert part.segment.exits[0].variable.uid == lowering.reference.outputs[0].uid
    values = values_of(x, 16, np.random.RandomState(4))
    assert same_bits(lowering.model.eval(values), trained.eval(values))


def test_a_sign_that_is_not_monotone_is_taken_of_floats():
    x = C.input_variable((4, 6, 6))
    alpha = C.constant(np.linspace(-1, 1, 8, dtype=np.float32).reshape(8, 1, 1))
    y = C.layers.Convolution2D((3, 3), 8, pad=True, bias=False, name='one')(x)
    model = C.layers.Convolution2D((3, 3), 8, pad=True, name='two')(C.param_relu(alpha, y) - 1)
    trained = binarized(model, None, input_scale=None)
    lowering = lower_segments(trained)
    values = images((4, 6, 6), 9)
    assert same_bits(lowering.model.eval(values), trained.eval(values))


def test_dilated_layers_are_lowered_alone():
    x = C.input_variable((4, 6, 6))
    y = C.layers.Convolution2D((3, 3), 8, pad=True, dilation=2, name='one')(x)
    trained = binarized(
        C.layers.Convolution2D((3, 3), 8, pad=True, name='two')(y), input_scale=None
    )
    lowering = lower_segments(trained)
    assert 'one' in [name for name, _ in lowering.reasons]
    lowered, _ = Lower().run(trained, [nc.BinarizeConvolution()])
    assert 'one' in of_segments(lowered, 'BinaryConvolveOp')


SIZES = [(8, 12), (9, 12), (13, 12), (8, 12)]


def free_net(x):
    """Returns a network whose layers take images of any size; its last convolution is float."""
    shift = C.constant(np.linspace(-3, 3, 8, dtype=np.float32).reshape(8, 1, 1))
    y = C.layers.Convolution2D((3, 3), 8, pad=True, bias=False, name='one')(x)
    y = C.layers.MaxPooling((2, 2), 2)(C.relu(y + shift))
    y = C.relu(C.layers.Convolution2D((3, 3), 8, pad=True, name='two')(y)) + y
    y = C.layers.Convolution2D((1, 1), 8, strides=2, name='three')(y)
    return C.layers.Convolution2D((1, 1), 3, name='float')(y)


@pytest.mark.parametrize(
    'make_input, shape',
    [
        (C.input_variable, (4, C.FreeDimension, C.FreeDimension)),
        (C.input_variable, (4, C.FreeDimension, 12)),
        (C.sequence.input_variable, (4, C.FreeDimension, C.FreeDimension)),
    ],
)
def test_images_of_any_size(tmp_path, make_input, shape):
    x = make_input(shape)
    trained = binarized(free_net(x), input_scale=None)
    lowering = lower_segments(trained)
    (part,) = lowering.segments
    assert [layer.name for layer in part.segment.layers] == ['one', 'two', 'three']
    lowering.model.save(str(tmp_path / 'lowered.model'))
    loaded = C.load_model(str(tmp_path / 'lowered.model'))
    data = [images((4,) + size, 3, seed=sum(size)) for size in SIZES]
    if make_input is C.sequence.input_variable:
        data = [[values, values[:2]] for values in data]
    for values in data:
        for network in (lowering.model, lowering.model.clone('clone'), loaded):
            result = network.eval({network.arguments[0]: values})
            for one, other in zip(result, trained.eval({x: values})):
                assert same_bits(one, other)
    for float_layers in ('cntk', 'native'):
        _, found = Lower(float_layers=float_layers).run(
            trained, [nc.BinarizeConvolution()], [{x: values} for values in data]
        )
        assert len(found.segments) == 1
    assert 'BinarySegmentOp' in summary.of_model(lowering.model)


def test_what_a_program_does_not_do_to_images_of_any_size():
    x = C.input_variable((4, C.FreeDimension, C.FreeDimension))

    def lowered(make, input_scale=None):
        y = C.layers.Convolution2D((3, 3), 8, pad=True, name='one')(x)
        y = C.layers.Convolution2D((3, 3), 8, pad=True, name='two')(make(y))
        return lower_segments(binarized(y, input_scale=input_scale))

    assert [part.name for part in lowered(C.relu).segments] == ['one_to_two']
    strided = C.layers.Convolution2D((3, 3), 8, pad=True, strides=2, name='strided')
    assert [reason for _, reason in lowered(strided).reasons] == [
        'its automatic padding depends on the size of the image'
    ]
    averaged = lowered(C.layers.AveragePooling((2, 2)))
    assert [part.name for part in averaged.segments] == ['one', 'two']
    scaled = lowered(C.relu, 'sample')
    assert [reason for _, reason in scaled.reasons] == [
        'ReduceElements over images of free size stays in CNTK'
    ] * 2


def test_batch_normalization_of_images_of_any_size_stays_in_cntk():
    """CNTK normalizes images wrongly once they have another size than its first ones."""
    x = C.input_variable((4, C.FreeDimension, C.FreeDimension))
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='one')(x)
    y = C.layers.BatchNormalization(map_rank=1)(y)
    model = C.layers.Convolution2D((3, 3), 8, pad=True, name='two')(y)
    unsettle(model, np.random.RandomState(1))
    trained = binarized(model, input_scale=None)
    lowering = lower_segments(trained)
    assert [part.name for part in lowering.segments] == ['one', 'two']
    values = images((4,) + SIZES[0], 3)
    assert same_bits(lowering.model.eval({x: values}), trained.eval({x: values}))


# The gate


def test_a_mismatch_names_segment_and_layer(monkeypatch):
    x, trained = binary_net()
    honest = segment_pass.SegmentProgram

    class Wrong(honest):
        def __init__(self, segment):
            super().__init__(segment)
            self.ops[1]['sum_threshold'] = self.ops[1]['sum_threshold'] + 5

    monkeypatch.setattr(segment_pass, 'SegmentProgram', Wrong)
    with pytest.raises(
        LoweringError, match="It first differs in segment 'second_to_dense', layer 'third'"
    ) as caught:
        Lower().run(trained, [nc.BinarizeConvolution()], [{x: images(x.shape, 9)}])
    (part,) = caught.value.parity.segments
    assert (
        part.different_values > 0
        and part.layers[0].passed
        and part.layers[1].different_integers > 0
    )


def test_the_gate_looks_at_the_network_that_is_handed_over(monkeypatch):
    x, trained = binary_net()
    lowering = lower_segments(trained)
    ops = [dict(op) for op in lowering.segments[0].program.ops]
    ops[-1]['steps'] = ops[-1]['steps'][:-1] + [('clip', 0.0, 0.5)]
    program = nc.native.Program(
        ops, lowering.segments[0].program.inputs, lowering.segments[0].program.outputs
    )

    def other(operand, _, *arguments):
        return BinarySegmentOp(operand, program.state(), *arguments)

    monkeypatch.setattr(segment_pass, 'BinarySegmentOp', other)
    with pytest.raises(
        LoweringError, match="segment 'second_to_dense', behind its last layer 'dense'"
    ):
        Lower().run(trained, [nc.BinarizeConvolution()], [{x: images(x.shape, 9)}])


def test_the_report_counts_integers_and_outputs():
    x, trained = binary_net()
    _, found = Lower().run(trained, [nc.BinarizeConvolution()], [{x: images(x.shape, 9)}])
    (part,) = found.segments
    assert [layer.name for layer in found.layers] == ['second', 'third', 'dense']
    assert [layer.integers for layer in found.layers] == [9 * 33 * 64, 9 * 20 * 64, 9 * 40]
    assert part.values == 9 * 40 and part.different_values == 0
    assert "segment 'second_to_dense' of 3 layers: 360 outputs ==" in str(found)
    assert found.to_dict()['segments'][0]['layers'] == ['second', 'third', 'dense']


# An ordinary Function


def test_the_lowered_network_is_an_ordinary_function():
    x, trained = binary_net()
    lowered = lower_segments(trained).model
    labels, target = np.eye(3, dtype=np.float32)[np.arange(7) % 3], C.input_variable(3)
    values = images(x.shape)
    expected = trained.eval(values)
    for function in (lowered, lowered.clone('clone'), lowered.clone('share', {x: x})):
        assert same_bits(function.eval({function.arguments[0]: values}), expected)
    by_trained, by_lowered = (
        C.Evaluator(C.classification_error(function, target)).test_minibatch(
            {x: values, target: labels}
        )
        for function in (trained, lowered)
    )
    assert by_trained == by_lowered
    doubled = lowered(x * 1) + lowered(x)
    assert same_bits(doubled.eval({x: values}), expected + expected)
    for samples in (1, 64, 2, 1):
        values = images(x.shape, samples, seed=samples)
        assert same_bits(lowered.eval(values), trained.eval(values))


def in_one_block(y):
    convolution = C.layers.Convolution2D((3, 3), 8, pad=True, name='three')

    @C.BlockFunction('Tower', 'end')
    def tower(y):
        return C.relu(convolution(y))

    return tower(y)


def later(y):
    y = C.relu(y)
    y.name = 'later'
    return y


ENDS = {
    'an operation': lambda y: C.plus(y, 1, name='end'),
    'a binary layer': lambda y: C.layers.Convolution2D((3, 3), 8, name='end')(y),
    'a float layer': lambda y: C.layers.Dense(3, name='float')(y),
    'what a program does not do': lambda y: C.sin(y, name='end'),
    'behind that': lambda y: C.relu(C.sin(C.layers.Dense(4)(y)), name='end'),
    'a block with a layer in it': in_one_block,
    'a Sequential': lambda y: C.layers.Sequential([C.layers.Dense(4), C.relu], name='end')(y),
    'a Function that was named later': later,
    'no name': C.relu,
    'two outputs': lambda y: C.combine(
        [C.layers.Dense(3, name='float')(y), C.plus(y, 1, name='end')], name='both'
    ),
}


@pytest.mark.parametrize('end', sorted(ENDS))
@pytest.mark.parametrize('float_layers', ['cntk', 'native'])
def test_outputs_keep_their_names(end, float_layers, tmp_path):
    x = C.input_variable((4, 6, 6))
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='one')(x)
    middle = C.relu(C.layers.Convolution2D((3, 3), 8, pad=True, name='two')(y), name='middle')
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='four')(C.sin(middle))
    trained = binarized(ENDS[end](y), keep=('float',), input_scale=None)
    lowered, found = Lower(float_layers=float_layers).run(trained, [])
    names = [output.name for output in trained.outputs]
    lowered.save(str(tmp_path / 'lowered.model'))
    values = images(x.shape)
    for network in (lowered, C.load_model(str(tmp_path / 'lowered.model'))):
        assert [output.name for name, output in zip(names, network.outputs) if name] == [
            name for name in names if name
        ]
        for name in {'middle', *names} - {''}:
            (one,), (other,) = (
                nc.graph.evaluate([model.find_by_name(name).output], {model.arguments[0]: values})
                for model in (network, trained)
            )
            assert float_layers == 'native' or same_bits(one, other)
    assert lowered.name == trained.name or not trained.name
    assert sorted(of_segments(lowered)) == sorted(part.name for part in found.segments)


def test_a_result_is_not_overwritten_by_the_next_call():
    x, trained = binary_net(keep=('float', ''))
    trained = C.combine(
        [
            next(
                function
                for function in nc.graph.primitives(trained)
                if function.is_block and function.op_name == 'BinaryDense'
            ).outputs[0]
        ]
    )
    lowered = lower_segments(trained).model
    first = lowered.eval(images(x.shape, 3, seed=1))
    second = lowered.forward({x: images(x.shape, 3, seed=2)}, lowered.outputs)[1][lowered.output]
    kept = [np.array(values) for values in (first, second)]
    other = lowered.eval(images(x.shape, 3, seed=3))
    assert (
        not same_bits(other, kept[0]) and same_bits(first, kept[0]) and same_bits(second, kept[1])
    )
    assert same_bits(kept[1], trained.eval(images(x.shape, 3, seed=2)))


def ragged(shape, counts, special=0.0):
    """Returns a list of sequences with so many steps."""
    random = np.random.RandomState(len(counts))
    x = C.input_variable(shape)
    return [values_of(x, count, random, special) for count in counts]


RAGGED = [(3, 1, 4), (2, 2), (1,)]


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('float_layers', ['cntk', 'native'])
def test_a_segment_over_sequences(seed, float_layers):
    x, model = random_network(seed, 3, make_input=C.sequence.input_variable)
    trained = binarized(model, input_scale=None)
    lowering = lower_segments(trained, float_layers)
    assert lowering.segments and not lowering.reasons
    for counts in RAGGED:
        data = ragged(x.shape, counts, special=0.02 if float_layers == 'cntk' else 0)
        for one, other in zip(lowering.model.eval({x: data}), trained.eval({x: data})):
            if float_layers == 'cntk':
                assert same_bits(one, other)
            else:
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())
    data = [{x: ragged(x.shape, counts)} for counts in RAGGED]
    _, found = Lower(float_layers=float_layers).run(trained, [nc.BinarizeConvolution()], data)
    assert found.samples == 13 and [len(part.layers) for part in found.segments] == [
        len(part.layers_at) for part in lowering.segments
    ]


def test_a_segment_before_and_behind_a_recurrence():
    x = C.sequence.input_variable((4, 6, 6))
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='one')(x)
    y = C.layers.Dense(6, name='two')(y)
    inner = C.layers.Dense(6, name='inner')
    y = C.layers.Recurrence(lambda state, value: C.tanh(inner(state) + value))(y)
    model = C.layers.Dense(4, name='three')(y)
    unsettle(model, np.random.RandomState(2))
    trained = binarized(model, input_scale=None)
    lowering = lower_segments(trained)
    assert [part.name for part in lowering.segments] == ['one_to_two', 'three']
    assert lowering.reasons == [('inner', 'it is part of a loop')]
    lowered, _ = Lower(tolerance=0).run(trained, [nc.BinarizeDense(), nc.BinarizeConvolution()])
    for counts in RAGGED:
        data = {x: ragged(x.shape, counts)}
        for one, other in zip(lowered.eval(data), trained.eval(data)):
            assert same_bits(one, other)


def test_a_network_lowered_over_samples_may_be_cloned_over_sequences():
    x, trained = binary_net()
    lowered = lower_segments(trained).model
    steps = C.sequence.input_variable(x.shape)
    network = lowered.clone('share', {x: steps})
    results = []
    for counts in RAGGED:
        data = [images(x.shape, count, seed=count) for count in counts]
        results.append((data, network.eval({steps: data})))
    for data, result in results:
        for one, other in zip(result, data):
            assert np.allclose(one, trained.eval(other), rtol=1e-5, atol=1e-5)
    values = images(x.shape, 3)
    assert same_bits(lowered.eval(values), trained.eval(values))


def test_loads_in_a_process_that_has_not_imported_the_package(tmp_path):
    x, trained = binary_net()
    lowered = lower_segments(trained).model
    values = images(x.shape)
    lowered.save(str(tmp_path / 'lowered.model'))
    np.save(str(tmp_path / 'values.npy'), values)
    script = (
        'import cntk as C, numpy as np\nmodel = C.load_model("lowered.model")\n'
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
    assert same_bits(np.load(str(tmp_path / 'result.npy')), trained.eval(values))


def test_the_summary_counts_what_is_in_a_segment():
    x, trained = binary_net()
    lowered = lower_segments(trained).model
    row = next(row for row in nc.count.rows(lowered) if row.kind == 'BinarySegmentOp')
    weights = [17 * 33 * 9, 33 * 20 * 9, 20 * 16 * 40]
    assert row.name == 'second_to_dense' and row.binary_weights == sum(weights)
    assert row.binary_macs == weights[0] * 64 + weights[1] * 64 + weights[2]


def test_training_says_what_to_do():
    x, trained = binary_net()
    lowered = lower_segments(trained, 'apart').model
    target = C.input_variable(3)
    learner = C.sgd(lowered.parameters, C.learning_parameter_schedule(0.1))
    trainer = C.Trainer(lowered, C.cross_entropy_with_softmax(lowered, target), [learner])
    with pytest.raises(RuntimeError, match='no gradient. Train the model that was lowered'):
        trainer.train_minibatch({x: images(x.shape), target: np.ones((7, 3), np.float32)})


def test_a_state_of_another_version_or_damaged_is_refused():
    x, trained = binary_net()
    (part,) = lower_segments(trained).segments
    op = BinarySegmentOp(
        [C.input_variable(part.segment.entries[0].shape)],
        part.program.program().state(),
        [part.segment.exits[0].shape],
        [],
        'a machine',
        'op',
    )
    saved = op.serialize()
    operand = C.input_variable(part.segment.entries[0].shape)
    assert BinarySegmentOp.deserialize([operand], 'op', saved).machine == 'a machine'
    with pytest.raises(ValueError, match='version 99.*reads version 2'):
        BinarySegmentOp.deserialize([operand], 'op', dict(saved, version=99))
    for damaged in (
        dict(saved, program=saved['program'][:-40]),
        dict(saved, description='{}'),
        {'version': 2},
    ):
        with pytest.raises(ValueError, match="BinarySegmentOp 'op'"):
            BinarySegmentOp.deserialize([operand], 'op', damaged)
    with pytest.raises(ValueError, match='its operand must be float32 of shape'):
        BinarySegmentOp.deserialize([C.input_variable((3, 4, 5))], 'op', saved)


def test_netopts_functions_keep_one_block_a_layer():
    _, trained = binary_net()
    lowered = nc.quantization.convert_to_native_binary_convolution(trained)
    assert sorted(of_segments(lowered, 'BinaryConvolveOp')) == [
        'second',
        'third',
    ] and not of_segments(lowered)


def test_the_flat_graph_looks_into_blocks():
    _, trained = binary_net()
    flat = FlatGraph(opened_for_segments(trained), 'apart')
    kinds = [node.kind for unit in flat.units for node in unit.nodes]
    assert kinds.count('product') == 3 and kinds.count('sign') == 3 and kinds.count('max_pool') == 1
    reasons = {unit.function.op_name: unit.reason for unit in flat.units if unit.reason}
    assert reasons == {
        'Convolution': "a float convolution stays in CNTK; Lower(float_layers='native') takes it "
        "in",
        'Dense': "a float Dense stays in CNTK; Lower(float_layers='native') takes it in",
    }
