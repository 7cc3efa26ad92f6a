"""The bit convolution on drawn and on all small cases, against the oracle, with ==."""
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import native_oracle
from netopt_callbacks import native


def check(x, w, options):
    expected = native_oracle.convolution(x, w, **options)
    for name in native.implementations():
        got = native.BinaryConvolution(w, implementation=name, **options)(x)
        assert got.dtype == np.float32 and got.shape == expected.shape
        assert np.array_equal(got, expected), name


@st.composite
def cases(draw):
    small = st.integers(1, 4)
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 5]))
    channels = draw(
        st.sampled_from([1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 127, 128, 129])
    )
    filters = draw(
        st.sampled_from([1, 2, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 95, 127, 128, 129])
    )
    kernel = draw(st.tuples(st.integers(1, 11), small) | st.tuples(small, small))
    options = dict(
        strides=draw(st.tuples(small, small)),
        dilation=draw(st.tuples(small, small)),
        groups=groups,
        padding=draw(st.tuples(*[st.tuples(st.integers(0, 5), st.integers(0, 5))] * 2)),
    )
    sizes = [
        draw(st.integers(max(1, (k - 1) * d + 1 - sum(p)), (k - 1) * d + 9))
        for k, d, p in zip(kernel, options['dilation'], options['padding'])
    ]
    random = np.random.RandomState(draw(st.integers(0, 2**32 - 1)))
    x = random.randn(draw(st.integers(0, 4)), groups * channels, *sizes).astype(np.float32)
    w = random.randn(groups * filters, channels, *kernel).astype(np.float32)
    for array in (x, w):
        array[random.rand(*array.shape) < 0.05] = 0
    if draw(st.booleans()):
        options['threshold'] = random.randn(groups * channels).astype(np.float32)
    return x, w, options


BASE = dict(
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)


@settings(max_examples=60, **BASE)
@given(cases())
def test_drawn_cases(case):
    check(*case)


@pytest.mark.slow
@settings(max_examples=3000, **BASE)
@given(cases())
def test_many_drawn_cases(case):
    check(*case)


def small_grid():
    """Every combination of small sizes along one axis; the other axis has the mirrored ones."""
    lengths = range(1, 6)
    for kernel, stride, dilation, before, after, length in itertools.product(
        range(1, 5), range(1, 4), range(1, 3), range(3), range(3), lengths
    ):
        if length + before + after >= (kernel - 1) * dilation + 1:
            yield kernel, stride, dilation, before, after, length


GRID = list(small_grid())


@pytest.mark.parametrize('part', range(4))
def test_small_grid(part):
    random = np.random.RandomState(part)
    for index in range(part, len(GRID), 4):
        kernel, stride, dilation, before, after, length = GRID[index]
        other_kernel, other_stride, other_dilation, top, bottom, height = GRID[-1 - index]
        x = random.randn(2, 5, height, length).astype(np.float32)
        w = random.randn(3, 5, other_kernel, kernel).astype(np.float32)
        check(
            x,
            w,
            dict(
                strides=(other_stride, stride),
                dilation=(other_dilation, dilation),
                padding=((top, bottom), (before, after)),
            ),
        )
