"""Writes one TensorBoard event file, each event as soon as it is reported."""
import collections
import math
import os
import socket
import tempfile
import time
from typing import Counter

import numpy as np
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from .event_records import RecordFile, events
from .output import warn
from .pictures import png


class EventFile:
    """Writes scalars and text for TensorBoard; each is on disk when the call returns.

    It uses tensorboardX's file format without its `SummaryWriter`. The background thread of a
    `SummaryWriter` loses its queue when the process is killed. Once that thread has died of a full
    disk, the writer waits forever on a full queue.

    If a write fails after the file is open, as on a full disk, it warns once and skips that event.
    The file stays valid, and later events are written if they can be.

    Args:
        folder (str): an existing folder for the file.
        first_step (int): first step this file will hold. TensorBoard hides what earlier files of
            the folder hold from this step on; 0 hides all of it. A point that repeats an earlier
            step is skipped; a run that was killed at the very step of its checkpoint repeats such
            points.
        describe (callable): returns the description of a tag, which is stored with its first point.

    Attributes:
        shown (collections.Counter): (tag, step) that earlier files still show, minus those repeated
            since.

    Raises:
        RuntimeError: the file cannot be created.
    """

    def __init__(self, folder, first_step=0, describe=None):
        self._folder = folder
        self._describe = describe or (lambda tag: '')
        self._described = set()
        self._has_warned = False
        try:
            earlier = event_files(folder)
            self.shown, latest, starts = _shown(folder, earlier, first_step)
            self._clock = Clock(latest)
            self._file = _new_file(folder, earlier)
            self._append(Event(file_version='brain.Event:2'))
            # Readers that use these marks do not treat the first one of a folder as a restart.
            for _ in range(2 if earlier and not starts else 1):
                self._append(Event(session_log=SessionLog(status=SessionLog.START)), first_step)
        except OSError as error:
            raise RuntimeError(unwritable(folder, error)) from error

    def scalar(self, tag, value, step):
        """Writes one point of a curve; a character that no tag may hold becomes '_'."""
        self.write(summary.scalar(tag, value), step, tag)

    def text(self, tag, markdown, step):
        """Writes a text, shown as Markdown."""
        self.write(summary.text(tag, markdown), step, tag)

    def histogram(self, tag, values, step):
        """Writes the distribution of the finite numbers of an array, in 64 bins; nothing where these
        have no 64 numbers between them, as when all are 1e20: NumPy raises IndexError then."""
        values = values[np.isfinite(values)]
        if not values.size:
            return
        try:
            written = summary.histogram(tag, values, bins=64)
        except (IndexError, ValueError):
            return
        self.write(written, step, tag)

    def picture(self, tag, pixels, step):
        """Writes a picture, uint8 [height, width, 3]."""
        height, width = pixels.shape[:2]
        image = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=png(pixels)
        )
        self.write(Summary(value=[Summary.Value(tag=shown_tag(tag), image=image)]), step, tag)

    def write(self, written, step, tag=None):
        """Writes a Summary of one value; `tag` is the key for its description."""
        value = written.value[0]
        if tag is not None and value.tag not in self._described:
            _describe(value, self._describe(tag))
            self._described.add(value.tag)
        place = value.tag, step
        if self.shown[place]:
            self.shown[place] -= 1
        else:
            self._guarded(self._append, Event(summary=written), step)

    def close(self):
        """Closes the file."""
        self._guarded(self._file.close)

    def _append(self, event, step=0):
        event.step = step
        event.wall_time = self._clock.now()
        self._file.append(event)

    def _guarded(self, call, *arguments):
        try:
            call(*arguments)
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                warn(
                    f'{unwritable(self._folder, error)}. Training goes on; points that cannot be '
                    'written are missing'
                )


class Nowhere:
    """Replaces an `EventFile` that could not be created after training had begun."""

    shown: Counter[str] = collections.Counter()

    def _nothing(self, *arguments):
        """Writes nothing."""

    scalar = text = histogram = picture = write = close = _nothing


class Clock:
    """Seconds since 1970 that never go backward, even if the machine's clock is set back.

    TensorBoard also draws curves over time, and time must not decrease along a curve.

    Args:
        latest (float): the latest time already written; the clock continues from there.
    """

    def __init__(self, latest=0.0):
        self._latest = latest
        self._ahead = 0.0

    def now(self):
        """Returns the machine's time, plus the amount by which its clock has been set back."""
        self._ahead = max(self._ahead, self._latest - time.time())
        self._latest = max(self._latest, time.time() + self._ahead)
        return self._latest


def _describe(value, description):
    """Gives a value a description that both readers of TensorBoard show.

    The default reader accepts metadata only if it names the plugin and the class of the data (1
    scalars, 2 tensors, 3 images). The class is in field 4, which tensorboardX does not know.
    """
    value.metadata.summary_description = description
    plugin, data_class = _PLUGINS.get(value.WhichOneof('value'), (None, 2))
    if plugin is not None:
        value.metadata.plugin_data.plugin_name = plugin
    value.metadata.MergeFromString(bytes([4 << 3, data_class]))


_PLUGINS = {'simple_value': ('scalars', 1), 'histo': ('histograms', 2), 'image': ('images', 3)}


def shown_tag(tag):
    """Returns a tag as TensorBoard shows it: each character that it does not allow becomes '_'."""
    return summary.scalar(tag, 0.0).value[0].tag


def event_files(folder):
    """Returns the names of the event files in a folder, in reading order: oldest first."""
    return sorted(name for name in os.listdir(folder) if 'tfevents' in name)


def file_name(earlier):
    """Returns a name that sorts after all `earlier` ones.

    TensorBoard reads the files of a folder in the order of their names, which hold the second in
    which they were opened. Two files may be opened within one second, or the clock may be set back.
    The second file is then named one second later than the first.
    """
    prefix = 'events.out.tfevents.'
    ours = [name for name in earlier if name.startswith(prefix)]
    seconds = [name[len(prefix) :].partition('.')[0] for name in ours]
    second = max(
        [int(time.time())]
        + [int(digits) + 1 for digits in seconds if digits.isdigit() and len(digits) == 10]
    )
    name = f'{prefix}{second:010}.{socket.gethostname()}.{len(earlier):06}'
    return name if not ours or name > ours[-1] else ours[-1] + '.1'


def _new_file(folder, earlier):
    while True:
        try:
            return RecordFile(os.path.join(folder, file_name(earlier)))
        except FileExistsError:  # another process has created it in the meantime
            earlier = event_files(folder)


def _shown(folder, names, first_step):
    """Returns what event files show before the step `first_step`.

    Returns:
        (Counter, float, int): the (tag, step) shown, the latest time, and the number of start
            marks.
    """
    shown, latest, starts = collections.Counter(), 0.0, 0
    for name in names:
        for event in events(os.path.join(folder, name)):
            if math.isfinite(event.wall_time):
                latest = max(latest, event.wall_time)
            if event.session_log.status == SessionLog.START:
                shown = _before(shown, event.step)
                starts += 1
            shown.update((value.tag, event.step) for value in event.summary.value)
    return _before(shown, first_step), latest, starts


def _before(shown, step):
    return collections.Counter({place: count for place, count in shown.items() if place[1] < step})


def shown_scalars(folder, tags):
    """Returns a dict {step: value} for each tag, as the event files of a folder show it.

    If a step has several values, the last one counts.
    """
    found = {tag: {} for tag in tags}
    for name in event_files(folder):
        for event in events(os.path.join(folder, name)):
            if event.session_log.status == SessionLog.START:
                for tag, curve in found.items():
                    found[tag] = {step: curve[step] for step in curve if step < event.step}
            for value in event.summary.value:
                if value.tag in found:
                    found[value.tag][event.step] = value.simple_value
    return [found[tag] for tag in tags]


def writable_folder(folder):
    """Creates a folder if it is missing; returns its absolute path, with `~` as the user's home.

    Raises:
        RuntimeError: it cannot be created, or no file can be written in it.
    """
    folder = os.path.abspath(os.path.expanduser(os.fspath(folder)))
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise RuntimeError(unwritable(folder, error)) from error


def unwritable(folder, error):
    """Returns the message for an error that the file system raised."""
    place = folder
    while not os.path.exists(place) and os.path.dirname(place) != place:
        place = os.path.dirname(place)
    if os.path.isfile(place):
        which = 'it' if place == folder else place
        return f'TensorBoard: cannot write to the folder {folder}: {which} is a file; give a folder'
    return (
        'TensorBoard: cannot write to the folder %s: %s. Give a folder this user can write '
        'to, on a disk with room' % (folder, error.strerror or error)
    )
