"""The phases of a run: named in its graph, written beside its checkpoints, and gone on from.

A phase begins with each applied optimization. The graph carries its label (see `mark`), and a
file in the checkpoint's folder what else a resumed run needs (see `checkpoint`).
"""
import collections

from cntk.train.trainer import Trainer

from ..records import Record
from . import checkpoint, directors, learners as learner_facts

Restored = collections.namedtuple('Restored', 'state, changed')
"""What a checkpoint gave: its external state, and whether the trainer's graph is no longer the
one in the file, so that C++ could not restore it once more."""


class Phases(object):
    """What a run writes beside its checkpoints, finds there, and goes on from.

    Args:
        network (network.Network), workers (distributed.Workers), clock (schedule.Clock): of the
            run; only the main worker writes.
        handed (remember.Handed): what the trainer was built with.
        optimizations (list of nc.Optimization): of the run.
        attends (bool): whether the run has anything to do at all.
        records (list of nc.Record): of the applied ones; filled in place.
        file (str): the checkpoint name C++ writes to, None where it writes none.
        saves (bool): whether the front door saves checkpoints under names of its own.

    Attributes:
        applied (list of int): places of the applied optimizations in the list, in order.
        begun (bool): whether the trainer's graph is one of this run.
        checkpoints (checkpoint.Checkpoints): of `file`, or None.
    """

    def __init__(self, network, workers, clock, handed, optimizations, attends, records, file,
                 saves):
        self.applied = []
        self.begun = False
        self._attends = attends
        self._network = network
        self._workers = workers
        self._clock = clock
        self._handed = handed
        self._optimizations = optimizations
        self._records = records
        self._schedule = checkpoint.schedule_of(optimizations)
        self._marks = bool(optimizations) and bool(file or saves)
        self._places = None
        self.checkpoints = self.of(file) if file else None

    def of(self, file):
        """Returns the `Checkpoints` beside a file of any name."""
        return checkpoint.Checkpoints(file, self._schedule)

    def label(self, applied):
        """Returns the label of a phase; None where nothing of ours is to be in a checkpoint."""
        return str(applied) if self._marks else None

    @property
    def next_label(self):
        """The label of the phase that the next applied optimization begins."""
        return self.label(len(self.applied) + 1)

    def take_over(self):
        """Begins a run on the network as it is."""
        with directors.uninterrupted():
            if self._attends:
                self._network.take_over(bool(self._optimizations), self.label(0))
            self.begun = True
        self.write()

    def begin(self, index, record):
        """Begins the phase of an optimization whose change is in the trainer.

        Args:
            index (int): its place in the list.
            record (nc.Record): what is known of it.
        """
        self.applied.append(index)
        self._records.append(record)
        self._places = None             # the graph is another one now

    def write(self, file=None):
        """Writes what belongs to the present phase beside `file`, or beside the one of C++."""
        checkpoints = self.of(file) if file else self.checkpoints
        if not self._marks or checkpoints is None or not self._workers.is_main:
            return
        if self._places is None:
            self._places = self._network.places()
        checkpoints.write(checkpoint.Phase(
            schedule=self._schedule, fired=list(self.applied),
            records=[record.to_dict() for record in self._records], base=self._clock.base,
            unique_id=self._network.unique_id, **self._places))

    def find(self):
        """Returns the checkpoint that C++ would restore, or None; the main worker mends a torn one."""
        if self._workers.is_main:
            self.checkpoints.find()
        self._workers.barrier()
        return self.checkpoints.find()

    def restore(self, checkpoints, file, restore):
        """Restores a checkpoint into the structure it was written with.

        Args:
            checkpoints (checkpoint.Checkpoints), file (str): the checkpoint.
            restore (callable): restores a file into the trainer and returns its external
                state; None is CNTK's own `Trainer.restore_from_checkpoint`.

        Returns:
            Restored: `changed` where plain CNTK wrote it and the graph is to be optimized.

        Raises:
            ValueError: the checkpoint is not of this script, or cannot be read.
        """
        learner_facts.check_resumable(self._handed.learners)
        if self._optimizations and learner_facts.counts_nothing(self._handed.learners):
            raise ValueError(
                'the checkpoint %s cannot tell how many samples were trained: CNTK counts none '
                'where a UserLearner is the only or the first learner. Put a learner of CNTK first, '
                'or resume without optimizations' % file)
        saved, phase = checkpoints.load(file)
        state = []

        def into_trainer():
            state.append(restore(file) if restore is not None
                         else Trainer.restore_from_checkpoint(self._network.trainer, file))

        if phase is None:
            self._network.check_plain(file, saved)
            into_trainer()
            counts = self._network.counts()
            if counts[0] < self._clock.base[0]:
                self._clock.base = [0, 0, 0]    # it goes back behind the start of this run
            self._clock.set(counts)
            self.take_over()
            return Restored(state[0], changed=bool(self._optimizations))
        with directors.uninterrupted():
            self._network.rebuild(saved, phase, self._optimizations, self.label(len(phase.fired)),
                                  into_trainer)
            self.begun = True
            self._places = phase.places()
            self.applied = list(phase.fired)
            self._clock.base = list(phase.base)
            self._clock.set(self._network.counts())
            self._records[:] = checkpoint.records_of(phase, self._clock.samples)
        return Restored(state[0], changed=False)

    def restore_in_place(self, file, restore):
        """Restores a checkpoint where the C++ trainer has to stay, since C++'s loop holds it.

        Raises:
            ValueError: the checkpoint is of another structure.
        """
        saved, phase = self.of(file).load(file)
        if phase is None:
            self._network.check_plain(file, saved)
        elif phase.fired != self.applied:
            raise ValueError('while a session trains, a checkpoint must be of the network as it is now, with %d '
                             'optimizations applied, and %s was saved after %d; restore it when train() is over'
                             % (len(self.applied), file, len(phase.fired)))
        return restore(file)

    # What the trainer asks once the run has ended, see `exchanged`.

    def detach(self):
        """Goes on with records of its own: those of a finished result stay as they are."""
        self._records = [Record.from_dict(record.to_dict()) for record in self._records]

    def before_save(self, file):
        """Writes what belongs beside a checkpoint that the user's code is about to save."""
        self.write(file)

    def restore_file(self, file, restore):
        """Restores a checkpoint for the user's code; returns its external state."""
        restored = self.restore(self.of(file), file, restore)
        self._network.let_go()
        return restored.state
