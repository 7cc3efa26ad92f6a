"""Keeps the phases of a run: labels its graph, writes files beside checkpoints, resumes.

Each applied optimization begins a phase. The graph carries the label of the phase (see `mark`); a
file in the checkpoint's folder holds what else a resumed run needs (see `checkpoint`).
"""
import contextlib
import os
import uuid
from typing import NamedTuple

from cntk.train.trainer import Trainer

from ..checkpoints import options, phase_file
from ..checkpoints.lock import Lock
from ..records import Record
from ..trainers import directors, learner_facts
from . import checkpoint, edits
from .restores import Restores


class Restored(NamedTuple):
    """The result of restoring a checkpoint."""

    state: dict  # its external state
    changed: bool  # the trainer's graph is not that of the file, so C++ cannot restore it again


class Phases:
    """What a run writes beside its checkpoints, finds there, and resumes from.

    A run without optimizations may use a trainer that an earlier run has optimized. It then
    continues that run's phases, since its checkpoints hold that network.

    Args:
        network (network.Network), clock (schedule.Clock): those of the run.
        optimizations (list of nc.Optimization): those of the run.
        records (list of nc.Record): those of the applied optimizations; filled in place.
        early (list of (int, float)): the curve before the first of them; filled in place.
        file (str): the checkpoint name C++ writes to; None if it writes none.
        restorer (callable): returns what restores for the user's code during the run.

    Attributes:
        applied (list of int): indices of the applied optimizations in the list, in order.
        options (list of dict): of each optimization in the list, as given to the run, whatever it
            makes of them later: see `options.kept`.
        base (list of int): samples, minibatches and sweeps the trainer had seen when the run began
            that these optimizations belong to.
    """

    def __init__(self, network, clock, optimizations, records, early, file, restorer):
        self.applied = []
        self.base = [0, 0, 0]
        self._start = [0, 0, 0]
        self._starts = {}  # start counts of the checkpoints saved by hand, by path
        self._run = None  # id that tells this run's phases from those of all other runs
        self._network = network
        self._restores = Restores(network)
        self._clock = clock
        self._changes = bool(optimizations)
        self._optimizations = optimizations
        self.options = [options.kept(optimization) for optimization in optimizations]
        self._records = records
        self._early = early
        self._file = file
        self._restorer = restorer
        self._before = None
        self._begun = self._ended = False
        self._places = None
        self._locks = {}

    @property
    def checkpoints(self):
        """The `checkpoint.Checkpoints` of the file C++ writes to; None if they are only CNTK's.

        A checkpoint of an optimized network must not be restored without its optimizations, so a
        folder beside it is read even if this run has none.
        """
        if self._file and (self._owns_checkpoints or os.path.isdir(self._file + checkpoint.FOLDER)):
            return self._of(self._file)
        return None

    def _of(self, file):
        return checkpoint.Checkpoints(file, checkpoint.schedule_of(self._optimizations))

    @property
    def optimized(self):
        """Whether the trainer's checkpoints hold a network that is, or will be, optimized."""
        return bool(self._optimizations)

    def label(self, applied):
        """Returns the label of a phase; None if checkpoints carry no label."""
        return checkpoint.label_of(applied, self._run) if self.optimized else None

    @property
    def next_label(self):
        """The label of the phase that the next optimization begins."""
        return self.label(len(self.applied) + 1)

    @property
    def _owns_checkpoints(self):
        return self._network.facts.phases is self

    def own_checkpoints(self):
        """Makes the trainer's checkpoints belong to these phases."""
        if self._owns_checkpoints:
            return
        self._before, self._network.facts.phases = self._network.facts.phases, self
        if self._changes:
            self._begin_run()
        elif self._before is not None:
            self._go_on_from(self._before)

    def _begin_run(self):
        """Gives the run an id of its own, different from all that are already written."""
        self._run = self._network.workers.shared_text(uuid.uuid4().hex[:12])

    def _go_on_from(self, before):
        self._run, self._optimizations = before._run, before._optimizations
        self.options = before.options
        self.applied = list(before.applied)
        self._records = _copied(before._records)
        self._early = list(before._early)
        self.base = before.base
        self._network.go_on_from(before._network)

    def count_from(self, counts):
        """Sets what the trainer has seen now as the start of this run."""
        self._start = self._clock.base = counts
        if self._changes:
            self.base = counts

    def take_over(self):
        """Starts a run on the current network, if the trainer's checkpoints belong to this run."""
        if not self._owns_checkpoints:
            return
        with directors.uninterrupted():
            self._network.take_over(self._changes, self.label(len(self.applied)))
            self._begun = True

    def end(self):
        """Ends the run.

        The trainer can then be restored without the run, and a finished result no longer changes.
        """
        self._restorer = None
        self._ended = True
        self.unlock()
        self._records = _copied(self._records)
        self._early = list(self._early)
        if self._owns_checkpoints and not (self._begun and self.optimized):
            self._network.facts.phases = self._before
        self._before = None

    def begin(self, index, record):
        """Begins the phase of an optimization whose change is already in the trainer.

        Args:
            index (int): its index in the list.
            record (nc.Record): its record so far.
        """
        self._enter(self.applied + [index], self._records + [record])

    def _enter(self, applied, records, places=None):
        """Makes a phase the current one; if `places` is None, they are looked up when needed."""
        self.applied, self._places = applied, places
        self._records[:] = records

    def write(self, file=None):
        """Writes the file of the current phase beside `file`, or beside the checkpoint of C++."""
        checkpoints = self._of(file) if file else self.checkpoints
        if not self.optimized or checkpoints is None or not self._network.workers.is_main:
            return
        if file:
            checkpoint.check_name(file)
        if self._places is None:
            self._places = self._network.places()
        checkpoints.write(
            phase_file.Phase(
                run=self._run,
                schedule=checkpoint.schedule_of(self._optimizations),
                fired=list(self.applied),
                records=[record.to_dict() for record in self._records],
                curve=[list(point) for point in self._early],
                base=self.base,
                unique_id=self._network.now.unique_id,
                **self._places,
            )
        )

    def write_missing(self):
        """Writes the file of the current phase, if it is missing and C++ may write its label."""
        checkpoints = self.checkpoints
        if (
            self.optimized
            and checkpoints is not None
            and not checkpoints.holds(self.label(len(self.applied)))
        ):
            self.write()

    def keeper(self, file=None):
        """Returns the Checkpoints of `file` or of C++'s file, if this process keeps them whole.

        Otherwise it returns None.
        """
        checkpoints = self._of(file) if file else self.checkpoints
        return checkpoints if self.optimized and self._network.workers.is_main else None

    @contextlib.contextmanager
    def saving(self, file):
        """Context for a save of CNTK: keeps the previous pair until the new one is found whole.

        Raises:
            RuntimeError: the new pair is not whole; the previous one is restored.
        """
        keeper = self.keeper(file)
        if keeper is None:
            yield
            return
        self.lock(file, shared=True)
        try:
            keeper.begin(self._network.counts()[0])
            yield
            keeper.done()
        finally:
            if self._ended:
                self.unlock()

    def lock(self, file, shared=False):
        """Keeps other processes from training under a checkpoint name: see `lock.Lock`.

        The lock is held until the run ends.
        """
        if file and self.keeper(file) is not None and file not in self._locks:
            checkpoint.check_name(file)
            lock = Lock(file, file + checkpoint.FOLDER)
            lock.take(shared)
            self._locks[file] = lock

    def unlock(self):
        """Allows other processes to train under the names of this run."""
        while self._locks:
            self._locks.popitem()[1].release()

    def saved(self, file):
        """Notes that the user's code has saved a checkpoint.

        For a checkpoint of plain CNTK, nothing else records the start of the run.
        """
        self._starts[os.path.abspath(file)] = self._clock.base

    def find(self):
        """Returns the checkpoint C++ would restore, or None; the main worker repairs a torn one."""
        workers = self._network.workers
        if workers.is_main:
            self.checkpoints.find()
        workers.barrier()
        return checkpoint.newest(self._file)

    @edits.of_the_network()
    def restore(self, file, restore=None):
        """Restores a checkpoint into the structure it was written with.

        Args:
            file (str): the checkpoint.
            restore (callable): restores a file into the trainer and returns its external state;
                None is CNTK's own `Trainer.restore_from_checkpoint`.

        Returns:
            Restored: `changed` if plain CNTK wrote it and the graph will be optimized.

        Raises:
            ValueError: the checkpoint does not belong to this script, or cannot be read.
        """
        learner_facts.check_resumable(self._network.facts.learners)
        if self._optimizations and learner_facts.counts_nothing(self._network.facts.learners):
            raise ValueError(
                f'the checkpoint {file} cannot tell how many samples were trained: CNTK counts '
                'none where a UserLearner is the only or the first learner. Put a learner of CNTK '
                'first, or resume without optimizations'
            )
        saved = self._load(file)
        phase, state = saved.phase, []

        def into_trainer():
            state.append(
                restore(file)
                if restore is not None
                else Trainer.restore_from_checkpoint(self._network.trainer, file)
            )

        if phase is None:
            self._restores.check_plain(saved)
            with directors.uninterrupted():
                self._restores.go_back(saved, into_trainer)
                self._set_clock(
                    file, self._network.counts(), self._start if self._changes else self.base
                )
                self._enter([], [])
                self._early[:] = []
                if self.optimized:
                    self._begin_run()
                self.take_over()
            return Restored(state[0], changed=self.optimized)
        with directors.uninterrupted():
            label = checkpoint.label_of(len(phase.fired), phase.run)
            self._restores.rebuild(saved, self._optimizations, label, into_trainer)
            self._begun, self._run = True, phase.run
            counts = self._network.counts()
            self._enter(
                list(phase.fired),
                phase_file.records_of(phase, counts[0] - phase.base[0]),
                phase.places(),
            )
            self._early[:] = phase_file.curve_of(phase, counts[0] - phase.base[0])
            self._set_clock(file, counts, list(phase.base))
        return Restored(state[0], changed=False)

    def _load(self, file):
        saved = self._of(file).load(file)
        if saved.phase is not None:
            options.refuse_changed(file, saved.phase, self.options)
        return saved

    def _set_clock(self, file, counts, base):
        """Sets the clock to a restored checkpoint, which may lie before the start of this run.

        Args:
            file (str): the checkpoint.
            counts (list of int): what the trainer has seen.
            base (list of int): what it had seen when the run began that these optimizations belong
                to.
        """
        self.base = _not_after(base, counts)
        self._clock.base = (
            self.base
            if self._changes
            else _not_after(self._starts.get(os.path.abspath(file), self._start), counts)
        )
        self._clock.set(counts)

    @edits.of_the_network()
    def restore_in_place(self, file, restore):
        """Does what `restore` does while C++'s loop holds the C++ trainer, which thus has to stay.

        Raises:
            ValueError: the checkpoint belongs to another structure.
        """
        saved = self._load(file)
        phase = saved.phase
        if phase is None and not self.optimized:
            self._restores.check_plain(saved)
        elif phase is None or phase.fired != self.applied:
            raise ValueError(
                'while a session trains, a checkpoint must be of the network as it is now, with %d '
                'optimizations applied, and %s was saved %s; restore it when train() is over'
                % (
                    len(self.applied),
                    file,
                    'without callbacks' if phase is None else f'after {len(phase.fired)}',
                )
            )
        else:
            learner_facts.check_states(saved, self._network.now.trained)
        return Restored(self._restores.in_place(lambda: restore(file)), changed=False)

    @property
    def restorer(self):
        """What restores a checkpoint for the user's code now; called as `restore` is."""
        return self._restore_after_the_run if self._restorer is None else self._restorer()

    def _restore_after_the_run(self, file, restore):
        restored = self.restore(file, restore)
        self._network.let_go()
        return restored


def _not_after(start, counts):
    return start if start[0] <= counts[0] else [0, 0, 0]


def _copied(records):
    return [Record.from_dict(record.to_dict()) for record in records]
