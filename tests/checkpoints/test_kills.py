"""kill -9 in every phase of a run, then the same script again: as bytes, as if never killed.

`kill_phases.PHASES` names where. A point in Python is a method that is wrapped; one in CNTK's C++,
or in the middle of a file, is a call of the file system that `kill_points.cpp` interposes. A run
that is to be killed and is not fails the test.
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
from kill_phases import PHASES, SAID
from paths import PYTHONPATH
from user_script import Identity, Script, hidden


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
        environment.update(PHASES[phase][0].environment(count, _library()))
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
