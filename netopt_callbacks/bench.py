"""Times the bit convolution against what the machine can do and against other people's
convolutions.

    ideal = binary multiply-adds / peak  +  time to read the input and write the output once

peak is the implementation's own arithmetic in a loop that lives in registers; it and the memory's
time are measured in the same process, between the timed calls, and a call is compared with the
ideal of its own round: processors change their clock while they work. Every result is verified with
== against a NumPy convolution before anything is timed. Calls are whole calls: float32 in, float32
out, packing included, one round of every contestant after another.
"""
import contextlib
import datetime
import json
import sys

import numpy as np

from netopt_callbacks import bench_networks, bench_peers, bench_program, native
from netopt_callbacks.bench_arguments import SHAPES, parser
from netopt_callbacks.bench_network_specs import NETWORKS

PEAK_SECONDS = 0.1


def main(argv=None):
    """`python -m netopt_callbacks bench`: prints a table, or with --json one JSON object;
    returns the exit code."""
    options = parser(__doc__.split('\n\n')[0]).parse_args(argv)

    def progress(line):
        print(line, file=sys.stderr, flush=True)

    if options.networks is not None:
        report = bench_networks.measure(
            options.networks or tuple(NETWORKS),
            options.batches,
            options.threads,
            options.rounds,
            options.peer_python,
            progress,
        )
        print(json.dumps(report, indent=1) if options.json else bench_networks.table(report))
        return 0
    report = measure(
        options.shapes,
        options.batches,
        options.threads,
        options.rounds,
        options.peer_python,
        progress,
    )
    if options.program:
        report['programs'] = bench_program.measure(
            options.batches, options.threads, options.rounds, progress
        )
    print(json.dumps(report, indent=1) if options.json else table(report))
    if options.plot:
        plot(report, options.plot)
    return 0


def measure(
    shapes=SHAPES,
    batches=(1, 8),
    threads=(1, 2),
    rounds=30,
    peer_python=None,
    progress=lambda line: None,
):
    """Measures all combinations.

    Returns:
        dict with `cpu`, `date`, `clock_hertz`, `peaks` and `port_limits` (`native.port_limit`;
        binary multiply-adds per second, one thread), `peers` (versions) and `results`, one dict per
        combination: `shape`, `batch`, `threads`, `binary_macs`, `stream_seconds`, and
        `contestants`, name to dict of `median`, `low`, `high` (quartiles) and `least` in seconds
        and, for ours, `ideal` (median over the rounds), `times_ideal` and `times_one_thread` (how
        many times as fast as with one thread; medians of each round's ratio).
    """
    names = native.implementations()
    report = dict(
        cpu=native.cpu_name(),
        date=datetime.date.today().isoformat(),
        python=sys.version.split()[0],
        numpy=np.__version__,
        rounds=rounds,
        clock_hertz=native.clock_rate(PEAK_SECONDS),
        peaks={name: native.peak(name, PEAK_SECONDS) for name in names},
        port_limits={name: native.port_limit(name, PEAK_SECONDS) for name in names},
        peers={},
        results=[],
    )
    pythons = [sys.executable] + ([peer_python] if peer_python else [])
    before = native.num_threads()
    with contextlib.ExitStack() as stack:
        stack.callback(native.set_num_threads, before)
        for count in threads:
            peers = [stack.enter_context(bench_peers.Process(python, count)) for python in pythons]
            for peer in peers:
                report['peers'].update(peer.versions())
            for shape in shapes:
                for batch in batches:
                    progress(f'{shape} batch {batch} threads {count}')
                    report['results'].append(
                        _combination(shape, batch, count, rounds, peers, report['peaks'])
                    )
    return report


def _combination(shape, batch, threads, rounds, peers, peaks):
    channels, size, filters, kernel = shape
    random = np.random.RandomState(0)
    x = random.randn(batch, channels, size, size).astype(np.float32)
    weights = random.randn(filters, channels, kernel, kernel).astype(np.float32)
    convolutions = {name: _verified(name, x, weights) for name in peaks}
    out = native.empty((batch, filters) + (size + 2 * (kernel // 2) - kernel + 1,) * 2)
    native.set_num_threads(threads)
    for peer in peers:
        peer.prepare(x, weights)
    times, ideals, alone, streams = (
        {},
        {name: [] for name in peaks},
        {name: [] for name in peaks},
        [],
    )
    macs = batch * filters * out.shape[2] * out.shape[3] * channels * kernel * kernel
    for _ in range(rounds):
        streams.append(min(native.stream(x, out) for _ in range(3)))
        for name, convolution in convolutions.items():
            times.setdefault(name, []).append(
                bench_peers.warm_seconds(lambda: convolution(x, out=out))
            )
            native.set_num_threads(1)
            alone[name].append(
                bench_peers.warm_seconds(lambda: convolution(x, out=out))
                if threads > 1
                else times[name][-1]
            )
            native.set_num_threads(threads)
            peak = native.peak(name, 0.001)
            ideals[name].append(macs / peak / threads + streams[-1])
            peaks[name] = max(peaks[name], peak)
        for peer in peers:
            for name, seconds in peer.round().items():
                times.setdefault(name, []).append(seconds)
    contestants = {name: _summary(seconds) for name, seconds in times.items()}
    for name, ideal in ideals.items():
        contestants[name].update(
            ideal=float(np.median(ideal)),
            times_ideal=float(np.median(np.divide(times[name], ideal))),
            times_one_thread=float(np.median(np.divide(alone[name], times[name]))),
        )
    return dict(
        shape=list(shape),
        batch=batch,
        threads=threads,
        binary_macs=macs,
        stream_seconds=float(np.median(streams)),
        contestants=contestants,
    )


def _summary(seconds):
    low, median, high = np.percentile(seconds, [25, 50, 75])
    return dict(median=float(median), low=float(low), high=float(high), least=float(min(seconds)))


def _verified(name, x, weights):
    """The convolution on one implementation, checked on this very input (all of its first
    image)."""
    pad = weights.shape[2] // 2
    convolution = native.BinaryConvolution(
        weights, padding=((pad, pad), (pad, pad)), implementation=name
    )
    if not np.array_equal(convolution(x)[:1], naive(x[:1], weights, pad)):
        raise RuntimeError(
            f'{name} computes a wrong convolution for input {x.shape} and weights {weights.shape}; '
            'nothing was timed'
        )
    return convolution


def naive(x, weights, pad):
    """Convolution of the signs in float64, exact for these sizes; padded taps contribute 0."""
    signs = np.pad(
        np.where(x > 0, 1.0, -1.0), ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode='constant'
    )
    w = np.where(weights > 0, 1.0, -1.0)
    height, width = (length - weights.shape[2] + 1 for length in signs.shape[2:])
    y = 0
    for row in range(weights.shape[2]):
        for column in range(weights.shape[3]):
            window = signs[:, :, row : row + height, column : column + width]
            y = y + np.tensordot(w[:, :, row, column], window, axes=([1], [1])).transpose(
                1, 0, 2, 3
            )
    return y


def table(report):
    """The report as text: Markdown tables, with a head that says what was measured on what."""
    lines = [
        'CPU: {}; {}; CPython {}, NumPy {}; clock {:.2f} GHz'.format(
            report['cpu'],
            report['date'],
            report['python'],
            report['numpy'],
            report['clock_hertz'] / 1e9,
        )
    ]
    for name, peak in report['peaks'].items():
        limit = report['port_limits'][name]
        lines.append(
            'peak {}: {:.0f} binary GMAC/s, {:.0f} a cycle{}'.format(
                name,
                peak / 1e9,
                peak / report['clock_hertz'],
                f'; clock x ports allow {limit / 1e9:.0f}, so {100 * peak / limit:.0f} %'
                if limit
                else '',
            )
        )
    lines += ['%s: %s' % item for item in report['peers'].items()]
    lines += [
        '',
        '| C, H=W, F, k | batch | threads | what | median ms | quartiles | least | x ideal | x one '
        'thread | best native is |',
        '|---|---|---|---|---|---|---|---|---|---|',
    ]
    for result in report['results']:
        best = result['contestants'][next(iter(report['peaks']))]
        for name, summary in result['contestants'].items():
            ideal, alone = (
                f'{summary[key]:.2f}' if key in summary else ''
                for key in ('times_ideal', 'times_one_thread')
            )
            lines.append(
                '| %s | %d | %d | %s | %.3f | %.3f to %.3f | %.3f | %s | %s | %.1f x faster |'
                % (
                    ', '.join(map(str, result['shape'])),
                    result['batch'],
                    result['threads'],
                    name,
                    summary['median'] * 1e3,
                    summary['low'] * 1e3,
                    summary['high'] * 1e3,
                    summary['least'] * 1e3,
                    ideal,
                    alone,
                    summary['median'] / best['median'],
                )
            )
    lines += [''] + _over_shapes(report['results'], next(iter(report['peaks'])))
    return '\n'.join(
        lines + ([''] + bench_program.table(report['programs']) if 'programs' in report else [])
    )


def _over_shapes(results, ours):
    """A second table: per number of threads and batch size, medians over the shapes."""
    shapes, settings = {}, sorted({(result['threads'], result['batch']) for result in results})
    for result in results:
        medians = {name: summary['median'] for name, summary in result['contestants'].items()}
        int8 = [median for name, median in medians.items() if name.endswith('int8')]
        if int8:
            medians['the best int8'] = min(int8)
        shapes.setdefault((result['threads'], result['batch']), {})[
            tuple(result['shape'])
        ] = medians
    names = list(
        dict.fromkeys(
            name
            for here in shapes.values()
            for medians in here.values()
            for name in medians
            if name != ours
        )
    )
    lines = [
        '| median over the shapes: threads | batch | x ideal | faster than with 1 thread | %s |'
        % (' | '.join(f'faster than {name}' for name in names)),
        '|---' * (4 + len(names)) + '|',
    ]
    for threads, batch in settings:
        here, cells = shapes[threads, batch], []
        for key in ('times_ideal', 'times_one_thread'):
            cells.append(
                '%.2f'
                % np.median(
                    [
                        result['contestants'][ours][key]
                        for result in results
                        if (result['threads'], result['batch']) == (threads, batch)
                    ]
                )
            )
        for name in names:
            ratios = [medians[name] / medians[ours] for medians in here.values() if name in medians]
            cells.append(f'{np.median(ratios):.1f} x' if ratios else '')
        lines.append('| %d | %d | %s |' % (threads, batch, ' | '.join(cells)))
    return lines


def plot(report, path):
    """A chart of the medians: a panel per number of threads and batch size, a group of bars per
    shape, a line at the ideal."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    names = list(
        dict.fromkeys(name for result in report['results'] for name in result['contestants'])
    )
    settings = list(
        dict.fromkeys((result['threads'], result['batch']) for result in report['results'])
    )
    columns = min(2, len(settings))
    figure, panels = pyplot.subplots(
        -(-len(settings) // columns),
        columns,
        squeeze=False,
        sharey=True,
        figsize=(7 * columns, 1 + 4 * -(-len(settings) // columns)),
    )
    for axes, setting in zip(panels.flat, settings):
        results = [
            result
            for result in report['results']
            if (result['threads'], result['batch']) == setting
        ]
        _bars(axes, results, names, next(iter(report['peaks'])))
        axes.set_title('threads: %d, batch: %d' % setting, fontsize=10)
    times = [
        1e3 * seconds
        for result in report['results']
        for summary in result['contestants'].values()
        for seconds in (summary['median'], summary.get('ideal', summary['median']))
    ]
    panels[0, 0].set_ylim(min(times) / 2, max(times) * 2)
    for axes in panels[:, 0]:
        axes.set_ylabel('median, ms per call')
    for axes in panels.flat[len(settings) :]:
        axes.set_visible(False)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='lower center', ncol=len(labels), fontsize=9)
    figure.suptitle('{}, {}'.format(report['cpu'], report['date']))
    figure.tight_layout(rect=(0, 0.06, 1, 0.96))
    figure.savefig(path)
    pyplot.close(figure)


def _bars(axes, results, names, ours):
    axes.set_yscale('log')  # first: bars drawn before would begin at 0
    width, positions = 0.8 / len(names), np.arange(len(results))
    for index, name in enumerate(names):
        heights = [
            1e3 * result['contestants'].get(name, {}).get('median', np.nan) for result in results
        ]
        axes.bar(positions + index * width, heights, width, align='edge', label=name)
    ideals = [1e3 * result['contestants'][ours]['ideal'] for result in results]
    axes.hlines(
        ideals, positions - 0.05, positions + width + 0.05, colors='black', label=f'ideal of {ours}'
    )
    axes.set_xticks(positions + 0.4)
    axes.set_xticklabels([', '.join(map(str, result['shape'])) for result in results], fontsize=8)
    axes.set_xlabel('channels, image height and width, filters, kernel', fontsize=8)
