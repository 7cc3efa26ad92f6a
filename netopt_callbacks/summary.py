"""Reports as text what a run did to a network, and what a saved model consists of."""
import argparse
import sys

import numpy as np

from . import count, recovery_text, safe_load
from .table import UNKNOWN, Table, wrapped


WIDTH = 100


def of_result(result):
    """Returns the report of a run as text.

    The parts are: the optimizations, their layers, the whole network, the lowered network, and the
    ratios.

    Args:
        result (nc.Result): may belong to an interrupted run.
    """
    parts = []
    if not result.complete:
        why = f'has not ended: {result.awaits}' if result.awaits else 'did not come to its end'
        parts.append(f'The run {why}; this is how far it came.')
    if result.records:
        parts += [_metric_line(result), optimizations(result.records, result.baseline)]
        for record in result.records:
            parts += [
                recovery_text.chance(record),
                recovery_text.improving(record, result.baseline),
            ]
        parts += [_layers(record, _float_bytes(result.model)) for record in result.records]
    else:
        parts.append('No optimization was applied.')
    if result.model is not None:
        parts.append(network(result))
    if result.parity is not None:
        parts.append(str(result.parity))
    parts.append(ratios(result))
    return '\n\n'.join(_fitted(part) for part in parts if part)


def of_record(record):
    """Returns one `nc.Record` as text."""
    parts = [optimizations([record], None), recovery_text.chance(record)]
    parts += [recovery_text.improving(record, None), _layers(record, None)]
    return '\n\n'.join(_fitted(part) for part in parts if part)


def _fitted(part):
    return part.fitted(WIDTH) if isinstance(part, Table) else wrapped(part, WIDTH)


def of_model(model):
    """Returns a table of a model's layers: parameters, multiply-adds, bits, size, break-even rank.

    Args:
        model (cntk.Function): a trained, optimized or lowered model.
    """
    table = Table(
        'layer',
        'kind',
        'weights',
        'parameters',
        'frozen',
        'multiply-adds',
        'bits',
        'bytes',
        'saves up to rank',
    )
    rows = count.rows(model)
    for row in rows:
        table.row(
            row.name or '(unnamed)',
            row.kind,
            _shape(row.shape),
            _known(row.parameters),
            row.frozen or None,
            _known(row.macs),
            _bits(row),
            _known(row.bytes),
            row.break_even_rank,
        )
    parameters, frozen, macs, size = (
        count.total(getattr(row, name) for row in rows)
        for name in ('parameters', 'frozen', 'macs', 'bytes')
    )
    table.row(
        'total', '', '', _known(parameters), frozen or None, _known(macs), '', _known(size), None
    )
    return str(table)


def main(argv=None):
    """Runs `python -m netopt_callbacks summary MODEL`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m netopt_callbacks summary',
        description='Lists the layers of a saved CNTK model.',
    )
    parser.add_argument('model', help='a file written by Function.save')
    arguments = parser.parse_args(argv)
    try:
        model = safe_load.load_model(arguments.model)
    except (RuntimeError, ValueError, OSError) as error:
        lines = str(error).strip().splitlines()
        sys.stderr.write(
            '%s is no CNTK model that can be loaded: %s\n'
            % (arguments.model, lines[0] if lines else type(error).__name__)
        )
        return 1
    sys.stdout.write(of_model(model) + '\n')
    return 0


def _metric_line(result):
    if result.records[-1].metric_now is None:
        return None
    return 'Held-out {}, {} is better{}:'.format(
        result.metric_name or 'metric',
        'larger' if result.records[-1].larger_is_better else 'smaller',
        ''
        if result.baseline is None
        else f', beside the run without optimizations ({result.baseline.source})',
    )


def optimizations(records, baseline):
    """Returns a table of the metric before and after each optimization.

    Args:
        records (list of nc.Record): in the order applied.
        baseline (nc.Baseline): the curve of a run without optimizations, or None.
    """
    table = Table(
        'optimization',
        'epoch',
        'before',
        'after',
        'worst',
        'end',
        'baseline',
        'drop',
        'recovered',
        'in epochs',
    )
    for record in records:
        table.row(
            record.optimization,
            record.epoch,
            record.metric_before,
            record.metric_after,
            record.worst and record.worst[1],
            record.metric_now,
            baseline and record.curve and baseline.at(record.curve[-1][0]) or None,
            record.drop,
            recovery_text.share(record),
            recovery_text.epochs(record),
        )
    return table


def _layers(record, float_bytes):
    table = Table(
        'layer',
        'weights',
        'rank',
        'energy',
        'error',
        'parameters',
        'multiply-adds',
        'binary',
        'bytes',
    )
    for note in record.layers:
        table.row(
            _short(note.name),
            _shape(note.shape),
            note.rank,
            note.energy,
            note.error,
            _change(note, 'parameters'),
            _change(note, 'macs'),
            _percent(_binary_share(note)),
            _sizes(note, float_bytes),
        )
    parts = [f'{record.optimization} after epoch {record.epoch} ({record.samples:,} samples):']
    if record.layers:
        parts.append(table.fitted(WIDTH))
    return '\n'.join(parts + [f'* {remark}' for remark in remarks(record)])


def remarks(record):
    """Returns why layers were left unchanged, and the notes of the optimization and the engine.

    Returns:
        list of str: one line each.
    """
    lines = []
    for note in record.layers:
        if note.skipped is not None:
            lines.append(f'{_short(note.name)} was left as it was: {note.skipped}')
        if note.message:
            lines.append(f'{_short(note.name)}: {note.message}')
    return lines + list(record.notes)


def network(result):
    """Returns a table of the whole network before the first optimization and after the last."""
    table = Table('network', 'parameters', 'multiply-adds', 'of them 1-bit', 'bytes')
    for when, totals in zip(('before', 'after'), _before_and_after(result)):
        if totals is None:
            table.row(when, None, None, None, None)
        else:
            table.row(
                when,
                _known(totals.parameters),
                _known(totals.macs),
                _share(totals.binary_macs, totals.macs),
                _known(totals.bytes),
            )
    return table


def _before_and_after(result):
    before = result.records[0].network_before if result.records else None
    return before, None if result.model is None else count.whole(result.model)


def ratios(result):
    """Returns a sentence that compares the network with that before the first optimization.

    It also says for which calls the lowered network is slower. None if there is nothing to compare.
    """
    before, after = _before_and_after(result)
    said = []
    if before is not None and after is not None:
        for field, less, more, same in (
            ('parameters', 'fewer parameters', 'MORE parameters', 'as many parameters'),
            ('macs', 'fewer multiply-adds', 'MORE multiply-adds', 'as many multiply-adds'),
            ('bytes', 'smaller in bytes', 'LARGER in bytes', 'as large in bytes'),
        ):
            old, new = getattr(before, field), getattr(after, field)
            if old and new and old != new:
                said.append(_times(old, new, less, more, same))
    speed = getattr(result.parity, 'speed', None)
    timings = speed.timings if speed is not None else []
    for timing in timings:
        said.append(
            _times(timing.float_seconds, timing.lowered_seconds, 'faster', 'SLOWER', 'as fast')
            + ' with {} a call'.format(
                '1 sample' if timing.samples == 1 else f'{timing.samples:,} samples'
            )
        )
    slow = ' and '.join(f'{timing.samples:,}' for timing in timings if not timing.pays)
    if slow:
        said[-1] += f'. Lowering does not pay on this machine for calls of {slow}'
    return 'In all: {}.'.format(', '.join(said)) if said else None


def _times(before, after, less, more, same):
    ratio, word = (before / after, less) if before >= after else (after / before, more)
    said = f'{ratio:.1f}' if ratio >= 1.1 else f'{ratio:.2f}'
    return same if said == '1.00' else f'{said} x {word}'


def _short(name):
    """Returns the name of a layer in at most 40 characters."""
    name = name or '(unnamed)'
    return name if len(name) <= 40 else name[:18] + '...' + name[-19:]


def _known(number):
    return UNKNOWN if number is None else number


def _share(binary, macs):
    return _percent(binary / macs) if binary and macs else None


def _change(note, what):
    before = getattr(note, what + '_before')
    return before if note.skipped is not None else (before, getattr(note, what + '_after'))


def _binary_share(note):
    if note.skipped is not None or not note.binary_macs_after or not note.macs_after:
        return None
    return note.binary_macs_after / note.macs_after


def _sizes(note, float_bytes):
    """Returns (bytes before, after); only weights become bits, biases and scales do not."""
    float_bytes = note.float_bytes or float_bytes
    if note.parameters_before is None or float_bytes is None:
        return None, None
    before = count.size_bytes(note.parameters_before, 0, float_bytes)
    if note.skipped is not None:
        return before, before
    if note.parameters_after is None:
        return before, None
    bits = int(np.prod(note.shape)) if note.bits_after == 1 else 0
    return before, count.size_bytes(note.parameters_after, bits, float_bytes)


def _float_bytes(model):
    """Returns the size in bytes of the model's floats.

    It is None if they differ in size, and that of a float32 if there are none.
    """
    sizes = (
        set()
        if model is None
        else {np.dtype(parameter.dtype).itemsize for parameter in model.parameters}
    )
    return None if len(sizes) > 1 else sizes.pop() if sizes else 4


def _percent(share):
    return None if share is None else '%.0f %%' % (100 * share)


def _bits(row):
    if not (row.parameters or row.frozen):
        return None
    return 1 if row.binary_weights else 8 * row.float_bytes


def _shape(shape):
    return 'x'.join(str(side) for side in shape) or None
