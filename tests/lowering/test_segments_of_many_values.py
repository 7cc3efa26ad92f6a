"""Segments that read several values and hand several on: which they are, and their bits."""
import itertools
from types import SimpleNamespace

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
from netopt_callbacks.lowering import segment as segment_module
from netopt_callbacks.lowering.segment import MOST_VALUES, segments_of
from segment_networks import binarized, random_graph, values_of
from test_segments import RAGGED, assert_programs_give_cntk_s_bits, of_segments, ragged, same_bits

# Which units are a segment


def unit_of(reads, layer=False, refused=False):
    """Returns a unit as those of a FlatGraph that reads these units; None is an argument of its
    own."""
    unit = SimpleNamespace(
        inputs=[value_of(one) for one in reads],
        outputs=[SimpleNamespace(readers=[])],
        reason='refused' if refused else None,
        layer='layer' if layer and not refused else None,
    )
    for value in unit.inputs:
        value.readers.append(None if refused else SimpleNamespace(unit=unit))
    return unit


def value_of(one):
    if one is None:
        return SimpleNamespace(readers=[])
    return one.outputs[0] if hasattr(one, 'outputs') else one


def finished(units):
    for unit in units:
        if not unit.outputs[0].readers:
            unit.outputs[0].readers.append(None)
    return units


def random_units(seed, count):
    """Returns units of which some are in no segment, and some are in loops."""
    random = np.random.RandomState(seed)
    arguments = [SimpleNamespace(readers=[]) for _ in range(random.randint(1, 4))]
    reach = [6, count][seed % 2]
    units = []
    for _ in range(count):
        known = units[-reach:]
        places = {int(place) for place in random.randint(0, max(len(known), 1), random.randint(3))}
        reads = [known[place] for place in places] if known else []
        if not reads or random.random_sample() < 0.1:
            reads.append(arguments[random.randint(len(arguments))])
        layer, refused = random.random_sample(2) < [0.35, 0.25]
        units.append(unit_of(reads, layer, refused))
    for start in random.randint(0, count - 3, seed % 3):
        looping = units[start : start + 3]
        for unit in looping:
            unit.reason, unit.layer = 'it is part of a loop', None
            for value in unit.inputs:
                value.readers.append(None)
        looping[0].inputs.append(looping[2].outputs[0])
        looping[2].outputs[0].readers.append(None)
        for one, other in zip(looping, looping[1:]):
            if all(value is not one.outputs[0] for value in other.inputs):
                other.inputs.append(one.outputs[0])
    return finished(units)


def arguments_of(units):
    """Returns, by id of a unit, ids of the arguments that it depends on."""
    producer = {id(unit.outputs[0]): unit for unit in units}
    found = {id(unit): set() for unit in units}
    for _ in units:
        for unit in units:
            for value in unit.inputs:
                before = producer.get(id(value))
                found[id(unit)] |= {id(value)} if before is None else found[id(before)]
    return found


def exits_of(units, group):
    """Returns those of a group that are read outside."""
    inside = {id(unit) for unit in group}
    return [
        unit
        for unit in group
        if any(
            reader is None or id(reader.unit) not in inside for reader in unit.outputs[0].readers
        )
    ]


def depends_on_all(units, group, arguments):
    """Whether each value that a group hands on depends on every argument that the group does."""
    every = set().union(*[arguments[id(unit)] for unit in group])
    return all(arguments[id(unit)] == every for unit in exits_of(units, group))


def reached(edges):
    """Returns which node leads to which, by how many of Warshall's rounds it takes."""
    reach = edges.copy()
    for node in range(len(reach)):
        reach |= np.outer(reach[:, node], reach[node])
    return reach


def edges_of(units, groups):
    """Returns, for groups of units, which group hands which something."""
    group_of = {id(unit): place for place, group in enumerate(groups) for unit in group}
    producer = {id(value): unit for unit in units for value in unit.outputs}
    edges = np.zeros((len(groups),) * 2, bool)
    for unit in units:
        for value in unit.inputs:
            one, other = group_of.get(id(producer.get(id(value)))), group_of.get(id(unit))
            if None not in (one, other):
                edges[one, other] |= one != other
    return edges


def groups_of(units, found):
    """Returns the segments' units, then all others alone, every loop together."""
    inside = {id(unit) for segment in found for unit in segment.units}
    alone = [[unit] for unit in units if id(unit) not in inside]
    together = reached(edges_of(units, alone))
    together = together & together.T
    loops, seen = [], set()
    for place in range(len(alone)):
        if place not in seen:
            members = {place} | set(np.flatnonzero(together[place]).tolist())
            seen |= members
            loops.append([alone[member][0] for member in sorted(members)])
    return [segment.units for segment in found] + loops


def is_without_a_cycle(units, groups):
    return not reached(edges_of(units, groups)).diagonal().any()


@pytest.mark.parametrize('seed', range(60))
def test_they_are_convex_apart_and_cannot_be_larger(seed):
    units = random_units(seed, 12 + seed % 20)
    found = segments_of(SimpleNamespace(units=units))
    inside = [id(unit) for segment in found for unit in segment.units]
    assert len(inside) == len(set(inside))
    assert all(unit.reason is None for segment in found for unit in segment.units)
    assert {id(unit) for unit in units if unit.layer} <= set(inside)
    groups, arguments = groups_of(units, found), arguments_of(units)
    assert is_without_a_cycle(units, groups)
    assert all(depends_on_all(units, segment.units, arguments) for segment in found)
    edges = edges_of(units, groups)
    for one, other in itertools.permutations(range(len(groups)), 2):
        union = groups[one] + groups[other]
        if (
            edges[one, other]
            and min(one, other) < len(found)
            and all(unit.reason is None for unit in union)
        ):
            rest = [group for place, group in enumerate(groups) if place not in (one, other)]
            may_be_joined = is_without_a_cycle(units, rest + [union])
            assert not (may_be_joined and depends_on_all(units, union, arguments)), (one, other)
    for segment in found:
        computed = {id(unit.outputs[0]) for unit in segment.units}
        read = {id(value) for unit in segment.units for value in unit.inputs} - computed
        assert sorted(map(id, segment.entries)) == sorted(read)
        assert [id(value) for value in segment.exits] == [
            id(unit.outputs[0]) for unit in exits_of(units, segment.units)
        ]


@pytest.mark.parametrize('seed', range(1000, 1300))
def test_they_are_apart_in_many_graphs(seed):
    units = random_units(seed, 5 + seed % 16)
    assert is_without_a_cycle(units, groups_of(units, segments_of(SimpleNamespace(units=units))))


def test_a_path_may_come_back_through_a_group_that_begins_earlier():
    x, z = SimpleNamespace(readers=[]), SimpleNamespace(readers=[])
    g, u = unit_of([x, z]), unit_of([x, z])
    r = unit_of([g, u])
    t = unit_of([g], refused=True)
    v = unit_of([u, t], layer=True)
    units = finished([g, u, r, t, v, unit_of([g], layer=True)])
    found = segments_of(SimpleNamespace(units=units))
    assert is_without_a_cycle(units, groups_of(units, found))
    assert sorted(len(segment.units) for segment in found) == [2, 3]


def test_segments_that_wait_for_each_other_never_get_to_cntk(monkeypatch):
    monkeypatch.setattr(segment_module._Groups, '_is_led_around', lambda *_: False)
    one = unit_of([None], layer=True)
    units = finished([one, unit_of([one], refused=True)])
    units.append(finished([unit_of([one, units[1]], layer=True)])[0])
    with pytest.raises(RuntimeError, match='wait for each other.*please report'):
        segments_of(SimpleNamespace(units=units))


# Bits


def layer(y, filters, name, **options):
    y = C.layers.Convolution2D((3, 3), filters, pad=True, bias=False, name=name, **options)(y)
    return C.layers.BatchNormalization(map_rank=1)(y)


def lowered_with_the_same_bits(model, data, **options):
    """Lowers a network, compares all outputs with the trained one's, as it is and loaded again;
    returns the Lowering."""
    trained = binarized(model, **dict(dict(input_scale=None), **options))
    lowering = lower_segments(trained)
    for each in data:
        assert_programs_give_cntk_s_bits(lowering, each)
        for one, other in zip(
            nc.graph.evaluate(lowering.model.outputs, each),
            nc.graph.evaluate(trained.outputs, each),
        ):
            assert same_bits(nc.graph.flat(one), nc.graph.flat(other))
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
    lowering = lower_segments(trained)
    for each in data:
        assert_programs_give_cntk_s_bits(lowering, each)
        for one, other in zip(
            nc.graph.evaluate(lowering.model.outputs, each),
            nc.graph.evaluate(trained.outputs, each),
        ):
            assert same_bits(one, other)


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
