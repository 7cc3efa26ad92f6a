"""Times the binary part of BinaryNet-CIFAR as one native.Program against the limit of the machine's
arithmetic.

    limit = binary multiply-adds / peak / threads

BinaryNet (Courbariaux et al., 2016, arXiv:1602.02830) without its first convolution and its last
Dense, which stay float: five 3x3 convolutions, three max poolings, two Dense layers; float32 in,
what the last Dense reads out. The peak is measured between the timed calls, and a call is compared
with the limit of its own round.
"""
import numpy as np

from netopt_callbacks import bench_peers, native

NAME = 'BinaryNet-CIFAR, binary part'
INPUT = (128, 32, 32)
# Convolutions as (filters, pooled after), then Dense layers by outputs.
CONVOLUTIONS = ((128, True), (256, False), (256, True), (512, False), (512, True))
DENSE = (1024, 1024)


def network(random, shape=INPUT, convolutions=CONVOLUTIONS, dense=DENSE):
    """A program's ops with random weights and thresholds, the name of what they give, and
    binary multiply-adds of an image."""
    channels, height, width = shape
    ops, at, macs = (
        [
            dict(
                op='pack',
                input='x',
                bits='b0',
                threshold=random.randn(channels).astype(np.float32) / 4,
            )
        ],
        'b0',
        0,
    )
    for filters, pooled in convolutions:
        weights = random.randn(filters, channels, 3, 3).astype(np.float32)
        ops.append(
            dict(
                op='convolution',
                input=at,
                bits=f'b{len(ops)}',
                weights=weights,
                padding=((1, 1), (1, 1)),
                **_thresholds(random, filters, channels * 9),
            )
        )
        macs, channels, at = macs + weights.size * height * width, filters, ops[-1]['bits']
        if pooled:
            ops.append(
                dict(op='or_pool', input=at, bits=f'b{len(ops)}', kernel=(2, 2), strides=(2, 2))
            )
            height, width, at = height // 2, width // 2, ops[-1]['bits']
    image = (channels, height, width)
    for index, outputs in enumerate(dense):
        weights = random.randn(int(np.prod(image)), outputs).astype(np.float32)
        ending = _thresholds(random, outputs, weights.shape[0])
        if index == len(dense) - 1:
            ending = dict(
                steps=[
                    ('multiply', random.rand(outputs).astype(np.float32)),
                    ('add', random.randn(outputs).astype(np.float32)),
                    ('relu',),
                ]
            )
        ops.append(dict(op='dense', input=at, weights=weights, image=image, **ending))
        ops[-1]['values' if 'steps' in ending else 'bits'] = at = f'b{len(ops)}'
        macs, image = macs + weights.size, (outputs, 1, 1)
    return ops, at, macs


def _thresholds(random, filters, length):
    return dict(
        sum_threshold=(random.randn(filters) * length**0.5 / 2).astype(np.int64),
        sum_decreasing=random.rand(filters) < 0.3,
    )


def naive(ops, x):
    """What the last op of such a program gives, in float64, which is exact for these sizes."""
    signs = x > ops[0]['threshold'][:, None, None]
    for op in ops[1:]:
        if op['op'] == 'or_pool':
            batch, channels, height, width = signs.shape
            signs = signs.reshape(batch, channels, height // 2, 2, width // 2, 2).any(axis=(3, 5))
            continue
        values = np.where(signs, 1.0, -1.0)
        if op['op'] == 'convolution':
            padded = np.pad(values, ((0, 0), (0, 0), (1, 1), (1, 1)), mode='constant')
            w, (height, width) = np.where(op['weights'] > 0, 1.0, -1.0), values.shape[2:]
            dots = sum(
                np.tensordot(
                    w[:, :, i, j], padded[:, :, i : i + height, j : j + width], axes=([1], [1])
                )
                for i in range(3)
                for j in range(3)
            ).transpose(1, 0, 2, 3)
        else:
            dots = values.reshape(len(x), -1).dot(np.where(op['weights'] > 0, 1.0, -1.0))
        if 'steps' in op:
            (_, scale), (_, bias), _ = op['steps']
            return np.maximum(dots.astype(np.float32) * scale + bias, np.float32(0))
        per_filter = (-1,) + (1,) * (dots.ndim - 2)
        threshold, decreasing = op['sum_threshold'].reshape(per_filter), op[
            'sum_decreasing'
        ].reshape(per_filter)
        signs = np.where(decreasing, dots < threshold, dots > threshold)


def measure(batches=(1, 8), threads=(1, 2), rounds=30, progress=lambda line: None, **sizes):
    """Measures all combinations on the best implementation.

    Returns:
        list of dicts with `name`, `implementation`, `batch`, `threads`, `binary_macs`, `median`,
        `low`, `high`, `least` and `limit` in seconds (medians and quartiles over the rounds),
        `times_limit` (the median of each round's ratio) and
        `least_times_limit` (the least call against the least limit: of a machine that others use
            too).

    Raises:
        RuntimeError: the program computes something else than `naive`.
    """
    random = np.random.RandomState(0)
    ops, output, macs = network(random, **sizes)
    name, channels = native.implementations()[0], ops[0]['threshold'].size
    shape = sizes.get('shape', INPUT)
    program, results = native.Program(ops, dict(x=shape), [output], implementation=name), []
    before = native.num_threads()
    try:
        for count in threads:
            native.set_num_threads(count)
            for batch in batches:
                progress(f'{NAME} batch {batch} threads {count}')
                x = random.randn(batch, channels, *shape[1:]).astype(np.float32)
                if not np.array_equal(program(x)[:1], naive(ops, x[:1])):
                    raise RuntimeError(
                        f'{name} computes a wrong program for a batch of {batch}; nothing was timed'
                    )
                results.append(
                    dict(
                        name=NAME,
                        implementation=name,
                        batch=batch,
                        threads=count,
                        binary_macs=batch * macs,
                        **_timed(program, x, batch * macs / count, name, rounds),
                    )
                )
    finally:
        native.set_num_threads(before)
    return results


def _timed(program, x, macs, name, rounds):
    out, times, limits = program(x), [], []
    for _ in range(rounds):
        times.append(bench_peers.warm_seconds(lambda: program(x, out=out)))
        limits.append(macs / native.peak(name, 0.001))
    low, median, high = np.percentile(times, [25, 50, 75])
    return dict(
        median=float(median),
        low=float(low),
        high=float(high),
        least=float(min(times)),
        limit=float(np.median(limits)),
        times_limit=float(np.median(np.divide(times, limits))),
        least_times_limit=float(min(times) / min(limits)),
    )


def table(results):
    """The results as lines of a Markdown table."""
    lines = [
        '| program | implementation | batch | threads | median ms | quartiles | least | limit | x '
        'limit | least x limit |',
        '|---' * 10 + '|',
    ]
    for one in results:
        lines.append(
            '| %s | %s | %d | %d | %.3f | %.3f to %.3f | %.3f | %.3f | %.2f | %.2f |'
            % (
                one['name'],
                one['implementation'],
                one['batch'],
                one['threads'],
                one['median'] * 1e3,
                one['low'] * 1e3,
                one['high'] * 1e3,
                one['least'] * 1e3,
                one['limit'] * 1e3,
                one['times_limit'],
                one['least_times_limit'],
            )
        )
    return lines
