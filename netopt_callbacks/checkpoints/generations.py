"""Keeps the previous checkpoint pair while CNTK writes the next, and knows which pairs are whole.

CNTK does not check whether its writes succeeded, and it unlinks the pair it replaces. So while CNTK
may be writing, the folder `NAME.netopt/` holds a note and hard links to the previous pair:

    writing                     how many samples the trainer had seen then
    previous, previous.ckp      the previous pair, not copied
    pairs                       a line for each pair found whole: the digests of its two files

If the new pair is whole, its line is added, and then the links and the note are removed. A kill in
between leaves the note; it shows that a pair without a line is the new one. Without the note, a
pair that has no line was changed.
"""
import os
import shutil
import warnings
import zlib

from . import disk, pair
from .pair import STATE

WRITING = 'writing'
PREVIOUS = 'previous'
DAMAGED = 'damaged'
_PAIRS = 'pairs'
_found_whole = {}  # by absolute path: the stamps of a pair found whole in this process


class Generations:
    """The pairs that a folder knows.

    Args:
        folder (str): `NAME.netopt`; need not exist.
    """

    def __init__(self, folder):
        self._folder = folder
        self.previous = os.path.join(folder, PREVIOUS)

    def pairs(self):
        """Returns the digests of all pairs found whole, as a set of (graph, state)."""
        try:
            with open(self._path(_PAIRS), 'rb') as stream:
                lines = stream.read().split(b'\n')
        except OSError:
            return set()
        fields = [line.split(b' ') for line in lines]
        return {
            tuple(text.decode('ascii') for text in each[:2])
            for each in fields
            if len(each) == 3 and each[2] == _check(b' '.join(each[:2]))
        }

    def writing(self):
        """Returns the samples seen when CNTK may have begun to write; None if it is not writing."""
        try:
            with open(self._path(WRITING)) as stream:
                return int(stream.read() or -1)
        except (OSError, ValueError):
            return None

    def may_have_written(self, file, state):
        """Whether a pair without a line may come from a save that a kill ended before it got one.

        Args:
            file (str): the graph's file.
            state (str): digest of the learners' state.
        """
        samples = self.writing()
        if samples is None or _counts(file) not in (samples, None):
            return False
        return not self._has_previous() or pair.digests(self.previous)[1] != state

    def begin(self, file, samples):
        """Keeps the pair that CNTK may be about to replace, if it is whole.

        Args:
            file (str): the name CNTK writes to.
            samples (int): how many samples the trainer has seen.

        Raises:
            RuntimeError: the folder cannot be written.
        """
        with naming_disk(file, 'is not written, since beside it'):
            os.makedirs(self._folder, exist_ok=True)
            if self._is_whole(file):
                self._link(file, self.previous)
            else:
                _remove(self.previous)
            with open(self._path(WRITING + '.tmp'), 'w') as stream:
                stream.write(f'{samples}')
            os.replace(self._path(WRITING + '.tmp'), self._path(WRITING))

    def done(self, file, otherwise):
        """Records that the pair CNTK has written is whole, or restores the previous pair.

        Args:
            file (str): the name CNTK wrote to.
            otherwise (callable): returns a whole pair that remains if there was no previous pair of
                that name, or None.

        Raises:
            RuntimeError: the new pair is not whole; names file and disk.
        """
        torn = pair.fault(file)
        if torn is not None:
            left = self._take_back(file, otherwise)
            raise RuntimeError(
                'the checkpoint {} could not be written whole to {}: {}. {}'.format(
                    file,
                    disk.disk_of(file),
                    torn,
                    f'Make room, and resume from the one before, {left}'
                    if left
                    else 'There is none before it: make room, and start from the beginning',
                )
            )
        with naming_disk(file, 'is whole, and beside it'):
            os.makedirs(self._folder, exist_ok=True)
            self._add(file)
        self.settle()

    def settle(self):
        """Removes what only a save needs; call it when no save is under way."""
        _remove(self._path(WRITING))
        _remove(self.previous)
        _remove(self.previous + STATE)

    def accept(self, file):
        """Accepts a pair that a kill has left, if it is whole."""
        if self.writing() is not None and os.path.isfile(file + STATE) and pair.fault(file) is None:
            self._add(file)
        self.settle()

    def go_back(self, file):
        """Replaces `file` with the previous pair and keeps the damaged one in the folder.

        Returns:
            bool: whether there is a previous pair.
        """
        if not self._has_previous():
            return False
        for end in ('', STATE):
            if os.path.exists(file + end):
                self._replace(file + end, self._path(DAMAGED) + end)
        self._put_previous(file)
        return True

    def said(self):
        """Returns what an error about a pair adds if the previous pair is there, else ''."""
        return f'; the one before is kept as {self.previous}' if self._has_previous() else ''

    def put_aside(self, file):
        """Moves a pair out of the way, state first: CNTK ignores a pair that lacks its state."""
        for end in (STATE, ''):
            if os.path.exists(file + end):
                os.replace(file + end, self._path(DAMAGED) + end)

    def _is_whole(self, file):
        """Whether there is a whole pair of this name.

        A pair already found whole in this process is not read again.
        """
        if not all(os.path.isfile(file + end) for end in ('', STATE)):
            return False
        if _found_whole.get(os.path.abspath(file)) == _stamps(file):
            return True
        if fault(file, [self]) is not None or pair.fault(file) is not None:
            return False
        self._add(file)
        return True

    def _has_previous(self):
        return (
            all(os.path.isfile(self.previous + end) for end in ('', STATE))
            and pair.digests(self.previous) in self.pairs()
        )

    def _take_back(self, file, otherwise):
        if self._has_previous():
            self._put_previous(file)
            self.settle()
            return file
        for end in (STATE, ''):
            _remove(file + end)
        self.settle()
        return otherwise()

    def _put_previous(self, file):
        # A kill between the two leaves a mixed pair; the next run restores the previous one again.
        self._replace(self.previous, file)
        self._replace(self.previous + STATE, file + STATE)

    def _link(self, file, to):
        for end in (STATE, ''):
            self._replace(file + end, to + end)

    def _replace(self, file, other):
        """Makes `other` a hard link to a file, or a copy if the file system has no links."""
        half = self._path('link.tmp')
        _remove(half)
        try:
            os.link(file, half)
        except OSError as error:
            if not disk.has_no_links(error):
                raise
            shutil.copyfile(file, half)
        os.replace(half, other)
        _remove(half)  # still there if both were links to the same file

    def _add(self, file):
        stamps, digests = _stamps(file), pair.digests(file)
        if digests not in self.pairs():
            line = ' '.join(digests).encode('ascii')
            with open(self._path(_PAIRS), 'ab') as stream:
                # The line break ends a line that a kill has cut.
                stream.write((b'\n' if stream.tell() else b'') + line + b' ' + _check(line))
        _found_whole[os.path.abspath(file)] = stamps

    def _path(self, name):
        return os.path.join(self._folder, name)


def fault(file, folders):
    """Returns what is wrong with a pair, or None if nothing is wrong or nothing is known.

    Args:
        file (str): the graph's file.
        folders (list of Generations): those that may know the pair.
    """
    known = set().union(*(folder.pairs() for folder in folders))
    if not known:
        return None
    if not os.path.exists(file + STATE):
        return 'there is no %s' % (file + STATE)
    found = pair.digests(file)
    if found in known:
        return None
    graph_known, state_known = (
        any(found[place] == one[place] for one in known) for place in (0, 1)
    )
    if graph_known:
        return f'{file + STATE} is not the file that was written with {file}, or has changed since'
    if not state_known and not pair.is_marked(file):
        return None  # plain CNTK wrote it, which adds no line
    torn = pair.fault(file)
    # The learners' state may equal that of an earlier run bit for bit. If it equals that of the
    # previous pair, the graph is an old one that has changed.
    if torn is None and any(folder.may_have_written(file, found[1]) for folder in folders):
        return None
    if state_known:
        return f'{file} is not the file that was written with {file + STATE}, or has changed since'
    return (
        torn
        or 'it matches no pair written beside this folder, or both its files have changed since'
    )


def _counts(file):
    try:
        return pair.samples_of(file)
    except Exception:  # CNTK's error for a file that holds no state of learners
        return -2


def _stamps(file):
    found = [os.stat(file + end) for end in ('', STATE)]
    return [(one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns) for one in found]


def _check(line):
    return b'%08x' % zlib.crc32(line)


def _remove(path):
    try:
        os.remove(path)
    except FileNotFoundError:
        pass


class naming_disk:
    """Context that turns an OSError into a RuntimeError that names the checkpoint and the disk."""

    def __init__(self, file, what):
        self._file, self._what = file, what

    def __enter__(self):
        pass

    def __exit__(self, kind, error, traceback):
        if isinstance(error, OSError):
            raise RuntimeError(
                'the checkpoint %s %s %s cannot be written (%s), on %s: make room, and start the '
                'script again'
                % (
                    self._file,
                    self._what,
                    error.filename or 'the folder',
                    disk.why(error),
                    disk.disk_of(self._file),
                )
            ) from error


def warn_of_going_back(file, wrong, before, damaged):
    """Warns that a run resumes from the previous checkpoint, because this one is damaged."""
    warnings.warn(
        f'the checkpoint {file} is damaged ({wrong}): this run resumes from the one before it, '
        f'{before}. The damaged one is kept as {damaged}'
    )
