"""Writes, finds and repairs what a checkpoint consists of: CNTK's pair, and files beside it.

CNTK saves a checkpoint as two files, the graph (`NAME`) and the learners' state (`NAME.ckp`). It
restores them by position; into another structure it restores garbage without an error. So every
graph trained under a checkpoint name carries the label of its *phase*: how many optimizations have
been applied, and by which run. What a resumed run needs and CNTK does not save is in
`NAME.netopt/`, written before the first checkpoint that carries the label:

    phase-<n>.<run>.json    schedule, places of outputs, arguments and Parameters, records, counts,
                            and a fingerprint of the graph

A checkpoint may be older than the records beside it. A resumed run drops the later points of the
recovery curve and measures them again.

CNTK replaces a pair in this order: it writes both as `.tmp`, unlinks both old files, and renames
the new ones. A kill in between loses or tears the pair, but never both generations; `complete`
finishes the renames. Two notes, empty files in the folder, record what the files alone do not show:
see `WHOLE` and `FOR_NEXT_SEGMENT`.
"""
import os
import re
from typing import NamedTuple, Optional

import cntk as C
from cntk import cntk_py

from ..checkpoints import generations, phase_file, saved_graph
from ..checkpoints.generations import Generations
from ..checkpoints.mark import label_of as label_in
from ..checkpoints.pair import STATE
from ..trainers.state import own
from ..trainers.uids import load_as_saved

FOLDER = '.netopt'
TEMPORARY = '.tmp'

# The pair under the user's name has been whole once, so a missing file was being replaced.
WHOLE = 'whole'
# The pair under the user's name only hands one segment's state to the next, as with `preserve_all`.
FOR_NEXT_SEGMENT = 'for-next-segment'


def check_name(file):
    """Refuses a checkpoint name under which nothing can be written, whatever room there is.

    Raises:
        ValueError: names the checkpoint and what is in the way.
    """
    try:
        os.lstat(file + STATE + TEMPORARY)  # the longest name that CNTK writes to
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise ValueError(
            f'the checkpoint name must be one under which files can be written, got {file!r}: '
            f'{error}; give another in cntk.CheckpointConfig(...) or save_checkpoint(...)'
        ) from error
    if os.path.lexists(file + FOLDER) and not os.path.isdir(file + FOLDER):
        raise ValueError(
            f'the checkpoint {file} needs a folder {file + FOLDER} beside it, and something of '
            'that name is there that is none: move it away, or give the checkpoint another name'
        )


def complete(file, existed):
    """Finishes a replacement of the pair `file`, `file`.ckp that a kill has interrupted.

    If both old files exist, nothing was lost, and the `.tmp` files are removed. If an old file that
    existed is missing, or the new graph is in place, both new files were whole and are renamed.
    Leftover `.tmp` files are removed because CNTK does not truncate an existing `.ckp.tmp`.

    Args:
        file (str): name of the graph's file.
        existed (bool): whether a whole pair of this name has been written before. If not, the new
            files may not be whole; they are removed, and CNTK finds no checkpoint.
    """
    parts = (file, file + STATE)
    here = [os.path.exists(part) for part in parts]
    keep = here[0] or existed
    for part in parts:
        if not os.path.exists(part + TEMPORARY):
            continue
        if all(here) or not keep:
            os.remove(part + TEMPORARY)
        else:
            os.replace(part + TEMPORARY, part)


def newest(file):
    """Returns the checkpoint that CNTK restores for the name `file`, or None.

    It is `file` itself, else the `file`<N> with the largest N that has both files (CNTK's
    TrainingSession::RestoreFromCheckpoint).
    """
    if os.path.exists(file):
        return file
    numbers = [each for each in _numbered(file, STATE) if os.path.exists(each)]
    return numbers[-1] if numbers else None


def _numbered(file, end):
    """Returns the names `file`<N> for which `file`<N> + `end` exists, sorted by N.

    <N> consists of digits only; any other name that begins with `file` belongs to another run.
    """
    folder, name = os.path.split(file)
    if not os.path.isdir(folder or '.'):
        return []
    form = re.compile(re.escape(name) + '([0-9]+)' + re.escape(end))
    found = [form.fullmatch(each) for each in sorted(os.listdir(folder or '.'))]
    return sorted(
        (file + match.group(1) for match in found if match), key=lambda each: int(each[len(file) :])
    )


def _names_of(file):
    """Returns the names under which `file` may have been saved and that have a folder beside them.

    With `preserve_all`, CNTK appends a number to the name.
    """
    names = [file]
    while names[-1][-1:].isdigit():
        names.append(names[-1][:-1])
    return [name for name in names if os.path.isdir(name + FOLDER)]


class Saved(NamedTuple):
    """A checkpoint as loaded."""

    file: str
    graph: C.Function
    learners: list  # the states of the learners
    phase: Optional[dict]  # None for a checkpoint of plain CNTK


class Checkpoints:
    """The checkpoints of one name and the folder beside them.

    Args:
        file (str): the user's checkpoint name.
        schedule (list): [name, epoch] of each optimization, JSON-ready.
    """

    def __init__(self, file, schedule):
        self._file = file
        self._folder = file + FOLDER
        self._schedule = schedule

    def find(self):
        """Returns the file CNTK will restore, or None; repairs a pair that a kill has torn."""
        folder = os.path.dirname(self._file)
        if folder and not os.path.isdir(folder):
            return None
        complete(self._file, self.noted(WHOLE))
        if not os.path.exists(self._file):
            self.forget(WHOLE)  # the user removed it
        for file in _numbered(self._file, STATE + TEMPORARY):
            if not os.path.isdir(file + FOLDER):  # else it is another run's, or saved by hand
                complete(file, False)
        return self._newest_whole()

    def _newest_whole(self):
        """Returns the newest checkpoint, or None.

        A damaged checkpoint is put aside if there is a whole one before it. Else it is returned,
        and `load` reports what is wrong.
        """
        known = Generations(self._folder)
        while True:
            file = newest(self._file)
            if file is None:
                known.settle()
                return None
            wrong = _fault(file)
            if wrong is None:
                known.accept(file)
                return file
            if file == self._file and known.go_back(file):
                before = file
            else:
                before = self._whole_number_but(file)
                if before is None:
                    return file  # `load` reports what is wrong
                known.put_aside(file)
            generations.warn_of_going_back(
                file, wrong, before, os.path.join(self._folder, generations.DAMAGED)
            )

    def _whole_number_but(self, file):
        """Returns the newest whole numbered checkpoint other than `file`, or None."""
        for number in reversed(_numbered(self._file, STATE)):
            if number != file and os.path.exists(number) and _fault(number) is None:
                return number
        return None

    def begin(self, samples):
        """Keeps the pair that CNTK may replace in the next save, see `generations`.

        Args:
            samples (int): how many samples the trainer has seen.
        """
        Generations(self._folder).begin(self._file, samples)

    def done(self, number=''):
        """Records that a save of CNTK is whole, or restores the previous pair.

        Args:
            number (str): what CNTK has appended to the name.

        Raises:
            RuntimeError: the saved pair is not whole.
        """
        Generations(self._folder).done(
            self._file + number, lambda: self._whole_number_but(self._file + number)
        )

    def settle(self):
        """Removes what only a save needs, when no save follows."""
        Generations(self._folder).settle()

    def note(self, what):
        """Creates a note: `WHOLE` or `FOR_NEXT_SEGMENT`."""
        os.makedirs(self._folder, exist_ok=True)
        open(os.path.join(self._folder, what), 'w').close()

    def noted(self, what):
        """Whether a note exists."""
        return os.path.exists(os.path.join(self._folder, what))

    def forget(self, what):
        """Removes a note."""
        if self.noted(what):
            os.remove(os.path.join(self._folder, what))

    def note_whole(self):
        """Notes that the pair under the user's name is whole, if it exists."""
        if os.path.exists(self._file) and not self.noted(WHOLE):
            self.note(WHOLE)

    def load(self, file):
        """Returns the `Saved` of a file.

        Raises:
            ValueError: the file cannot be read, belongs to another schedule, or has no matching
                file in the folder.
        """
        if not os.path.exists(file):
            raise ValueError(
                f'the checkpoint to restore must be a file, and there is none named {file}; give '
                'the name it was saved under'
            )
        wrong = _fault(file)
        if wrong is not None:
            raise ValueError(
                f'the checkpoint {file} cannot be read ({wrong}): remove it to start from the '
                'beginning, or put '
                f'a copy in its place{Generations(self._folder).said()}'
            )
        try:
            graph = own(load_as_saved(file))
            # CNTK would find this one torn only after it has restored the graph.
            learners = cntk_py.Dictionary.load(file + STATE)['Learners']
        except Exception as error:
            raise ValueError(
                'the checkpoint %s cannot be read (%s): remove it to start from the beginning, or '
                'put a copy in its place' % (file, str(error).split('\n')[0])
            )
        label = label_in(graph)
        if label is None:
            return Saved(file, graph, learners, None)
        phase = _phase_of(file, graph, label)
        if phase.schedule != self._schedule:
            raise ValueError(
                f'the checkpoint {file} was written under the optimizations '
                f'{_said(phase.schedule)}, and this script has {_said(self._schedule)}: give it '
                'another checkpoint name, or the same callbacks'
            )
        return Saved(file, graph, learners, phase)

    def holds(self, label):
        """Whether the folder holds the file of a phase."""
        return os.path.exists(_path(self._folder, label))

    def write(self, phase):
        """Writes the file of a phase, whole or not at all."""
        with generations.naming_disk(self._file, 'is not written, since beside it'):
            os.makedirs(self._folder, exist_ok=True)
            # All phases share one temporary name, so that the next write replaces what a kill
            # leaves.
            half = os.path.join(self._folder, 'phase-new' + TEMPORARY)
            phase_file.write(half, phase)
            os.replace(half, _path(self._folder, label_of(len(phase.fired), phase.run)))


def _fault(file):
    """Returns what is wrong with a pair, or None, according to the folders it may belong to."""
    return generations.fault(file, [Generations(name + FOLDER) for name in _names_of(file)])


def label_of(applied, run):
    """Returns the label of a phase.

    Args:
        applied (int): how many optimizations were applied.
        run (str): the run that applied them.
    """
    return f'{applied}.{run}'


def _path(folder, label):
    return os.path.join(folder, f'phase-{label}.json')


def _phase_of(file, graph, label):
    """Returns the Phase of a saved graph.

    The folder under the checkpoint's own name comes first. Otherwise, of the folders that match,
    the one with the most measurements is used.

    Raises:
        ValueError: no folder holds a readable phase of this run and structure.
    """
    fitting, errors = [], []
    for name in _names_of(file) or [file]:
        path = _path(name + FOLDER, label)
        try:
            phase = phase_file.read(path)
            phase_file.check_outputs(phase, graph)
            fits = saved_graph.fingerprint(graph, phase.outputs) == phase.fingerprint
            if fits or max(phase.outputs) >= len(graph.outputs):
                phase_file.check_against(phase, graph, label)
        except (OSError, ValueError, RecursionError) as error:
            errors.insert(
                0 if os.path.exists(path) else len(errors),
                'the checkpoint %s was written while the network was being optimized, and %s, '
                'which tells its structure, cannot be read (%s): %s'
                % (
                    file,
                    path,
                    error,
                    'put a copy in its place'
                    if os.path.exists(path)
                    else 'keep the folder with the checkpoint',
                ),
            )
            continue
        if not fits:
            errors.insert(
                0,
                f'the checkpoint {file} is not of the network that {path} tells of: keep each '
                'checkpoint with the folder it was written with',
            )
        elif name == file:
            return phase
        else:
            fitting.append(phase)
    if not fitting:
        raise ValueError(errors[0])
    return max(
        fitting,
        key=lambda phase: len(phase.curve) + sum(len(record['curve']) for record in phase.records),
    )


def _said(schedule):
    return ', '.join(f'{name}(epoch={epoch})' for name, epoch in schedule) or 'none'


def schedule_of(optimizations):
    """Returns [name, epoch] of each optimization, JSON-ready."""
    return [
        [o.name, list(map(int, o.epoch)) if isinstance(o.epoch, tuple) else o.epoch]
        for o in optimizations
    ]
