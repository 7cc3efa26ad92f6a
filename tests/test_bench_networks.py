"""`bench --networks`: what is built, compared and told; no test depends on how fast a machine
is."""
import json

import numpy as np
import pytest

import netopt_callbacks as nc
from netopt_callbacks import bench, bench_network_cntk, bench_network_peers, bench_networks
from netopt_callbacks.bench_network_specs import NETWORKS, binary_net, cntk_103d, resnet18
from netopt_callbacks.native_program import Program

SMALL = [binary_net((3, 16, 16), 4), resnet18((3, 74, 66), 4, 5), cntk_103d((1, 20, 18))]


def ids(network):
    return network.name


@pytest.mark.parametrize('network', SMALL, ids=ids)
def test_cntk_builds_what_the_spec_says(network):
    model = bench_network_cntk.in_cntk(network)
    assert model.shape == network.shapes[network.ops[-1]['output']]
    named = [op for op in network.ops if op['op'] in ('convolution', 'dense')]
    layers = nc.graph.layers(model)
    assert sorted(layer.name for layer in layers) == sorted(op['name'] for op in named)
    for layer in layers:
        assert any(
            layer.W.value.size == network.weights[op['weights']].size
            and np.array_equal(layer.W.value.ravel(), network.weights[op['weights']].ravel())
            for op in named
        )


def by_numpy(network, x):
    """The network in float64, from the spec alone."""
    values = {'x': x.astype(np.float64)}
    for op in network.ops:
        value, key = values[op['input'][0]], op.get('weights')
        if op['op'] in ('convolution', 'max_pool'):
            fill = -np.inf if op['op'] == 'max_pool' else 0
            value = np.pad(
                value,
                [(0, 0), (0, 0)] + [(lower, max(upper, 0)) for lower, upper in op['padding']],
                mode='constant',
                constant_values=fill,
            )
            sizes = network.shapes[op['output']][1:]
            taps = [
                value[:, :, i:, j:][:, :, :: op['stride'], :: op['stride']][
                    :, :, : sizes[0], : sizes[1]
                ]
                for i in range(op['kernel'])
                for j in range(op['kernel'])
            ]
            if op['op'] == 'max_pool':
                value = np.max(taps, axis=0)
            else:
                w = network.weights[key].reshape(network.weights[key].shape[:2] + (-1,))
                value = sum(
                    np.einsum('nchw,fc->nfhw', tap, w[:, :, number])
                    for number, tap in enumerate(taps)
                )
                value = value + (network.weights[key + 'b'][:, None, None] if op['bias'] else 0)
        elif op['op'] == 'dense':
            value = (
                value.reshape(len(value), -1).dot(network.weights[key]) + network.weights[key + 'b']
            )
        elif op['op'] == 'normalize':
            scale, bias, mean, variance = (
                network.weights[key + part].reshape((-1,) + (1,) * (value.ndim - 2))
                for part in ('scale', 'bias', 'aggregate_mean', 'aggregate_variance')
            )
            value = (value - mean) / np.sqrt(variance + 1e-5) * scale + bias
        else:
            value = {
                'relu': lambda: np.maximum(value, 0),
                'add': lambda: value + values[op['input'][1]],
                'global_average': lambda: value.mean(axis=(2, 3), keepdims=True),
            }[op['op']]()
        values[op['output']] = value
    return value


@pytest.mark.parametrize('network', SMALL, ids=ids)
def test_cntk_computes_what_the_spec_says(network):
    x = np.random.RandomState(1).standard_normal((2,) + network.shape).astype(np.float32)
    assert np.allclose(
        bench_network_cntk.in_cntk(network).eval(x), by_numpy(network, x), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    'network, segments',
    [
        pytest.param(SMALL[0], [1, 1], marks=pytest.mark.slow, id='BinaryNet'),
        pytest.param(SMALL[1], [7, 1], marks=pytest.mark.slow, id='ResNet-18'),
        pytest.param(SMALL[2], [1, 1], id='103D'),
    ],
)
def test_all_forms_are_compared_before_they_are_timed(network, segments):
    made = bench_network_cntk.Made(network)
    # One where CNTK's order of summation is known for all float convolutions (test_float_order).
    assert [len(lowering.segments) for lowering in made.lowerings.values()] in (segments, [1, 1])
    assert not any(lowering.reasons for lowering in made.lowerings.values())
    x = np.random.RandomState(1).standard_normal((2,) + network.shape).astype(np.float32)
    assert set(made.checked(x)) == {bench_network_cntk.LOWERED, bench_network_cntk.NATIVE}
    assert np.array_equal(made.program(x), made.functions[bench_network_cntk.NATIVE].eval(x))


def test_a_network_that_computes_something_else_is_not_timed():
    made = bench_network_cntk.Made(SMALL[2])
    made.functions[bench_network_cntk.LOWERED] = made.functions[bench_network_cntk.LOWERED] * 2
    with pytest.raises(RuntimeError, match='nothing was timed'):
        made.checked(np.ones((1,) + SMALL[2].shape, np.float32))


def test_questions_and_answers_of_cntks_process(tmp_path, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    before, answers = nc.native.num_threads(), []
    sizes = dict(shape=[1, 12, 12])
    questions = [
        dict(prepare=dict(name='103d', batch=2, folder=str(tmp_path), sizes=sizes)),
        dict(round=True),
        dict(breakdown=2),
    ]
    try:
        bench_network_cntk.answer(map(json.dumps, questions), answers.append)
    finally:
        nc.native.set_num_threads(before)
    versions, prepared, seconds, breakdown = json.loads(json.dumps(answers))
    assert versions['CNTK'].startswith('2.7') and prepared['title'] == 'CNTK 103D'
    assert set(seconds) == {
        bench_network_cntk.FLOAT,
        bench_network_cntk.LOWERED,
        bench_network_cntk.NATIVE,
        bench_network_cntk.PROGRAM,
    }
    for parts in breakdown.values():
        assert set(parts) == set(bench_networks.PARTS) and all(
            seconds >= 0 for seconds in parts.values()
        )
    stored = np.load(str(tmp_path / '103d.npz'))
    assert stored['x'].shape == (2, 1, 12, 12) and stored['expected'].shape == (2, 10)


def test_a_python_without_peers_says_so(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'onnxruntime', None)
    answers = []
    bench_network_peers.answer([], answers.append)
    assert answers == [{}]


def test_the_peers_compute_the_float_network(tmp_path, monkeypatch):
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    for network in SMALL:
        x = np.random.RandomState(1).standard_normal((2,) + network.shape).astype(np.float32)
        np.savez(str(tmp_path / 'n.npz'), x=x, expected=by_numpy(network, x), **network.weights)
        found = bench_network_peers.Peers().prepare(
            'n', network.ops, network.shape, str(tmp_path), 1
        )
        assert found['onnxruntime float'] < 1e-4 and found['onnxruntime int8'] < 0.2
    assert not list((tmp_path / 'here').iterdir())  # quantizing leaves a file where the process is


def made_up(lowered):
    return dict(
        network='N',
        batch=1,
        threads=2,
        segments={'lowered, inside CNTK': [['a', 2]]},
        alone={},
        ties={},
        contestants={
            'CNTK float': bench_networks.summarized([4e-3, 6e-3, 5e-3], [4e-3, 6e-3, 5e-3]),
            'lowered, inside CNTK': bench_networks.summarized(lowered, [4e-3, 6e-3, 5e-3]),
        },
        breakdown={
            'lowered, inside CNTK': dict(
                packing=1e-3, binary=2e-3, float=3e-3, crossing=4e-3, cntk=5e-3
            )
        },
    )


def test_ratios_are_of_one_round():
    found = bench_networks.summarized([1e-3, 2e-3, 5e-3], [4e-3, 6e-3, 5e-3])  # 4, 3 and 1 times
    assert found['times_float'] == 3 and found['median'] == 2e-3 and found['least'] == 1e-3
    assert found['seconds'] == [1e-3, 2e-3, 5e-3]


def test_the_table_and_what_is_slower_in_words():
    report = dict(
        cpu='P',
        date='2026-01-01',
        implementation='portable',
        rounds=3,
        load=[1.0, 0, 0],
        versions={'CNTK': '2.7'},
        results=[made_up([8e-3, 12e-3, 10e-3]), made_up([1e-3, 2e-3, 5e-3])],
    )
    text = bench_networks.table(report)
    assert '| N | 1 | 2 | lowered, inside CNTK | 10.000 | 9.000 to 11.000 | 8.000 | 0.50 |' in text
    assert (
        '| N | 1 | 2 | lowered, inside CNTK | 1 | 1.000 | 2.000 | 3.000 | 4.000 | 5.000 |' in text
    )
    assert text.count('lowering does not pay') == 1
    assert text.endswith(
        'N, batch 1, 2 threads: lowering does not pay, 10.000 ms lowered against 5.000 ms float.'
    )


@pytest.mark.slow
def test_the_command(capsys, monkeypatch):
    honest = bench_networks.measure
    monkeypatch.setattr(
        bench_networks,
        'measure',
        lambda *arguments: honest(*arguments, sizes=dict(shape=(1, 12, 12))),
    )
    options = ['--networks', '103d', '--batches', '2', '--threads', '1', '--rounds', '2']
    assert bench.main(options + ['--json']) == 0
    (result,) = json.loads(capsys.readouterr().out)['results']
    assert (
        result['network'] == 'CNTK 103D' and result['contestants']['CNTK float']['times_float'] == 1
    )
    assert bench.main(options) == 0
    assert '| CNTK 103D | 2 | 1 | program, without CNTK |' in capsys.readouterr().out


def test_every_network_has_a_name():
    assert list(NETWORKS) == ['binarynet', 'resnet18', '103d']


def test_a_program_says_what_its_ops_take():
    x = np.random.RandomState(0).standard_normal((3, 6, 8, 8)).astype(np.float32)
    program = Program(
        [
            dict(op='pack', input='x', bits='b', threshold=0.0),
            dict(op='unpack', input='b', values='y'),
            dict(op='map', input='y', values='z', steps=[('add', 1.0)]),
        ],
        dict(x=(6, 8, 8)),
        ['z'],
    )
    found = program.profile(x)
    assert [name for name, _ in found] == ['pack', 'unpack', 'map', 'conversion'] and all(
        seconds >= 0 for _, seconds in found
    )
    with pytest.raises(ValueError, match='expected'):
        program.profile(x[:, :5])
