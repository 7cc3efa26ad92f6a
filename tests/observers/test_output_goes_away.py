"""What watches a run goes quiet when its output goes away; training goes on, and files stay
whole."""
import errno
import io
import os
import subprocess
import sys
import warnings

import pytest
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tqdm import tqdm

import netopt_callbacks as nc
from netopt_callbacks.observers.base import Run
from netopt_callbacks.observers.event_file import EventFile
from test_observers import DATA, C, criterion, curve, tell
from test_progress_bar import Terminal


# The bar.


class Stream(io.StringIO):
    """Raises `error` from its `works`-th write on; a terminal if `tty`."""

    def __init__(self, error=None, works=3, tty=False, at='write'):
        super().__init__()
        self.error, self.works, self.tty, self.at = error, works, tty, at

    def isatty(self):
        return self.tty

    def write(self, text):
        self._fail('write')
        return super().write(text)

    def flush(self):
        self._fail('flush')

    def _fail(self, at):
        if self.error is not None and at == self.at:
            self.works -= 1
            if self.works < 0:
                raise self.error


class WriteAlone:
    """What a script may put into `sys.stderr` to keep a copy of it."""

    def __init__(self):
        self.text = ''

    def write(self, text):
        self.text += text


def told(stream, metric_name='errs'):
    """Tells a bar on a stream of a whole run; returns the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        tell(
            nc.ProgressBar(stream),
            run=Run(epoch_size=100, max_samples=400, metric_name=metric_name),
        )
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize('tty', [False, True], ids=['lines', 'bar'])
@pytest.mark.parametrize('at', ['write', 'flush'])
@pytest.mark.parametrize('works', [0, 3])
@pytest.mark.parametrize(
    'error',
    [
        OSError(errno.EIO, 'Input/output error'),
        OSError(errno.ENOSPC, 'No space left on device'),
        BrokenPipeError(errno.EPIPE, 'Broken pipe'),
        ValueError('I/O operation on closed file'),
        RuntimeError('a stream of the script has its own idea'),
        AttributeError('None has no write'),
    ],
    ids=repr,
)
def test_an_error_of_the_stream_is_one_warning(error, works, at, tty):
    (said,) = told(Stream(error, works, tty, at))
    assert said.startswith(f'ProgressBar: its output has gone ({type(error).__name__}')
    assert 'Training goes on' in said
    assert not tqdm._instances


@pytest.mark.parametrize('stream', [io.StringIO(), Terminal()], ids=['lines', 'bar'])
def test_a_stream_that_was_closed_before(stream):
    stream.close()
    assert len(told(stream)) == 1


def test_no_standard_error_at_all(monkeypatch):
    monkeypatch.setattr(sys, 'stderr', None)
    (said,) = told(None)
    assert 'sys.stderr is None' in said


def test_a_standard_error_that_cannot_show_the_warning_either(monkeypatch):
    monkeypatch.setattr(sys, 'stderr', Stream(ValueError('I/O operation on closed file'), works=0))
    with warnings.catch_warnings():
        warnings.simplefilter('always')
        tell(nc.ProgressBar())


def test_a_stream_with_write_alone():
    stream = WriteAlone()
    assert told(stream) == []
    assert stream.text.splitlines()[-1] == 'test: errs 0.1500'


@pytest.mark.parametrize('tty', [False, True], ids=['lines', 'bar'])
def test_an_encoding_that_lacks_a_letter(tty):
    class Ascii(io.TextIOWrapper):
        def isatty(self):
            return tty

    stream = Ascii(io.BytesIO(), encoding='ascii')
    assert told(stream, metric_name='\u00e9rreur') == []
    stream.flush()
    assert b'test: \\xe9rreur 0.1500' in stream.buffer.getvalue()


def test_a_full_disk_under_a_file():
    stream = open('/dev/full', 'w')
    (said,) = told(stream)
    assert 'No space left' in said
    with pytest.raises(OSError):
        stream.close()


def test_bytes_are_no_text(tmp_path):
    with open(str(tmp_path / 'file'), 'wb') as stream:
        with pytest.raises(TypeError, match='text file'):
            nc.ProgressBar(stream)


def test_bars_of_others_on_the_same_stream_are_still_cleared(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, 'stderr', stream)
    with tqdm(total=3, desc='theirs', file=stream, mininterval=0) as theirs:
        theirs.update(1)
        bar = nc.ProgressBar()
        bar.on_start(Run(epoch_size=1))
        before = len(stream.getvalue())
        bar.on_training_summary(1, 0.5, 0.5)
        bar.on_epoch(1, 1)
        written = stream.getvalue()[before:]
        bar.close()
    line = written.index('epoch 1:')
    assert '\r' + ' ' * 10 in written[:line] and 'theirs' in written[line:]


# TensorBoard.

FULL_DISK = '''
import resource, sys, warnings
from netopt_callbacks.observers.base import Run
import netopt_callbacks as nc
board = nc.TensorBoard(sys.argv[1], every=1)
board.on_start(Run())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    limits = ((int(sys.argv[2]), range(1, 500)), (resource.RLIM_INFINITY, range(500, 511)))
    for limit, steps in limits:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        for step in steps:
            board.on_minibatch(step, 0.5, None)
    board.on_end(nc.Result())
print(len(caught), caught[0].message)
'''


@pytest.mark.few(2)
@pytest.mark.parametrize('limit', range(9000, 9050, 7))
def test_a_full_disk_is_one_warning_and_the_file_stays_whole(tmp_path, limit):
    """Full at any byte of a record; when there is room again, the curve goes on."""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', FULL_DISK, str(tmp_path), str(limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
        universal_newlines=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        f'1 TensorBoard: cannot write to the folder {tmp_path}: File too large'
    )
    steps = [step for step, _ in curve(tmp_path, 'train/loss')]
    written = next(step for step in range(1, 500) if steps[step] != step + 1)
    assert 5 < written < 100 and steps == list(range(1, written + 1)) + list(range(500, 511))
    (name,) = os.listdir(str(tmp_path))
    records = list(RawEventFileLoader(str(tmp_path / name)).Load())
    assert sum(len(record) + 16 for record in records) == os.path.getsize(str(tmp_path / name))


def test_where_not_even_the_end_can_be_mended_nothing_more_is_appended(tmp_path):
    class Broken:
        closed = False

        def write(self, data):
            stream.write(data[:10])
            raise OSError(errno.EIO, 'Input/output error')

        def seek(self, place):
            raise OSError(errno.EIO, 'Input/output error')

        def close(self):
            self.closed = True

    file = EventFile(str(tmp_path))
    file.scalar('a', 1.0, 1)
    stream, file._file._stream = file._file._stream, Broken()
    with pytest.warns(RuntimeWarning) as caught:
        for step in range(2, 6):
            file.scalar('a', 1.0, step)
        file.close()
    stream.close()
    assert len(caught) == 1
    assert curve(tmp_path, 'a') == [(1, 1.0)]


def test_a_folder_that_cannot_be_written_when_training_starts_is_an_error(tmp_path):
    board = nc.TensorBoard(tmp_path / 'runs')
    (tmp_path / 'runs').rmdir()
    (tmp_path / 'runs').write_text('in the way')
    with pytest.raises(RuntimeError, match='cannot write to the folder'):
        board.on_start(Run())
    (tmp_path / 'runs').unlink()
    again = nc.TensorBoard(tmp_path / 'runs')
    again.on_start(Run())
    again.close()


def test_a_plain_trainer_goes_on_where_the_file_cannot_be_made(tmp_path):
    board = nc.TensorBoard(tmp_path / 'runs', every=1)
    (tmp_path / 'runs').rmdir()
    (tmp_path / 'runs').write_text('in the way')
    x, y, z, functions = criterion()
    trainer = C.Trainer(z, functions, [C.sgd(z.parameters, 0.1)], [board])
    with pytest.warns(RuntimeWarning, match='Training goes on') as caught:
        for _ in range(3):
            trainer.train_minibatch({x: DATA[0], y: DATA[1]})
        board.close()
    assert len(caught) == 1 and trainer.total_number_of_samples_seen == 150
