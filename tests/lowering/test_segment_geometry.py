"""Segments of every geometry and of values that training seldom gives: CNTK is the oracle of
every bit."""
import cntk as C
import numpy as np
import pytest

from netopt_callbacks.lowering import lower_segments
from segment_networks import binarized, unsettle, values_of
from test_segments import assert_programs_give_cntk_s_bits, same_bits


def convolution(x, filters, kernel=(3, 3), name='one', groups=1, **options):
    W = C.parameter((filters, x.shape[0] // groups) + tuple(kernel), init=C.glorot_uniform())
    return C.convolution(W, x, groups=groups, name=name, **options)


def lowered_bits(y, x, samples=(1, 3), special=0.02):
    """Binarizes what reads `y` with a second layer behind BatchNormalization, and compares each
    segment with CNTK."""
    y = C.relu(C.layers.BatchNormalization(map_rank=1)(y))
    y = C.layers.Convolution2D((1, 1), 7, name='two')(y)
    model = C.layers.BatchNormalization(map_rank=1)(y)
    random = np.random.RandomState(4)
    unsettle(model, random, odd=0.3)
    trained = binarized(model, values_of(x, 8, random, 0), input_scale=None)
    lowering = lower_segments(trained)
    for count in samples:
        values = values_of(x, count, random, special)
        assert_programs_give_cntk_s_bits(lowering, {x: values})
        assert same_bits(lowering.model.eval(values), trained.eval(values))
    return lowering


AUTOMATIC = [False, True, True]


@pytest.mark.parametrize(
    'options',
    [
        dict(auto_padding=AUTOMATIC, strides=(2, 3)),
        dict(auto_padding=AUTOMATIC, groups=3),
        dict(auto_padding=[False]),
        dict(auto_padding=AUTOMATIC, kernel=(2, 4)),
        dict(auto_padding=AUTOMATIC, kernel=(4, 2), strides=(2, 1)),
        dict(auto_padding=[False, True, False], kernel=(3, 1)),
        dict(auto_padding=AUTOMATIC, kernel=(5, 3), strides=(3, 3)),
        dict(auto_padding=AUTOMATIC, groups=6),
    ],
    ids=str,
)
def test_geometries(options):
    x = C.input_variable((6, 11, 10))
    lowering = lowered_bits(convolution(x, 12, **options), x)
    (part,) = lowering.segments
    assert [layer.name for layer in part.segment.layers] == ['one', 'two'] and not lowering.reasons


@pytest.mark.parametrize(
    'channels', [1, 3, 31, 63, 64, 65, pytest.param(513, marks=pytest.mark.slow)]
)
def test_channels(channels):
    x = C.input_variable((channels, 4, 5))
    (part,) = lowered_bits(convolution(x, channels + 2, auto_padding=AUTOMATIC), x).segments
    assert len(part.segment.layers) == 2


@pytest.mark.parametrize('side', [1, 2, 56])
def test_image_sizes(side):
    x = C.input_variable((3, side, side))
    (part,) = lowered_bits(
        convolution(x, 5, kernel=(1, 1) if side == 1 else (2, 2), auto_padding=[False]), x
    ).segments
    assert len(part.segment.layers) == 2


def test_nothing_but_special_values():
    x = C.input_variable((6, 5, 4))
    lowered_bits(convolution(x, 9, auto_padding=AUTOMATIC), x, special=1.0)


@pytest.mark.parametrize(
    'make, reason',
    [
        (lambda: (C.input_variable((4, 6, 6)), dict(dilation=2)), 'dilated'),
        (
            lambda: (C.input_variable((4, 6, 6), dtype=np.float32), dict(activation=C.cos)),
            'Cos',
        ),
    ],
)
def test_what_is_not_supported_is_named_with_its_reason(make, reason):
    x, options = make()
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='one', **options)(x)
    trained = binarized(
        C.layers.Convolution2D((3, 3), 8, pad=True, name='two')(y), input_scale=None
    )
    named = dict(lower_segments(trained).reasons)
    assert reason in named['one']
