"""The phases of a run: named in its graph, described beside its checkpoints.

A phase begins with each applied optimization. The graph carries its label (see `mark`), and a
file in the checkpoint's folder what else a resumed run needs (see `checkpoint`).
"""
from . import checkpoint


class Progress(object):
    """How far a run has come.

    Attributes:
        applied (list of int): places of the applied optimizations in the list, in order.
        records (list of nc.Record): theirs.
        base (list of int): samples, minibatches and sweeps of the trainer when the run began.
    """

    def __init__(self, records, base):
        self.applied = []
        self.records = records
        self.base = base


class Phases(object):
    """What a run writes beside its checkpoints, and finds there.

    Args:
        network (network.Network): the run's.
        workers (distributed.Workers): only the main one writes.
        optimizations (list of nc.Optimization): of the run.
        file (str): the checkpoint name C++ writes to, None where it writes none.
        saves (bool): whether the front door saves checkpoints under names of its own.

    Attributes:
        checkpoints (checkpoint.Checkpoints): of `file`, or None.
    """

    def __init__(self, network, workers, optimizations, file, saves):
        self._network = network
        self._workers = workers
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

    def begin(self, places=None):
        """Notes that the graph is another one now.

        Args:
            places (dict): of the checkpoint it was rebuilt from, see `checkpoint.Phase`.
        """
        self._places = places

    def write(self, progress, checkpoints=None):
        """Writes what belongs to the present phase, beside `checkpoints` or those of C++."""
        checkpoints = checkpoints or self.checkpoints
        if not self._marks or checkpoints is None or not self._workers.is_main:
            return
        if self._places is None:
            self._places = self._network.places()
        checkpoints.write(checkpoint.Phase(
            schedule=self._schedule, fired=list(progress.applied),
            records=[record.to_dict() for record in progress.records], base=progress.base,
            unique_id=self._network.unique_id, **self._places))

    def find(self):
        """Returns the checkpoint that C++ would restore, or None; the main worker mends a torn one."""
        if self._workers.is_main:
            self.checkpoints.find()
        self._workers.barrier()
        return self.checkpoints.find()
