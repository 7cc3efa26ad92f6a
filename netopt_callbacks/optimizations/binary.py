"""The arithmetic of 1-bit convolution: signs, scales, thresholds and windows. NumPy only.

A binary layer computes, for latent weights W and an input x that is compared with a shift t::

    u = x - t                                    what is binarized
    y[f] = g[f] * alpha[f] * K * (sign(W[f]) (*) sign(u)) + r[f] + b[f]

    alpha[f] = mean |W[f]|      the least-squares scale: it minimizes |W[f] - a sign(W[f])|^2 over
                                a, whose derivative 2 (a n - sum |W[f]|) vanishes at the mean
    K        = mean |u|         the same for the input, one number per sample
    g, r                        fitted once to what the float layer computed: see `fitted_line`

(Rastegari et al., XNOR-Net, arXiv 1603.05279, section 3; one K per sample instead of one per
patch, as cntk.contrib.netopt trains.) The gradient of sign is the straight-through
estimator: 1 where |v| <= 1, else 0 (Courbariaux et al., arXiv 1602.02830, equation 4).
"""
import numpy as np

WEIGHT_SCALES = ('channel', 'layer', None)
INPUT_SCALES = ('sample', None)
INPUT_SHIFTS = ('calibrate', 'learn', None)
OUTPUT_SCALES = ('calibrate', None)
CLIPS = ('calibrate', None)


def sign(values):
    """Returns +1 where values > 0 and -1 elsewhere: sign(0) = -1, and so is that of a NaN.

    This is CNTK's `straight_through_impl` and the native op's comparison, the only
    definition of a sign in this package.

    Args:
        values (array): floats of any shape.

    Returns:
        array: same shape and dtype.
    """
    values = np.asarray(values)
    one = values.dtype.type(1)
    return np.where(values > 0, one, -one)


def weight_scale(weights, kind):
    """Returns the scale of binary weights, in float64.

    Args:
        weights (array): latent weights [filters, ...].
        kind (str): 'channel' (mean |W| of each filter), 'layer' (mean |W| of all) or None (1).

    Returns:
        array [filters].
    """
    magnitudes = np.abs(np.asarray(weights, np.float64)).reshape(len(weights), -1)
    if kind == 'channel':
        return magnitudes.mean(axis=1)
    return np.full(len(weights), magnitudes.mean() if kind == 'layer' else 1.0)


def binarization_error(weights, scale):
    """Returns |W - alpha sign(W)| / |W| in the Frobenius norm; 0 for weights that are all 0.

    Args:
        weights (array): latent weights [filters, ...].
        scale (array): alpha [filters].
    """
    rows = np.asarray(weights, np.float64).reshape(len(weights), -1)
    norm = np.linalg.norm(rows)
    if norm == 0:
        return 0.0
    return float(np.linalg.norm(rows - np.asarray(scale)[:, None] * sign(rows)) / norm)


def threshold(values):
    """Returns, for each channel, the threshold of the best quantizer to two levels.

    A two-level quantizer with least squared error has its threshold midway between the levels
    and each level at the mean of the values on its side (Max 1960, Lloyd 1982, IEEE Trans. Inf.
    Theory 28(2)); the two conditions in turn never raise the error, so they are iterated from the
    mean. After a ReLU nothing is negative: a sign about 0 would only tell zero from positive.

    Args:
        values (array): [samples, channels, ...].

    Returns:
        array: float32 [channels]; of a channel that is constant a little more than its value (0
        for 0): it has the sign -1, which no last digit of another CPU or runtime turns.
    """
    rows = np.moveaxis(np.asarray(values, np.float64), 1, 0).reshape(values.shape[1], -1)
    return np.array([_threshold(row) for row in rows], np.float32)


# What differs by 8 units in the last place is one value, rounded otherwise. 256 times as much lies
# between a constant and its threshold: little beside the window of the gradient, [-1, 1].
_ROUNDING = 2.0**-20
_MARGIN = 2.0**-12


def _threshold(values, rounds=100):
    largest = np.abs(values).max()
    if values.max() <= values.min() + _ROUNDING * largest:
        return values.max() + _MARGIN * largest
    middle = values.mean()
    for _ in range(rounds):
        above = values > middle
        if above.all() or not above.any():
            break
        moved = (values[above].mean() + values[~above].mean()) / 2
        if moved == middle:
            break
        middle = moved
    return middle


def fitted_line(values, wanted):
    """Returns the least-squares g, r of wanted ~ g * values + r, for each filter.

    It takes up what the signs lose on average: the mean of what was taken from the input or what
    its sign leaves over, and the scale of inputs whose magnitudes vary between channels.

    Args:
        values (array): what the binary convolution computes, [samples, filters, ...].
        wanted (array): what the float convolution computes, same shape.

    Returns:
        (array, array): g and r, float32 [filters]; g is 1 where `values` are constant, or fall
        where `wanted` rise: then only the mean is matched.
    """
    x, y = (
        np.moveaxis(np.asarray(each, np.float64), 1, 0).reshape(each.shape[1], -1)
        for each in (values, wanted)
    )
    x_mean, y_mean = x.mean(axis=1), y.mean(axis=1)
    variance = ((x - x_mean[:, None]) ** 2).mean(axis=1)
    covariance = ((x - x_mean[:, None]) * (y - y_mean[:, None])).mean(axis=1)
    usable = (variance > 0) & (covariance > 0)
    slope = np.where(usable, covariance / np.where(usable, variance, 1), 1)
    return slope.astype(np.float32), (y_mean - slope * x_mean).astype(np.float32)


class MagnitudeHistogram:
    """How many values have |v| <= 2^e, for every exponent e: exact, and as small as it sounds.

    A power of two is the only factor that scales a float without rounding it (down to
    the subnormals), so powers of two are the only windows this package calibrates.
    """

    def __init__(self):
        self._counts = {}
        self._total = 0

    def update(self, values):
        """Adds the magnitudes of `values`; those that are not finite count as outside every
        window."""
        magnitudes = np.abs(np.asarray(values, np.float64)).ravel()
        self._total += magnitudes.size
        magnitudes = magnitudes[np.isfinite(magnitudes)]
        # v = m 2^e with m in [0.5, 1): v <= 2^e, and v <= 2^(e-1) only where m is 0.5 itself.
        mantissas, exponents = np.frexp(magnitudes)
        exponents = np.where(mantissas == 0.5, exponents - 1, exponents)
        exponents = np.where(magnitudes == 0, -2000, exponents)
        for exponent, count in zip(*np.unique(exponents, return_counts=True)):
            self._counts[int(exponent)] = self._counts.get(int(exponent), 0) + int(count)

    def outside(self, exponent=0):
        """Returns the fraction of values with |v| > 2^exponent; 0 of none."""
        if not self._total:
            return 0.0
        inside = sum(count for e, count in self._counts.items() if e <= exponent)
        return (self._total - inside) / self._total

    def clip_factor(self, outside):
        """Returns the power of two that scales the values into the straight-through window.

        Args:
            outside (float): fraction of values that may stay outside |v| <= 1.

        Returns:
            float: the largest 2^-e, e >= 0, with at most that fraction outside; 1 where the
            values fit as they are. Never above 1: values near 0 have a gradient already.
        """
        exponents = sorted(e for e in self._counts if e > 0)
        for exponent in [0] + exponents:
            if self.outside(exponent) <= outside:
                return 2.0**-exponent
        return 2.0 ** -exponents[-1] if exponents else 1.0
