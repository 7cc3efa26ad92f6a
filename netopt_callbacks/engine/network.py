"""The running network: how a trainer's inside changes, and how it is rebuilt on resume.

Every change is one of three, and each ends in one exchange of the trainer's inside:

    take_over    the user's graph, blocks opened, under writers we know
    apply        release tenants -> prepare -> transform -> pack -> check -> exchange -> write
    resume       the graph of a checkpoint on the user's own inputs and Parameters
"""
import tempfile
import warnings

import cntk as C
import numpy as np
from cntk import cntk_py
from cntk.train.trainer import Trainer
from cntk.train.training_session import DataUnit

from .. import count, graph
from ..optimizations.base import Transformed
from . import adopt, checkpoint, learners as learner_facts, random_state, swap, tenants, windows
from .mark import marked


class Network(object):
    """A trainer whose inside can be exchanged.

    Args:
        trainer (cntk.Trainer): the user's; it stays the same object.
        handed (remember.Handed): what it was built with.
        workers (distributed.Workers): of the run.
        on_training_summary, on_test_summary (callable): see `windows.Tracker`.

    Attributes:
        learners (list of cntk.learners.Learner): of the present trainer.
        owners (list): [index of the optimization, its Parameters] of each learner that
            `learner=` of an optimization made.
        mark (str): label of the phase, None for a graph that is not checkpointed.
        unique_id (int): CNTK's uid counter where the present graph begins.
    """

    def __init__(self, trainer, handed, workers, on_training_summary, on_test_summary):
        self.trainer = trainer
        self.learners = list(handed.learners)
        self.owners = []
        self.mark = None
        self.unique_id = None
        self._handed = handed
        self._workers = workers
        learner_facts.keep_state(self.learners)
        dtype = np.dtype(trainer.loss_function.output.dtype)
        self._tracker = windows.Tracker(dtype, on_training_summary, on_test_summary)

    @property
    def metric(self):
        """The criterion's second output, its first where it has but one."""
        return self.trainer.evaluation_function or self.trainer.loss_function

    @property
    def whole(self):
        """The trainer's graph: outputs of the model, loss and metric, combined."""
        return swap.Outputs(self.trainer).whole

    def counts(self):
        """Returns the samples, minibatches and sweeps the trainer has seen in its life."""
        return [self.trainer.total_number_of_units_seen(unit)
                for unit in (DataUnit.sample, DataUnit.minibatch, DataUnit.sweep)]

    def take_over(self, opened):
        """Builds the first trainer of our own.

        Args:
            opened (bool): whether blocks with random state are opened.
        """
        outputs = self._pulled()
        whole = graph.clone_shared(outputs.whole)
        if opened and random_state.stateful_blocks(whole):
            if self.counts()[0]:
                warnings.warn(
                    'this trainer has trained a block with random state (cntk.layers.Dropout is '
                    'one), and CNTK forgets the state of such a block: its random numbers begin '
                    'anew. Attach before the first minibatch for an exact run')
            whole = random_state.open_blocks(whole)
        self._exchange(outputs, whole, self.learners)

    def apply(self, optimization, index, minibatches, mark):
        """Transforms the network; the trainer is as it was if anything raises on the way.

        Args:
            optimization (nc.Optimization): what to apply.
            index (int): its place in the list of callbacks' optimizations.
            minibatches (callable): arguments -> held-out minibatches for `prepare`.
            mark (str): label of the phase that begins, or None.

        Returns:
            (list of LayerNote, list of str): what the optimization and what the engine say.
        """
        sums = self._tracker.sums
        outputs = self._pulled()
        plain, packed = tenants.release(graph.clone_shared(outputs.whole))
        optimization.prepare(plain, minibatches(plain.arguments))
        transformed = optimization.transform(plain)
        if not isinstance(transformed, Transformed):
            transformed = Transformed(transformed)
        if not isinstance(transformed.model, C.Function):
            raise TypeError('%s: transform(model) must return a cntk.Function or an nc.Transformed, '
                            'got %r' % (optimization.name, transformed.model))
        plan = adopt.Plan(optimization, plain, transformed.model, packed, self.learners,
                          transformed.layers)
        whole = random_state.open_blocks(plan.packed())
        whole = outputs.with_loss(whole, lambda loss: tenants.keep_reachable(loss, plan.unread))
        swap.check(outputs, whole, learner_facts.parameters_of(plan.learners), optimization.name)
        self._workers.agree(checkpoint.signature(whole), optimization.name)
        self.mark = mark
        self._exchange(outputs, whole, plan.learners)
        plan.write()
        self._workers.share_values(plan.written + _added(outputs.whole, whole, plan.learners))
        if plan.owned:
            self.owners.append([index, plan.owned])
        windows.carry(self.writers, self.trainer, sums, self._tracker.dtype)
        return transformed.layers, plan.messages

    def resume(self, file, saved, phase, optimizations, mark):
        """Rebuilds the network of a checkpoint and restores it.

        Args:
            file (str): the checkpoint.
            saved (cntk.Function), phase (checkpoint.Phase): as `Checkpoints.load` gives them.
            optimizations (list of nc.Optimization): those of the run, whose `learner=`
                makes the learners that are not the user's.
            mark (str): label of the phase.

        Returns:
            The checkpoint's external state.

        Raises:
            ValueError: the script is not the one that wrote the checkpoint.
        """
        learner_facts.check_resumable(self._handed.learners)
        outputs = swap.Outputs(self.trainer)
        whole, self.owners = checkpoint.rebound(
            saved, phase, self.trainer.loss_function.arguments,
            learner_facts.parameters_of(self._handed.learners))
        learners = list(self._handed.learners)
        for index, owned in self.owners:
            learners.append(optimizations[index].learner(owned))
        self.mark = mark
        self._exchange(outputs, whole, learners, phase.unique_id)
        return Trainer.restore_from_checkpoint(self.trainer, file)

    def restore_plain(self, file, saved):
        """Restores a checkpoint of plain CNTK into the trainer as the user built it.

        Returns:
            The checkpoint's external state.

        Raises:
            ValueError: the checkpoint is of another network.
        """
        learner_facts.check_resumable(self.learners)
        loss = saved.outputs[swap.Outputs(self.trainer).models]
        if checkpoint.signature(C.combine([loss])) \
                != checkpoint.signature(self.trainer.loss_function):
            raise ValueError('the checkpoint %s was written by another network than the one of this '
                             'script: give it another checkpoint name' % file)
        return Trainer.restore_from_checkpoint(self.trainer, file)

    def places(self):
        """Returns where a checkpoint of the present graph holds what, JSON-ready."""
        return checkpoint.places(self.trainer, self.trainer.loss_function.arguments,
                                 learner_facts.parameters_of(self._handed.learners), self.owners)

    def export(self):
        """Returns a copy of the model with Parameters of its own."""
        return tenants.export(self.trainer.model or self.trainer.loss_function)

    def totals(self):
        """Returns (parameters, multiply-adds per sample) of the model, see `count.totals`."""
        plain, _ = tenants.release(self.trainer.model or self.trainer.loss_function)
        return count.totals(plain)

    @property
    def writers(self):
        """The progress writers of the trainer: the user's and the tracker."""
        return list(self._handed.writers) + [self._tracker]

    def _pulled(self):
        """Returns the trainer's graph with the random state pulled out of C++ into it.

        Only serializing moves the state of the compiled network into the graph. Without such
        state nothing is saved: a save is a synchronization for CNTK's distributed learners.
        """
        outputs = swap.Outputs(self.trainer)
        if random_state.has_state(outputs.whole):
            with tempfile.TemporaryDirectory() as folder:
                Trainer.save_checkpoint(self.trainer, folder + '/pulled')
        return outputs

    def _exchange(self, outputs, whole, learners, unique_id=None):
        """Builds the next trainer; the graph's uids begin where the run they resume had them."""
        self.unique_id = self._workers.align_unique_id(unique_id)
        if self.unique_id is None:
            checkpoint.advance_unique_id(unique_id or 0)
            self.unique_id = cntk_py.new_unique_id()
        else:
            whole = graph.clone_shared(whole)
        model, loss, metric = outputs.split(whole)
        if self.mark is not None:
            loss = marked(loss, self.mark)
        swap.exchange(self.trainer, self._handed, (model, loss, metric), learners, self.writers)
        self.learners = learners


def _added(before, after, learners):
    """Returns the Parameters and Constants of a graph that are new in it and no storage."""
    known = {variable.uid for variable in list(before.parameters) + list(before.constants)}
    known.update(parameter.uid for parameter in learner_facts.parameters_of(learners))
    return [variable for variable in list(after.parameters) + list(after.constants)
            if variable.uid not in known]
