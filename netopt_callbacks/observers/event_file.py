"""One TensorBoard event file, written as it is told."""
import collections
import os
import struct
import tempfile
import time

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog


class EventFile(object):
    """Writes scalars and text for TensorBoard, each on disk when the call returns.

    It is tensorboardX's file format without its `SummaryWriter`, whose background thread
    loses what is in its queue when the process is killed, and which waits for ever on a full
    queue once that thread has died of a full disk.

    Args:
        folder (str): where the file goes; it exists.
        first_step (int): first step this file will hold. What earlier files of the folder hold
            from there on is hidden; 0 hides all of it. A point that is told again of a step
            before, as by a run that was killed at its checkpoint's very step, is left out.

    Attributes:
        shown (collections.Counter): (tag, step) of what earlier files hold and still show, less
            what was told again.

    Raises:
        RuntimeError: the folder cannot be written to; raised by the call that finds out,
            here or later. After it the file is closed, and calls do nothing.
    """

    def __init__(self, folder, first_step=0):
        self._folder = folder
        self._file = None
        earlier = event_files(folder)
        self.shown = _shown(folder, earlier, first_step)
        # Readers take the files of a folder in the order of their names, which begin with
        # the second they were opened in: the number keeps two of the same second apart.
        self._guarded(self._open, '.%06d' % len(earlier))
        if earlier:
            self._write(Event(session_log=SessionLog(status=SessionLog.START)), first_step)

    def scalar(self, tag, value, step):
        """Writes one point of a curve; what TensorBoard allows in no tag becomes '_'."""
        self._summary(summary.scalar(tag, value), step)

    def text(self, tag, markdown, step):
        """Writes a text, shown as Markdown."""
        self._summary(summary.text(tag, markdown), step)

    def close(self):
        """Closes the file."""
        if self._file is not None:
            file, self._file = self._file, None
            self._guarded(file.close)

    def _open(self, suffix):
        self._file = EventsWriter(os.path.join(self._folder, 'events'), suffix)
        self._file.flush()

    def _summary(self, written, step):
        place = written.value[0].tag, step
        if self.shown[place]:
            self.shown[place] -= 1
        else:
            self._write(Event(summary=written), step)

    def _write(self, event, step):
        if self._file is None:
            return
        event.step = step
        event.wall_time = time.time()
        self._guarded(self._write_through, event)

    def _write_through(self, event):
        self._file.write_event(event)
        self._file.flush()

    def _guarded(self, call, *arguments):
        try:
            call(*arguments)
        except OSError as error:
            self._file = None
            raise RuntimeError(unwritable(self._folder, error)) from error


def event_files(folder):
    """Returns the names of the event files in a folder, oldest first."""
    return sorted(name for name in os.listdir(folder) if 'tfevents' in name)


def _shown(folder, names, first_step):
    """Returns a Counter of the (tag, step) before `first_step` that event files show."""
    shown = collections.Counter()
    for name in names:
        for event in _events(os.path.join(folder, name)):
            if event.session_log.status == SessionLog.START:
                shown = _before(shown, event.step)
            shown.update((value.tag, event.step) for value in event.summary.value)
    return _before(shown, first_step)


def _before(shown, step):
    return collections.Counter({place: count for place, count in shown.items() if place[1] < step})


def _events(path):
    """Yields the events of a file, up to one that a kill has cut.

    A record is its length (8 bytes), a checksum (4), the event, and a checksum (4).
    """
    with open(path, 'rb') as stream:
        while True:
            header = stream.read(12)
            length = struct.unpack('<Q', header[:8])[0] if len(header) == 12 else 0
            record = stream.read(length + 4)
            if len(header) < 12 or len(record) < length + 4:
                return
            yield Event.FromString(record[:length])


def writable_folder(folder):
    """Makes a folder where it is missing; returns its path.

    Raises:
        RuntimeError: it cannot be made, or no file can be written in it.
    """
    folder = os.fspath(folder)
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise RuntimeError(unwritable(folder, error)) from error


def unwritable(folder, error):
    """Returns the message of an error that a file system raised."""
    return ('TensorBoard: cannot write to the folder %s: %s. Give a folder this user can write '
            'to, on a disk with room' % (folder, error.strerror or error))
