"""Low-rank approximation of a matrix; NumPy only.

W of m x n is approximated by W1 W2, with W1 of m x k and W2 of k x n. The truncated singular
value decomposition W = U diag(s) V is the best such approximation for every k (Eckart and Young,
Psychometrika 1, 1936): the squared Frobenius error is the sum of the squared singular values left
out.
"""
from numbers import Integral

import numpy as np

SPLITS = ('even', 'right')

# Singular values up to this share of the largest are those of a direction that W does not have:
# of weights rounded to float32, a 0 becomes up to about 8 units of 1.2e-7.
NO_DIRECTION = 1e-6


def singular_values(matrix):
    """Returns the singular values of `matrix`, largest first: float64 [min(m, n)]."""
    return np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)


def truncated_svd(matrix, rank):
    """Returns U [m, rank], s [rank] and V [rank, n] with matrix ~ U diag(s) V, in float64.

    A singular vector is only defined up to its sign, and which one LAPACK returns depends on
    its build. Here the element of largest magnitude in each column of U (the first of equals)
    is positive, so that the same weights give the same factors everywhere.

    Args:
        matrix (numpy.ndarray): real, [m, n].
        rank (int): 1 to min(m, n).

    Raises:
        TypeError: `rank` is no int.
        ValueError: `rank` is out of range, or `matrix` is not 2-D or not finite.
    """
    U, s, V, _ = _decomposed(matrix, rank)
    return U, s, V


def _decomposed(matrix, rank):
    """Returns what `truncated_svd` does, and all singular values of the matrix."""
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2:
        raise ValueError(
            f'matrix must have 2 axes, got an array of shape {matrix.shape}; reshape it to '
            '[inputs, outputs]'
        )
    if not_finite(matrix):
        raise ValueError(
            f'matrix must be finite, got {not_finite(matrix)} NaN or infinite of {matrix.size} '
            'values; check how it was trained'
        )
    if isinstance(rank, bool) or not isinstance(rank, Integral):
        raise TypeError(
            f'the rank of a decomposition must be an int, got {rank!r}; round it, as int(...) does'
        )
    if not 1 <= rank <= min(matrix.shape):
        raise ValueError(
            'rank must be 1 to %d, the smaller side of a matrix of %dx%d, got %r; take min(k, %d)'
            % ((min(matrix.shape),) + matrix.shape + (rank, min(matrix.shape)))
        )
    U, spectrum, V = np.linalg.svd(matrix, full_matrices=False)
    U, s, V = U[:, :rank], spectrum[:rank].copy(), V[:rank]
    peaks = U[np.argmax(np.abs(U), axis=0), np.arange(rank)]
    signs = np.where(peaks < 0, -1.0, 1.0)
    return U * signs, s, V * signs[:, np.newaxis], spectrum


def factors(matrix, rank, split='even'):
    """Returns W1 [m, rank] and W2 [rank, n], the best approximation of `matrix` of that rank.

    Each can train: the gradient of W1 is G W2^T and that of W2 is W1^T G, so a column of W1 and its
    row of W2 that were both 0 would stay 0 for ever. Where a singular value is 0 (`NO_DIRECTION`),
    as all are of weights that begin at 0, the column of W1 is a unit vector, orthogonal to all
    others, and only the row of W2 is 0. These point in no special direction: those of a
    decomposition may be single inputs, and W1 would see no other.

    Args:
        matrix (numpy.ndarray): [m, n]; the factors have its dtype, those of integers are float64.
        rank (int): 1 to min(m, n).
        split (str): 'even' gives U diag(sqrt s) and diag(sqrt s) V, whose norms are equal, so
            that one learning rate suits both, but for a singular value of 0; 'right' gives U and
            diag(s) V.

    Raises:
        ValueError: see `truncated_svd`; or `split` is neither.
    """
    return factors_and_spectrum(matrix, rank, split)[:2]


def factors_and_spectrum(matrix, rank, split='even'):
    """Returns what `factors` does, and all singular values of the matrix: float64 [min(m, n)]."""
    if split not in SPLITS:
        raise ValueError(
            "split must be one of %s, got %r; take 'even' to train the factors on"
            % (', '.join(SPLITS), split)
        )
    U, s, V, spectrum = _decomposed(matrix, rank)
    held = int(
        np.sum(s > max(U.shape[0], V.shape[1]) * np.finfo(np.float64).eps * s[0])
    )  # the others are 0
    U[:, held:], s[held:] = _orthonormal(U[:, :held], rank - held), 0
    left = np.ones(rank) if split == 'right' else np.where(s > NO_DIRECTION * s[0], np.sqrt(s), 1.0)
    right = s / left
    dtype = np.asarray(matrix).dtype
    dtype = dtype if np.issubdtype(dtype, np.floating) else np.float64
    return (
        np.ascontiguousarray(U * left, dtype),
        np.ascontiguousarray(right[:, np.newaxis] * V, dtype),
        spectrum,
    )


def _orthonormal(columns, count):
    """Returns `count` unit vectors orthogonal to orthonormal `columns` and each other, the same
    on every machine."""
    drawn = np.random.RandomState(0).normal(size=(len(columns), count))
    for _ in range(2):  # once more, for what rounding left
        drawn -= columns.dot(columns.T.dot(drawn))
        drawn, triangle = np.linalg.qr(drawn)
        drawn *= np.where(np.diag(triangle) < 0, -1.0, 1.0)
    return drawn


def silent_pairs(left, right):
    """Returns how many columns of W1, with their rows of W2, begin by adding nothing to W1 W2."""
    sizes = np.linalg.norm(left, axis=0) * np.linalg.norm(right, axis=1)
    return int(np.sum(sizes <= NO_DIRECTION * sizes.max()))


def projected(gradient, left, right):
    """Returns the gradients of W1 and W2 that a gradient of W = W1 W2 gives by the chain rule.

        G1 = G W2^T,    G2 = W1^T G

    Linear in G, so a smoothed gradient, a weighted sum of gradients of W, maps the same way.

    Args:
        gradient (numpy.ndarray): [m, n].
        left, right (numpy.ndarray): W1 [m, k] and W2 [k, n].

    Returns:
        (numpy.ndarray, numpy.ndarray): [m, k] and [k, n].
    """
    return gradient.dot(right.T), left.T.dot(gradient)


def not_finite(values):
    """Returns how many elements of an array are NaN or infinite."""
    return values.size - np.count_nonzero(np.isfinite(values))


def rank_of_energy(values, fraction):
    """Returns the smallest rank that holds `fraction` of the squared singular values; at least 1.

    Args:
        values (numpy.ndarray): singular values, largest first.
        fraction (float): in (0, 1]; at 1 singular values of zero are left out.
    """
    held = np.cumsum(np.asarray(values, np.float64) ** 2)
    if held[-1] == 0:
        return 1
    return int(np.searchsorted(held, fraction * held[-1])) + 1


def relative_error(matrix, left, right):
    """Returns |matrix - left right| / |matrix| in Frobenius norms; 0 where both norms are 0."""
    matrix = np.asarray(matrix, np.float64)
    lost = np.linalg.norm(matrix - np.asarray(left, np.float64).dot(np.asarray(right, np.float64)))
    norm = np.linalg.norm(matrix)
    if norm == 0:
        return 0.0 if lost == 0 else float('inf')
    return float(lost / norm)


def stable_rank(values):
    """Returns |W|_F^2 / |W|_2^2 of the singular values given, at least 1.

    It is at most the rank, and unlike it does not jump when a tiny singular value appears
    (Rudelson and Vershynin, J. ACM 54, 2007).
    """
    squares = np.asarray(values, np.float64) ** 2
    return float(squares.sum() / squares[0]) if squares[0] > 0 else 1.0


def saves(rank, shape):
    """Tells whether factors of this rank have fewer weights than the matrix: rank (m + n) < m n."""
    rows, columns = shape
    return rank * (rows + columns) < rows * columns


def break_even_rank(shape):
    """Returns the largest rank that still `saves` weights for a matrix of that shape; 0 if none
    does.

    50x50 breaks even at 25 (25 * 100 = 50 * 50), so the largest that saves is 24.
    """
    rows, columns = shape
    return (rows * columns - 1) // (rows + columns)
