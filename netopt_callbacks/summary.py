"""Reports in text: what a run did to a network, and what a saved model is made of."""
import argparse
import sys

import numpy as np

from . import count, safe_load
from .table import UNKNOWN, Table


def of_result(result):
    """Returns a run as text: its optimizations, their layers, the whole network, the lowered one.

    Args:
        result (nc.Result): also of a run that was interrupted.
    """
    parts = []
    if not result.complete:
        parts.append('The run did not come to its end; this is how far it came.')
    if result.records:
        parts += [
            _optimizations(result.records),
            _layers(result.records, _float_bytes(result.model)),
        ]
        parts += _remarks(result.records)
    else:
        parts.append('No optimization was applied.')
    if result.model is not None:
        parts.append(_network(result))
    if result.parity is not None:
        parts.append(str(result.parity))
    return '\n\n'.join(parts)


def of_model(model):
    """Returns a table of a model's layers: parameters, multiply-adds, bits, size, break-even rank.

    Args:
        model (cntk.Function): trained, optimized or lowered.
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
        prog='netopt_callbacks summary', description='Lists the layers of a saved CNTK model.'
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


def _optimizations(records):
    table = Table(
        'optimization',
        'epoch',
        'samples',
        'metric before',
        'right after',
        'end of retraining',
        'drop',
        'recovered',
    )
    for record in records:
        table.row(
            record.optimization,
            record.epoch,
            record.samples,
            record.metric_before,
            record.metric_after,
            record.metric_now,
            record.drop,
            _recovered(record.recovered),
        )
    return str(table)


def _layers(records, float_bytes):
    table = Table(
        'optimization',
        'layer',
        'weights',
        'rank',
        'energy',
        'error',
        'parameters',
        'multiply-adds',
        'binary',
        'bytes',
        'left as it was',
    )
    for record in records:
        for note in record.layers:
            table.row(
                record.optimization,
                note.name or '(unnamed)',
                _shape(note.shape),
                note.rank,
                note.energy,
                note.error,
                _change(note, 'parameters'),
                _change(note, 'macs'),
                _percent(_binary_share(note)),
                _sizes(note, float_bytes),
                note.skipped,
            )
    return str(table)


def _remarks(records):
    """Returns what the engine and the optimizations had to say, a line each, as one paragraph
    or none."""
    lines = []
    for record in records:
        lines += [
            '{}, {}: {}'.format(record.optimization, note.name or '(unnamed)', note.message)
            for note in record.layers
            if note.message
        ]
        lines += [f'{record.optimization}: {note}' for note in record.notes]
    return ['\n'.join(lines)] if lines else []


def _network(result):
    """Returns the whole network before the first optimization and after the last."""
    table = Table('network', 'parameters', 'multiply-adds', 'of them 1-bit', 'bytes')
    before = result.records[0].network_before if result.records else None
    for when, totals in (('before', before), ('after', count.whole(result.model))):
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
    return str(table)


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
    """Returns (bytes before, bytes after); only the weights become bits, bias and scales do not."""
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
    """Returns the bytes of one of the model's floats, None where they differ; those of a
    float32 where there is none."""
    sizes = (
        set()
        if model is None
        else {np.dtype(parameter.dtype).itemsize for parameter in model.parameters}
    )
    return None if len(sizes) > 1 else sizes.pop() if sizes else 4


def _recovered(share):
    """Returns a recovered fraction as text; what training won beyond the drop is no recovery."""
    return '>100 %' if share is not None and share > 1 else _percent(share)


def _percent(share):
    return None if share is None else '%.0f %%' % (100 * share)


def _bits(row):
    if not row.parameters:
        return None
    return 1 if row.binary_weights else 8 * row.float_bytes


def _shape(shape):
    return 'x'.join(str(side) for side in shape) or None
