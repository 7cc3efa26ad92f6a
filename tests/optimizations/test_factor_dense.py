"""Factoring Dense layers: against NumPy, against the original."""
import doctest
import importlib

import cntk as C
import numpy as np
import pytest
from cntk.layers import Dense, Sequential
from hypothesis import given, settings, strategies as st

import netopt_callbacks as nc
from netopt_callbacks import factorization, graph
from netopt_callbacks.optimizations.factor_dense import factor_dense

import graph_networks as networks
from graph_networks import factored_blocks, full, parameters_of, quietly, wide


@pytest.mark.parametrize('network', networks.WITH_DENSE, ids=lambda network: network.__name__)
def test_full_rank_reproduces_the_model(network):
    model, data = network()
    before = [parameter.value.copy() for parameter in model.parameters]
    new = quietly(factorization.factor_dense, model, full)
    assert len(factored_blocks(new)) == len(graph.layers(model, op_name='Dense'))
    for expected, received in zip(networks.values(model, data), networks.values(new, data)):
        # Two float32 products instead of one: some ulp of sums of at most 72 terms, per layer.
        np.testing.assert_allclose(received, expected, rtol=2e-5, atol=5e-6)
    for parameter, value in zip(model.parameters, before):
        assert np.array_equal(parameter.value, value)


@pytest.mark.parametrize('network', networks.WITH_DENSE, ids=lambda network: network.__name__)
def test_kept_parameters_are_the_same_and_the_bias_is_kept(network):
    model, _ = network()
    weights = {layer.W.uid for layer in graph.layers(model, op_name='Dense')}
    kept = {parameter.uid for parameter in model.parameters} - weights
    new = {
        parameter.uid: parameter
        for parameter in quietly(factorization.factor_dense, model, full).parameters
    }
    assert kept < set(new) and not weights & set(new)
    added = [new[uid] for uid in set(new) - kept]
    assert sorted(parameter.name for parameter in added) == ['W1'] * len(weights) + ['W2'] * len(
        weights
    )


def test_shapes_of_the_factors_of_a_feature_map_and_a_tensor():
    x = C.input_variable((16, 7, 7), name='x')
    model = Sequential(
        [Dense(10, activation=C.softmax, name='classify'), Dense((4, 3), name='tensor')]
    )(x)
    new = quietly(factorization.factor_dense, model, lambda W: 4)
    assert new.classify.W1.shape == (16, 7, 7, 4) and new.classify.W2.shape == (4, 10)
    assert new.tensor.W1.shape == (10, 4) and new.tensor.W2.shape == (4, 4, 3)
    assert new.tensor.b.uid == model.tensor.b.uid and new.tensor.op_name == 'DenseFactored'


def test_against_numpy():
    model = wide(activation=C.tanh, init_bias=0.3)
    W, b = model.h.W.value, model.h.b.value
    U, s, V = np.linalg.svd(W.astype('d'))
    expected_W = (U[:, :5] * s[:5]).dot(V[:5])
    transformed = nc.FactorDense(rank=5, filter_function=lambda block: block.name == 'h').transform(
        model
    )
    x = networks.images(shape=(20,))
    hidden = np.tanh(x.dot(expected_W) + b)
    expected = hidden.dot(model.out.W.value) + model.out.b.value
    # float32 against float64: a few ulp of sums of at most 30 terms.
    np.testing.assert_allclose(transformed.model.eval(x), expected, rtol=1e-5, atol=1e-6)
    (note,) = transformed.layers
    assert (note.name, note.shape, note.rank, note.skipped) == ('h', (20, 30), 5, None)
    assert abs(note.energy - (s[:5] ** 2).sum() / (s**2).sum()) < 1e-12
    assert abs(note.error - np.sqrt((s[5:] ** 2).sum() / (s**2).sum())) < 1e-6
    assert (note.parameters_before, note.parameters_after) == (630, 5 * 50 + 30)
    assert (note.macs_before, note.macs_after) == (600, 250)
    (replaced,) = transformed.replaced
    assert replaced.layer == 'h'
    assert [p.uid for p in replaced.retired] == [model.h.W.uid]
    block = parameters_of(transformed.model.h)
    assert [p.uid for p in replaced.added] == [block['W1'].uid, block['W2'].uid]
    assert np.allclose(
        np.linalg.norm(block['W1'].value, axis=0), np.linalg.norm(block['W2'].value, axis=1)
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 8), st.integers(2, 8), st.integers(0, 2**31 - 1))
def test_the_error_falls_as_the_rank_grows(inputs, outputs, seed):
    random = np.random.RandomState(seed)
    x = C.input_variable(inputs)
    model = C.times(
        x, C.parameter((inputs, outputs), init=random.randn(inputs, outputs).astype('f'))
    )
    data = np.eye(inputs, dtype='f')
    errors = [
        np.linalg.norm(
            quietly(factorization.factor_dense, model, lambda W: rank).eval(data) - model.eval(data)
        )
        for rank in range(1, min(inputs, outputs) + 1)
    ]
    # On the unit vectors the model is W itself; the last error is rounding alone.
    assert all(later < earlier + 1e-5 for earlier, later in zip(errors, errors[1:]))
    assert errors[-1] < 1e-5


def test_float64_stays_float64():
    model, data = networks.float64()
    new = quietly(factorization.factor_dense, model, full)
    assert {parameter.dtype for parameter in new.parameters} == {np.float64}
    np.testing.assert_allclose(
        networks.values(new, data)[0], networks.values(model, data)[0], rtol=1e-12, atol=1e-14
    )


def test_positions_a_dense_maps_over_count_once_each():
    x = C.input_variable((10, 40))
    model = Dense(50, map_rank=1, bias=False, name='d')(x)
    (note,) = nc.FactorDense(rank=8).transform(model).layers
    assert note.macs_before == 10 * 40 * 50 and note.macs_after == 10 * 8 * 90
    assert note.parameters_before == 2000 and note.parameters_after == 720


def test_multiply_adds_of_a_free_axis_are_left_open():
    x = C.input_variable((C.FreeDimension, 40))
    (note,) = (
        nc.FactorDense(rank=8).transform(Dense(50, map_rank=1, bias=False, name='d')(x)).layers
    )
    assert note.macs_before is note.macs_after is None
    assert note.parameters_before == 2000 and note.parameters_after == 720


def test_layers_that_share_weights_share_the_factors_and_have_one_note():
    model, data = networks.criterion()
    transformed = nc.FactorDense(rank=1, filter_function=lambda block: block.name == 'a').transform(
        model
    )
    assert len(transformed.layers) == 1 and transformed.layers[0].rank == 1
    blocks = factored_blocks(transformed.model)
    assert len(blocks) == 2
    assert (
        len({parameters_of(block)[name].uid for block in blocks for name in ('W1', 'W2', 'b')}) == 3
    )


def test_a_product_that_is_no_dense_layer_has_a_note_that_says_why():
    x = C.input_variable(20)
    turned = C.times_transpose(x, C.parameter((5, 20)), name='turned')
    model = C.splice(Dense(30, name='h')(x), turned, turned * 2)
    first, second = nc.FactorDense(rank=3).transform(model).layers
    assert (first.name, first.rank) == ('h', 3)
    assert second.name == "product 'turned' (W of 5x20)" and second.shape == (5, 20)
    assert second.skipped.startswith('times_transpose') and second.rank is None
    assert second.parameters_before == second.parameters_after == 100


def test_training_moves_the_factors_and_the_shared_parameters():
    model = wide()
    y = C.input_variable(2)
    new = (
        nc.FactorDense(rank=3, filter_function=lambda block: block.name == 'h')
        .transform(model)
        .model
    )
    before = {p.uid: p.value.copy() for p in new.parameters}
    trainer = C.Trainer(
        new, C.squared_error(new, y), [C.sgd(new.parameters, C.learning_parameter_schedule(0.1))]
    )
    trainer.train_minibatch(
        {new.arguments[0]: networks.images(shape=(20,)), y: np.ones((4, 2), 'f')}
    )
    assert all(not np.array_equal(p.value, before[p.uid]) for p in new.parameters)
    assert not np.array_equal(model.out.W.value, before[model.out.W.uid])


def test_the_filter_sees_the_layer():
    model, _ = networks.sequential()
    seen = []
    nc.FactorDense(rank=1, filter_function=lambda block: seen.append(block) or True).transform(
        model
    )
    assert [
        (layer.name, layer.op_name, layer.W.shape, layer.b.shape, layer.shape) for layer in seen
    ] == [('hidden', 'Dense', (4, 6, 6, 8), (8,), (8,)), ('classify', 'Dense', (8, 3), (3,), (3,))]


def test_functions_get_a_matrix_of_their_own():
    model, _ = networks.sequential()
    shapes = []

    def rank(W):
        shapes.append(W.shape)
        W[:] = 0
        return 1

    def factors(W, k):
        shapes.append(W.shape)
        assert W.any()
        W[:] = 0
        return np.ones((len(W), 2)), np.ones((2, W.shape[1]))

    before = model.hidden.W.value.copy()
    note = nc.FactorDense(rank=rank, factor_function=factors).transform(model).layers[0]
    assert shapes[:2] == [(144, 8)] * 2 and note.rank == 2
    assert np.array_equal(before, model.hidden.W.value)


def test_a_factor_function_without_a_rank_gets_the_smaller_side():
    asked = []

    def factors(W, k):
        asked.append(k)
        return W[:, :2], np.ones((2, W.shape[1]))

    transformed = nc.FactorDense(
        factor_function=factors, filter_function=lambda layer: True
    ).transform(wide())
    assert asked == [20, 2]
    assert [(note.rank, note.skipped is None) for note in transformed.layers] == [
        (2, True),
        (None, False),
    ]


@pytest.mark.parametrize(
    'returned, said',
    [
        (None, 'two arrays'),
        ((np.ones((20, 2)),), 'two arrays'),
        ('ab', 'two arrays'),
        ((np.ones((20, 2)), np.ones((3, 30))), r'\(20, 2\) and \(3, 30\)'),
        ((np.ones((30, 2)), np.ones((2, 20))), r'W1 of shape \(20, k\) and W2 of shape \(k, 30\)'),
        ((np.ones((20, 0)), np.ones((0, 30))), r'\(20, 0\)'),
        ((np.full((20, 2), np.inf), np.ones((2, 30))), 'finite'),
    ],
)
def test_wrong_factors_are_refused_with_the_layers_name(returned, said):
    with pytest.raises(ValueError, match=said) as error:
        nc.FactorDense(factor_function=lambda W, k: returned).transform(wide())
    assert "'h'" in str(error.value)


@pytest.mark.parametrize(
    'options, error, said',
    [
        (dict(), ValueError, 'give rank'),
        (dict(rank=2, projection_function=full), ValueError, 'leave one out'),
        (dict(projection_function=3), TypeError, 'projection_function'),
        (dict(rank=2, factor_function=3), TypeError, 'factor_function'),
        (dict(rank=2, filter_function='h'), TypeError, 'filter_function'),
        (dict(rank=2, filter_function=lambda: True), TypeError, r'filter_function.*<lambda>\(\)'),
        (dict(rank=lambda W, k: 2), TypeError, r'FactorDense: rank.*got <lambda>\(W, k\)'),
        (
            dict(projection_function=lambda: 2),
            TypeError,
            r'FactorDense: projection_function.*got <lambda>\(\)',
        ),
        (dict(rank=2, factor_function=lambda W: W), TypeError, r'factor_function.*<lambda>\(W\)'),
    ],
)
def test_wrong_options_are_refused_before_there_is_a_model(options, error, said):
    with pytest.raises(error, match=said):
        nc.FactorDense(**options)


def test_weights_that_are_not_there_or_not_finite_are_refused():
    with pytest.raises(ValueError, match="'d'.*apply the model"):
        nc.FactorDense(rank=1).transform(Dense(3, name='d'))
    model = wide()
    model.h.W.value = np.full((20, 30), np.nan, 'f')
    with pytest.raises(ValueError, match="'h'.*finite"):
        nc.FactorDense(rank=1).transform(model)


def test_a_function_that_is_not_applied_yet_is_factored():
    layers = Sequential([Dense(30, name='h'), Dense(2, name='out')])
    x = C.input_variable(20)
    before = layers(x)
    new = quietly(factorization.factor_dense, layers, full)
    data = networks.images(shape=(20,))
    np.testing.assert_allclose(new(x).eval(data), before.eval(data), rtol=1e-5, atol=1e-6)


def test_a_factored_model_is_saved_and_loaded(tmp_path):
    model = wide()
    new = (
        nc.FactorDense(rank=3, filter_function=lambda block: block.name == 'h')
        .transform(model)
        .model
    )
    new.save(str(tmp_path / 'model'))
    loaded = C.load_model(str(tmp_path / 'model'))
    data = networks.images(shape=(20,))
    assert np.array_equal(loaded.eval(data), new.eval(data))
    assert sorted(parameters_of(loaded.h)) == ['W1', 'W2', 'b']


@pytest.mark.parametrize('name', ['factor_dense', 'ranks', 'low_rank', 'dense_factored'])
def test_examples_in_docstrings_run(name):
    module = importlib.import_module('netopt_callbacks.optimizations.' + name)
    assert doctest.testmod(module).failed == 0


def tied():
    """Returns a model whose W is read by a Dense and, the other way round, by a product."""
    x = C.input_variable(12, name='x')
    hidden = C.layers.Dense(8, name='encode')(x)
    return hidden, C.times_transpose(hidden, hidden.W, name='decode')


def test_weights_that_something_else_reads_stay_and_are_counted():
    hidden, model = tied()
    with pytest.warns(UserWarning, match='encode.*read elsewhere too'):
        transformed = importlib.import_module(
            'netopt_callbacks.optimizations.factor_dense'
        ).factor_dense(model, rank=2, every=True)
    note = transformed.layers[0]
    counted = sum(int(np.prod(p.shape)) for p in transformed.model.parameters)
    assert note.parameters_after == counted == 12 * 8 + 2 * (12 + 8) + 8
    (replaced,) = transformed.replaced
    assert replaced.retired == () and len(replaced.added) == 2
    left = nc.FactorDense(rank=2).transform(model)
    assert 'read elsewhere too' in left.layers[0].skipped
    assert left.layers[0].skipped.endswith('and stay, so factoring would only add weights')
    assert left.model is model


def test_without_a_filter_the_last_dense_of_the_network_is_left_with_a_note():
    x = C.input_variable(20)
    trunk = C.layers.Dense(30, name='hidden')(x)
    heads = C.combine([C.layers.Dense(20, name=name)(trunk) for name in ('one', 'two')])
    taken, *left = nc.FactorDense(rank=2).transform(heads).layers
    assert (taken.name, taken.rank, taken.skipped) == ('hidden', 2, None)
    assert {note.name for note in left} == {'one', 'two'}
    assert all('last Dense of the network' in note.skipped for note in left)


def test_what_is_factored_already_counts_where_the_last_is_looked_for():
    once = nc.FactorDense(rank=2).transform(wide()).model
    with pytest.raises(ValueError, match="Dense 'out'.*last Dense of the network.*filter_function"):
        nc.FactorDense(rank=1).transform(once)


def test_the_only_dense_of_a_network_is_taken():
    (note,) = nc.FactorDense(rank=2).transform(C.layers.Dense(30)(C.input_variable(20))).layers
    assert note.rank == 2


def test_factors_may_come_out_of_an_iterator():
    transformed = nc.FactorDense(
        rank=2,
        factor_function=lambda W, k: map(np.ascontiguousarray, (W[:, :k], np.eye(k, W.shape[1]))),
    ).transform(C.layers.Dense(30, name='hidden')(C.input_variable(20)))
    assert transformed.layers[0].rank == 2


def test_factors_of_complex_numbers_are_refused():
    with pytest.raises(ValueError, match="Dense 'hidden'.*of complex numbers, and W is real"):
        nc.FactorDense(rank=2, factor_function=lambda W, k: (W[:, :k] * 1j, W[:k])).transform(
            C.layers.Dense(30, name='hidden')(C.input_variable(20))
        )


@pytest.mark.parametrize(
    'columns, rank, said',
    [
        ([], 0, 'all 0, so there was nothing to lose (energy 1, error 0)'),
        ([3], 1, 'rank 1, so rank 3 lost nothing and 2'),
        ([0, 5, 9], 3, None),
    ],
)
@pytest.mark.parametrize('split', ['even', 'right'])
def test_every_pair_of_factors_of_weights_that_lack_rank_trains(columns, rank, said, split):
    """The product is W, and after a few minibatches it has moved in every direction that it may."""
    x, target = C.input_variable(12), C.input_variable(10)
    W = np.zeros((12, 10), np.float32)
    W[:, columns] = np.random.RandomState(0).randn(12, len(columns))
    model = Dense(10, bias=False, name='h')(x)
    model.h.W.value = W
    transformed = factor_dense(model, 3, split=split)
    (note,) = transformed.layers
    assert note.energy == pytest.approx(1, abs=1e-6) and note.error == pytest.approx(0, abs=1e-6)
    assert (note.message is None) == (said is None) and (said is None or said in note.message)
    new = transformed.model
    before = new.h.W1.value.dot(new.h.W2.value)
    np.testing.assert_allclose(before, W, rtol=0, atol=1e-6)
    learner = C.sgd(new.parameters, C.learning_parameter_schedule(0.05))
    trainer = C.Trainer(new, C.squared_error(new, target), [learner])
    random = np.random.RandomState(1)
    rows, wanted = random.randn(200, 12).astype('f'), random.randn(200, 10).astype('f')
    for _ in range(20):
        trainer.train_minibatch({x: rows, target: wanted})
    moved = new.h.W1.value.dot(new.h.W2.value) - before
    assert np.linalg.matrix_rank(moved, tol=1e-3) >= 3
    assert (np.linalg.norm(new.h.W2.value, axis=1) > 0.01).all()


@pytest.mark.parametrize(
    'rank, shown',
    [(12, '12'), (0.9, '0.9'), (nc.parameters(0.999), r'parameters\(0.999\)')],
    ids=['int', 'fraction', 'rule'],
)
def test_a_rank_of_which_the_shapes_tell_that_it_saves_nothing_is_refused_before_training(
    rank, shown
):
    # 20x30 has 600 weights, its factors 50 k: 12 is as many. Of 1x3 no k saves, 4 k against 3.
    sides = (20, 30) if isinstance(rank, int) or rank == 0.9 else (1, 3)
    model = Dense(sides[1], name='h')(C.input_variable(sides[0]))
    most = "ranks up to 11 save on 'h'" if sides[0] == 20 else "no rank saves on 'h'"
    optimization = nc.FactorDense(rank=rank)
    with pytest.raises(ValueError, match=f'got rank={shown}, which saves nothing on any: {most};'):
        optimization.check(model)
    assert optimization.transform(model).layers[0].skipped, 'without a run there is a note'


@pytest.mark.parametrize(
    'options',
    [
        dict(rank=11),
        dict(rank=lambda W: 12),
        dict(rank=nc.energy(1)),
        dict(rank=12, factor_function=lambda W, k: (W[:, :2], W[:2])),
    ],
    ids=['saves', 'function', 'energy', 'factor_function'],
)
def test_a_rank_that_may_save_something_is_tried(options):
    nc.FactorDense(**options).check(Dense(30, name='h')(C.input_variable(20)))


def test_a_rank_that_saves_on_some_layer_is_tried():
    model = Sequential([Dense(30, name='h'), Dense(60, name='wide'), Dense(2)])(
        C.input_variable(20)
    )
    (one,) = nc.FactorDense(rank=15).check(model).replaced
    assert one.layer == 'wide'
    with pytest.raises(ValueError, match="up to 11 save on 'h', ranks up to 19 save on 'wide'"):
        nc.FactorDense(rank=20).check(model)
