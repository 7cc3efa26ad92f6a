"""The bench and the doctor: verified before timed, numbers consistent, table and chart there,
implementations named."""
import json
import subprocess
import sys

import numpy as np
import pytest

import native_oracle
from netopt_callbacks import bench, bench_program, native

ARGUMENTS = [
    '--shapes',
    '8,6,40,3',
    '--batches',
    '2',
    '--threads',
    '1',
    '--rounds',
    '3',
    '--no-program',
]


def test_json(capsys):
    assert bench.main(ARGUMENTS + ['--json']) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report['peaks']) == list(report['port_limits']) == native.implementations()
    assert [name for name, limit in report['port_limits'].items() if limit is None] == ['portable']
    (result,) = report['results']
    assert result['binary_macs'] == 2 * 40 * 6 * 6 * 8 * 3 * 3
    for name in native.implementations():
        summary = result['contestants'][name]
        assert 0 < summary['least'] <= summary['low'] <= summary['median'] <= summary['high']
        assert summary['ideal'] > result['binary_macs'] / report['peaks'][name]
    for name, version in report['peers'].items():
        assert version and result['contestants'][name]['median'] > 0


def test_calls_are_compared_with_the_ideal_of_their_round(monkeypatch):
    # Two threads: every round times a call with two, then one with one.
    peaks, streams = iter([5e8, 1e9, 2e9]), iter([1e-3] * 9)
    seconds = iter([4e-3, 8e-3, 6e-3, 6e-3, 5e-3, 15e-3])
    monkeypatch.setattr(native, 'implementations', lambda: ['portable'])
    monkeypatch.setattr(
        native,
        'peak',
        lambda name, duration: 3e9 if duration == bench.PEAK_SECONDS else next(peaks),
    )
    monkeypatch.setattr(native, 'stream', lambda x, out: next(streams))
    monkeypatch.setattr(bench.bench_peers, 'warm_seconds', lambda call: next(seconds))
    monkeypatch.setattr(bench.bench_peers.Process, 'prepare', lambda self, x, weights: {})
    monkeypatch.setattr(bench.bench_peers.Process, 'round', lambda self: {})
    (result,) = bench.measure(shapes=[(8, 10, 25, 1)], batches=[50], threads=[2], rounds=3)[
        'results'
    ]
    assert result['binary_macs'] == 10**6
    portable = result['contestants']['portable']
    assert portable['median'] == 5e-3 and portable['ideal'] == 1.5e-3  # 2, 1.5 and 1.25 ms
    assert portable['times_ideal'] == 5e-3 / 1.25e-3  # of 2, 4 and 4
    assert portable['times_one_thread'] == 2  # of 2, 1 and 3


def test_table(capsys):
    bench.main(ARGUMENTS)
    out = capsys.readouterr().out
    assert native.cpu_name() in out
    assert out.count('clock x ports allow') == len(native.implementations()) - 1
    assert all(f'| 8, 6, 40, 3 | 2 | 1 | {name} |' in out for name in native.implementations())


def test_medians_over_the_shapes():
    def result(shape, threads, ours, peer):
        return dict(
            shape=shape,
            batch=1,
            threads=threads,
            contestants={
                'ours': dict(median=ours, times_ideal=ours, times_one_thread=threads * ours),
                'a int8': dict(median=peer),
                'b int8': dict(median=4.0),
            },
        )

    results = [
        result([1], 1, 2.0, 6.0),
        result([2], 1, 4.0, 20.0),
        result([3], 1, 3.0, 3.0),
        result([1], 2, 1.0, 4.0),
        result([2], 2, 2.0, 4.0),
        result([3], 2, 3.0, 3.0),
    ]
    lines = bench._over_shapes(results, 'ours')
    assert lines[0].endswith(
        '| faster than a int8 | faster than b int8 | faster than the best int8 |'
    )
    assert lines[2:] == [
        '| 1 | 1 | 3.00 | 3.00 | 3.0 x | 1.3 x | 1.0 x |',
        '| 2 | 1 | 2.00 | 4.00 | 2.0 x | 2.0 x | 2.0 x |',
    ]


def test_doctor_names_the_implementations():
    told = subprocess.run(
        [sys.executable, '-m', 'netopt_callbacks', 'doctor'],
        stdout=subprocess.PIPE,
        universal_newlines=True,
    ).stdout
    (line,) = (line for line in told.splitlines() if line.split()[1:3] == ['native', 'op'])
    assert ', '.join(native.implementations()) in line


@pytest.mark.slow
def test_chart(tmp_path):
    pytest.importorskip('matplotlib')
    bench.main(ARGUMENTS + ['--plot', str(tmp_path / 'bench.png')])
    assert (tmp_path / 'bench.png').read_bytes().startswith(b'\x89PNG')


def test_naive_is_the_oracle():
    random = np.random.RandomState(0)
    x, w = random.randn(2, 5, 6, 7).astype(np.float32), random.randn(4, 5, 3, 3).astype(np.float32)
    assert np.array_equal(
        bench.naive(x, w, 1), native_oracle.convolution(x, w, padding=((1, 1), (1, 1)))
    )


def test_a_wrong_result_is_not_timed(monkeypatch):
    monkeypatch.setattr(bench, 'naive', lambda x, weights, pad: np.zeros(1))
    with pytest.raises(RuntimeError, match='nothing was timed'):
        bench.main(ARGUMENTS)


@pytest.mark.parametrize('shape', ['8,6,40', '8,6,40,0', 'a,b,c,d', '1,2,3,4,5'])
def test_bad_shapes(shape, capsys):
    with pytest.raises(SystemExit):
        bench.main(['--shapes', shape])
    assert 'four positive integers' in capsys.readouterr().err


SMALL = dict(shape=(40, 8, 8), convolutions=((33, True), (70, False)), dense=(50, 20))


def test_program():
    told = []
    results = bench_program.measure(
        batches=(1, 3), threads=(1, 2), rounds=3, progress=told.append, **SMALL
    )
    assert [(one['threads'], one['batch']) for one in results] == [
        (1, 1),
        (1, 3),
        (2, 1),
        (2, 3),
    ] and len(told) == 4
    macs = 8 * 8 * 33 * 40 * 9 + 4 * 4 * 70 * 33 * 9 + 4 * 4 * 70 * 50 + 50 * 20
    for one in results:
        assert (
            one['binary_macs'] == one['batch'] * macs
            and one['implementation'] == native.implementations()[0]
        )
        assert (
            0 < one['least'] <= one['low'] <= one['median'] <= one['high']
            and one['times_limit'] > 0 < one['limit']
        )
    lines = bench_program.table(results)
    assert (
        len(lines) == 6
        and '| 3 | 2 |' in lines[-1]
        and len({line.count('|') for line in lines}) == 1
    )


def test_program_is_compared_with_the_limit_of_its_round(monkeypatch):
    peaks, seconds = iter([1e9, 2e9, 4e9]), iter([8e-3, 2e-3, 3e-3])
    monkeypatch.setattr(native, 'peak', lambda name, duration: next(peaks))
    monkeypatch.setattr(bench_program.bench_peers, 'warm_seconds', lambda call: next(seconds))
    one = bench_program._timed(
        lambda x, out=None: x, None, 4e6, 'portable', 3
    )  # limits 4, 2 and 1 ms
    assert (one['median'], one['limit'], one['least']) == (3e-3, 2e-3, 2e-3)
    assert (
        one['times_limit'] == 2 and one['least_times_limit'] == 2
    )  # of 2, 1 and 3; and 2 ms to 1 ms


def test_a_wrong_program_is_not_timed(monkeypatch):
    monkeypatch.setattr(bench_program, 'naive', lambda ops, x: np.zeros(1))
    with pytest.raises(RuntimeError, match='nothing was timed'):
        bench_program.measure(rounds=1, **SMALL)
