"""The arithmetic of binarization against brute force."""
import numpy as np
import pytest

from netopt_callbacks.optimizations import binary


def test_sign_of_zero_and_nan_is_minus_one():
    values = np.array([-np.inf, -1, -0.0, 0.0, 1e-45, 2, np.inf, np.nan], np.float32)
    assert binary.sign(values).tolist() == [-1, -1, -1, -1, 1, 1, 1, -1]
    assert binary.sign(values).dtype == np.float32


@pytest.mark.parametrize('kind', ['channel', 'layer'])
def test_no_other_scale_has_a_smaller_error(kind):
    weights = np.random.RandomState(1).randn(3, 2, 2, 2)
    scale = binary.weight_scale(weights, kind)
    best = binary.binarization_error(weights, scale)
    for step in (-0.01, 0.01):
        assert binary.binarization_error(weights, scale + step) > best


def test_error_of_binary_weights_is_zero_and_of_no_weights_too():
    weights = np.array([[1.5, -1.5], [-2, 2]])
    assert binary.binarization_error(weights, binary.weight_scale(weights, 'channel')) == 0
    assert binary.binarization_error(0 * weights, np.zeros(2)) == 0


def test_scale_none_is_one():
    assert binary.weight_scale(np.full((2, 3), 7.0), None).tolist() == [1, 1]


def best_error(values, threshold):
    """Returns the squared error of the two means on the two sides of a threshold."""
    sides = [
        side for side in (values[values > threshold], values[values <= threshold]) if len(side)
    ]
    return sum(((side - side.mean()) ** 2).sum() for side in sides)


def test_threshold_is_midway_between_the_means_of_its_sides():
    values = np.maximum(np.random.RandomState(2).randn(10, 3, 4, 5), 0)
    for channel, threshold in enumerate(binary.threshold(values)):
        row = values[:, channel].ravel()
        middle = (row[row > threshold].mean() + row[row <= threshold].mean()) / 2
        assert abs(threshold - middle) < 1e-6  # float32
        assert best_error(row, threshold) <= best_error(row, row.mean()) + 1e-12


def test_threshold_separates_two_levels():
    values = np.zeros((4, 1, 5, 5))
    values[:, 0, :, :2] = 3
    assert binary.threshold(values).tolist() == [1.5]
    assert binary.threshold(values).dtype == np.float32


def test_the_sign_of_a_constant_does_not_turn_with_its_last_digits():
    constants = np.array([7, -0.25, 1, -3e5, 1e-30], np.float32)
    several = np.repeat(constants[None, :, None], 6, axis=0)
    rounded = several.copy()
    rounded[::2] = np.nextafter(several[::2], np.float32(np.inf))
    for values in (several, several[:1], rounded):
        thresholds = binary.threshold(values)
        np.testing.assert_allclose(thresholds, constants, rtol=3e-4)
        for turned in (1 - 1e-5, 1, 1 + 1e-5):
            assert not (constants * np.float32(turned) > thresholds).any()
    assert binary.threshold(np.zeros((4, 2, 3))).tolist() == [0, 0]


def test_fitted_line_is_numpy_s_polynomial():
    random = np.random.RandomState(5)
    values = random.randn(6, 3, 4, 5)
    wanted = (
        np.array([2, 0.1, 1]).reshape(3, 1, 1) * values + 0.3 + 0.1 * random.randn(*values.shape)
    )
    gain, offset = binary.fitted_line(values, wanted)
    for channel in range(3):
        slope, intercept = np.polyfit(values[:, channel].ravel(), wanted[:, channel].ravel(), 1)
        np.testing.assert_allclose(
            [gain[channel], offset[channel]], [slope, intercept], rtol=1e-5
        )  # float32


def test_fitted_line_of_what_has_no_rising_line_matches_the_mean():
    values = np.array([[1.0, 1.0], [3.0, 1.0]]).reshape(2, 2, 1)
    wanted = np.array([[5.0, 2.0], [1.0, 4.0]]).reshape(2, 2, 1)
    gain, offset = binary.fitted_line(values, wanted)
    assert gain.tolist() == [1, 1] and offset.tolist() == [1, 2]


@pytest.mark.parametrize(
    'values, outside',
    [([], 0), ([0, 0.5, 1, -1], 0), ([1.0000001, -0.5], 0.5), ([np.nan, np.inf, 0, 1], 0.5)],
)
def test_fraction_outside_the_window(values, outside):
    histogram = binary.MagnitudeHistogram()
    histogram.update(np.array(values))
    assert histogram.outside() == outside


@pytest.mark.parametrize(
    'values, factor',
    [
        ([0.001, 1.0], 1),
        ([1.5, 0.1], 0.5),
        ([2.0], 0.5),
        ([2.1], 0.25),
        ([100] + [1] * 99, 1),
        ([], 1),
    ],
)
def test_clip_factor_is_the_largest_power_of_two_that_is_enough(values, factor):
    histogram = binary.MagnitudeHistogram()
    histogram.update(np.array(values))
    assert histogram.clip_factor(outside=0.01) == factor


def test_histogram_agrees_with_comparison_for_every_window():
    values = np.random.RandomState(3).standard_cauchy(1000) * 4
    histogram = binary.MagnitudeHistogram()
    for part in np.array_split(values, 7):
        histogram.update(part)
    for exponent in range(-8, 12):
        assert histogram.outside(exponent) == pytest.approx(
            np.mean(np.abs(values) > 2.0**exponent), abs=1e-12
        )
