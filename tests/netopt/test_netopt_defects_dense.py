"""One regression test, or more, for each defect of the released netopt that concerns Dense layers.

The numbers are those of its list of defects, 1 to 14; 5 to 12 are in `test_binary_defects`.
`quietly` silences the warning a rank that saves nothing gives.
"""
import re

import cntk as C
import numpy as np
import pytest
from cntk.layers import Dense, Sequential

import netopt_callbacks as nc
from netopt_callbacks import factorization, graph, quantization

import graph_networks as networks
import test_binary_defects
from graph_networks import factored_blocks, full, parameters_of, quietly, wide


def test_defect_1_the_activation_is_kept():
    model = wide(activation=C.relu)
    new = quietly(factorization.factor_dense, model, full)
    data = networks.images(shape=(20,))
    np.testing.assert_allclose(new.eval(data), model.eval(data), rtol=1e-5, atol=1e-5)
    assert (C.combine([new.h.output]).eval(data) >= 0).all()


def test_defect_2_a_rank_that_saves_nothing_is_not_silent():
    x = C.input_variable(2)
    model = Sequential(
        [
            Dense(50, activation=C.sigmoid, name='h1'),
            Dense(50, activation=C.sigmoid, name='h2'),
            Dense(2, name='out'),
        ]
    )(x)
    rank = lambda W: int(min(W.shape) * 0.6)
    with pytest.warns(UserWarning) as caught:
        new = factorization.factor_dense(model, rank)
    said = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    assert len(said) == 1
    assert "'h2'" in said[0] and 'rank 30' in said[0] and '2500' in said[0] and '3000' in said[0]
    assert 'ranks up to 24 save' in said[0]
    assert len(factored_blocks(new)) == 3

    transformed = nc.FactorDense(
        projection_function=rank, filter_function=lambda layer: True
    ).transform(model)
    assert [note.rank for note in transformed.layers] == [1, None, 1]
    skipped = transformed.layers[1]
    assert 'rank 30 saves nothing' in skipped.skipped and 'ranks up to 24 save' in skipped.skipped
    assert skipped.parameters_before == skipped.parameters_after == 2550
    assert skipped.macs_before == skipped.macs_after == 2500
    assert [replaced.layer for replaced in transformed.replaced] == ['h1', 'out']
    assert [block.name for block in factored_blocks(transformed.model)] == ['h1', 'out']


def test_defect_2_where_no_layer_gains_the_model_is_the_one_given():
    model = wide()
    transformed = nc.FactorDense(rank=999, filter_function=lambda layer: True).transform(model)
    assert transformed.model is model
    assert all('rank 999' in note.skipped for note in transformed.layers)
    assert [note.name for note in transformed.layers] == ['h', 'out']


@pytest.mark.parametrize('shape', [(50, 50), (784, 10), (16, 48), (49, 3)])
def test_defect_2_the_break_even_rank_itself_saves_nothing(shape):
    x = C.input_variable(shape[0])
    model = Dense(shape[1], bias=False, name='d')(x)
    for rank in range(1, min(shape) + 1):
        (note,) = nc.FactorDense(rank=rank).transform(model).layers
        gains = rank * sum(shape) < shape[0] * shape[1]
        assert (note.skipped is None) == gains
        assert (note.parameters_after < note.parameters_before) == gains


def test_defect_3_no_bias_and_a_feature_map_are_factored():
    x = C.input_variable((16, 7, 7), name='x')
    model = Sequential([Dense(10, bias=False, name='classify'), Dense(9, name='out')])(x)
    new = quietly(factorization.factor_dense, model, full)
    data = networks.images(shape=(16, 7, 7))
    np.testing.assert_allclose(new.eval(data), model.eval(data), rtol=1e-4, atol=1e-5)
    assert sorted(parameters_of(new.classify)) == ['W1', 'W2']


@pytest.mark.parametrize(
    'rank, error', [(0, ValueError), (999, ValueError), (1.5, TypeError), (-1, ValueError)]
)
def test_defect_4_a_wrong_rank_is_an_error_that_names_the_layer(rank, error):
    for apply in (
        lambda: factorization.factor_dense(wide(), lambda W: rank),
        lambda: nc.FactorDense(rank=lambda W: rank).transform(wide()),
    ):
        with pytest.raises(error, match="'h'"):
            apply()


def test_defect_13_a_network_without_blocks_is_factored():
    x = C.input_variable(2)
    w1, b1 = C.parameter((2, 50), init=C.glorot_uniform()), C.parameter(50, init=0)
    w2, b2 = C.parameter((50, 50), init=C.glorot_uniform()), C.parameter(50, init=0)
    h1 = C.sigmoid(C.times(x, w1) + b1)
    model = C.sigmoid(C.times(h1, w2) + b2)
    new = quietly(factorization.factor_dense, model, full)
    assert len(factored_blocks(new)) == 2
    data = networks.images(shape=(2,))
    np.testing.assert_allclose(new.eval(data), model.eval(data), rtol=1e-5, atol=1e-6)


def test_defect_13_nothing_matched_is_an_error_that_lists_the_layers():
    for apply in (
        lambda f: factorization.factor_dense(wide(), full, f),
        lambda f: nc.FactorDense(rank=1, filter_function=f).transform(wide()),
    ):
        with pytest.raises(ValueError, match='FactorDense.*h.*20x30.*out.*30x2'):
            apply(lambda block: False)


def dense_layers(depth):
    return Sequential([Dense(8, activation=C.tanh, name=f'd{i}') for i in range(depth)])(
        C.input_variable(8)
    )


def convolutions(depth):
    layers = [C.layers.Convolution2D((3, 3), 2, pad=True, name=f'c{i}') for i in range(depth)]
    return Sequential(layers)(C.input_variable((2, 4, 4)))


@pytest.mark.parametrize(
    'network, transform, op_name',
    [
        (
            dense_layers,
            lambda model: factorization.factor_dense(model, lambda W: 2),
            'DenseFactored',
        ),
        (convolutions, quantization.convert_to_binary_convolution, 'BinaryConvolution'),
    ],
)
def test_defect_14_all_layers_are_replaced_in_one_copy_of_the_graph(
    network, transform, op_name, monkeypatch
):
    visited = []
    for name in ('clone', 'replace_placeholders'):

        def counted(self, *arguments, _inner=getattr(C.Function, name), **options):
            visited.append(len(list(graph.walk(self))))
            return _inner(self, *arguments, **options)

        monkeypatch.setattr(C.Function, name, counted)

    def functions_visited(depth):
        model = network(depth)
        del visited[:]
        new = transform(model)
        total = sum(visited)
        assert [function.op_name for function in graph.walk(new)].count(op_name) == depth
        return total

    # Linear: twice as many more layers cost exactly twice as much more.
    ten, twenty, forty = (functions_visited(depth) for depth in (10, 20, 40))
    assert forty - twenty == 2 * (twenty - ten) > 0


def test_every_defect_has_a_test():
    names = list(globals()) + dir(test_binary_defects)
    numbers = {
        int(match.group(1))
        for match in (re.match(r'test_defect_(\d+)_', name) for name in names)
        if match
    }
    assert numbers == set(range(1, 15))
