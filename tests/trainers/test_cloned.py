"""A network is cloned alone, for uids that do not depend on what else a script holds; its other
readers are put over the clone."""
import cntk as C
import numpy as np
import pytest

from netopt_callbacks import graph
from netopt_callbacks.trainers import uids

L = C.layers


def residual(x):
    y = L.Dense(4, activation=C.tanh, name='first')(x)
    y = L.Dropout(0.5, seed=1, name='drop')(y) + y
    return L.Dense(3, name='z')(L.BatchNormalization()(y))


def recurrent(x):
    y = L.Recurrence(L.LSTM(5), name='first')(x)
    cell = L.Dense(4)
    y = L.Recurrence(lambda state, step: C.tanh(cell(C.splice(state, step))))(y)
    return L.Dense(3, name='z')(L.Dropout(0.5, seed=1, name='drop')(y))


NETWORKS = {
    'residual': (lambda: C.input_variable(4, name='x'), residual),
    'recurrent': (lambda: C.sequence.input_variable(4, name='x'), recurrent),
}


def readers_of(x, z):
    """Returns outputs of Functions over the network's parts and layers."""
    other = C.input_variable(x.shape, dynamic_axes=x.dynamic_axes)
    return [
        function.output
        for function in (
            C.softmax(z),
            C.reduce_sum(z.find_by_name('first')),
            z(other),
            z.find_by_name('drop') * C.reduce_max(z),
            z.clone('share', {x: C.placeholder()}),
        )
    ]


@pytest.mark.parametrize('kind', sorted(NETWORKS))
def test_uids_do_not_depend_on_other_readers(kind):
    make, network = NETWORKS[kind]
    x = make()
    z = network(x)

    def own_numbers(others):
        begin = C.cntk_py.new_unique_id()
        clone, _ = uids.cloned(C.combine([z, C.tanh(z)]), others)
        found = sorted(number - begin for number in uids.numbers(clone.outputs) if number > begin)
        assert len(found) > 10
        return found

    others = readers_of(x, z)
    assert own_numbers([]) == own_numbers(others) == own_numbers(others[:2])


@pytest.mark.parametrize('kind', sorted(NETWORKS))
def test_other_readers_compute_what_they_did_over_the_clone(kind):
    make, network = NETWORKS[kind]
    x = make()
    z = network(x)
    whole, others = C.combine([z, C.tanh(z)]), readers_of(x, z)
    clone, moved = uids.cloned(whole, others)
    old = {function.uid for function in graph.primitives(whole)}
    assert old.isdisjoint(function.uid for function in graph.primitives(clone))
    assert old.isdisjoint(function.uid for function in graph.functions(moved))
    assert len(moved) == len(others)
    values = np.random.RandomState(0).randn(2, 5, 4).astype(np.float32)
    data = list(values) if len(x.dynamic_axes) > 1 else values[0]
    for before, after in zip(list(whole.outputs) + others, list(clone.outputs) + moved):
        one, other = C.combine([before]), C.combine([after])
        assert after.shape == before.shape and not one.placeholders == (not other.placeholders)
        if one.placeholders:
            one, other = (each.clone('share', {each.placeholders[0]: x}) for each in (one, other))
        found = [np.array(each.eval({each.arguments[0]: data})) for each in (one, other)]
        assert found[0].tobytes() == found[1].tobytes()


def test_what_shares_layers_alone_is_left_as_it_is():
    x = C.input_variable(4)
    z = residual(x)
    other = z(C.input_variable(4))
    _, (same,) = uids.cloned(C.combine([z]), [other.output])
    assert same == other.output
