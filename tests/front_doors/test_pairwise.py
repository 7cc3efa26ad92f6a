"""Every two values of loop, network, learner, source, schedule: an identity equals plain CNTK,
as bytes."""
import collections
import os
import random
from unittest import mock

import cntk as C
import pytest
from cntk.train.training_session import DataUnit

import netopt_callbacks as nc
from pairwise import covering, every_pair, pairs_of
from user_script import LEARNERS, SAMPLES, Identity
from user_sources import Images, Rows, Sequences

SWEEPS = 3
NETWORKS = {'images': Images, 'sequences': Sequences}
MINIBATCHES = {
    '64': lambda: 64,
    '50': lambda: 50,
    'schedule': lambda: C.minibatch_size_schedule([32, 48, 100], 600),
}
AXES = collections.OrderedDict(
    [
        ('loop', ['session', 'hand', 'Function.train']),
        ('network', sorted(NETWORKS)),
        ('learner', sorted(LEARNERS)),
        ('source', ['arrays', 'data', 'ctf', 'composite', 'user', 'user with state']),
        ('frequency', [None, 500, SAMPLES, (7, DataUnit.minibatch), (1, DataUnit.sweep)]),
        ('minibatch', sorted(MINIBATCHES)),
        ('max_samples', [SWEEPS * SAMPLES, 2 * SAMPLES + 300, None]),
        ('cross_validation', [None, 300, (1, DataUnit.sweep)]),
        ('checkpoint', [None, 300, (5, DataUnit.minibatch)]),
        ('preserve_all', [False, True]),
        ('epochs', [(0,), (1, 1, 2), (2,), (SWEEPS,)]),
    ]
)
# What plain CNTK cannot run, or what is not to be run, as pairs of (axis, values).
FORBIDDEN = [
    # Function.train divides a frequency by the minibatch size, and asks for max_samples.
    (('loop', ['Function.train']), ('frequency', [(7, DataUnit.minibatch), (1, DataUnit.sweep)])),
    (('loop', ['Function.train']), ('max_samples', [None])),
    # See `Sequences`; the sources of the user's own hold images.
    (('network', ['sequences']), ('source', ['arrays', 'data', 'user', 'user with state'])),
    # CNTK counts no samples of a UserLearner that comes first, and arrays repeat for ever.
    (('learner', ['user', 'user and sgd']), ('source', ['arrays'])),
    (('max_samples', [2 * SAMPLES + 300]), ('epochs', [(SWEEPS,)])),  # past the end
    (('checkpoint', [None]), ('preserve_all', [True])),
]


def forbidden_pairs():
    order = list(AXES)
    return {
        tuple(sorted(((a, x), (b, y)), key=lambda value: order.index(value[0])))
        for (a, xs), (b, ys) in FORBIDDEN
        for x in xs
        for y in ys
    }


TABLE = covering(AXES, forbidden_pairs())
FAST = sorted(random.Random(1).sample(range(len(TABLE)), 12))


def script_of(row, folder):
    os.makedirs(folder)
    options = {
        name: row[name]
        for name in (
            'learner',
            'source',
            'frequency',
            'max_samples',
            'cross_validation',
            'checkpoint',
            'preserve_all',
        )
    }
    return NETWORKS[row['network']](
        folder=folder, sweeps=SWEEPS, minibatch=MINIBATCHES[row['minibatch']](), **options
    )


# The loops: each returns what it fetched or was returned.


def by_session(row, script, callbacks):
    if callbacks is None:
        return script.run_plain()
    return script.run(callbacks)


def by_function(row, script, callbacks):
    """Function.train, or nc.train with callbacks; the trainer it builds becomes the script's."""
    construct, built = C.Trainer.__init__, []

    def constructor(trainer, *arguments, **options):
        construct(trainer, *arguments, **options)
        if not built:
            script.trainer, script.before = trainer, inside(trainer)
        built.append(trainer)

    arguments = script.arguments
    configs = [
        arguments[name]
        for name in ('checkpoint_config', 'cv_config', 'test_config')
        if name in arguments
    ]
    how = C.Function.train if callbacks is None else nc.train
    with mock.patch.object(C.Trainer, '__init__', constructor):
        summary = how(
            C.combine([script.loss, script.metric]),
            arguments['mb_source'],
            minibatch_size=arguments['mb_size'],
            model_inputs_to_streams=arguments['model_inputs_to_streams'],
            parameter_learners=script.learners,
            max_samples=arguments['max_samples'],
            progress_frequency=arguments['progress_frequency'],
            epoch_size=SAMPLES,
            callbacks=[script.log] + configs + (callbacks or []),
        )
    return [repr(part) for part in (summary.epoch_summaries, summary.updates, summary.test_summary)]


def by_hand(row, script, callbacks):
    if callbacks is None:
        return hand_written(row, script)
    with nc.attach(script.trainer, callbacks, epoch_size=SAMPLES):
        return hand_written(row, script)


def hand_written(row, script):
    """A loop of the user's, with summaries, tests and checkpoints at the frequencies of the row."""
    trainer, fetched = script.trainer, []
    held_out = {script.x: script.images[:90], script.label: script.labels[:90]}
    due = {
        name: Every(trainer, row[name]) for name in ('frequency', 'cross_validation', 'checkpoint')
    }
    for minibatch in minibatches(script):
        _, values = trainer.train_minibatch(minibatch, outputs=[script.z.output])
        fetched.append((values[script.z.output].tobytes(), trainer.previous_minibatch_loss_average))
        if due['checkpoint'].now():
            trainer.save_checkpoint(
                os.path.join(
                    script._folder, 'model%s' % (len(fetched) if row['preserve_all'] else '')
                ),
                {'mine': len(fetched)},
            )
        if due['frequency'].now():
            trainer.summarize_training_progress()
        if due['cross_validation'].now():
            fetched.append(trainer.test_minibatch(held_out))
            trainer.summarize_test_progress()
    return fetched


class Every:
    """A frequency in a hand-written loop.

    Args:
        trainer (cntk.Trainer): counts.
        frequency: of `Script`; None is never.
    """

    def __init__(self, trainer, frequency):
        self._trainer = trainer
        self._count, self._unit = (
            frequency if isinstance(frequency, tuple) else (frequency, DataUnit.sample)
        )
        self._index = 0

    def now(self):
        """Whether it is due after the minibatch just trained."""
        before = self._index
        if self._count:
            self._index = self._trainer.total_number_of_units_seen(self._unit) // self._count
        return self._index != before


def minibatches(script):
    """Yields the arguments of `train_minibatch`, as a user's loop has them."""
    source, size = script.source, script.arguments['mb_size']
    streams, limit = script.arguments['model_inputs_to_streams'], script.arguments['max_samples']
    seen = 0
    while limit is None or seen < limit:
        wanted = size if isinstance(size, int) else size[seen]
        wanted = wanted if limit is None else min(wanted, limit - seen)
        if streams is None:
            start = seen % SAMPLES
            rows = slice(start, min(start + wanted, SAMPLES))
            minibatch = {script.x: source[0][rows], script.label: source[1][rows]}
            seen += rows.stop - rows.start
        else:
            read = (
                source.next_minibatch(wanted, 1, 0)
                if isinstance(source, Rows)
                else source.next_minibatch(wanted)
            )
            if not read:
                return
            minibatch = {variable: read[stream] for variable, stream in streams.items()}
            seen += minibatch[script.label].num_samples
        yield minibatch


LOOPS = {'session': by_session, 'hand': by_hand, 'Function.train': by_function}


def inside(trainer):
    """Returns what a swap exchanges: the C++ trainer and the uids of its graph."""
    return trainer.this, {function.uid for function in nc.graph.walk(trainer.loss_function)}


def left(row, folder, callbacks):
    """Runs a row; returns (the script, all it leaves by name)."""
    script = script_of(row, folder)
    script.before = inside(script.trainer)
    found = LOOPS[row['loop']](row, script, callbacks)
    return script, collections.OrderedDict(
        [
            ('found', found),
            ('events', repr(script.log.events)),
            ('state', script.state()),
            ('files', sorted(name for name in os.listdir(folder) if not name.endswith('.netopt'))),
        ]
    )


def check(row, tmpdir):
    """Runs a row with plain CNTK and with ours, and compares all that is left."""
    script, plain = left(row, str(tmpdir.join('plain')), None)
    assert inside(script.trainer) == script.before
    script, ours = left(
        row, str(tmpdir.join('ours')), [Identity(epoch=epoch) for epoch in row['epochs']]
    )
    for what in plain:
        assert ours[what] == plain[what], (what, row)
    trainer, uids = inside(script.trainer)
    assert trainer is not script.before[0] and not uids & script.before[1]


def test_table_has_every_pair_that_can_be_run():
    covered = set().union(*(pairs_of(row, AXES) for row in TABLE))
    assert covered == every_pair(AXES) - forbidden_pairs()
    assert len(covered) > 1000 and len(TABLE) < 150


def test_forbidden_pairs_are_pairs_of_the_axes():
    assert forbidden_pairs() < every_pair(AXES)


@pytest.mark.few(4)
@pytest.mark.parametrize('number', FAST)
def test_some_rows(number, tmpdir):
    check(TABLE[number], tmpdir)


@pytest.mark.slow
@pytest.mark.parametrize('number', sorted(set(range(len(TABLE))) - set(FAST)))
def test_every_other_row(number, tmpdir):
    check(TABLE[number], tmpdir)
