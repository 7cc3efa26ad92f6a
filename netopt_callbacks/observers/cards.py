"""Writes the Markdown texts of a run for TensorBoard: plan, card of each optimization, result."""
import platform

import cntk as C
import numpy as np

from .. import __version__, recovery_text, summary
from ..table import Table


def plan(run):
    """Returns the plan of a run.

    Args:
        run (Run): as an observer receives it.
    """
    callbacks = Table('callback', 'options')
    for name, options in run.callbacks:
        callbacks.row(name, ', '.join(f'{option}={value}' for option, value in options.items()))
    facts = Table('', '')
    for name, value in _facts(run):
        facts.row(name, value)
    said = ['**Plan**' if not run.samples else f'**Resumed after {run.samples:,} samples**']
    return '\n\n'.join(said + [callbacks.markdown(), facts.markdown()])


def _facts(run):
    epochs = 'sweeps of the minibatch source'
    if run.epoch_size:
        epochs = f'{run.epoch_size:,} samples each'
        if run.max_samples:
            epochs = f'{run.max_samples / run.epoch_size:.4g} of ' + epochs
    yield 'epochs', epochs
    yield 'metric', '{}, {} is better'.format(
        run.metric_name, 'larger' if run.larger_is_better else 'smaller'
    )
    if run.has_held_out:
        yield 'recovery curve', f'recovery/metric is {run.metric_name} on the held-out data'
    else:
        yield 'recovery curve', (
            'none: this run has no held-out data to measure it on. Give data=(inputs, labels), or '
            'a cross-validation source, to nc.training_session, nc.attach or nc.train'
        )
    if run.baseline is not None:
        yield 'baseline', f'recovery/baseline, {run.baseline.source}'
    yield 'parameters', run.parameters
    yield 'multiply-adds', run.macs
    yield 'bytes', run.bytes
    yield 'versions', (
        f'netopt_callbacks {__version__}, CNTK {C.__version__}, NumPy {np.__version__}, Python '
        f'{platform.python_version()}'
    )
    yield 'machine', f'{_cpu()}, {platform.system()} {platform.machine()}'


def _cpu():
    try:
        from .. import native_machine
    except ImportError:  # the extension is not built: a run without Lower does not need it
        return platform.processor() or 'unknown processor'
    return f'{native_machine.cpu_name()}, {native_machine.num_threads()} threads for native code'


def of_optimization(record, names):
    """Returns the card of an optimization, as it is right after the optimization.

    Args:
        record (nc.Record): of the optimization.
        names (list of str): its layers, named as in tags.
    """
    said = [f'**{record.optimization}** after epoch {record.epoch} ({record.samples:,} samples)']
    if record.drop is not None:
        said.append(
            f'held-out metric {record.metric_before:.6g} before, {record.metric_after:.6g} right '
            f'after: drop {record.drop:.6g}'
        )
    said += filter(None, [recovery_text.chance(record)])
    improving = recovery_text.improving_before(record)
    if improving:
        said.append(improving + '.')
    table = Table(
        'layer',
        'shape',
        'rank',
        'energy',
        'error',
        'parameters',
        'multiply-adds',
        'bits per weight',
        'left as it was',
    )
    for name, note in zip(names, record.layers):
        table.row(
            name,
            'x'.join(str(side) for side in note.shape),
            note.rank,
            note.energy,
            note.error,
            (note.parameters_before, note.parameters_after),
            (note.macs_before, note.macs_after),
            note.bits_after if note.skipped is None else None,
            note.skipped,
        )
    said += [f'{name}: {note.message}' for name, note in zip(names, record.layers) if note.message]
    return '\n\n'.join(said + list(record.notes) + [table.markdown()])


def of_result(result):
    """Returns the card of a run that has ended.

    Args:
        result (nc.Result): may belong to an interrupted run.
    """
    said = ['**Result**']
    if not result.complete:
        said.append('The run did not come to its end; this is how far it came.')
    if result.records:
        if result.records[-1].metric_now is not None:
            said.append(f'held-out {result.metric_name}: {result.records[-1].metric_now:.6g}')
        said.append(summary.optimizations(result.records, result.baseline).markdown())
        for each in result.records:
            said += filter(
                None, [recovery_text.chance(each), recovery_text.improving(each, result.baseline)]
            )
    else:
        said.append('No optimization was applied.')
    if result.model is not None:
        said.append(summary.network(result).markdown())
    said.append(summary.ratios(result))
    if result.parity is not None:
        said.append('```\n%s\n```' % result.parity)
    if result.seconds:
        seconds = Table('seconds in netopt_callbacks', '')
        for name, value in result.seconds.items():
            seconds.row(name, f'{value:.2f}')
        seconds.row('in all', f'{sum(result.seconds.values()):.2f}')
        said.append(seconds.markdown())
    return '\n\n'.join(filter(None, said))
