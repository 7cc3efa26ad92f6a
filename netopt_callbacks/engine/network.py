"""Exchanges the network inside a running trainer.

Every change replaces one `State` with another, in one exchange, whole or not at all:

    take_over    the user's own network, blocks with random state opened, under writers we know
    transformed  prepare -> transform -> plan -> check; nothing has changed yet
    commit       ... -> exchange -> share values among workers

A restore is an exchange, too: see `restores`.
"""
import contextlib
import gc
import warnings

import cntk as C
import numpy as np
from cntk import cntk_py
from cntk.train.trainer import Trainer

from .. import count, graph
from ..checkpoints import saved_graph, temporary
from ..optimizations import binary_block
from ..readers import readers
from ..readers.known import check_named, known_model
from ..temporary_folder import temporary_folder
from ..trainers import (
    directors,
    inexact,
    learner_facts,
    own_random_state,
    random_state,
    remember,
    state,
    uids,
    windows,
)
from ..trainers.export import exported
from ..trainers.plan import planned, refuse_expected
from ..trainers.state import own
from . import edits, other_trainers, swap
from .restores import Restores
from .schedule import UNITS


class Change:
    """A transformed network that has passed all checks and waits for `Network.commit`.

    Attributes:
        layers (list of LayerNote): notes of the optimization about each layer.
        messages (list of str): notes of the engine.
    """

    def __init__(
        self, now, begin_with, added, layers, messages, readers, following, others, random
    ):
        self.now = now  # the next State
        self.begin_with = begin_with
        self.added = added  # leaves whose values workers share
        self.layers = layers
        self.messages = messages
        self.readers = readers
        self.following = following  # uid of an output before: the Variable that replaces it
        self.others = others  # (other Trainer, its next State, what its learners begin with)
        self.random = random  # see `other_trainers.pulled`


class Network:
    """A trainer whose C++ trainer can be replaced.

    Args:
        trainer (cntk.Trainer): the user's; it stays the same object.
        facts (remember.TrainerFacts): what it was built with.
        workers (distributed.Workers): those of the run.
        on_training_summary, on_test_summary (callable): see `windows.Tracker`.
        model (cntk.Function): the model that the user names, see `known.known_model`.

    Attributes:
        trainer, facts, workers: as given.
        given (list of cntk.learners.Learner): those that a resumed script has: the trainer's when
            the run began, or those it was built with if a plain checkpoint was restored.

    Raises:
        TypeError, ValueError: `model` is not a network of the trainer.
    """

    def __init__(self, trainer, facts, workers, on_training_summary, on_test_summary, model=None):
        if model is not None:
            check_named(model, facts.learners)
        self._named = model
        self._binary, self._binary_of = [], None
        self.trainer = trainer
        self.facts = facts
        self.workers = workers
        self._listeners = on_training_summary, on_test_summary
        self._tracker = None
        self.begin()

    @property
    def now(self):
        """The current State."""
        return state.current(self.trainer)

    def begin(self):
        """Reads the trainer's current state again, which the script may have changed since."""
        self.given = self.began_with = list(self.facts.learners)
        self._window_unknown = (
            self.facts.tracker is None and self.facts.writers and self.counts()[0]
        )
        self._tracker = (
            self.facts.tracker
            or self._tracker
            or windows.Tracker(self.facts, np.dtype(self.trainer.loss_function.output.dtype))
        )

    @property
    def metric(self):
        """The criterion's second output, or its first if it has only one."""
        return self.now.metric or self.now.loss

    def counts(self):
        """Returns the samples, minibatches and sweeps the trainer has seen in its life."""
        return learner_facts.counts(self.trainer, self.facts.learners, UNITS)

    def learning_rates(self):
        """Returns the current learning rate of each learner, as CNTK reports it."""
        return [one.learner.learning_rate() for one in self.now.trained]

    def binary_weights(self):
        """Returns (name, array) of each 1-bit layer that is not frozen.

        The array is a copy of the latent weights, scaled to the straight-through window |w| <= 1.
        """
        whole = self.now.whole
        if self._binary_of is not whole:  # reading a graph creates Functions, so only once for each
            layers = [
                binary_block.BinaryLayer(block) for block in binary_block.binary_blocks(whole)
            ]
            self._binary = [
                (layer.name, layer.W, layer.weight_clip())
                for layer in layers
                if layer.W is not None and layer.W.is_parameter
            ]
            self._binary_of = whole
        return [(name, W.value * clip) for name, W, clip in self._binary]

    def go_on_from(self, before):
        """Takes over what the network of an earlier run knew about the trainer's learners."""
        self.given, self.began_with = before.given, before.began_with

    def readers_of(self, whole):
        """Returns the other readers of a network, the same on each of several workers.

        Objects that wait to be collected do not count.
        """
        if self.workers.count > 1:
            gc.collect()
        return readers.Readers(self.trainer, whole)

    def _other_readers(self):
        """Returns the readers of the current network; None if there is no other Trainer at all."""
        if any(other is not self.trainer for other in remember.trainers()):
            return self.readers_of(self.now.whole)
        return None

    def _other_trainers(self):
        """Returns the other Trainers over the layers of the current network."""
        found = self._other_readers()
        return [] if found is None else found.trainers

    def refuse_expected(self, optimizations):
        """Refuses, before training, optimizations that are known not to be applicable.

        Args:
            optimizations (list of nc.Optimization): those still to be applied.
        """
        if optimizations:
            uids.outnumber(self.now.whole.outputs)
        others = []
        found = self._other_readers() if optimizations else None
        if found is not None:
            found.refuse_mixed(optimizations[0].name)
            others = [
                (readers.named(now.whole), now.trained)
                for now in map(state.current, found.trainers)
            ]
        refuse_expected(optimizations, self.now.whole, self.now.trained, others)

    def take_over(self, changes, label):
        """Makes sure that the C++ trainer is one that the engine built.

        Args:
            changes (bool): whether the network will be changed later; blocks with random state are
                then opened.
            label (str): of the phase; None if the network will not be optimized.
        """
        if not changes and self.facts.tracker is not None and self.facts.label == label:
            self._tracker.listen(*self._listeners)
            return
        others = self._other_trainers()
        for trainer in others:
            own_random_state.hold(trainer)
        now = self.pulled()
        inexact.warn(now.whole, changes, bool(self.counts()[0]), self._window_unknown)
        if changes:
            learner_facts.keep_state(self.given)
            # A learner made by `learner=` in an earlier run counts as the script's own in this run.
            trained = tuple(one._replace(made_by=None) for one in now.trained)
            now = now._replace(trained=trained)
            other_trainers.count_as_given(others)
            if random_state.has_state(now.whole):
                self._open(now, label)
            else:
                self.exchange(self.numbered(now)[0], label)
        else:
            self.exchange(now, label)
        if others:
            own_random_state.restored(self.trainer)

    def _open(self, now, label):
        """Takes over a network with random state; opens blocks with such state for all readers."""
        found = self.readers_of(now.whole)
        whole, others = edits.as_one(random_state.open_blocks, now.whole, found.outputs)
        after, others = self.numbered(now._replace(whole=whole), others)
        following = {
            old.uid: new
            for old, new in zip(
                list(now.whole.outputs) + found.outputs, list(after.whole.outputs) + others
            )
        }
        other_trainers.stay(found.trainers, now.whole, following)

        def rest(undo):
            found.follow(following, undo)
            inside = random_state.moved(now.whole, after.whole)
            readers.follow_inside(self.trainer, inside, undo)

        self.exchange(after, label, rest=rest)

    def transformed(self, optimization, index, minibatches):
        """Transforms the network; the trainer stays unchanged, even if this raises.

        Args:
            optimization (nc.Optimization): what to apply.
            index (int): its index in the list of the callbacks' optimizations.
            minibatches (callable): arguments -> held-out minibatches for `prepare`.

        Returns:
            Change: to be committed.
        """
        random = other_trainers.pulled(self, self._other_trainers())
        before = self.now if random else self.pulled()
        change = self._transformed(optimization, index, minibatches, before, random)
        if self.workers.apart(change.now.trained):
            before = before._replace(trained=self.workers.synchronized(before.trained))
            change = self._transformed(optimization, index, minibatches, before, random)
        return change

    def _transformed(self, optimization, index, minibatches, before, random):
        found = self.readers_of(before.whole)
        outputs = list(before.whole.outputs)
        if self.workers.count > 1:
            self.workers.align_unique_id()  # CNTK aggregates gradients in the order of their uids
        with graph.trained_by(
            parameter.uid for one in before.trained for parameter in one.parameters
        ):
            optimization.prepare(before.whole, minibatches(before.whole.arguments))
            done, others, touched = edits.applied(optimization, outputs, found.outputs)
        new = list(done.model.outputs)
        plan = planned(
            optimization,
            index,
            before.whole,
            own(C.combine(new[: len(outputs)])),
            done.replaced,
            before.trained,
        )
        after = before._replace(
            whole=edits.same(before.whole, new[: len(outputs)]), trained=plan.trained
        )
        if after.whole is not before.whole:
            whole, others = edits.as_one(random_state.open_blocks, after.whole, others)
            after, others = self.numbered(after._replace(whole=whole), others)
        swap.check(before.whole, after, plan.trained, optimization.name)
        self.workers.agree(lambda: state.signature(after.whole), optimization.name)
        following = {old.uid: output for old, output in zip(outputs, after.whole.outputs)}
        following.update((old.uid, output) for old, output in zip(found.outputs, others))
        retired = edits.missing(before.whole, after.whole)
        left = found.left_behind(following, optimization.name, retired, touched)
        others, messages = other_trainers.changes(
            found.trainers,
            before.whole,
            following,
            lambda _, now, its: planned(
                optimization, index, now.whole, its, done.replaced, now.trained
            ),
        )
        return Change(
            after,
            plan.begin_with,
            edits.added(before.whole, after.whole),
            done.layers,
            plan.messages + messages + left,
            found,
            following,
            others,
            random,
        )

    def commit(self, change, label):
        """Puts a change into the trainer, whole or, if anything raises, not at all.

        Args:
            change (Change): as returned by `transformed`.
            label (str): of the phase that begins, or None.
        """

        def rest(undo):
            self.workers.share_values(change.added)
            other_trainers.put(self, change.others, change.random, undo)
            change.readers.follow(change.following, undo)

        self.exchange(change.now, label, change.begin_with, rest)

    @classmethod
    def of(cls, trainer, workers):
        """Returns the Network of another Trainer."""
        network = cls(trainer, remember.facts(trainer), workers, None, None)
        network.begin()
        return network

    def put(self, after, begin_with, undo):
        """Puts a State into a trainer that follows a change of another trainer."""
        if self._window_unknown:
            warnings.warn(
                'another Trainer over the layers that are optimized has trained with progress '
                'writers of its own: if a progress window of it is open now, its next summary '
                'counts all its samples, but the loss and metric only from here on'
            )
        self.exchange(after, self.facts.label, begin_with, None, undo)
        undo.callback(setattr, self.facts, 'follower', self.facts.follower)
        self.facts.follower = Restores(self)

    @property
    def original(self):
        """The `Original` of the trainer: the network that plain checkpoints belong to."""
        return self.facts.original or saved_graph.original_of(self.now)

    def places(self):
        """Returns what is where in a checkpoint of the current network, JSON-ready."""
        others = other_trainers.described(self._other_trainers())
        return saved_graph.places(self.now, self.original, self.facts.arguments, others)

    def export(self):
        """Returns copies of the user's model and the criterion, with Parameters of their own."""
        now = self.now
        criterion = C.combine(list(now.whole.outputs)[now.models :])
        return exported(self._model), exported(criterion)

    def totals(self):
        """Returns the `count.Totals` of the model."""
        return count.whole(self._model)

    def let_go(self):
        """Ends the tracker's reports to this run and undoes `keep_state`; the tracker stays."""
        self._listeners = ()
        self._tracker.listen()
        learner_facts.let_go(self.given)

    @property
    def writers(self):
        """The progress writers of the trainer: the user's and the tracker."""
        return list(self.facts.writers) + [self._tracker]

    @property
    def _model(self):
        """The model that the user knows, or the criterion if there is none."""
        return known_model(self.trainer, self.now, self._named)

    def pulled(self):
        """Returns the current State, after copying the random state from C++ into its graph.

        Only a save copies the state of the compiled network into the graph. Without random state
        nothing is saved, since a save is a synchronization for CNTK's distributed learners.
        """
        now = self.now
        if random_state.has_state(now.whole):
            what = 'exchanging a network with random state'
            with temporary_folder(what) as folder:
                temporary.room_for(folder, now.loss, now.learners, what)
                Trainer.save_checkpoint(self.trainer, folder + '/pulled')
        return now

    def numbered(self, after, others=(), unique_id=None):
        """Returns the State with the uids its graph needs, and the outputs of its other readers.

        With several workers and random state, the uids must be the same on all workers and after a
        resume: CNTK restores the random state of all workers except the main one by uid.

        Args:
            after (State): its graph may be a new one.
            others (sequence of cntk.Variable): the outputs of its other readers.
            unique_id (int): where the uids began when the checkpoint to restore was saved.
        """
        own(after.whole)
        if self.workers.count == 1:
            uids.advance(unique_id or 0)
            return after._replace(unique_id=cntk_py.new_unique_id()), list(others)
        if not random_state.has_state(after.whole):
            return after._replace(unique_id=self.workers.align_unique_id()), list(others)
        begin = self.workers.align_unique_id(unique_id)
        whole, others = uids.cloned(after.whole, others)
        return after._replace(whole=whole, unique_id=begin), others

    def exchange(self, after, label, begin_with=None, rest=None, undo=None):
        """Builds the next C++ trainer and puts it in, whole or not at all.

        Args:
            after (State): of the next trainer.
            label (str): the label in its checkpoints, or None.
            begin_with (dict): see `learner_facts.rebuild`.
            rest (callable): does the rest once the trainer is the new one; gets an ExitStack to
                register how to undo it.
            undo (contextlib.ExitStack): that of a change that this is a part of; None for its own.
        """
        sums = self._tracker.open
        before, original = self.now, self.original
        with directors.uninterrupted(), contextlib.ExitStack() as mine:
            undo, whole = (mine, mine) if undo is None else (undo, None)
            swap.exchange(
                self.trainer, self.facts, after, begin_with or {}, self.writers, label, undo
            )
            undo.callback(setattr, self.facts, 'original', self.facts.original)
            self.facts.original = original
            for old, new in zip(before.whole.outputs, after.whole.outputs):
                readers.move(self.trainer, old, new, undo)
            if rest is not None:
                rest(undo)
            elif after.whole is not before.whole:
                readers.Readers(self.trainer, before.whole).follow(
                    {old.uid: new for old, new in zip(before.whole.outputs, after.whole.outputs)},
                    undo,
                )
            windows.carry(
                self.writers, self.trainer, sums, self._tracker.dtype, self.workers.averaged
            )
            self._tracker.listen(*self._listeners)
            self.facts.tracker = self._tracker
            self._keep(after, label)
            if whole is not None:
                whole.pop_all()

    def _keep(self, after, label):
        """Keeps the network after an exchange only if a restore may need it.

        The original network is released once one of its Parameters is retired.
        """
        original = self.facts.original
        if original.state is not None:
            present = {parameter.uid for parameter in after.whole.parameters}
            # CNTK restores the random state of all workers except the main one by uid, and no new
            # graph can get old uids.
            by_uid = self.workers.count > 1 and random_state.has_state(original.state.whole)
            if not by_uid and not set(original.leaves[0]) <= present:
                self.facts.original = original._replace(state=None)
        if label is not None and self.workers.count > 1 and random_state.has_state(after.whole):
            self.facts.states[after.unique_id] = self.now
