"""Ranks: what may be given, what it comes to, what is refused and how that is said."""
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import netopt_callbacks as nc
from netopt_callbacks.optimizations import ranks

W = np.diag([4.0, 3, 2, 1, 0])[:, :4] + np.zeros((5, 4))  # singular values 4, 3, 2, 1


@pytest.mark.parametrize(
    'rank, shape, expected',
    [
        (3, (5, 4), 3),
        (4, (5, 4), 4),
        (np.int64(2), (5, 4), 2),
        (0.5, (5, 4), 2),
        (0.1, (5, 4), 1),
        (0.99, (5, 4), 3),
        (0.6, (50, 50), 30),
        (0.29, (100, 300), 29),
        (lambda W: int(min(W.shape) * 0.6), (50, 2), 1),
        (lambda W: W.shape[1], (5, 4), 4),
    ],
)
def test_ranks_resolve_to_an_int(rank, shape, expected):
    resolved = ranks.resolve(rank, np.ones(shape), 'a layer')
    assert resolved == expected and type(resolved) is int


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 99), st.integers(1, 400))
def test_a_fraction_is_the_floor_of_what_was_written(percent, side):
    resolved = ranks.resolve(percent / 100.0, np.ones((side, side + 3)), 'a layer')
    assert resolved == max(1, percent * side // 100)


@pytest.mark.parametrize(
    'rule, expected',
    [
        (nc.energy(0.5), 1),
        (nc.energy(16 / 30.0), 1),
        (nc.energy(0.6), 2),
        (nc.energy(0.97), 4),
        (nc.energy(1), 4),
        (nc.energy(0.96), 3),
        (nc.stable_rank(), 2),
    ],
)
def test_rules_that_look_at_the_singular_values(rule, expected):
    assert ranks.resolve(rule, W, 'a layer') == expected


def test_the_stable_rank_of_equal_singular_values_is_their_number():
    for size in range(1, 30):
        Q, _ = np.linalg.qr(np.random.RandomState(size).randn(size, size))
        assert nc.stable_rank()(Q) == size
    assert nc.stable_rank()(np.zeros((3, 2))) == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 99))
def test_parameters_and_speedup_give_the_largest_rank_that_keeps_the_promise(m, n, percent):
    for rule, fraction in (
        (nc.parameters(percent / 100.0), Fraction(percent, 100)),
        (nc.speedup(1 + percent / 10.0), 1 / (1 + Fraction(percent, 10))),
    ):
        rank = ranks.resolve(rule, np.ones((m, n)), 'a layer')
        assert rank == 1 or rank * (m + n) <= fraction * m * n
        assert rank == min(m, n) or (rank + 1) * (m + n) > fraction * m * n


def test_rules_say_what_they_were_made_with():
    assert repr(nc.energy(0.95)) == 'energy(0.95)'
    assert repr(nc.stable_rank()) == 'stable_rank()'
    assert repr(nc.speedup(2)) == 'speedup(2)'
    assert repr(nc.parameters(0.5)) == 'parameters(0.5)'


@pytest.mark.parametrize(
    'rule, argument',
    [
        (nc.energy, 0),
        (nc.energy, 1.1),
        (nc.energy, '0.9'),
        (nc.energy, True),
        (nc.speedup, 1),
        (nc.speedup, None),
        (nc.parameters, 0),
        (nc.parameters, 1),
        (nc.energy, float('nan')),
    ],
)
def test_rules_refuse_what_they_cannot_mean(rule, argument):
    with pytest.raises(ValueError, match=rule.__name__):
        rule(argument)


@pytest.mark.parametrize(
    'rank, error',
    [
        (0, ValueError),
        (-3, ValueError),
        (0.0, ValueError),
        (1.0, ValueError),
        (2.5, ValueError),
        (float('nan'), ValueError),
        ('3', TypeError),
        (True, TypeError),
        ([3], TypeError),
    ],
)
def test_what_is_no_rank_is_refused_before_there_is_a_model(rank, error):
    with pytest.raises(error, match='FactorDense: rank'):
        nc.FactorDense(rank=rank)


@pytest.mark.parametrize(
    'returned, error, said',
    [
        (0, ValueError, 'got 0'),
        (999, ValueError, 'got 999'),
        (-1, ValueError, 'got -1'),
        (2.0, TypeError, 'float'),
        (True, TypeError, 'bool'),
        (None, TypeError, 'None'),
    ],
)
def test_what_a_function_returns_is_checked_with_the_layers_name(returned, error, said):
    with pytest.raises(error, match=said) as caught:
        ranks.resolve(lambda W: returned, np.ones((50, 20)), "Dense 'h1'")
    assert "Dense 'h1'" in str(caught.value)


def test_the_range_is_part_of_the_message():
    with pytest.raises(ValueError, match='1 to 20, the smaller side of its 50x20 weights, got 21'):
        ranks.resolve(21, np.ones((50, 20)), "Dense 'h1'")
