"""Appends records to an event file, whole or not at all, and reads them up to a damaged one.

A record is its length (8 bytes), a checksum of the length (4), an event, and a checksum of the
event (4).
"""
import collections
import fcntl
import os
import struct

import numpy as np
from google.protobuf.message import DecodeError
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from .output import warn

# The checksum of a longer event (an image that another program wrote) would take seconds, so only
# its encoding is checked.
_CHECKED_BYTES = 1 << 16


def _above_standard_error(path, flags):
    """Opens a file under a number above 2: where a script has closed its standard error, a file that
    got its number would have what C++ writes there between its events."""
    handle = os.open(path, flags, 0o666)
    if handle > 2:
        return handle
    try:
        return fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(handle)


class RecordFile:
    """A new file of events; each is on disk, as far as the system can tell, when `append` returns.

    Args:
        path (str): a name that no file has yet.

    Raises:
        OSError: the file cannot be created.
    """

    def __init__(self, path):
        self._stream = open(path, 'xb', buffering=0, opener=_above_standard_error)
        self._whole_bytes = 0

    def append(self, event):
        """Writes one event.

        Raises:
            OSError: it could not be written. The file then ends with the previous event. If even
                the partial record cannot be removed, the file is closed and later calls write
                nothing.
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
    """Yields the events of a file up to the first one that is damaged or cut by a kill.

    TensorBoard also ignores a file from its first damaged record on. A damaged or unreadable file
    causes a warning. An unreadable or missing file yields no events.
    """
    if not os.path.isfile(path):
        return
    try:
        with open(path, 'rb') as stream:
            data = stream.read()
    except OSError as error:
        warn(
            f'TensorBoard: cannot read {path} ({error.strerror}); the run starts without what it '
            'holds'
        )
        return
    places, damaged = _places(data)
    damaged = min([damaged] + list(_wrong_checksums(data, places)))
    for start, length in places:
        if start >= damaged:
            break
        try:
            event = Event.FromString(data[start + 12 : start + 12 + length])
        except (DecodeError, ValueError):
            damaged = start
            break
        yield event
    if damaged < len(data):
        warn(
            f'TensorBoard: {path} is damaged at byte {damaged}. The run starts all the same; '
            'TensorBoard shows what the file holds before that byte'
        )


def _places(data):
    """Returns the places of the whole records, and where the first damaged header is.

    Returns:
        (list of (int, int), int): (start, bytes of the event) of each record; the start of the
            damaged header, or the length of the data.
    """
    places, at, known = [], 0, {}
    while len(data) - at >= 12:
        header, checksum = data[at : at + 8], data[at + 8 : at + 12]
        if header not in known:
            known[header] = _checksum(header)
        if known[header] != checksum:
            return places, at
        (length,) = struct.unpack('<Q', header)
        if length + 16 > len(data) - at:
            break
        places.append((at, length))
        at += length + 16
    return places, len(data)


def _wrong_checksums(data, places):
    """Yields, for each length, the first record whose checksum does not match.

    The checksums of all records of one length are computed together, byte by byte.
    """
    values, by_length = np.frombuffer(data, np.uint8), collections.defaultdict(list)
    for start, length in places:
        if length <= _CHECKED_BYTES:
            by_length[length].append(start + 12)
    for length, starts in by_length.items():
        starts = np.array(starts)
        found = np.full(len(starts), 0xFFFFFFFF, np.uint32)
        for place in range(length):
            found = _TABLE[(found ^ values[starts + place]) & 0xFF] ^ (found >> np.uint32(8))
        found = ~found
        found = (found >> np.uint32(15) | found << np.uint32(17)) + np.uint32(0xA282EAD8)
        stored = sum(
            values[starts + length + byte].astype(np.uint32) << np.uint32(8 * byte)
            for byte in range(4)
        )
        wrong = starts[found != stored]
        if wrong.size:
            yield int(wrong[0]) - 12


def _table():
    """Returns the CRC-32C of each byte, from the reversed polynomial."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(
            table & 1, table >> np.uint32(1) ^ np.uint32(0x82F63B78), table >> np.uint32(1)
        )
    return table


_TABLE = _table()


def _checksum(data):
    return struct.pack('<I', masked_crc32c(data))
