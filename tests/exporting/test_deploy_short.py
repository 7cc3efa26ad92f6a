"""Short forms of steps in standard operators: where all integers of a layer have the same bits in
them, and nowhere else."""
import numpy as np
import pytest

onnx = pytest.importorskip('onnx', reason='the onnx package is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

import native_program_oracle as oracle  # noqa: E402
from netopt_callbacks import native  # noqa: E402
from netopt_callbacks.exporting import body, body_convolution, body_known  # noqa: E402
from test_deploy_body import model_of, same_but_for_zeros, session_of  # noqa: E402

F = np.float32
RELUS = ['relu', 'relu_halves', 'relu_fused']


def every_sum(terms, steps, channels, padding=0):
    """Returns (ops, shape, x): a layer that gives every sum of so many signs in every channel, with
    steps behind it; with padding also those of the middle tap alone."""
    taps = 3 if padding else 1
    weights = np.ones((channels, terms, 1, taps), F)
    ops = [
        dict(op='pack', input='x', bits='b', threshold=0.0),
        dict(
            op='convolution',
            input='b',
            weights=weights,
            padding=((0, 0), (padding, padding)),
            values='y',
            steps=steps,
        ),
    ]
    x = np.where(np.arange(terms) < np.arange(terms + 1)[:, None], F(1), F(-1))
    return ops, (terms, 1, 1), x.reshape(-1, terms, 1, 1)


def found_of(ops, shape, x):
    """Returns what standard operators give, and their names."""
    state = native.Program(ops, {'x': shape}, ['y']).state()
    model = model_of(state, False)
    return session_of(model, False).run(None, {'x0': x})[0], [
        node.op_type for node in model.graph.node
    ]


def demand_the_oracle_s_bits(ops, shape, x):
    """Returns the names of the operators."""
    expected = oracle.run(ops, {'x': x})['y']
    found, operators = found_of(ops, shape, x)
    assert same_but_for_zeros(found, expected)
    return operators


def trained(channels, seed):
    """mean, k and beta as of a trained network, and the scale of weights before them."""
    random = np.random.RandomState(seed)
    scale, mean, beta = (random.standard_normal(channels).astype(F) for _ in range(3))
    k = (random.uniform(0.5, 2, channels) / np.sqrt(random.uniform(0.1, 3, channels))).astype(F)
    return np.abs(scale) / 10, mean, k, beta


@pytest.mark.parametrize('padding', [0, 1])
@pytest.mark.parametrize('terms', [1, 63, 64, 577])
@pytest.mark.parametrize('relu', RELUS)
def test_every_integer_of_a_layer(terms, padding, relu):
    scale, mean, k, beta = trained(70, terms)
    steps = [('multiply', scale), ('normalize', mean, k, beta), (relu,)]
    operators = demand_the_oracle_s_bits(*every_sum(terms, steps, 70, padding))
    assert 'Where' not in operators and 'Abs' not in operators
    assert {'BatchNormalization', 'Relu'} < set(operators)


# 3 * (1 + 2^-23) is the middle of two float32 numbers, and float64 loses the 2^-60 beyond it. No
# other odd number up to 5, and no even one up to 4, is rounded twice wrongly.
WRONG = F([1 + 2.0**-23, -(2.0**-60)])


def wrong_for_three(terms, channel=3):
    mean, k, beta = np.zeros(5, F), np.ones(5, F), np.zeros(5, F)
    k[channel], beta[channel] = WRONG
    return every_sum(terms, [('normalize', mean, k, beta)], 5)


def test_one_integer_of_one_channel_that_is_rounded_twice_wrongly_keeps_the_long_form(monkeypatch):
    ops, shape, x = wrong_for_three(5)
    assert 'BatchNormalization' not in demand_the_oracle_s_bits(ops, shape, x)
    assert 'BatchNormalization' in demand_the_oracle_s_bits(*wrong_for_three(4))
    monkeypatch.setattr(body_known, 'forms_behind', lambda *_: body_known.Forms(once=[0]))
    expected, (found, _) = oracle.run(ops, {'x': x})['y'], found_of(ops, shape, x)
    differ = found != expected
    assert differ.sum() == 1 and differ[4, 3, 0, 0]  # 4 of 5 signs are +1


def test_an_integer_that_only_a_padded_sum_has_counts():
    steps = [('normalize', [F([0]), WRONG[:1], WRONG[1:]])]
    for terms, is_padded, is_once in ((5, False, False), (4, False, True), (4, True, False)):
        forms = body_known.forms_behind(steps, terms, is_padded)
        assert forms.once == ({0} if is_once else set()), (terms, is_padded)


@pytest.mark.parametrize('relu', RELUS)
@pytest.mark.parametrize('at', range(4))
@pytest.mark.parametrize(
    'number', [0, -0.0, 1.4e-45, -1.4e-45, 1e-40, 1.2e-38, 3e38, np.inf, -np.inf, np.nan]
)
def test_constants_of_any_kind(number, at, relu):
    for terms in (9, 10):
        scale, mean, k, beta = trained(6, 1)
        vectors = [scale, mean, k, beta]
        vectors[at][2] = number
        steps = [('multiply', vectors[0]), ('normalize', *vectors[1:]), (relu,)]
        demand_the_oracle_s_bits(*every_sum(terms, steps, 6))
        one = [F([number]) if index == at else vector for index, vector in enumerate(vectors)]
        steps = [('multiply', one[0]), ('normalize', *one[1:]), (relu,), ('add', 0.5)]
        demand_the_oracle_s_bits(*every_sum(terms, steps, 6))


@pytest.mark.parametrize('relu', RELUS)
def test_a_zero_variance(relu):
    scale, mean, _, beta = trained(6, 2)
    steps = [('multiply', scale), ('normalize', mean, F([1 / np.sqrt(1e-5)]), beta), (relu,)]
    demand_the_oracle_s_bits(*every_sum(11, steps, 6))


@pytest.mark.parametrize(
    'factor, is_short', [(2.0**-149, False), (2.0**-148, False), (1, True)]
)
def test_a_relu_whose_halves_are_rounded_keeps_the_long_form(factor, is_short):
    steps = [('multiply', factor), ('add', 1.0 if is_short else 0.0), ('relu_fused',)]
    operators = demand_the_oracle_s_bits(*every_sum(7, steps, 3))
    assert ('Relu' in operators) == is_short


def test_steps_of_one_number_for_all_channels():
    steps = [('normalize', 0.5, 2.0, 0.25), ('relu',), ('normalize', 0.1, 0.3, 0.7)]
    demand_the_oracle_s_bits(*every_sum(7, steps, 3))


def test_what_follows_another_value_is_not_known():
    scale, mean, k, beta = trained(7, 3)
    steps = [('multiply', scale), ('add_value', 'x'), ('normalize', mean, k, beta), ('relu_fused',)]
    ops, shape, x = every_sum(7, steps, 7)
    x = x * np.random.RandomState(1).uniform(0.1, 2, x.shape).astype(F)
    x[0, 0], x[1, 1] = np.inf, -np.inf
    operators = demand_the_oracle_s_bits(ops, shape, x)
    assert 'Neg' in operators and 'BatchNormalization' not in operators


def test_more_values_than_are_looked_up_keep_the_long_form(monkeypatch):
    scale, mean, k, beta = trained(7, 3)
    steps = [('multiply', scale), ('normalize', mean, k, beta)]
    for most, count in ((7 * 8, 1), (7 * 8 - 1, 0)):
        monkeypatch.setattr(body_known, 'MOST_KNOWN', most)
        body_known._forms.cache_clear()
        operators = demand_the_oracle_s_bits(*every_sum(7, steps, 7))
        assert operators.count('BatchNormalization') == count
    monkeypatch.setattr(body_known, '_AT_ONCE', 8)  # channels one by one
    monkeypatch.setattr(body_known, 'MOST_KNOWN', 56)
    body_known._forms.cache_clear()
    assert 'BatchNormalization' in demand_the_oracle_s_bits(*every_sum(7, steps, 7))
    body_known._forms.cache_clear()


def residual_blocks(channels):
    """Returns (ops, shape, x): convolutions in a layout of channels that runtimes choose, with
    everything behind them that these may draw into them."""
    random = np.random.RandomState(channels)
    scale, mean, k, beta = trained(channels, 4)

    def convolution(read, **keys):
        weights = np.where(random.randn(channels, channels, 3, 3) > 0, F(1), F(-1))
        pads = ((1, 1), (1, 1))
        return dict(op='convolution', input=read, weights=weights, padding=pads, **keys)

    bits = dict(low=np.full(channels, 1.4e-45, F), high=np.full(channels, np.inf, F))
    normalized = [('multiply', scale), ('normalize', mean, k, beta)]
    ops = [
        dict(op='pack', input='x', bits='b', threshold=0.0),
        convolution('b', bits='c', sum_threshold=random.randint(-9, 9, channels)),
        convolution(
            'c',
            steps=normalized + [('add_value', 'x'), ('relu_fused',)],
            values='v',
            bits='d',
            **bits,
        ),
        convolution(
            'd', steps=[('multiply', scale), ('add_value', 'v')], values='w', bits='e', **bits
        ),
        dict(op='max_pool', input='w', values='p', kernel=(3, 3), padding=((1, 1), (1, 1))),
        convolution(
            'e', steps=[('multiply', scale), ('add_value', 'p')], values='q', bits='f', **bits
        ),
        convolution('f', steps=[('multiply', scale), ('add', beta), ('relu_fused',)], values='r'),
        convolution('f', steps=[('add', beta), ('add_value', 'r')], values='s'),
        convolution('f', steps=[('add_value', 's'), ('multiply_value', 'q')], values='t'),
        convolution('f', steps=normalized + [('relu',), ('add_value', 't')], values='y'),
    ]
    x = random.standard_normal((2, channels, 9, 8)).astype(F)
    return ops, x.shape[1:], x


def two_products_in_a_sum(seed, channels=16):
    """Returns (ops, shape, x): a sum that a runtime may take into the convolution that it makes of
    a product."""
    random = np.random.RandomState(seed)

    def convolution(read, value):
        weights = random.standard_normal((channels, channels, 3, 3)).astype(F)
        steps = [('multiply', random.standard_normal(channels).astype(F))]
        pads = ((1, 1), (1, 1))
        return dict(
            op='convolution', input=read, weights=weights, padding=pads, values=value, steps=steps
        )

    ops = [
        dict(op='pack', input='x', bits='b', threshold=0.0),
        dict(op='pack', input='x', bits='c', threshold=0.3),
        convolution('b', 't'),
        convolution('c', 'u'),
        dict(op='map', input='t', values='y', steps=[('add_value', 'u')]),
    ]
    x = random.standard_normal((3, channels, 14, 14)).astype(F)
    return ops, x.shape[1:], x


@pytest.mark.parametrize('seed', [0, 1])
def test_products_are_rounded_before_they_are_added(seed):
    operators = demand_the_oracle_s_bits(*two_products_in_a_sum(seed))
    assert operators.count('Neg') == 2


@pytest.mark.parametrize('channels', [16, 32, 64])
def test_convolutions_in_a_layout_that_runtimes_choose(channels):
    operators = demand_the_oracle_s_bits(*residual_blocks(channels))
    assert operators.count('BatchNormalization') == 2 and operators.count('Conv') == 8


@pytest.mark.parametrize('padding', [0, 1])
def test_thresholds_at_and_beyond_every_sum(padding):
    terms = 5
    ops, shape, x = every_sum(terms, [], 14, padding)
    limits = np.array([-(2**31), -7, -6, -5, -4, -1, 0, 1, 2, 4, 5, 6, 17, 2**31 - 1])
    del ops[1]['values'], ops[1]['steps']
    ops[1].update(bits='s', sum_threshold=limits, sum_decreasing=np.arange(14) % 2 == 1)
    ops.append(dict(op='unpack', input='s', values='y'))
    operators = demand_the_oracle_s_bits(ops, shape, x)
    assert 'Greater' not in operators and 'Where' not in operators


def test_sums_that_float32_does_not_hold_are_refused(monkeypatch):
    monkeypatch.setattr(body_convolution, 'EXACT', 16)
    ops, shape, x = every_sum(6, [], 3)
    demand_the_oracle_s_bits(ops, shape, x)
    ops, shape, x = every_sum(7, [], 3)
    with pytest.raises(body.Unwritable, match='beyond what float32 holds exactly'):
        found_of(ops, shape, x)
