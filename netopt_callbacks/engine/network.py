"""The running network: how a trainer's inside changes, and how it is rebuilt on resume.

Every change is one of three, and each ends in one exchange of the trainer's inside:

    take_over    the user's graph, blocks opened, under writers we know
    transformed  release tenants -> prepare -> transform -> pack -> check; nothing has changed yet
    commit       ... -> exchange -> write
    rebuild      the graph of a checkpoint on the user's own inputs and Parameters
"""
import contextlib
import tempfile
import warnings

import cntk as C
import numpy as np
from cntk import cntk_py
from cntk.train.trainer import Trainer

from .. import count, graph
from ..optimizations.base import as_transformed
from . import (adopt, directors, fit, learners as learner_facts, random_state, saved_graph, swap,
               tenants, windows)
from .mark import kept_reachable, marked, unmarked
from .schedule import UNITS


class Change(object):
    """A transformed network that has passed all checks and only waits for `Network.commit`.

    Attributes:
        layers (list of LayerNote): what the optimization says of each layer.
        messages (list of str): what the engine says.
    """

    def __init__(self, index, outputs, whole, plan, layers):
        self.index = index
        self.outputs = outputs
        self.whole = whole
        self.plan = plan
        self.layers = layers
        self.messages = plan.messages


class Network(object):
    """A trainer whose inside can be exchanged.

    Args:
        trainer (cntk.Trainer): the user's; it stays the same object.
        handed (remember.Handed): what it was built with.
        workers (distributed.Workers): of the run.
        on_training_summary, on_test_summary (callable): see `windows.Tracker`.

    Attributes:
        trainer, handed, workers: as given.
        owners (list): [index of the optimization, its Parameters] of each learner that
            `learner=` of an optimization of this run made.
        given (list): the learners the trainer had when the run began, and a resumed script has.
        unique_id (int): CNTK's uid counter where the present graph begins.
    """

    def __init__(self, trainer, handed, workers, on_training_summary, on_test_summary):
        self.trainer = trainer
        self.handed = handed
        self.workers = workers
        self.unique_id = None
        self._listeners = on_training_summary, on_test_summary
        self.begin()

    def begin(self):
        """Looks at the trainer as it is now."""
        self.owners = []
        self.given = list(self.handed.learners)
        self._window_unknown = self.handed.tracker is None and self.handed.writers and self.counts()[0]
        self._tracker = self.handed.tracker \
            or windows.Tracker(self.handed, np.dtype(self.trainer.loss_function.output.dtype))

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
        return [self.trainer.total_number_of_units_seen(unit) for unit in UNITS]

    def go_on_from(self, before):
        """Takes over what the network of an earlier run knew of the trainer's learners."""
        self.owners = list(before.owners)
        self.given = list(before.given)

    def refuse_expected(self, optimizations):
        """Refuses, before training, optimizations that could not be applied, as far as that is known.

        Args:
            optimizations (list of nc.Optimization): those still to be applied.
        """
        fit.refuse_expected(optimizations, *tenants.release(self.whole), learners=self.handed.learners)

    def take_over(self, opened, mark):
        """Builds the first trainer of our own.

        Args:
            opened (bool): whether the graph is to be changed later: it is cloned, and blocks
                with random state are opened. Without, the trainer is built on the graph as it is.
            mark (str): label of the phase, None for a graph that is not to be optimized.
        """
        outputs = self._pulled()
        whole = outputs.whole
        if self._window_unknown:
            warnings.warn(
                'this trainer trained before its progress writers were under our eyes, and CNTK '
                'does not tell what they have summed up since their last summary: if a progress '
                'window is open now, its next summary counts all its samples, but the loss and '
                'metric only from here on. Call trainer.summarize_training_progress() first, or '
                'attach before the first minibatch')
        if opened:
            learner_facts.keep_state(self.given)
            whole = graph.clone_shared(whole)
            if random_state.stateful_blocks(whole):
                if self.counts()[0]:
                    warnings.warn(
                        'this trainer has trained a block with random state (cntk.layers.Dropout '
                        'is one), and CNTK forgets the state of such a block: its random numbers '
                        'begin anew. Attach before the first minibatch for an exact run')
                whole = random_state.open_blocks(whole)
        self._exchange(outputs, whole, self.handed.learners, mark)

    def transformed(self, optimization, index, minibatches):
        """Transforms the network; the trainer is as it was, whatever comes of it.

        Args:
            optimization (nc.Optimization): what to apply.
            index (int): its place in the list of callbacks' optimizations.
            minibatches (callable): arguments -> held-out minibatches for `prepare`.

        Returns:
            Change: to be committed.
        """
        outputs = self._pulled()
        plain, packed = tenants.release(graph.clone_shared(outputs.whole))
        optimization.prepare(plain, minibatches(plain.arguments))
        transformed = as_transformed(optimization.transform(plain), optimization.name)
        plan = adopt.Plan(optimization, plain, transformed.model, packed, self.handed.learners,
                          transformed.layers)
        whole = random_state.open_blocks(plan.packed())
        swap.check(outputs, whole, plan.read, optimization.name)
        self.workers.agree(lambda: saved_graph.signature(whole), optimization.name)
        return Change(index, outputs, whole, plan, transformed.layers)

    def commit(self, change, mark):
        """Puts a change into the trainer, whole or, if anything raises, not at all.

        Args:
            change (Change): as `transformed` gave it.
            mark (str): label of the phase that begins, or None.
        """
        plan = change.plan
        added = _added(change.outputs.whole, change.whole, plan.learners)

        def write(undo):
            plan.write(undo)
            self.workers.share_values(plan.written + added)

        self._exchange(change.outputs, change.whole, plan.learners, mark, write=write)
        if plan.owned:
            self.owners.append([change.index, plan.owned])

    def rebuild(self, saved, phase, optimizations, mark, restore):
        """Rebuilds the network of a checkpoint and restores it, whole or not at all.

        Args:
            saved (cntk.Function), phase (checkpoint.Phase): as `Checkpoints.load` gives them.
            optimizations (list of nc.Optimization): those of the run, whose `learner=`
                makes the learners that are not the user's.
            mark (str): label of the phase.
            restore (callable): restores the checkpoint into the trainer.

        Raises:
            ValueError: the script is not the one that wrote the checkpoint.
        """
        outputs = swap.Outputs(self.trainer)
        whole, owners = saved_graph.rebound(saved, phase, self.handed.arguments,
                                           learner_facts.parameters_of(self.given))
        learners = list(self.given)
        learner_facts.keep_state(self.given)
        for index, owned in owners:
            if optimizations[index].learner is None:
                raise ValueError('%s: the checkpoint was written with learner= for the Parameters '
                                 'it adds, got none now; give the same one'
                                 % optimizations[index].name)
            learners.append(optimizations[index].learner(owned))
        self._exchange(outputs, whole, learners, mark, phase.unique_id, lambda undo: restore())
        self.owners = owners

    def go_back(self, restore):
        """Restores a checkpoint of plain CNTK into the user's own graph, whole or not at all.

        Args:
            restore (callable): restores the checkpoint into the trainer.
        """
        original = self.handed.original
        if original is None:
            restore()
            return
        self._exchange(swap.Outputs(self.trainer), original.whole, original.learners, None,
                       write=lambda undo: restore())
        self.given, self.owners = list(original.learners), []

    def check_plain(self, file, saved):
        """Refuses a checkpoint of plain CNTK that is not of the network the user handed over.

        Raises:
            ValueError: the checkpoint is of another network.
        """
        place = swap.Outputs(self.trainer).models
        mine = self.handed.original.whole if self.handed.original else self.whole
        if saved_graph.signature(C.combine([saved.outputs[place]])) \
                != saved_graph.signature(C.combine([mine.outputs[place]])):
            raise ValueError('the checkpoint %s was written by another network than the one of this '
                             'script: give it another checkpoint name' % file)

    def places(self):
        """Returns where a checkpoint of the present graph holds what, JSON-ready."""
        return saved_graph.places(self.trainer, self.handed.arguments,
                                 learner_facts.parameters_of(self.given), self.owners)

    def export(self):
        """Returns a copy of the model with Parameters of its own."""
        return tenants.export(self._model)

    def totals(self):
        """Returns (parameters, multiply-adds per sample) of the model, see `count.totals`."""
        plain, _ = tenants.release(self._model)
        return count.totals(plain)

    def let_go(self):
        """Lets the trainer's tracker, which stays in it, tell us nothing more."""
        self._listeners = ()
        self._tracker.listen()
        learner_facts.let_go(self.given)

    @property
    def writers(self):
        """The progress writers of the trainer: the user's and the tracker."""
        return list(self.handed.writers) + [self._tracker]

    @property
    def _model(self):
        """The model; the bare loss where the trainer was given none."""
        return self.trainer.model or C.combine(unmarked(self.trainer.loss_function.outputs))

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

    def _exchange(self, outputs, whole, learners, mark, unique_id=None, write=None):
        """Builds the next trainer and puts it in, whole or not at all.

        Args:
            unique_id (int): where the graph's uids began in the run that is resumed.
            write (callable): does what is left once the trainer is the new one; gets an
                ExitStack of what takes back what it did.
        """
        self.unique_id = self.workers.align_unique_id(unique_id)
        if self.unique_id is None:
            saved_graph.advance_unique_id(unique_id or 0)
            self.unique_id = cntk_py.new_unique_id()
        else:
            whole = graph.clone_shared(whole)
        model, loss, metric = outputs.split(whole)
        loss = kept_reachable(loss, learner_facts.parameters_of(learners))
        if mark is not None:
            loss = marked(loss, mark)
        sums = self._tracker.sums
        with directors.uninterrupted(), contextlib.ExitStack() as undo:
            swap.exchange(self.trainer, self.handed, (model, loss, metric), learners,
                          self.writers, undo)
            if write is not None:
                write(undo)
            windows.carry(self.writers, self.trainer, sums, self._tracker.dtype)
            self._tracker.listen(*self._listeners)
            self.handed.tracker = self._tracker
            undo.pop_all()


def _added(before, after, learners):
    """Returns the Parameters and Constants of a graph that are new in it and no storage."""
    known = {variable.uid for variable in list(before.parameters) + list(before.constants)}
    known.update(parameter.uid for parameter in learner_facts.parameters_of(learners))
    return [variable for variable in list(after.parameters) + list(after.constants)
            if variable.uid not in known]
