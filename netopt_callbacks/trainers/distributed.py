"""Coordinates workers: all take the main worker's values, and a failing worker ends all.

CNTK trains over MPI with distributed learners; each worker runs the same script. A transform runs
on every worker, and its result may differ between workers (another BLAS, a random number), so all
take the main worker's values. The engine uses MPI through CNTK's communicator, which has a sum but
no broadcast: main's value plus zeros is main's value.
"""
import ctypes
import os
import sys
import traceback

import cntk as C
import numpy as np
from cntk import cntk_py
from cntk.train import Trainer
from cntk.train.distributed import Communicator, DistributedLearner

from ..temporary_folder import temporary_folder
from . import learner_facts, remember

_UIDS = 100000
# What the main worker and each other worker contribute in `meet`: small, exact in any sum, and
# never the 0 of an open window.
_MAIN, _OTHER = np.float32(2.0**-100), np.float32(2.0**-99)


class Workers:
    """The workers of a run; a single process is its own main worker.

    Args:
        learners (list of cntk.learners.Learner): those of the trainer.
    """

    def __init__(self, learners):
        distributed = [learner for learner in learners if isinstance(learner, DistributedLearner)]
        self.count = Communicator.num_workers() if distributed else 1
        self.is_main = self.count == 1 or Communicator.rank() == 0
        self._rank = Communicator.rank() if self.count > 1 else 0
        self._alone_until = max([learner.parallelization_after() for learner in distributed] or [0])
        self._communicator = C.train.distributed.mpi_communicator() if self.count > 1 else None
        self._at_own_pace = [
            learner
            for learner in distributed
            if self.count > 1
            and remember.learner(learner)[0] == 'create_block_momentum_distributed_learner'
        ]
        self.drops_empty_minibatch = bool(self._at_own_pace)

    def shares(self, seen):
        """Returns (number of workers, rank) that C++ partitions data by, after `seen` samples.

        Before `distributed_after` samples every worker reads all of it.
        """
        return (1, 0) if seen < self._alone_until else (self.count, self._rank)

    def any(self, flag):
        """Returns whether a flag is set on any worker; all workers call this together."""
        return bool(flag) if self.count == 1 else self._summed(np.array([float(bool(flag))]))[0] > 0

    def meet(self, trainer):
        """Waits until all workers arrive; under other learners than block momentum it does nothing.

        Under block momentum each worker trains at its own pace, so one may reach what is due before
        the others. The others can only be met in an operation of CNTK itself. Averaging metrics is
        one that changes nothing. A worker met in a progress summary arrives after it, and its
        summary is off by no more than the tiny number contributed here. A worker at the end of its
        data, or in a checkpoint, continues only after this one saves.
        """
        while self._at_own_pace:
            mine = _MAIN if self.is_main else _OTHER
            average, _ = self.averaged(mine, mine)
            if average == np.float32(_MAIN + (self.count - 1) * _OTHER) / np.float32(self.count):
                return
            if average == mine:
                with temporary_folder('meeting the other workers') as folder:
                    Trainer.save_checkpoint(trainer, os.path.join(folder, 'met'))

    def apart(self, trained):
        """Whether the workers have trained Parameters apart that a change is about to replace.

        Args:
            trained (tuple of Trained): the learners after the change, not rebuilt yet.
        """
        return any(
            one.state is None and not learner_facts.trains(one.learner, one.parameters)
            for one in self._own_pace_of(trained)
        )

    def synchronized(self, trained):
        """Synchronizes the learners under block momentum; returns `trained` with their states.

        The Parameters are then the same on all workers. To synchronize again would move them again,
        by the block momentum, so that the states are kept for `learner_facts.rebuild`.
        """
        own_pace = self._own_pace_of(trained)
        return tuple(
            one._replace(state=one.learner.create_checkpoint()) if one in own_pace else one
            for one in trained
        )

    def _own_pace_of(self, trained):
        return [one for one in trained if any(one.learner is each for each in self._at_own_pace)]

    def averaged(self, loss, metric):
        """Returns two numbers averaged over all workers, as CNTK does for a progress summary.

        Only block momentum averages; under other learners the numbers are returned unchanged.
        """
        if not self._at_own_pace:
            return loss, metric
        views = [C.NDArrayView.from_dense(np.array(value, np.float32)) for value in (loss, metric)]
        self._at_own_pace[0].do_aggregate_metrics_if_needed(*views)
        return tuple(np.float32(view.asarray()) for view in views)

    def shared(self, value):
        """Returns the main worker's array (float32 or float64, same shape everywhere)."""
        if self.count == 1:
            return value
        return self._summed(value if self.is_main else np.zeros_like(value))

    def _summed(self, value):
        view = C.NDArrayView.from_dense(np.ascontiguousarray(value))
        self._communicator.aggregate_in_place([view], self._communicator.workers())
        return view.asarray().reshape(np.shape(value))

    def shared_text(self, text):
        """Returns the main worker's text."""
        if self.count == 1:
            return text
        length = int(self.shared(np.array([len(text.encode('utf-8'))], np.float64))[0])
        codes = np.zeros(length, np.float64)
        if self.is_main:
            codes[:] = bytearray(text.encode('utf-8'))
        return bytes(bytearray(self.shared(codes).astype(np.uint8))).decode('utf-8')

    def share_values(self, variables):
        """Gives Parameters and Constants the main worker's values."""
        if self.count > 1:
            for variable in variables:
                variable.value = self.shared(np.asarray(variable.value))

    def agree(self, text, what):
        """Raises RuntimeError if `text()` differs from the main worker's."""
        if self.count == 1:
            return
        mine = text()
        if self.shared_text(mine) != mine:
            raise RuntimeError(
                f'{what} is not the same on worker {Communicator.rank()} as on the main worker: '
                'its shapes must not depend on the worker'
            )

    def barrier(self):
        """Waits for all workers."""
        if self.count > 1:
            self._communicator.barrier()

    def align_unique_id(self, at=None):
        """Gives the next Variables the same uids on all workers and after a resume.

        CNTK restores the random state of workers other than the main one by uid.

        Args:
            at (int): the number at which a resumed run has to begin; None chooses one.

        Returns:
            int: the number at which the next Variables begin; None for a single process.
        """
        if self.count == 1:
            return None
        number = cntk_py.new_unique_id()
        begin = (self._largest(number) // _UIDS + 1) * _UIDS if at is None else at
        if number >= begin:
            raise RuntimeError(
                'the checkpoint is of another process, and with random state in the network '
                '(Dropout is such) several workers cannot go back to it so late: restore it '
                'before training, in the script that wrote it'
            )
        while number < begin:
            number = cntk_py.new_unique_id()
        return begin

    def _largest(self, number):
        """Returns the largest of the workers' numbers; all workers call this together."""
        numbers = np.zeros(self.count)
        numbers[Communicator.rank()] = number
        return int(self._summed(numbers).max())

    def end_all(self):
        """Prints the traceback of the current exception and ends every worker.

        If only one worker raised, the others would wait for it in MPI forever.
        """
        traceback.print_exc()
        sys.stderr.flush()
        sys.stdout.flush()
        mpi = ctypes.CDLL('libmpi.so.12')
        world = ctypes.c_char.in_dll(mpi, 'ompi_mpi_comm_world')
        mpi.MPI_Abort(ctypes.byref(world), 1)
        os._exit(1)
