"""Which units of a graph are segments: convex, not waiting for each other, as large as can be."""
import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from netopt_callbacks.lowering import segment as segment_module
from netopt_callbacks.lowering.segment import segments_of


def unit_of(reads, layer=False, refused=False):
    """Returns a unit as those of a FlatGraph that reads these units; None is an argument of its
    own."""
    unit = SimpleNamespace(
        inputs=[value_of(one) for one in reads],
        outputs=[SimpleNamespace(readers=[], place=0)],
        reason='refused' if refused else None,
        layer='layer' if layer and not refused else None,
    )
    for value in unit.inputs:
        value.readers.append(None if refused else SimpleNamespace(unit=unit))
    return unit


def value_of(one):
    if one is None:
        return SimpleNamespace(readers=[], place=0)
    return one.outputs[0] if hasattr(one, 'outputs') else one


def finished(units):
    for unit in units:
        if not unit.outputs[0].readers:
            unit.outputs[0].readers.append(None)
    return units


def random_units(seed, count):
    """Returns units of which some are in no segment, and some are in loops."""
    random = np.random.RandomState(seed)
    arguments = [SimpleNamespace(readers=[], place=0) for _ in range(random.randint(1, 4))]
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
    x, z = SimpleNamespace(readers=[], place=0), SimpleNamespace(readers=[], place=0)
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
