"""Outputs of two networks compared where some are NaN, infinite or out of all proportion."""
import cntk as C
import numpy as np
import pytest

from binary_networks import binarized, convolutions, images
from netopt_callbacks.lowering import compare
from netopt_callbacks.lowering.output_parity import OutputParity
from netopt_callbacks.lowering.replace import lower_binary_layers

INF, NAN = float('inf'), float('nan')
GOOD = np.float32([[1, 2, 3], [4, -5, 6], [0.5, 0.25, 8], [1, 1, 2]])


def found(expected, actual, clear=None):
    output = OutputParity()
    expected, actual = np.float32(expected), np.float32(actual)
    output.add(expected, actual, np.ones(len(expected), bool) if clear is None else np.array(clear))
    return output


def changed(place, value, values=GOOD):
    values = values.copy()
    values[place] = value
    return values


@pytest.mark.parametrize('value', [NAN, INF, -INF])
def test_the_same_value_at_the_same_position_is_no_difference(value):
    expected = changed((1, 2), value)
    output = found(expected, expected)
    assert (output.not_finite, output.different_not_finite) == (1, 0)
    assert (
        output.unexplained_error == output.largest_difference == output.different_predictions == 0
    )
    assert output.largest_output == 8


@pytest.mark.parametrize('one', [NAN, INF, -INF, 6.0])
@pytest.mark.parametrize('other', [NAN, INF, -INF, 6.0])
@pytest.mark.parametrize('place', [(1, 2), (3, 0)])
def test_another_value_there_is_one(one, other, place):
    output = found(changed(place, one), changed(place, other))
    same = one == other or (np.isnan(one) and np.isnan(other))
    assert output.different_not_finite == (0 if same else 1)
    assert output.unexplained_error == 0


@pytest.mark.parametrize('value', [NAN, INF, -INF, 3e38, 1e30])
def test_one_sample_hides_no_other(value):
    """Whatever one sample holds, a millionth too much in another one is seen."""
    expected = changed((1, 2), value)
    for place in [(0, 0), (2, 2), (3, 1)]:
        actual = expected.copy()
        actual[place] += 1e-3
        assert found(expected, actual).unexplained_error > 1e-4, place
        assert found(expected, actual).different_not_finite == 0


def test_a_position_hides_no_other_of_its_sample():
    expected = changed((1, 2), NAN)
    assert found(expected, changed((1, 0), 4.5, expected)).unexplained_error == 0.5 / 5


def test_an_output_near_zero_is_measured_by_those_of_the_others():
    """Terms of 1 cancelled to 1e-6 carry the rounding errors of 1."""
    expected = changed((0, slice(None)), 1e-6)
    actual = changed((0, slice(None)), 1.1e-6)
    assert 0 < found(expected, actual).unexplained_error < 1e-7
    assert found(expected[:1], actual[:1]).unexplained_error > 0.05


def test_zeros_admit_nothing():
    zeros = np.zeros((3, 2))
    assert found(zeros, zeros).unexplained_error == 0
    assert found(zeros, zeros + 1e-30).unexplained_error == INF


def test_what_ties_is_left_out():
    actual = changed((1, slice(None)), [NAN, 9, 0])
    output = found(GOOD, actual, clear=[True, False, True, True])
    assert (
        output.unexplained_error,
        output.different_not_finite,
        output.different_predictions,
    ) == (0, 0, 0)
    output = found(GOOD, actual)
    assert (output.different_not_finite, output.different_predictions) == (1, 1)
    assert output.unexplained_difference == 14


def test_each_minibatch_counts():
    output = OutputParity()
    for actual in (GOOD, GOOD, 1.5 * GOOD, GOOD):
        output.add(GOOD, actual, np.ones(4, bool))
    assert output.unexplained_error == 0.5 and output.predictions == 16
    assert output.largest_difference == 4


# In networks.


def gated():
    """Returns (arguments, trained, lowered): outputs that overflow where `gate` is 100."""
    features, model = convolutions()
    trained, gate = binarized(model), C.input_variable(1)
    lowered = lower_binary_layers(trained)
    return (features, gate), trained + C.exp(gate), lowered + C.exp(gate)


@pytest.mark.parametrize(
    'gates',
    [
        [0, 0, 0, 100, 0, 0, 0],
        [0, 50, 50, 50, 50, 50, 0],
        [100] * 6 + [0],
        [0, NAN, 0, -INF, 0, 100, 0],
    ],
    ids=str,
)
@pytest.mark.parametrize(
    'wrong, passes',
    [
        (lambda y: y, True),
        (lambda y: 3 * y + 1000, False),
        (lambda y: y * np.float32(1.001), False),
    ],
)
def test_overflowing_samples(gates, wrong, passes):
    (features, gate), trained, lowered = gated()
    data = [{features: images(features.shape), gate: np.float32(gates).reshape(-1, 1)}]
    assert compare(trained, wrong(lowered), data, tolerance=1e-5).passed == passes


@pytest.mark.parametrize('value', [NAN, INF, -INF])
def test_a_sample_that_is_not_finite(value):
    features, model = convolutions()
    trained = binarized(model)
    values = images(features.shape)
    values[2, 0, 3, 4] = value
    lowered = lower_binary_layers(trained)
    parity = compare(trained, lowered, [{features: values}], tolerance=0)
    assert parity.passed and parity.not_finite > 0 and 'NaN or infinite: the same' in str(parity)
    assert not compare(trained, lowered * np.float32(2), [{features: values}], tolerance=0.1).passed


def test_nothing_finite_is_nothing_compared():
    features, model = convolutions()
    trained = binarized(model)
    lowered = lower_binary_layers(trained)
    parity = compare(
        trained, lowered, [{features: np.full_like(images(features.shape), np.nan)}], tolerance=1
    )
    assert not parity.passed and 'nothing could be compared' in str(parity)


def test_each_output_has_a_scale_of_its_own():
    features, model = convolutions()
    trained = binarized(model)
    lowered = lower_binary_layers(trained)
    data = [{features: images(features.shape)}]
    both, wrong = C.combine(trained, trained * 1e8), C.combine(lowered + 0.1, lowered * 1e8)
    assert compare(both, C.combine(lowered, lowered * 1e8), data, tolerance=1e-5).passed
    assert not compare(both, wrong, data, tolerance=1e-5).passed
