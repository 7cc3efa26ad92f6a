"""The live objects of a class, against the list that CPython's collector gives."""
import gc

import pytest

from netopt_callbacks.native_machine import _native


class Kind:
    pass


class Derived(Kind):
    pass


def by_collector(kinds):
    return {id(one) for one in gc.get_objects() if type(one) in kinds}


@pytest.mark.parametrize('collections', ([], [0], [1], [2], [2, 0]))
def test_every_generation_is_looked_at(collections):
    # A collection moves what lives to the next generation; new objects are in the first.
    held = [Kind(), Derived()]
    for generation in collections:
        gc.collect(generation)
        held += [Kind(), Derived()]
    for kinds in ([Kind], [Derived], [Kind, Derived], [], [Kind, type]):
        found = _native.live_objects(kinds)
        assert len({id(one) for one in found}) == len(found)
        assert {id(one) for one in found} == by_collector(kinds)


def test_objects_are_neither_kept_nor_let_go():
    held = Kind()
    before = gc.get_referrers(held)
    found = _native.live_objects([Kind])
    assert any(one is held for one in found)
    del found
    assert len(gc.get_referrers(held)) == len(before)


def test_kinds_are_classes():
    with pytest.raises(TypeError, match='kinds must be classes'):
        _native.live_objects(['Kind'])
