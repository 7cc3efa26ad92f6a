"""Times whole networks: lowered inside CNTK, as a program without it, CNTK's float network and ONNX
Runtime's.

Every round calls each contestant once, one after another, after 5 ms of its own calls; a ratio is
the median of the rounds' own ratios, so both of its times are of one moment. CNTK and ONNX Runtime
run in processes of their own with as many threads.
"""
import contextlib
import datetime
import os
import sys
import tempfile

import numpy as np

from netopt_callbacks import bench_network_peers, native
from netopt_callbacks.bench_network_specs import NETWORKS
from netopt_callbacks.bench_peers import Process

FLOAT = 'CNTK float'
PINNED = 'numpy==1.19.5 onnxruntime==1.10.0 onnx==1.10.2'
PARTS = ('packing', 'binary', 'float', 'crossing', 'cntk')


def measure(
    networks=tuple(NETWORKS),
    batches=(1, 8),
    threads=(1, 2),
    rounds=30,
    peer_python=None,
    progress=lambda line: None,
    sizes=None,
):
    """Measures all combinations.

    Args:
        networks (sequence of str): names in `bench_network_specs.NETWORKS`.
        batches, threads (sequence of int): to combine.
        rounds (int): timed rounds of every contestant.
        peer_python (str): a Python that has onnxruntime and onnx; None leaves them out, unless this
            one has them.
        progress (callable): told what is measured next.
        sizes (dict): other arguments of the networks' functions, for tests.

    Returns:
        dict with `cpu`, `date`, `rounds`, `load` (of the machine before), `versions` and `results`,
        one dict per combination: `network`, `batch`, `threads`, `segments`, `alone`, `ties`,
        `differences` (of the peers from CNTK's float output), `breakdown` (form to part to seconds)
        and `contestants`, name to dict of `median`, `low`, `high` (quartiles) and `least` in
        seconds, `seconds` (all rounds) and `times_float`, the median of how many times as fast as
        CNTK's float one.

    Raises:
        RuntimeError: a lowered network computes something else than the trained one.
    """
    report = dict(
        cpu=native.cpu_name(),
        date=datetime.date.today().isoformat(),
        rounds=rounds,
        load=list(os.getloadavg()),
        implementation=native.implementation(),
        versions={},
        results=[],
    )
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for count in threads:
            with contextlib.ExitStack() as processes:
                cntk = processes.enter_context(
                    Process(
                        sys.executable,
                        count,
                        ['-W', 'ignore', '-m', 'netopt_callbacks.bench_network_cntk'],
                    )
                )
                peer = processes.enter_context(
                    Process(
                        peer_python or sys.executable,
                        count,
                        [os.path.abspath(bench_network_peers.__file__)],
                    )
                )
                report['versions'].update(cntk.versions(), **peer.versions())
                for name in networks:
                    for batch in batches:
                        progress(f'{name}, batch {batch}, threads {count}')
                        report['results'].append(
                            _combination(
                                cntk,
                                peer if peer.versions() else None,
                                name,
                                batch,
                                count,
                                rounds,
                                folder,
                                sizes,
                            )
                        )
    return report


def _combination(cntk, peer, name, batch, threads, rounds, folder, sizes):
    prepared = cntk.ask(dict(prepare=dict(name=name, batch=batch, folder=folder, sizes=sizes)))
    result = dict(
        network=prepared['title'],
        batch=batch,
        threads=threads,
        segments=prepared['segments'],
        alone=prepared['alone'],
        ties=prepared['ties'],
    )
    if peer is not None:
        result['differences'] = peer.ask(
            dict(
                prepare=dict(
                    name=name,
                    ops=prepared['ops'],
                    shape=prepared['shape'],
                    folder=folder,
                    threads=threads,
                )
            )
        )
    seconds = {}
    for _ in range(rounds):
        for process in (cntk,) if peer is None else (cntk, peer):
            for contestant, taken in process.round().items():
                seconds.setdefault(contestant, []).append(taken)
    result['contestants'] = {
        contestant: summarized(taken, seconds[FLOAT]) for contestant, taken in seconds.items()
    }
    result['breakdown'] = cntk.ask(dict(breakdown=rounds))
    return result


def summarized(seconds, float_seconds):
    """Returns what is told of a contestant's rounds."""
    low, median, high = np.percentile(seconds, [25, 50, 75])
    return dict(
        median=float(median),
        low=float(low),
        high=float(high),
        least=float(min(seconds)),
        seconds=list(seconds),
        times_float=float(np.median(np.divide(float_seconds, seconds))),
    )


def table(report):
    """The report as Markdown: a head, times and ratios, and where the time goes."""
    lines = [
        'CPU: %s; %s; native implementation: %s; %d rounds; load before %.1f'
        % (
            report['cpu'],
            report['date'],
            report['implementation'],
            report['rounds'],
            report['load'][0],
        )
    ]
    lines += ['%s: %s' % item for item in report['versions'].items()]
    lines += [
        '',
        '| network | batch | threads | what | median ms | quartiles | least | x CNTK float |',
        '|---' * 8 + '|',
    ]
    for result in report['results']:
        for name, one in result['contestants'].items():
            lines.append(
                '| %s | %d | %d | %s | %.3f | %.3f to %.3f | %.3f | %.2f |'
                % (
                    result['network'],
                    result['batch'],
                    result['threads'],
                    name,
                    one['median'] * 1e3,
                    one['low'] * 1e3,
                    one['high'] * 1e3,
                    one['least'] * 1e3,
                    one['times_float'],
                )
            )
    lines += [
        '',
        '| network | batch | threads | what | segments | %s |'
        % ' | '.join(part + ' ms' for part in PARTS),
        '|---' * (5 + len(PARTS)) + '|',
    ]
    for result in report['results']:
        for name, parts in result['breakdown'].items():
            lines.append(
                '| %s | %d | %d | %s | %d | %s |'
                % (
                    result['network'],
                    result['batch'],
                    result['threads'],
                    name,
                    len(result['segments'][name]),
                    ' | '.join('%.3f' % (parts[part] * 1e3) for part in PARTS),
                )
            )
    slower = [in_words(result) for result in report['results']]
    return '\n'.join(lines + [''] + [line for line in slower if line])


def in_words(result):
    """Returns a sentence where the lowered network is slower than the float one, else None."""
    lowered = result['contestants']['lowered, inside CNTK']
    if lowered['times_float'] >= 1:
        return None
    return (
        '%s, batch %d, %d thread%s: lowering does not pay, %.3f ms lowered against %.3f ms float.'
        % (
            result['network'],
            result['batch'],
            result['threads'],
            's' if result['threads'] > 1 else '',
            lowered['median'] * 1e3,
            result['contestants'][FLOAT]['median'] * 1e3,
        )
    )
