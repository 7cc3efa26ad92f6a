"""What the report says of speed: worked out by hand from made-up seconds; nothing here depends
on how fast a machine is."""
import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from binary_networks import images
from netopt_callbacks.lowering import Lower, speed
from netopt_callbacks.lowering.speed import Speed, Timing
from segment_networks import binarized


def network(**options):
    """Returns (input, float model, binarized model): a float convolution, a binary one with
    activation, a binary Dense."""
    x = C.input_variable((3, 6, 6))
    model = C.layers.Sequential(
        [
            C.layers.Convolution2D((3, 3), 5, pad=True, name='float'),
            C.layers.BatchNormalization(map_rank=1),
            C.layers.Convolution2D(
                (3, 3), 7, pad=True, strides=2, activation=C.relu, name='second'
            ),
            C.layers.Dense(9, name='dense'),
            C.layers.Dense(2, name='float'),
        ]
    )(x)
    return x, model, binarized(model, images((3, 6, 6), 9), **options)


def test_faster_and_slower_in_words_with_both_times():
    assert (
        str(Timing(8, 0.012, 0.003))
        == '8 samples: 12 ms with float layers, 3 ms lowered, 4.0 x as fast'
    )
    assert str(Timing(1, 0.00014, 0.00035)) == (
        '1 sample: 0.14 ms with float layers, 0.35 ms lowered, SLOWER, by a factor of '
        '2.50: lowering does not pay here'
    )
    assert Timing(1, 2.0, 2.0).pays and Timing(1, 2.0, 2.009).pays
    assert not Timing(1, 2.0, 2.011).pays
    assert str(Timing(8, 0.012, 0.003, 0.006)).endswith(
        "; float_layers='native' makes it 2.00 x as fast (6 ms without)"
    )
    assert str(Timing(8, 0.012, 0.006, 0.003)).endswith(
        "; float_layers='native' makes it SLOWER, by a factor of 2.00 (3 ms without)"
    )
    said = str(Speed([Timing(1, 1.0, 2.0), Timing(8, 2.0, 1.0)], threads=2))
    assert (
        said.splitlines()[0] == 'Time of a call, the fastest of several, 2 threads:'
        and 'SLOWER' in said
        and '2.0 x as fast' in said
    )
    assert str(Speed(reason='because')) == 'Time of a call: not measured, because'
    assert Speed([Timing(1, 1.0, 2.0)]).to_dict() == dict(
        timings=[
            dict(
                samples=1,
                float_seconds=1.0,
                lowered_seconds=2.0,
                in_cntk_seconds=None,
                varied=1.0,
            )
        ],
        reason=None,
        threads=1,
    )


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(input_scale=None),
        dict(clip='calibrate'),
        dict(weight_scale=None),
        dict(input_shift=None, output_scale=None),
    ],
    ids=str,
)
def test_the_float_network_is_the_one_before_it_was_binarized(options):
    x, model, trained = network(**options)
    values = images(x.shape, 5, seed=2)
    found = speed.with_float_layers(trained)
    assert np.allclose(found.eval(values), model.eval(values), rtol=1e-5, atol=1e-5)
    assert not np.allclose(found.eval(values), trained.eval(values), rtol=1e-2, atol=1e-2)
    assert [layer.name for layer in nc.graph.layers(found)] == ['float', 'second', 'dense', 'float']


def test_a_network_without_binary_layers_is_itself():
    _, model, _ = network()
    assert speed.with_float_layers(model) is model


@pytest.mark.parametrize(
    'rounds, varied, said',
    [
        ([[4.0, 2.0, 3.0], [1.0, 1.0, 1.1]], 1.5, None),
        ([[4.0, 2.0, 4.0], [1.0, 1.0, 1.1]], 2.0, 'half of the rounds took 2.0 x the fastest'),
        ([[2.0, 2.0, 2.0], [1.0, 3.5, 9.0], [1, 1, 1]], 3.5, 'took 3.5 x the fastest or longer'),
    ],
)
def test_times_that_vary_are_said(rounds, varied, said):
    timing = Timing.of_rounds(8, rounds)
    assert (timing.float_seconds, timing.lowered_seconds) == (2.0, 1.0)
    assert timing.varied == varied and timing.to_dict()['varied'] == varied
    assert said in str(timing) if said else 'varied' not in str(timing)


@pytest.mark.parametrize(
    'seconds, rounds', [(0.001, 40), (0.0095, 11), (0.02, 7), (0.25, 7), (0.5, 4), (3.0, 1)]
)
def test_ways_take_turns_and_the_first_round_does_not_count(monkeypatch, seconds, rounds):
    calls, clock = [], [0.0]

    def way(name):
        calls.append(name)
        clock[0] += seconds / 2

    monkeypatch.setattr(speed.time, 'perf_counter', lambda: clock[0])
    times = speed.in_turns([lambda: way('a'), lambda: way('b')])
    assert calls == ['a', 'b'] * (rounds + 1)
    assert np.allclose(times, seconds / 2) and np.shape(times) == (2, rounds)


def test_the_report_of_a_run_has_the_times(monkeypatch):
    x, _, trained = network()
    asked = []

    def made_up(ways):
        asked.append([way().shape for way in ways])
        return [[0.002, 0.001], [0.004, 0.009]]

    monkeypatch.setattr(speed, 'in_turns', made_up)
    optimizations, data = [nc.BinarizeConvolution(), nc.BinarizeDense()], [{x: images(x.shape, 40)}]
    _, found = Lower(float_layers='apart').run(trained, optimizations, data, timed=True)
    assert asked == [[(1, 2)] * 2, [(32, 2)] * 2]
    assert (
        str(found).count('1 ms with float layers, 4 ms lowered, SLOWER, by a factor of 4.00') == 2
    )
    assert found.speed.to_dict()['timings'][0]['samples'] == 1 and 'speed' not in found.to_dict()
    _, found = Lower().run(trained, optimizations, data)
    assert found.speed is None and 'Time' not in str(found)


def test_what_cannot_be_cut_is_timed_on_random_numbers_and_what_cntk_cannot_do_is_said():
    x = C.input_variable((4, 6, 6))
    trained = binarized(
        C.layers.Convolution2D((3, 3), 8, pad=True, dilation=2, name='one')(x), input_scale=None
    )
    value = C.Value.create(x, [images(x.shape, 1)[0]])
    _, found = Lower().run(trained, [nc.BinarizeConvolution()], [{x: value}], timed=True)
    assert found.speed.timings == [] and 'with float layers' in found.speed.reason
    assert 'Time of a call: not measured, CNTK cannot evaluate it' in str(found)


def test_steps_of_sequences_are_timed_too():
    x = C.sequence.input_variable((4, 6, 6))
    trained = binarized(
        C.layers.Convolution2D((3, 3), 8, pad=True, name='one')(x), input_scale=None
    )
    _, found = Lower().run(trained, [nc.BinarizeConvolution()], None, timed=True)
    assert [timing.samples for timing in found.speed.timings] == [1, 4]
