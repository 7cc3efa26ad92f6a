"""The running network: how a trainer's inside changes, and how it is rebuilt on resume.

Every change is one of these. Each ends in one exchange of the trainer's inside, where that is not as it
has to be already:

    take_over    the user's graph, blocks opened, under writers we know
    transformed  release tenants -> prepare -> transform -> pack -> check; nothing has changed yet
    commit       ... -> exchange -> write
    rebuild      the graph of a checkpoint on the user's own inputs and Parameters
    go_back      the graph that the trainer was built with, which a plain checkpoint is of
"""
import collections
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
from .mark import kept_reachable, marked, phase_of, unmarked
from .put_back import or_as_it_was
from .schedule import UNITS


class Graph(collections.namedtuple('Graph', 'whole, owners, unique_id')):
    """A graph that the engine has put into a trainer.

    Attributes:
        whole (cntk.Function): outputs of model, loss and metric combined, without what is added
            to the loss; None before the first.
        owners (list): [index of the optimization, its Parameters] of each learner that `learner=`
            of an optimization of the run made.
        unique_id (int): CNTK's uid counter where the graph begins; None where the graph is the
            user's own.
    """


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
        now (Graph): the present one, from `look` on.
        given (list): the learners that a resumed script has: those the trainer had when the run
            began, or those it was built with, where a plain checkpoint was gone back to.
    """

    def __init__(self, trainer, handed, workers, on_training_summary, on_test_summary):
        self.trainer = trainer
        self.handed = handed
        self.workers = workers
        self._listeners = on_training_summary, on_test_summary

    def look(self):
        """Begins with the trainer as it is now."""
        self.now = Graph(None, [], None)
        self.given = self._began_with = list(self.handed.learners)
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
        return learner_facts.counts(self.trainer, self.handed.learners, UNITS)

    def go_on_from(self, before):
        """Takes over what the network of an earlier run knew of the trainer's learners."""
        self.now, self.given, self._began_with = before.now, before.given, before._began_with

    def refuse_expected(self, optimizations):
        """Refuses, before training, optimizations that could not be applied, as far as that is known.

        Args:
            optimizations (list of nc.Optimization): those still to be applied.
        """
        fit.refuse_expected(optimizations, *tenants.release(self.whole), learners=self.handed.learners)

    def take_over(self, opened, mark):
        """Makes sure that the trainer is one of our own.

        Args:
            opened (bool): whether the graph is to be changed later: it is cloned, and blocks
                with random state are opened. Without, the trainer is built on the graph as it is.
            mark (str): label of the phase, None for a graph that is not to be optimized.
        """
        if not opened and self.handed.tracker is not None and self._mark == mark:
            self._tracker.listen(*self._listeners)
            return
        outputs = self._pulled()
        if self.counts()[0] and random_state.stateful_blocks(outputs.whole):
            warnings.warn(
                'this trainer has trained a block with random state (cntk.layers.Dropout is one), and '
                'CNTK forgets the state of such a block where a trainer is built anew: its random '
                'numbers begin anew. Attach before the first minibatch for an exact run')
        if self._window_unknown:
            warnings.warn(
                'this trainer trained before its progress writers were under our eyes, and CNTK '
                'does not tell what they have summed up since their last summary: if a progress '
                'window is open now, its next summary counts all its samples, but the loss and '
                'metric only from here on. Call trainer.summarize_training_progress() first, or '
                'attach before the first minibatch')
        if opened:
            learner_facts.keep_state(self.given)
            whole = random_state.open_blocks(graph.clone_shared(outputs.whole))
            now = self._numbered(whole, self.now.owners)
        else:
            now = self.now._replace(whole=outputs.whole)
        self._exchange(outputs, now, self.handed.learners, mark)

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

        owners = self.now.owners + ([[change.index, plan.owned]] if plan.owned else [])
        self._exchange(change.outputs, self._numbered(change.whole, owners), plan.learners, mark, write)

    def rebuild(self, saved, optimizations, mark, restore):
        """Rebuilds the network of a checkpoint and restores it, whole or not at all.

        Args:
            saved (checkpoint.Saved): of a run with optimizations.
            optimizations (list of nc.Optimization): those of the run, whose `learner=`
                makes the learners that are not the user's.
            mark (str): label of the phase.
            restore (callable): restores the checkpoint into the trainer.

        Raises:
            ValueError: the script is not the one that wrote the checkpoint.
        """
        outputs, phase = swap.Outputs(self.trainer), saved.phase
        given = self.given
        if len(learner_facts.parameters_of(given)) != len(phase.learners):
            given = self._began_with    # it went back behind a run that brought learners of its own
        now = self._kept(saved) or self._numbered(*saved_graph.rebound(
            saved.graph, phase, self.handed.arguments, learner_facts.parameters_of(given)),
            unique_id=phase.unique_id)
        learners = list(given)
        learner_facts.keep_state(given)
        for index, owned in now.owners:
            if optimizations[index].learner is None:
                raise ValueError('%s: the checkpoint was written with learner= for the Parameters '
                                 'it adds, got none now; give the same one'
                                 % optimizations[index].name)
            learners.append(optimizations[index].learner(owned))
        learner_facts.check_states(saved, learners)
        with or_as_it_was(self.trainer, self.handed.learners):
            self._exchange(outputs, now, learners, mark, lambda undo: restore())
        self.given = given

    def go_back(self, restore):
        """Restores a checkpoint of plain CNTK into the user's own graph, whole or not at all.

        Args:
            restore (callable): restores the checkpoint into the trainer.
        """
        if self._mark is None:          # it is in that graph
            self.restore_in_place(restore)
            return
        original = self.handed.original
        with or_as_it_was(self.trainer, self.handed.learners):
            self._exchange(swap.Outputs(self.trainer), Graph(original.whole, [], None),
                           original.learners, None, lambda undo: restore())
        self.given = original.learners

    def restore_in_place(self, restore):
        """Restores a checkpoint into the trainer as it is, whole or not at all.

        Args:
            restore (callable): restores the checkpoint into the trainer.

        Returns:
            What `restore` returns.
        """
        with or_as_it_was(self.trainer, self.handed.learners):
            return restore()

    def check_plain(self, saved):
        """Refuses a checkpoint of plain CNTK that is not of the network the user handed over.

        Args:
            saved (checkpoint.Saved): of plain CNTK.

        Raises:
            ValueError: the checkpoint is of another network, or of other learners.
        """
        place = swap.Outputs(self.trainer).models
        original = self.handed.original or swap.Original(self.whole, self.handed.learners)
        theirs, mine = saved.graph.outputs, original.whole.outputs
        if len(theirs) < len(mine) or saved_graph.signature(C.combine([theirs[place]])) \
                != saved_graph.signature(C.combine([mine[place]])):
            raise ValueError('the checkpoint %s was written by another network than the one of this '
                             'script: give it another checkpoint name' % saved.file)
        learner_facts.check_states(saved, original.learners)

    def places(self):
        """Returns where a checkpoint of the present graph holds what, JSON-ready."""
        return saved_graph.places(self.trainer, self.handed.arguments,
                                 learner_facts.parameters_of(self.given), self.now.owners)

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
    def _mark(self):
        """The label the present graph is marked with, or None."""
        return phase_of(self.trainer.loss_function.outputs)

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

    def _numbered(self, whole, owners, unique_id=None):
        """Returns the Graph of a new graph, with the uids it needs.

        With several workers they must be the same on all, and after a resume: CNTK restores the
        random state of all workers but the main one by uid.

        Args:
            unique_id (int): where they began when the checkpoint was saved that is to be restored.
        """
        if self.workers.count == 1:
            saved_graph.advance_unique_id(unique_id or 0)
            return Graph(whole, owners, cntk_py.new_unique_id())
        begin = self.workers.align_unique_id(unique_id if random_state.has_state(whole) else None)
        return Graph(graph.clone_shared(whole), owners, begin)

    def _kept(self, saved):
        """Returns the Graph of a checkpoint, where the trainer has had that very one and it is kept.

        Several workers keep those with random state: once the counter is past the uids of a
        checkpoint, no new graph can get them.
        """
        kept = self.handed.graphs.get(saved.phase.unique_id)
        return kept if kept is not None and saved_graph.is_of(saved, kept.whole) else None

    def _exchange(self, outputs, now, learners, mark, write=None):
        """Builds the next trainer and puts it in, whole or not at all.

        Args:
            now (Graph): of the next trainer.
            write (callable): does what is left once the trainer is the new one; gets an
                ExitStack of what takes back what it did.
        """
        model, loss, metric = outputs.split(now.whole)
        loss = kept_reachable(loss, learner_facts.parameters_of(learners))
        if mark is not None:
            loss = marked(loss, mark)
        sums = self._tracker.open
        with directors.uninterrupted(), contextlib.ExitStack() as undo:
            swap.exchange(self.trainer, self.handed, (model, loss, metric), learners,
                          self.writers, undo)
            if write is not None:
                write(undo)
            windows.carry(self.writers, self.trainer, sums, self._tracker.dtype, self.workers.averaged)
            self._tracker.listen(*self._listeners)
            self.handed.tracker = self._tracker
            self.now = now
            if mark is not None and self.workers.count > 1 and random_state.has_state(now.whole):
                self.handed.graphs[now.unique_id] = now
            undo.pop_all()


def _added(before, after, learners):
    """Returns the Parameters and Constants of a graph that are new in it and no storage."""
    known = {variable.uid for variable in list(before.parameters) + list(before.constants)}
    known.update(parameter.uid for parameter in learner_facts.parameters_of(learners))
    return [variable for variable in list(after.parameters) + list(after.constants)
            if variable.uid not in known]
