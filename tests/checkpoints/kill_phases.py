"""Where the runs of `test_kills` are killed."""
import collections
import functools
import os
import signal

import netopt_callbacks as nc
from netopt_callbacks.checkpoints.generations import Generations
from netopt_callbacks.engine import network
from netopt_callbacks.engine.engine import Engine
from netopt_callbacks.engine.phases import Phases
from netopt_callbacks.engine.segments import Segments
from netopt_callbacks.evaluation import held_out
from netopt_callbacks.readers import readers
from netopt_callbacks.trainers import learner_facts

SAID = b'KILLED\n'


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

    def environment(self, count, library):
        """Returns what makes `kill_points.cpp`, compiled to `library`, do the same."""
        return {
            'LD_PRELOAD': library,
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
