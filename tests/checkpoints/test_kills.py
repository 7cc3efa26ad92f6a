"""kill -9 in every phase of a run, then the same script again: as bytes, as if never killed.

`PHASES` names where. A point in Python is a method that is wrapped; one in CNTK's C++, or in
the middle of a file, is a call of the file system that `kill_points.cpp` interposes. A run that
is to be killed and is not fails the test.
"""
import collections
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys

import cntk as C
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import kill_points
import netopt_callbacks as nc
from netopt_callbacks.checkpoints.generations import Generations
from netopt_callbacks.engine import network
from netopt_callbacks.engine.engine import Engine
from netopt_callbacks.engine.phases import Phases
from netopt_callbacks.engine.segments import Segments
from netopt_callbacks.evaluation import held_out
from netopt_callbacks.readers import readers
from netopt_callbacks.trainers import learner_facts
from paths import PYTHONPATH
from user_script import Identity, Script, hidden

SAID = b'KILLED\n'


def factor(**options):
    return nc.FactorDense(epoch=1, rank=4, filter_function=hidden, **options)


def binarize():
    return nc.BinarizeConvolution(epoch=2, filter_function=lambda layer: True)


def adam(parameters):
    return C.adam(parameters, C.learning_parameter_schedule(0.01), 0.9)


# name: (options of the Script, callbacks). Minibatches of 64 end an epoch with the 11th and
# the 22nd, inside a checkpoint's interval; those of 50 with the 14th and the 28th, on one.
RUNS = {
    'overwritten': (dict(checkpoint=300), lambda: [factor(), binarize()]),
    'preserved': (
        dict(checkpoint=300, preserve_all=True, learner='adam'),
        lambda: [factor(), Identity(epoch=2)],
    ),
    'at the boundary': (
        dict(checkpoint=350, minibatch=50, source='ctf'),
        lambda: [factor(learner=adam), binarize()],
    ),
}


class Point:
    """Where a process is to end.

    Args:
        owner, method: what is wrapped, before or after (`when`) it has run; or, with
            `owner` None, a call of the file system on a path that matches `pattern`.
    """

    def __init__(self, owner, method, when, pattern=None):
        self.owner = owner
        self.method = method
        self.when = when
        self.pattern = pattern

    def wrap(self, count):
        """Makes the `count`-th call of the method the last thing this process does."""
        original = getattr(self.owner, self.method)
        left = [count]

        @functools.wraps(original)
        def method(*arguments, **options):
            left[0] -= 1
            if left[0] == 0 and self.when == 'before':
                die()
            value = original(*arguments, **options)
            if left[0] == 0:
                die()
            return value

        setattr(self.owner, self.method, method)

    def environment(self, count):
        """Returns what makes `kill_points.cpp` do the same."""
        return {
            'LD_PRELOAD': _library(),
            'NETOPT_KILL_POINT': ':'.join([self.method, self.when, str(count), self.pattern]),
        }


def die():
    os.write(2, SAID)
    os.kill(os.getpid(), signal.SIGKILL)


def in_file(call, when, name):
    return Point(None, call, when, '*/model' + name)


# name: (point, kills). A kill is (run, count); those of one phase follow each other in one
# folder, so that what is killed is also a run that was killed before.
PHASES = collections.OrderedDict(
    [
        (
            'training',
            (
                Point(Engine, 'after_minibatch', 'before'),
                [
                    ('overwritten', (3, 11, 13)),
                    ('preserved', (6, 12)),
                    ('at the boundary', (14, 8, 15)),
                ],
            ),
        ),
        (
            'measuring at a swap',
            (
                Point(held_out.Measure, '__call__', 'after'),
                [('overwritten', (2, 3, 2)), ('preserved', (3, 4))],
            ),
        ),
        (
            'between measuring and swap',
            (
                Point(Engine, 'fire', 'before'),
                [('overwritten', (1, 2)), ('at the boundary', (1, 2))],
            ),
        ),
        (
            'transform',
            (
                Point(nc.graph, 'replace', 'after'),  # called by checks before training, too
                [('overwritten', (3, 4, 2)), ('preserved', (2, 2))],
            ),
        ),
        (
            'transformed, not yet planned',
            (Point(network, 'planned', 'before'), [('overwritten', (1, 2)), ('preserved', (1, 2))]),
        ),
        (
            'swap',
            (
                Point(readers.Readers, 'follow', 'before'),
                [('overwritten', (1, 2, 3)), ('preserved', (2, 3))],
            ),
        ),
        (
            'rebuilding learners',
            (
                Point(learner_facts, 'rebuild', 'before'),
                [('overwritten', (1, 2)), ('preserved', (1, 2))],
            ),
        ),
        (
            'swapped, not yet recorded',
            (
                Point(network.Network, 'commit', 'after'),
                [('overwritten', (1, 2)), ('at the boundary', (1, 2))],
            ),
        ),
        (
            'recorded, not yet told',
            (Point(Phases, 'write', 'after'), [('overwritten', (4, 5)), ('preserved', (5, 3))]),
        ),
        (
            'told, not yet handed over',
            (
                Point(Engine, 'fire', 'after'),
                [('overwritten', (1, 2)), ('at the boundary', (1, 1))],
            ),
        ),
        (
            'hand-over',
            (
                Point(Segments, '_save_for_next', 'after'),
                [('overwritten', (1, 1)), ('preserved', (1, 1)), ('at the boundary', (2,))],
            ),
        ),
        (
            'restored after the hand-over',
            (
                Point(Segments, 'started', 'before'),
                [('preserved', (2, 2)), ('at the boundary', (3,))],
            ),
        ),
        (
            'end of training',
            (Point(Engine, 'finish', 'before'), [('overwritten', (1, 1)), ('preserved', (1, 1))]),
        ),
        (
            'manifest half written',
            (
                in_file('write', 'half', '.netopt/phase-*.tmp'),
                [('overwritten', (1, 3, 4)), ('preserved', (2, 3))],
            ),
        ),
        (
            'manifest before its rename',
            (
                in_file('rename', 'before', '.netopt/phase-*.json'),
                [('overwritten', (2, 4)), ('preserved', (3, 3))],
            ),
        ),
        (
            'manifest after its rename',
            (
                in_file('rename', 'after', '.netopt/phase-*.json'),
                [('overwritten', (4, 4)), ('at the boundary', (4, 5))],
            ),
        ),
        (
            'graph half written',
            (in_file('write', 'half', '*.tmp'), [('overwritten', (7, 9)), ('preserved', (9, 13))]),
        ),
        (
            'learner state half written',
            (
                in_file('write', 'half', '*.ckp.tmp'),
                [('overwritten', (1, 6)), ('preserved', (1, 5, 7)), ('at the boundary', (2,))],
            ),
        ),
        (
            'before the unlinks',
            (in_file('unlink', 'before', ''), [('overwritten', (1, 3)), ('at the boundary', (4,))]),
        ),
        (
            'between the unlinks',
            (
                in_file('unlink', 'after', ''),
                [('overwritten', (1, 3, 3)), ('at the boundary', (4,))],
            ),
        ),
        (
            'between unlinks and renames',
            (
                in_file('unlink', 'after', '.ckp'),
                [('overwritten', (2, 3)), ('at the boundary', (4,))],
            ),
        ),
        (
            'between the renames',
            (in_file('rename', 'after', ''), [('overwritten', (1, 3, 4)), ('preserved', (1, 1))]),
        ),
        (
            'after the renames',
            (in_file('rename', 'after', '.ckp'), [('overwritten', (1, 4)), ('preserved', (1,))]),
        ),
        (
            'the pair before kept, nothing written',
            (
                Point(Generations, 'begin', 'after'),
                [('overwritten', (1, 3, 4)), ('preserved', (2, 5))],
            ),
        ),
        (
            'written, not known whole',
            (
                Point(Generations, 'done', 'before'),
                [('overwritten', (1, 2, 3)), ('preserved', (1, 2, 4)), ('at the boundary', (2, 2))],
            ),
        ),
        (
            'known whole, the pair before not let go',
            (
                Point(Generations, 'settle', 'before'),
                [('overwritten', (2, 3, 5)), ('preserved', (3, 4))],
            ),
        ),
        (
            'preserve_all: between the renames',
            (in_file('rename', 'after', '[0-9]'), [('preserved', (1, 3, 2))]),
        ),
        (
            'preserve_all: hand-over half written',
            (in_file('write', 'half', '.ckp.tmp'), [('preserved', (2, 3, 3))]),
        ),
        (
            'preserve_all: hand-over half removed',
            (in_file('unlink', 'after', ''), [('preserved', (2, 2, 4))]),
        ),
    ]
)
KILLS = [
    (phase, run, count)
    for phase, (_, chains) in PHASES.items()
    for run, counts in chains
    for count in counts
]


def main(folder, name, phase, count):
    """Runs the script in `folder`; prints what it leaves."""
    options, callbacks = RUNS[name]
    script = Script(folder=folder, sweeps=3, test=False, cross_validation=0, **options)
    if phase and PHASES[phase][0].owner is not None:
        PHASES[phase][0].wrap(int(count))
    board = nc.TensorBoard(os.path.join(folder, 'board'), every=1)
    script.run(callbacks() + [board], data=script.held_out)
    records = [record.to_dict() for record in script.session.result.records]
    print('OUTCOME ' + json.dumps([script.state().hex(), records]))


@functools.lru_cache(None)
def _library():
    return kill_points.compiled(_folder())


_folders = []


def _folder():
    return _folders[0]


@pytest.fixture(scope='module', autouse=True)
def folder(tmpdir_factory):
    """The folder of this module's library and of the runs that nobody kills."""
    _folders[:] = [str(tmpdir_factory.mktemp('kills'))]
    return _folders[0]


def start(folder, name, phase='', count=0):
    """Runs `main` in a new process; returns what it printed, or None where it was killed."""
    environment = dict(os.environ, PYTHONPATH=PYTHONPATH)
    if phase and PHASES[phase][0].owner is None:
        environment.update(PHASES[phase][0].environment(count))
    command = [
        sys.executable,
        '-W',
        'ignore',
        os.path.abspath(__file__),
        folder,
        name,
        phase,
        str(count),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    if done.returncode == -signal.SIGKILL and done.stderr.endswith(SAID):
        return None
    assert done.returncode == 0, done.stderr.decode(errors="replace")[:3000]
    return next(line for line in done.stdout.decode().splitlines() if line.startswith('OUTCOME'))


def points(folder):
    """Returns {tag: [(step, value)]} as TensorBoard shows them.

    Left out: the speed of training, and the flip ratio, whose first point after a resume is missing
    because no checkpoint holds the signs of the epoch before.
    """
    board = EventAccumulator(os.path.join(folder, 'board'), size_guidance={'scalars': 0})
    board.Reload()
    return {
        tag: [(event.step, event.value) for event in board.Scalars(tag)]
        for tag in board.Tags()['scalars']
        if tag != 'train/samples_per_second' and not tag.endswith('/flip_ratio')
    }


def left(folder, printed):
    """Returns all that a finished run leaves: outcome, TensorBoard points, checkpoint files."""
    names = sorted(name for name in os.listdir(folder) if name.startswith('model'))
    last = C.load_model(os.path.join(folder, 'model'))
    values = hashlib.sha1(b''.join(p.value.tobytes() for p in last.parameters)).hexdigest()
    return collections.OrderedDict(
        [
            ('outcome', printed),
            ('points', points(folder)),
            ('files', names),
            ('checkpoint', values),
            # The rest of a name tells the run: one that was killed before its first checkpoint is
            # another.
            (
                'folder',
                sorted(
                    {
                        name.split('.')[0]
                        for name in os.listdir(os.path.join(folder, 'model.netopt'))
                    }
                ),
            ),
        ]
    )


@functools.lru_cache(None)
def never_killed(name):
    folder = os.path.join(_folder(), 'never killed', name)
    os.makedirs(folder)
    return left(folder, start(folder, name))


def check(folder, name, kills):
    """Kills a run at each (phase, count), one after the other, and compares its end."""
    for phase, count in kills:
        assert (
            start(folder, name, phase, count) is None
        ), f'the run ended, and was never at {phase!r} for the time number {count}'
    ours, expected = left(folder, start(folder, name)), never_killed(name)
    for what in expected:
        assert ours[what] == expected[what], what


def test_phases_are_hit_often_enough():
    """Each kill of `KILLS` is made by the tests below, which fail where one does not hit."""
    hits = collections.Counter(phase for phase, _, _ in KILLS)
    assert min(hits.values()) >= 3, hits
    assert sum(hits.values()) >= 50


@pytest.mark.slow
@pytest.mark.parametrize(
    'phase, name, counts',
    [(phase, name, counts) for phase, (_, chains) in PHASES.items() for name, counts in chains],
)
def test_killed_in_a_phase(phase, name, counts, tmpdir):
    check(str(tmpdir), name, [(phase, count) for count in counts])


@pytest.mark.few(1)
# One kill in each of some phases of one run: what `make test` has time for.
@pytest.mark.parametrize(
    'name, kills',
    [
        ('preserved', [('swap', 3), ('restored after the hand-over', 2)]),
        (
            'overwritten',
            [
                ('learner state half written', 1),
                ('between the unlinks', 1),
                ('rebuilding learners', 1),
                ('manifest before its rename', 4),
                ('between the renames', 3),
                ('written, not known whole', 1),
            ],
        ),
    ],
)
def test_killed_in_some_phases(name, kills, tmpdir):
    check(str(tmpdir), name, kills)


if __name__ == '__main__':
    main(*sys.argv[1:])
