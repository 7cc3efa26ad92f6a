"""Event files of earlier runs: damaged ones keep no run from starting, and no clock scrambles a
curve."""
import os
import shlex
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.util import tensor_util
from tensorboardX import SummaryWriter

import netopt_callbacks as nc
from netopt_callbacks.count import Totals
from netopt_callbacks.observers import event_file, event_records, tensorboard
from netopt_callbacks.observers.base import Evaluation, Run
from netopt_callbacks.observers.event_file import Clock, EventFile, file_name
from slices import few
from test_observers import curve, read


def run(folder, start, stop):
    """Tells a board of samples start + 100, ... stop, each the value of its step."""
    board = nc.TensorBoard(folder, every=1)
    board.on_start(Run(samples=start))
    for samples in range(start + 100, stop + 1, 100):
        board.on_minibatch(samples, samples / 1000.0, None)
        board.on_evaluation(Evaluation('epoch', samples, samples // 100, samples / 1000.0))
    board.close()


def only_file(folder):
    (name,) = os.listdir(str(folder))
    return str(folder / name)


@pytest.mark.parametrize('step', few([3, 39], 39))
def test_a_flipped_bit_anywhere_is_a_warning_at_most(step, tmp_path):
    """One bit in every `step`-th byte of a file; the run resumes, and what TensorBoard still shows
    of the old file stays one curve."""
    run(tmp_path / 'whole', 0, 500)
    with open(only_file(tmp_path / 'whole'), 'rb') as stream:
        whole = stream.read()
    warned = 0
    for place in range(0, len(whole), step):
        folder = tmp_path / str(place)
        folder.mkdir()
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        (folder / os.path.basename(only_file(tmp_path / 'whole'))).write_bytes(bytes(damaged))
        with pytest.warns(None) as caught:
            file = EventFile(str(folder), 301)
            file.scalar('train/loss', 0.4, 400)
            file.close()
        assert all('is damaged at byte' in str(warning.message) for warning in caught)
        warned += len(caught)
        # What the reader of TensorBoard shows is what was taken for shown.
        if place % (10 * step) == 0:
            seen = [step for step, _ in curve(folder, 'train/loss')]
            assert seen == sorted(set(seen)) and seen[-1] == 400
    assert warned == len(range(0, len(whole), step))


@pytest.mark.parametrize('step', few([7, 61], 61))
def test_a_cut_file_is_no_damage(step, tmp_path, recwarn):
    run(tmp_path / 'whole', 0, 300)
    with open(only_file(tmp_path / 'whole'), 'rb') as stream:
        whole = stream.read()
    for size in range(0, len(whole), step):
        folder = tmp_path / str(size)
        folder.mkdir()
        (folder / 'events.out.tfevents.1500000000.here').write_bytes(whole[:size])
        run(folder, 200, 400)
    assert not [
        str(warning.message) for warning in recwarn if 'TensorBoard' in str(warning.message)
    ]


@pytest.mark.parametrize(
    'content',
    [b'no events at all', os.urandom(5000), b'\0' * 100, struct.pack('<QI', 1 << 62, 0)],
    ids=['text', 'noise', 'zeros', 'length'],
)
def test_a_file_that_was_never_one(tmp_path, content):
    (tmp_path / 'events.out.tfevents.1500000000.here').write_bytes(content)
    with pytest.warns(RuntimeWarning, match='is damaged at byte 0'):
        run(tmp_path, 0, 200)
    assert curve(tmp_path, 'train/loss') == [(100, 0.1), (200, 0.2)]


def test_a_large_length_with_its_checksum_is_a_cut_file(tmp_path):
    header = struct.pack('<Q', 1 << 62)
    (tmp_path / 'events.out.tfevents.1500000000.here').write_bytes(
        header + event_records._checksum(header) + b'x' * 50
    )
    run(tmp_path, 0, 200)


def test_an_event_that_decodes_to_nothing(tmp_path):
    data, header = b'\xff' * 9, struct.pack('<Q', 9)
    (tmp_path / 'events.out.tfevents.1500000000.here').write_bytes(
        header + event_records._checksum(header) + data + event_records._checksum(data)
    )
    with pytest.warns(RuntimeWarning, match='is damaged'):
        run(tmp_path, 0, 200)


def test_what_is_no_file_is_left_alone(tmp_path):
    (tmp_path / 'events.out.tfevents.folder').mkdir()
    os.mkfifo(str(tmp_path / 'events.out.tfevents.pipe'))  # would block whoever opens it
    os.symlink('/nowhere', str(tmp_path / 'events.out.tfevents.link'))
    run(tmp_path, 0, 200)
    assert len(os.listdir(str(tmp_path))) == 4


# TensorBoard's slow loader: what `--load_fast=false` reads a folder with.


def two_runs(folder):
    run(folder, 0, 500)
    run(folder, 0, 500)


def another_writer(folder):
    """Writes as tensorboardX does by itself, without a START mark."""
    with SummaryWriter(str(folder)) as writer:
        for samples in range(100, 501, 100):
            writer.add_scalar('recovery/metric', samples / 1000.0, samples)


def shown(loader, folder):
    """Returns {tag: events} as the loader shows a folder now."""
    loader.AddRunsFromDirectory(str(folder))
    loader.Reload()
    accumulator = loader.GetAccumulator('.')
    return {tag: accumulator.Tensors(tag) for tag in accumulator.Tags()['tensors']}


@pytest.mark.parametrize('watches', [False, True], ids=['opened later', 'open all the while'])
@pytest.mark.parametrize(
    'earlier',
    [lambda folder: run(folder, 0, 500), two_runs, another_writer],
    ids=['one run', 'two runs', 'no mark'],
)
def test_the_slow_loader_shows_the_latest_run_alone(earlier, watches, tmp_path):
    """The later run has other steps, and no train/loss yet. Without its START mark the loader shows
    the points of both."""
    loader = EventMultiplexer()
    earlier(tmp_path)
    if watches:
        assert shown(loader, tmp_path)['recovery/metric'][-1].step == 500
    board = nc.TensorBoard(tmp_path)
    board.on_start(Run())
    board.on_evaluation(Evaluation('start', 0, 0, 0.75))
    board.on_evaluation(Evaluation('epoch', 250, 1, 0.25))
    found = shown(loader, tmp_path)
    board.close()
    assert [
        (event.step, tensor_util.make_ndarray(event.tensor_proto).item())
        for event in found.pop('recovery/metric')
    ] == [(0, 0.75), (250, 0.25)]
    assert not found.pop('train/loss', [])
    assert len(found['netopt/plan/text_summary']) == 1
    assert {event.step for events in found.values() for event in events} == {0}


# The clock.


class SetClock:
    """A machine's clock that is set as a test likes, and goes on by itself."""

    def __init__(self, monkeypatch):
        self._real, self.ahead = time.time, 0
        monkeypatch.setattr(time, 'time', lambda: self._real() + self.ahead)


@pytest.mark.parametrize(
    'ahead', [(0, -3600, -7200), (0, 0, 0), (0, 3600, -(10**8)), (0, 0, -1)], ids=str
)
def test_a_clock_set_between_kill_and_resume(tmp_path, monkeypatch, ahead):
    clock = SetClock(monkeypatch)
    for start, clock.ahead in zip((0, 200, 300), ahead):
        run(tmp_path, start, start + 300)
        tensorboard._OPEN.clear()
    for tag in ('train/loss', 'recovery/metric'):
        assert curve(tmp_path, tag) == [
            (step, round(step / 1000.0, 6)) for step in range(100, 601, 100)
        ], tag
        times = [event.wall_time for event in read(tmp_path).Scalars(tag)]
        assert times == sorted(times)
    assert len(os.listdir(str(tmp_path))) == 3


def test_a_clock_set_back_during_a_run(tmp_path, monkeypatch):
    clock = SetClock(monkeypatch)
    file = EventFile(str(tmp_path))
    for step, clock.ahead in enumerate((0, 0, -5000, -5000, 40, -100), 1):
        file.scalar('a', step, step)
    file.close()
    times = [event.wall_time for event in read(tmp_path).Scalars('a')]
    assert len(times) == 6 and times == sorted(times)


def test_time_goes_on_after_it_was_set_back(monkeypatch):
    clock = SetClock(monkeypatch)
    told = Clock()
    first = told.now()
    clock.ahead = -1000
    second = told.now()
    clock.ahead = -990
    assert first <= second < first + 5 and 9 < told.now() - second < 15


@pytest.mark.parametrize(
    'last',
    [
        'events.out.tfevents.SOON.zzz',
        'events.out.tfevents.9999999999.here.000007',
        'events.out.tfevents.99999999999.here',
        'events.out.tfevents.x',
        'events.out.tfevents.',
        'a_tfevents',
        'z_tfevents',
        'events.out.tfevents.1500000000.here',
    ],
)
def test_a_new_file_is_read_after_all_others(last):
    last = last.replace('SOON', '%d' % (time.time() + 5000))
    earlier = sorted(['events.out.tfevents.1400000000.host', last])
    for _ in range(4):
        name = file_name(earlier)
        assert name not in earlier and name > max(
            each for each in earlier if each.startswith('events.out')
        )
        earlier = sorted(earlier + [name])


def test_two_processes_that_start_together_get_a_file_each(tmp_path, monkeypatch):
    names = iter([[], [], None])

    def listed(folder):
        found = next(names)
        return sorted(os.listdir(folder)) if found is None else found

    monkeypatch.setattr(event_file, 'event_files', listed)
    monkeypatch.setattr(time, 'time', lambda: 1.6e9)
    first, second = EventFile(str(tmp_path)), EventFile(str(tmp_path))
    first.scalar('a', 1.0, 1)
    second.scalar('a', 2.0, 2)
    first.close()
    second.close()
    assert len(os.listdir(str(tmp_path))) == 2
    assert curve(tmp_path, 'a') == [(2, 2.0)]  # the later start hides the earlier one


# Tags and folders.


def test_tags_that_become_the_same_are_told_apart(tmp_path):
    board = nc.TensorBoard(tmp_path)
    board.on_start(Run())
    names = ['a b', 'a_b', 'a:b', '/a_b', 'a_b_2', 'x', 'x_5', 'layer7', '', 'x']
    board.on_optimization(
        nc.Record(
            'First',
            1,
            10,
            layers=[nc.LayerNote(name, (4, 4), rank=rank) for rank, name in enumerate(names, 1)],
        )
    )
    board.on_optimization(
        nc.Record(
            'Second',
            2,
            20,
            layers=[nc.LayerNote('a:b', (4, 4), rank=103), nc.LayerNote('a?b', (4, 4), rank=111)],
        )
    )
    board.close()
    found = {}
    for tag in ('First', 'Second'):
        [event] = read(tmp_path).Tensors(f'netopt/{tag}/text_summary')
        for line in event.tensor_proto.string_val[0].decode().splitlines():
            cells = line.strip('| ').split(' | ')
            if cells[-1].isdigit():
                found.setdefault(cells[0], []).append(int(cells[2]))
    assert sorted(rank for ranks in found.values() for rank in ranks) == list(range(1, 11)) + [
        103,
        111,
    ]
    assert sorted(len(ranks) for ranks in found.values()) == [1] * 10 + [2]  # a:b has both
    assert found['a_b'] == [1]


def test_numbers_that_are_not_known_are_left_out(tmp_path):
    """A network with a free axis has no number of multiply-adds."""
    board = nc.TensorBoard(tmp_path)
    board.on_start(Run(parameters=100))
    board.on_optimization(
        nc.Record(
            'X',
            1,
            10,
            layers=[nc.LayerNote('h', (4, 4), rank=1, parameters_before=100, parameters_after=40)],
            network_after=Totals(40, None, 0, 160),
        )
    )
    board.close()
    assert curve(tmp_path, 'size/parameters')[-1] == (10, 40.0)
    assert 'size/float_multiply_adds' not in read(tmp_path).Tags()['scalars']


def test_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    board = nc.TensorBoard('~/runs/x', every=np.int64(2))
    assert board.logdir == str(tmp_path / 'runs' / 'x') and os.listdir(str(tmp_path)) == ['runs']


@pytest.mark.parametrize(
    'values',
    [
        np.full(9, 1e20),
        np.array([1e20]),
        np.full(4, -3e38, np.float32),
        np.array([0.0, 5e-324]),
        np.array([np.nan, np.inf]),
        np.array([]),
    ],
    ids=['huge', 'one', 'float32', 'subnormal', 'not finite', 'none'],
)
def test_numbers_that_have_no_histogram_leave_none(tmp_path, values):
    """A layer may diverge; what is written afterwards is there."""
    file = EventFile(str(tmp_path))
    file.histogram('weights', values, 1)
    file.histogram('weights', np.array([1.0, 2.0, np.nan]), 2)
    file.close()
    assert [event.step for event in read(tmp_path).Histograms('weights')] == [2]


@pytest.mark.parametrize('closed', ['2>&-', '1>&- 2>&-', '0<&- 1>&- 2>&-'])
def test_what_is_written_to_a_closed_standard_error_is_not_in_the_file(tmp_path, closed):
    """Without a standard error the next file that is opened gets its number; C++ writes there."""
    script = (
        'import os\n'
        'from netopt_callbacks.observers.event_file import EventFile\n'
        f'file = EventFile({str(tmp_path)!r})\n'
        'for step in range(5):\n'
        '    file.scalar("loss", float(step), step)\n'
        '    for number in range(3):\n'
        '        try:\n'
        '            os.write(number, b"Restoring training session")\n'
        '        except OSError:\n'
        '            pass\n'
    )
    subprocess.run(f'{sys.executable} -c {shlex.quote(script)} {closed}', shell=True, check=True)
    assert curve(tmp_path, 'loss') == [(step, float(step)) for step in range(5)]
