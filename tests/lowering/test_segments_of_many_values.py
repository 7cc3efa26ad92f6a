"""Segments that read several values and hand several on have CNTK's bits."""

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from binary_networks import images
from netopt_callbacks.lowering import (
    Lower,
    LoweringError,
    binary_segment,
    lower_segments,
    segment_pass,
)
from netopt_callbacks.onnx_file import MOST_VALUES
from segment_networks import binarized, random_graph, values_of
from test_segments import RAGGED, assert_programs_give_cntk_s_bits, of_segments, ragged, same_bits


def layer(y, filters, name, **options):
    y = C.layers.Convolution2D((3, 3), filters, pad=True, bias=False, name=name, **options)(y)
    return C.layers.BatchNormalization(map_rank=1)(y)


def assert_the_same_bits(lowering, trained, data):
    """Compares every segment's program, and all outputs of the lowered network, with CNTK's."""
    for each in data:
        assert_programs_give_cntk_s_bits(lowering, each)
        for one, other in zip(
            nc.graph.evaluate(lowering.model.outputs, each),
            nc.graph.evaluate(trained.outputs, each),
        ):
            assert same_bits(nc.graph.flat(one), nc.graph.flat(other))


def lowered_with_the_same_bits(model, data, **options):
    """Binarizes and lowers a network, compares it with the trained one, here and by the gate;
    returns the Lowering."""
    trained = binarized(model, **dict(dict(input_scale=None), **options))
    lowering = lower_segments(trained)
    assert_the_same_bits(lowering, trained, data)
    Lower(tolerance=0).run(trained, [nc.BinarizeConvolution(), nc.BinarizeDense()], data)
    return lowering


def places(lowering):
    return [
        (part.name, len(part.segment.entries), len(part.segment.exits))
        for part in lowering.segments
    ]


def data_of(variables, special=0.02):
    random = np.random.RandomState(3)
    return [
        {x: values_of(x, samples, random, special) for x in variables} for samples in (1, 2, 17)
    ]


def two_heads():
    """Returns (input, model) of a trunk and two heads of other sizes."""
    x = C.input_variable((4, 8, 8), name='x')
    y = C.relu(layer(C.relu(layer(x, 16, 'one')), 33, 'two'))
    first = C.alias(layer(y, 7, 'first'), 'first_head')
    second = C.layers.Dense(5, name='second')(layer(y, 9, 'half', strides=2))
    return x, C.combine([first, C.alias(second, 'second_head')])


def test_two_heads_on_one_trunk_are_one_segment(tmp_path):
    x, model = two_heads()
    lowering = lowered_with_the_same_bits(model, data_of([x]))
    assert places(lowering) == [('one_to_second', 1, 2)] and not lowering.reasons
    lowered = lowering.model
    assert [output.name for output in lowered.outputs] == ['first_head', 'second_head']
    values = images(x.shape, 5)
    expected = nc.graph.evaluate(lowered.outputs, {x: values})
    # A head alone, saved and loaded, cloned, and part of another network.
    alone = C.combine([lowered.outputs[1]])
    assert same_bits(alone.eval(values), expected[1])
    lowered.save(str(tmp_path / 'lowered.model'))
    loaded = C.load_model(str(tmp_path / 'lowered.model'))
    other = C.input_variable(x.shape)
    for network in (loaded, lowered.clone('share', {x: other})):
        found = nc.graph.evaluate(network.outputs, {network.arguments[0]: values})
        assert all(map(same_bits, found, expected))
    sums = C.reduce_sum(lowered.outputs[0]) + lowered.outputs[1]
    wanted = C.reduce_sum(model.outputs[0]) + model.outputs[1]
    assert sums.eval(values).shape == wanted.eval(values).shape
    first = nc.graph.evaluate(lowered.outputs, {x: values})
    kept = [np.array(each) for each in first]
    nc.graph.evaluate(lowered.outputs, {x: images(x.shape, 5, seed=9)})
    assert all(map(same_bits, first, kept))  # no buffer that the next call overwrites


def test_two_inputs_are_read_by_one_segment():
    x, y = C.input_variable((4, 6, 6), name='x'), C.input_variable((9, 6, 6), name='y')
    model = C.relu(layer(x, 16, 'one') + layer(y, 16, 'two'))
    lowering = lowered_with_the_same_bits(C.layers.Dense(3, name='last')(model), data_of([x, y]))
    assert places(lowering) == [('one_to_last', 2, 1)]


def test_one_value_for_both_inputs():
    x, y = C.input_variable((4, 6, 6), name='x'), C.input_variable((4, 6, 6), name='y')
    trained = binarized(C.relu(layer(x, 16, 'one') + layer(y, 16, 'two')), input_scale=None)
    lowered = lower_segments(trained).model
    z, values = C.input_variable(x.shape), images(x.shape, 3)
    for read in (z, C.relu(z)):
        one, other = (model(read, read).eval({z: values}) for model in (lowered, trained))
        assert same_bits(one, other)


def test_an_output_needs_the_inputs_that_it_depends_on_alone():
    x, y = C.input_variable((4, 6, 6), name='x'), C.input_variable((9, 6, 6), name='y')
    one, two = layer(x, 16, 'one'), layer(y, 16, 'two')
    model = C.combine([one, two, layer(one + two, 3, 'three')])
    lowering = lowered_with_the_same_bits(model, data_of([x, y]))
    assert places(lowering) == [('one', 1, 1), ('two', 1, 1), ('three', 2, 1)]
    for output, argument in zip(lowering.model.outputs, ['x', 'y']):
        assert [each.name for each in C.combine([output]).arguments] == [argument]


def test_what_leaves_a_segment_and_comes_back_cuts_it():
    x = C.input_variable((4, 6, 6))
    y = layer(x, 8, 'one')
    for number in range(3):
        y = layer(C.relu(y), 8, f'inside{number}') + C.sin(y)
    lowering = lowered_with_the_same_bits(y, data_of([x]))
    assert places(lowering) == [('one_to_inside0', 1, 2), ('inside1_to_inside2', 2, 2)]


def test_a_float_shortcut_cuts_a_residual_network_once():
    x = C.input_variable((4, 12, 12))

    def block(y, filters, stride, name):
        z = layer(C.relu(layer(y, filters, name + '_1', strides=stride)), filters, name + '_2')
        if stride > 1:
            y = C.layers.Convolution2D((1, 1), filters, strides=stride, name='float')(y)
        return C.relu(z + y)

    y = layer(x, 8, 'first')
    for number, (filters, stride) in enumerate([(8, 1), (16, 2), (16, 1), (32, 2), (32, 1)]):
        y = block(y, filters, stride, f'block{number}')
    trained = binarized(C.layers.GlobalAveragePooling()(y), input_scale=None)
    lowering = lower_segments(trained, 'apart')
    assert [len(part.segment.layers) for part in lowering.segments] == [5, 4, 2]
    lowered, _ = Lower(0, 'apart').run(trained, [nc.BinarizeConvolution()], data_of([x], 0))
    assert len(of_segments(lowered)) == 3


def test_segments_never_wait_for_each_other():
    x = C.input_variable((4, 6, 6))
    one, two = layer(x, 8, 'one'), layer(C.exp(x), 8, 'two')
    # Joined with what reads the other's sine, each would wait for the other.
    three, four = one + layer(C.sin(two), 8, 'three'), two + layer(C.sin(one), 8, 'four')
    lowering = lowered_with_the_same_bits(C.combine([three, four]), data_of([x], 0))
    assert places(lowering) == [('one_to_three', 2, 2), ('two', 1, 1), ('four', 2, 1)]


def test_a_value_is_handed_on_twice_or_as_it_was_read():
    x = C.input_variable((4, 6, 6))
    y = layer(x, 8, 'one')
    z = layer(C.layers.Dropout(0.4)(y), 8, 'two')
    read = C.layers.Dropout(0.2)(x)
    model = C.combine([y, C.dropout(y, 0.1), read, layer(read, 3, 'three'), z, C.relu(z)])
    lowering = lowered_with_the_same_bits(model, data_of([x]))
    assert places(lowering) == [('one_to_two', 1, 4), ('three', 1, 2)] and not lowering.reasons


def test_more_values_than_a_segment_has_room_for():
    x = C.input_variable((2, 3, 3))
    heads = [
        C.sin(layer(C.relu(layer(x, 3, f'one{n}')), 2, f'two{n}')) for n in range(MOST_VALUES + 3)
    ]
    lowering = lowered_with_the_same_bits(C.combine(heads), data_of([x], 0))
    assert len(lowering.segments) > 1 and not lowering.reasons
    assert max(len(part.segment.exits) for part in lowering.segments) <= MOST_VALUES


def test_a_value_for_each_sequence_beside_one_for_each_step_stays_in_cntk():
    x = C.sequence.input_variable((4, 6, 6), name='x')
    y = C.input_variable((8, 6, 6), name='y')
    model = layer(x, 8, 'one') + C.sequence.broadcast_as(layer(y, 8, 'two'), x)
    trained = binarized(model, input_scale=None)
    lowering = lower_segments(trained)
    assert sorted(part.name for part in lowering.segments) == ['one', 'two']
    for counts in RAGGED:
        data = {x: ragged(x.shape, counts), y: images(y.shape, len(counts))}
        (one,), (other,) = (
            nc.graph.evaluate(network.outputs, data) for network in (lowering.model, trained)
        )
        assert all(map(same_bits, one, other))


def test_over_sequences():
    x = C.sequence.input_variable((4, 6, 6))
    y = layer(x, 8, 'one')
    model = C.combine([layer(C.sin(y), 8, 'two') + y, C.sequence.last(y), layer(y, 3, 'three')])
    data = [{x: ragged(x.shape, counts)} for counts in RAGGED]
    lowering = lowered_with_the_same_bits(model, data)
    assert not lowering.reasons and max(len(part.segment.exits) for part in lowering.segments) > 1


def test_around_a_recurrence():
    x = C.sequence.input_variable((6,))
    y = C.layers.Dense(8, name='one')(x)
    state = C.layers.Recurrence(lambda state, value: C.tanh(state * 0.5 + value))(y)
    model = C.combine(
        [C.layers.Dense(5, name='two')(state) + C.layers.Dense(5, name='three')(y), y]
    )
    data = [{x: ragged(x.shape, counts)} for counts in RAGGED]
    lowering = lowered_with_the_same_bits(model, data)
    assert not lowering.reasons and len(lowering.segments) == 2


def over_samples():
    x, model = two_heads()
    return model, data_of([x])


def over_steps():
    x = C.sequence.input_variable((4, 6, 6))
    y = layer(x, 8, 'one')
    model = C.combine([layer(C.sin(y), 8, 'two') + y, y, layer(y, 3, 'three')])
    return model, [{x: ragged(x.shape, counts)} for counts in RAGGED]


@pytest.mark.parametrize('made', [over_samples, over_steps])
def test_arrays_are_exchanged_where_there_is_no_address(made, monkeypatch):
    # As on a device that is no CPU.
    monkeypatch.setattr(binary_segment, '_address', lambda data: None)
    calls, forward = [], binary_segment.BinarySegmentOp.forward
    monkeypatch.setattr(
        binary_segment.BinarySegmentOp,
        'forward',
        lambda self, *given: calls.append(self.name) or forward(self, *given),
    )
    model, data = made()
    lowering = lowered_with_the_same_bits(model, data)
    assert set(calls) == {part.name for part in lowering.segments}


@pytest.mark.few(3)
@pytest.mark.parametrize('seed', range(40))
def test_random_graphs_compute_the_same_bits(seed):
    compare_random_graph(seed)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(40, 160))
def test_more_random_graphs_compute_the_same_bits(seed):
    compare_random_graph(seed)


def compare_random_graph(seed):
    inputs, model = random_graph(seed, 6 + seed % 9)
    trained = binarized(model, **[dict(input_scale=None), dict()][seed % 2])
    data = [
        {x: values for x, values in each.items() if x in trained.arguments}
        for each in data_of(inputs)
    ]
    assert_the_same_bits(lower_segments(trained), trained, data)


# The gate


@pytest.mark.parametrize('place', [0, 1])
def test_a_wrong_output_is_found_whichever_it_is(place, monkeypatch):
    x, model = two_heads()
    trained = binarized(model, input_scale=None)
    honest = segment_pass.SegmentProgram

    class Wrong(honest):
        def __init__(self, segment):
            super().__init__(segment)
            self.ops.append(
                dict(op='map', input=self.outputs[place], values='w', steps=[('add', 1e-3)])
            )
            self.outputs[place] = 'w'

    monkeypatch.setattr(segment_pass, 'SegmentProgram', Wrong)
    with pytest.raises(LoweringError, match="first differs in segment 'one_to_second'"):
        Lower().run(trained, [nc.BinarizeConvolution()], [{x: images(x.shape, 9)}])


def test_a_layer_of_a_segment_of_two_entries_is_named(monkeypatch):
    x, y = C.input_variable((4, 6, 6), name='x'), C.input_variable((9, 6, 6), name='y')
    trained = binarized(C.relu(layer(x, 16, 'one') + layer(y, 16, 'two')), input_scale=None)
    honest = segment_pass.SegmentProgram

    class Wrong(honest):
        def __init__(self, segment):
            super().__init__(segment)
            packed = [op for op in self.ops if op['op'] == 'pack']
            packed[1]['threshold'] = packed[1]['threshold'] + 0.5

    monkeypatch.setattr(segment_pass, 'SegmentProgram', Wrong)
    with pytest.raises(LoweringError, match="segment 'one_to_two', layer 'two'"):
        Lower().run(
            trained,
            [nc.BinarizeConvolution()],
            [{x: images(x.shape, 9), y: images(y.shape, 9, seed=4)}],
        )
