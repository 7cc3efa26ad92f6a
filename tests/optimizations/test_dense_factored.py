"""The factored Dense as a layer of its own, against NumPy."""
import cntk as C
import numpy as np
import pytest

from netopt_callbacks import factorization

import graph_networks as networks


@pytest.mark.parametrize(
    'options',
    [dict(), dict(bias=False), dict(activation=C.relu), dict(map_rank=1), dict(input_rank=1)],
    ids=lambda options: '-'.join(options) or 'plain',
)
def test_dense_factored_is_a_layer(options):
    x = C.input_variable((3, 8))
    random = np.random.RandomState(1)
    mapped = 'map_rank' in options or 'input_rank' in options
    W1 = random.randn(*((8, 2) if mapped else (3, 8, 2))).astype('f')
    W2 = random.randn(2, 4, 5).astype('f')
    layer = factorization.dense_factored(
        (2, (4, 5)), init={'W1': W1, 'W2': W2}, init_bias=0.5, name='d', **options
    )
    data = networks.images(shape=(3, 8))
    expected = np.tensordot(np.tensordot(data, W1, 1 if mapped else 2), W2, 1)
    expected = expected + (0 if options.get('bias') is False else 0.5)
    expected = np.maximum(expected, 0) if 'activation' in options else expected
    model = layer(x)
    np.testing.assert_allclose(model.eval(data), expected, rtol=1e-5, atol=1e-6)
    assert model.root_function.op_name == 'DenseFactored' and model.root_function.name == 'd'
    names = {'W1', 'W2'} if options.get('bias') is False else {'W1', 'W2', 'b'}
    assert {parameter.name for parameter in model.parameters} == names


def test_dense_factored_without_weights_initializes_them():
    model = factorization.dense_factored((2, 5))(C.input_variable(7))
    assert model.W1.shape == (7, 2) and model.W2.shape == (2, 5) and model.W1.value.any()


@pytest.mark.parametrize(
    'shapes, init',
    [
        ((0, 5), {}),
        ((2.5, 5), {}),
        ((2, 5), {'W2': np.ones((3, 5), 'f')}),
        ((2, 5), {'W1': np.ones((4, 3), 'f')}),
    ],
)
def test_dense_factored_refuses_what_does_not_fit(shapes, init):
    with pytest.raises(ValueError, match='dense_factored'):
        factorization.dense_factored(shapes, init=init)
