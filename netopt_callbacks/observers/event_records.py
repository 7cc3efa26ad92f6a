"""The records of an event file: appended whole or not at all, read up to the first damaged one.

A record is its length (8 bytes), a checksum of these (4), an event, and a checksum of it (4).
"""
import os
import struct

from google.protobuf.message import DecodeError
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from .output import warn

# The checksum of a longer event, an image of somebody else's, would take seconds; its encoding is checked.
_CHECKED_BYTES = 1 << 16


class RecordFile(object):
    """A new file of events, each on disk as far as the system can tell when `append` returns.

    Args:
        path (str): no file of that name exists.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path):
        self._stream = open(path, 'xb', buffering=0)
        self._whole_bytes = 0

    def append(self, event):
        """Writes one event.

        Raises:
            OSError: it could not be written. The file then ends with the event before it; where
                not even that could be seen to, it is closed, and nothing is appended any more.
        """
        if self._stream is None:
            return
        data = event.SerializeToString()
        header = struct.pack('<Q', len(data))
        record = b''.join([header, _checksum(header), data, _checksum(data)])
        try:
            written = 0
            while written < len(record):
                written += self._stream.write(record[written:])
        except BaseException:
            self._cut_back()
            raise
        self._whole_bytes += len(record)

    def close(self):
        """Closes the file."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.close()

    def _cut_back(self):
        try:
            self._stream.seek(self._whole_bytes)
            self._stream.truncate()
        except OSError:
            stream, self._stream = self._stream, None
            stream.close()


def events(path):
    """Yields the events of a file, up to one that a kill has cut or that is damaged.

    TensorBoard too shows nothing of a file from its first damaged record on. Damage is warned of;
    a file that cannot be read, or is none, has no events.
    """
    if not os.path.isfile(path):
        return
    try:
        with open(path, 'rb') as stream:
            for event in _events(stream, os.fstat(stream.fileno()).st_size):
                yield event
    except OSError as error:
        warn('TensorBoard: cannot read %s (%s); the run starts without what it holds' % (path, error.strerror))
    except _Damaged as damaged:
        warn('TensorBoard: %s is damaged at byte %s. The run starts all the same; TensorBoard shows what the '
             'file holds before that byte' % (path, damaged))


class _Damaged(Exception):
    """A record is not what was written; at which byte it begins."""


def _events(stream, size):
    while size - stream.tell() >= 12:
        start = stream.tell()
        header = stream.read(12)
        if _checksum(header[:8]) != header[8:]:
            raise _Damaged(start)
        length, = struct.unpack('<Q', header[:8])
        if length + 4 > size - stream.tell():
            return
        data, checksum = stream.read(length), stream.read(4)
        if length <= _CHECKED_BYTES and _checksum(data) != checksum:
            raise _Damaged(start)
        try:
            yield Event.FromString(data)
        except (DecodeError, ValueError):
            raise _Damaged(start) from None


def _checksum(data):
    return struct.pack('<I', masked_crc32c(data))
