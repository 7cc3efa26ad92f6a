"""The maths of factoring, against NumPy and against what the theory says."""
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from netopt_callbacks.optimizations import low_rank

matrices = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    elements=st.integers(-50, 50).map(lambda n: n / 8.0),
)
few = settings(max_examples=40, deadline=None)


@few
@given(matrices)
def test_full_rank_gives_the_matrix_back(W):
    for split in low_rank.SPLITS:
        left, right = low_rank.factors(W, min(W.shape), split)
        # A singular value decomposition is exact to a few float64 ulp of the largest value.
        assert np.allclose(left.dot(right), W, rtol=0, atol=1e-12 * max(1, abs(W).max()))


@few
@given(matrices)
def test_the_error_falls_as_the_rank_grows_and_is_that_of_the_values_left_out(W):
    s = np.linalg.svd(W, compute_uv=False)
    errors = []
    for rank in range(1, min(W.shape) + 1):
        left, right = low_rank.factors(W, rank)
        assert left.shape == (W.shape[0], rank) and right.shape == (rank, W.shape[1])
        lost = np.linalg.norm(W - left.dot(right))
        assert abs(lost - np.sqrt((s[rank:] ** 2).sum())) <= 1e-9 * max(1, s[0])
        errors.append(lost)
    assert all(later <= earlier + 1e-9 * max(1, s[0]) for earlier, later in zip(errors, errors[1:]))


@few
@given(matrices)
def test_the_largest_element_of_each_left_vector_is_positive(W):
    for rank in range(1, min(W.shape) + 1):
        U, _, _ = low_rank.truncated_svd(W, rank)
        assert (U[abs(U).argmax(axis=0), range(rank)] > 0).all()


def test_even_factors_have_equal_norms_and_right_ones_are_netopts():
    W = np.random.RandomState(0).randn(7, 5)
    left, right = low_rank.factors(W, 3, 'even')
    assert np.allclose(np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1))
    left, right = low_rank.factors(W, 3, 'right')
    assert np.allclose(left.T.dot(left), np.eye(3))
    U, s, V = np.linalg.svd(W, full_matrices=False)
    assert np.allclose(left.dot(right), U[:, :3].dot(np.diag(s[:3])).dot(V[:3]))


@st.composite
def deficient(draw):
    """Returns (W, its rank): a product of integers, so that its rank is known; 0, 1 and full
    among them."""
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    rank = draw(
        st.sampled_from(
            sorted({0, 1, min(rows, columns), draw(st.integers(0, min(rows, columns)))})
        )
    )
    whole = st.integers(-4, 4)
    left = draw(hnp.arrays(np.int64, (rows, rank), elements=whole))
    right = draw(hnp.arrays(np.int64, (rank, columns), elements=whole))
    left[:rank] += 100 * np.eye(rank, dtype=int)  # as the other: of full rank
    right[:, :rank] += 100 * np.eye(rank, dtype=int)
    scale = draw(st.sampled_from([1, 1e-3, 1e3]))
    return left.dot(right) * scale, rank


@settings(max_examples=150, deadline=None)
@given(
    deficient(),
    st.sampled_from(low_rank.SPLITS),
    st.sampled_from([np.float32, np.float64]),
    st.data(),
)
def test_factors_of_weights_of_any_rank_can_train(found, split, dtype, data):
    W, rank = found[0].astype(dtype), found[1]
    k = data.draw(st.integers(1, min(W.shape)))
    left, right = low_rank.factors(W, k, split)
    assert left.shape == (W.shape[0], k) and right.shape == (k, W.shape[1])
    if k >= rank:  # the product is W still
        # What LAPACK's own tests allow a decomposition, and the rounding of both factors.
        decomposed = 50 * max(W.shape) * np.finfo(np.float64).eps
        allowed = (decomposed + np.finfo(dtype).eps) * np.linalg.norm(W.astype(np.float64), 2)
        assert np.abs(left.astype(np.float64).dot(right) - W).max() <= allowed
    assert low_rank.silent_pairs(left, right) == max(0, k - rank)
    silent = left[:, min(k, rank) :].astype(np.float64)
    # An orthonormal basis where W has no direction, and orthogonal to what W has.
    assert np.allclose(silent.T.dot(silent), np.eye(silent.shape[1]), rtol=0, atol=1e-6)
    assert np.allclose(
        left[:, :rank].T.dot(silent), 0, rtol=0, atol=1e-5 * max(1, np.abs(left).max())
    )
    # What training sees at its first step: W moves in each direction that it may.
    gradient = np.random.RandomState(0).randn(*W.shape)
    to_left, to_right = low_rank.projected(gradient, left, right)
    assert (np.linalg.norm(to_right, axis=1) > 1e-3 * np.linalg.norm(left, axis=0)).all()
    assert (np.linalg.norm(to_right, axis=1)[rank:] > 1e-3).all()


def test_silent_pairs_of_zeros_and_of_a_few_columns():
    left, right = low_rank.factors(np.zeros((20, 30), np.float32), 8)
    assert np.array_equal(right, np.zeros((8, 30))) and np.allclose(
        left.T.dot(left), np.eye(8), atol=1e-6
    )
    assert np.abs(left).max() < 0.7  # no direction is a single input
    W = np.zeros((16, 16), np.float32)
    W[:, [3, 7]] = np.random.RandomState(0).randn(16, 2)
    left, right = low_rank.factors(W, 6)
    assert low_rank.silent_pairs(left, right) == 4
    assert np.allclose(left[:, 2:].T.dot(left[:, 2:]), np.eye(4), atol=1e-6)
    assert np.allclose(np.linalg.norm(left[:, :2], axis=0), np.linalg.norm(right[:2], axis=1))
    assert low_rank.relative_error(W, left, right) < 1e-6


def test_signs_do_not_depend_on_those_of_the_library(monkeypatch):
    W = np.random.RandomState(3).randn(6, 4)
    expected = low_rank.factors(W, 4)
    svd = np.linalg.svd

    def flipped(*arguments, **options):
        U, s, V = svd(*arguments, **options)
        return U * [1, -1, -1, 1], s, V * np.array([[1], [-1], [-1], [1]])

    monkeypatch.setattr(np.linalg, 'svd', flipped)
    for factor, other in zip(expected, low_rank.factors(W, 4)):
        assert np.array_equal(factor, other)


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_factors_have_the_dtype_of_the_matrix(dtype):
    left, right = low_rank.factors(np.eye(4, dtype=dtype), 2)
    assert left.dtype == right.dtype == dtype
    assert low_rank.factors(np.eye(4, dtype=int), 2)[0].dtype == np.float64


@pytest.mark.parametrize(
    'fraction, rank', [(0.01, 1), (4 / 6.0, 1), (0.67, 2), (5 / 6.0, 2), (0.9, 3), (1, 3)]
)
def test_rank_of_energy_is_the_smallest_that_holds_it(fraction, rank):
    assert low_rank.rank_of_energy([2, 1, 1, 0], fraction) == rank


@few
@given(hnp.arrays(np.float64, st.integers(1, 12), elements=st.integers(0, 9)), st.integers(1, 100))
def test_rank_of_energy_holds_it_and_one_less_does_not(values, percent):
    values = np.sort(values)[::-1]
    rank = low_rank.rank_of_energy(values, percent / 100.0)
    squares = (values**2).astype(int)
    assert 100 * squares[:rank].sum() >= percent * squares.sum()
    if rank > 1:
        assert 100 * squares[: rank - 1].sum() < percent * squares.sum()


def test_stable_rank():
    assert low_rank.stable_rank([3, 3, 3]) == 3
    assert low_rank.stable_rank([2, 1]) == 1.25
    assert low_rank.stable_rank([0, 0]) == 1


def test_relative_error():
    W = np.float32([[3, 0], [0, 4]])
    assert low_rank.relative_error(W, W, np.eye(2)) == 0
    assert low_rank.relative_error(W, np.zeros((2, 1)), np.zeros((1, 2))) == 1
    assert low_rank.relative_error(W, W[:, 1:], np.float32([[0, 1]])) == 3 / 5.0
    assert low_rank.relative_error(0 * W, np.zeros((2, 1)), np.zeros((1, 2))) == 0
    assert low_rank.relative_error(0 * W, W, np.eye(2)) == float('inf')


@pytest.mark.parametrize(
    'shape, rank',
    [
        ((50, 50), 24),
        ((784, 10), 9),
        ((784, 400), 264),
        ((1, 1), 0),
        ((2, 2), 0),
        ((1, 100), 0),
        ((3, 3), 1),
        ((2, 50), 1),
    ],
)
def test_break_even_rank(shape, rank):
    assert low_rank.break_even_rank(shape) == rank
    assert not low_rank.saves(rank + 1, shape)
    assert rank == 0 or low_rank.saves(rank, shape)


@pytest.mark.parametrize('rank', [0, -1, 4, 999])
def test_a_rank_out_of_range_is_refused(rank):
    with pytest.raises(
        ValueError, match=f'1 to 3, the smaller side of a matrix of 3x5, got {rank}'
    ):
        low_rank.truncated_svd(np.ones((3, 5)), rank)


def test_other_wrong_input_is_refused():
    with pytest.raises(ValueError, match='finite'):
        low_rank.truncated_svd(np.float32([[1, np.nan]]), 1)
    with pytest.raises(ValueError, match='matrix'):
        low_rank.truncated_svd(np.ones(3), 1)
    with pytest.raises(ValueError, match="'left'"):
        low_rank.factors(np.ones((2, 2)), 1, 'left')
