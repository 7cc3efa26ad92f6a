"""Restores checkpoints: into the trainer as it is, or with the network that they belong to.

    rebuild      the network of a checkpoint on the script's own inputs, Parameters and Constants
    go_back      the network that the trainer was built with, which a plain checkpoint belongs to
    in_place     the current network
    follow       the network of another Trainer over the same layers, as open as in the checkpoint
"""
import cntk as C

from ..checkpoints import saved_graph
from ..checkpoints.put_back import or_as_it_was
from ..graph import user_functions
from ..readers import difference, readers
from ..trainers import learner_facts, random_state, state
from ..trainers.learner_facts import Trained
from ..trainers.plan import Plan, made_learner, planned
from ..trainers.state import own, signature
from ..trainers.uids import load_as_saved
from . import edits, other_trainers


class _Restore:
    """The optimization that `planned` gets if a restore changes other Trainers' networks."""

    name, learner, learner_state = 'the restore', None, 'reset'


class Restores:
    """The restores of one trainer.

    Args:
        network (network.Network): of the trainer.
    """

    def __init__(self, network):
        self._network = network

    def rebuild(self, saved, optimizations, label, restore):
        """Rebuilds the network of a checkpoint and restores the checkpoint, whole or not at all.

        Args:
            saved (checkpoint.Saved): of a run with optimizations.
            optimizations (list of nc.Optimization): those of the run; their `learner=` makes the
                learners that are not the user's.
            label (str): of the phase.
            restore (callable): restores the checkpoint into the trainer.

        Raises:
            ValueError: this script did not write the checkpoint.
        """
        original = self._network.original
        known = self._known_state(saved)
        if known is None:
            user_functions.adopt(saved.graph.outputs, self._network.now.whole.outputs)
            whole, learners = saved_graph.rebound(
                saved, original, self._network.facts.arguments, self._leaf_of(original)
            )
            given = self._given_for(saved, learners)
            _check_given(saved, given, original)
            trained = self._trained(learners, given, optimizations)
            after = self._network.now._replace(whole=whole, trained=trained)
            learner_facts.check_states(saved, trained)
            after, _ = self._network.numbered(after, unique_id=saved.phase.unique_id)
        else:
            after, given = known, self._network.given
            learner_facts.check_states(saved, after.trained)
        learner_facts.keep_state(given)
        with or_as_it_was(self._network.trainer, self._network.facts.learners):
            following = self._following(after, restore, saved, optimizations)
            self._network.exchange(after, label, rest=following)
        self._network.given = given

    @edits.of_the_network()
    def follow(self, file, restore):
        """Restores a checkpoint of plain CNTK into a trainer that followed a change of another one.

        Its blocks with random state may have been opened since the checkpoint was saved, or the
        other way round.

        Args:
            file (str): the checkpoint.
            restore (callable): restores it into the trainer.

        Returns:
            Whatever `restore` returns.

        Raises:
            ValueError: the checkpoint and the trainer are from before and after that change.
        """
        now = self._network.now
        after = self._as_open_as(file)
        if after is now:
            with or_as_it_was(self._network.trainer, self._network.facts.learners):
                return restore(file)
        restored = []

        def rest(undo):
            found = self._network.readers_of(now.whole)
            found.follow(
                {old.uid: new for old, new in zip(now.whole.outputs, after.whole.outputs)}, undo
            )
            restored.append(restore(file))

        with or_as_it_was(self._network.trainer, self._network.facts.learners):
            self._network.exchange(after, None, rest=rest)
        return restored[0]

    def _as_open_as(self, file):
        """Returns the State that differs from the current one in the blocks that are open only."""
        now, original, saved = self._network.now, self._network.original, load_as_saved(file)
        fits = lambda one: saved_graph.original_outputs(saved, one) is not None
        if fits(saved_graph.original_of(now)):
            return now
        built_of = {uid for uids in original.leaves for uid in uids}
        opened = now._replace(whole=own(random_state.open_blocks(now.whole)))
        if fits(original) and edits.leaves(now.whole) == built_of:
            after = self._plain(saved)
            if signature(own(random_state.open_blocks(after.whole))) == signature(opened.whole):
                return after
        if fits(saved_graph.original_of(opened)):
            return self._network.numbered(opened)[0]
        raise saved_graph.other(file)

    def _given_for(self, saved, learners):
        """Returns the script's learners for those of a checkpoint, except the `learner=` ones."""
        expected = sum(made_by is None for made_by, _ in learners)
        given = self._network.given
        if len(given) != expected:
            given = self._network.began_with  # it went back to before a run that added learners
        if len(given) != expected:
            raise ValueError(
                f'the checkpoint {saved.file} holds the state of {expected} learners, and this '
                f'trainer has {len(given)}: build it with the same learners'
            )
        return given

    def _trained(self, learners, given, optimizations):
        """Returns the `Trained` of each learner of a checkpoint."""
        mine, trained = iter(given), []
        for made_by, parameters in learners:
            if made_by is None:
                learner = next(mine)
                reason = learner_facts.not_rebuilt(learner)
                if reason is not None and not learner_facts.trains(learner, parameters):
                    raise ValueError(
                        'the checkpoint holds a network whose learner '
                        f'({learner_facts.describe(learner)}) trains other Parameters than it does '
                        f'now, and {reason}'
                    )
            elif optimizations[made_by].learner is None:
                raise ValueError(
                    f'{optimizations[made_by].name}: the checkpoint was written with learner= for '
                    'the Parameters it adds, got none now; give the same one'
                )
            else:
                learner = made_learner(optimizations[made_by], parameters)
            trained.append(Trained(learner, parameters, made_by))
        return tuple(trained)

    def go_back(self, saved, restore):
        """Restores a checkpoint of plain CNTK into the user's own network, whole or not at all.

        Args:
            saved (checkpoint.Saved): of plain CNTK.
            restore (callable): restores the checkpoint into the trainer.
        """
        if self._network.facts.label is None:  # the trainer has that network already
            self.in_place(restore)
            return
        after = self._plain(saved.graph)
        with or_as_it_was(self._network.trainer, self._network.facts.learners):
            following = self._following(after, restore, saved)
            self._network.exchange(after, None, rest=following)
        self._network.given = after.learners

    def in_place(self, restore):
        """Restores a checkpoint into the trainer as it is, whole or not at all.

        Args:
            restore (callable): restores the checkpoint into the trainer.

        Returns:
            Whatever `restore` returns.
        """
        with or_as_it_was(self._network.trainer, self._network.facts.learners):
            return restore()

    def check_plain(self, saved):
        """Refuses a checkpoint of plain CNTK that does not belong to the user's original network.

        Args:
            saved (checkpoint.Saved): of plain CNTK.

        Raises:
            ValueError: the checkpoint belongs to another network, or to other learners.
        """
        if saved_graph.original_outputs(saved.graph, self._network.original) is None:
            raise ValueError(
                f'the checkpoint {saved.file} was written by another network than the one of this '
                'script: give it another checkpoint name'
            )
        learner_facts.check_states(saved, self._plain(saved.graph).trained)

    def _plain(self, saved):
        """Returns the State that a plain checkpoint's graph belongs to."""
        original = self._network.original
        if original.state is not None:
            return original.state
        user_functions.adopt(saved.outputs, self._network.now.whole.outputs)
        whole, trained = saved_graph.original_again(saved, original, self._leaf_of(original))
        return self._network.now._replace(whole=own(whole), trained=trained, unique_id=None)

    def _known_state(self, saved):
        """Returns the kept State that a checkpoint was saved from, or None.

        Several workers keep States with random state: once the uid counter is past the uids of a
        checkpoint, no new graph can get them.
        """
        known = self._network.facts.states.get(saved.phase.unique_id)
        return known if known is not None and saved_graph.is_of(saved, known.whole) else None

    def _leaf_of(self, original):
        """Returns a function: uid -> the script's Parameter or Constant of `original`, or None."""
        whole = self._network.now.whole
        known = {leaf.uid: leaf for leaf in list(whole.parameters) + list(whole.constants)}
        missing = {(uid, place) for uid, place in original.identities if uid not in known}
        known.update(readers.live_leaves(missing) if missing else {})
        return known.get

    def _following(self, after, restore, saved, optimizations=()):
        """Returns a function that restores a checkpoint and makes the readers follow.

        The function is called once the trainer has the network of the checkpoint.
        """
        before = self._network.now
        found = self._network.readers_of(before.whole)
        random = other_trainers.pulled(self._network, found.trainers)
        following = {old.uid: new for old, new in zip(before.whole.outputs, after.whole.outputs)}
        # The network of a checkpoint has its blocks with random state open; the script's own not.
        opened, readers_opened = edits.as_one(random_state.open_blocks, before.whole, found.outputs)
        followed = difference.follow(opened, after.whole, readers_opened)
        following.update((old.uid, new) for old, new in zip(found.outputs, followed.outputs))
        # A part inside the network has a counterpart there. Not so if the network of another
        # Trainer has it as an output: that one has a graph of its own.
        if not found.trainers:
            following.update(
                (old.uid, followed.pairs[one.uid])
                for old, one in zip(found.outputs, readers_opened)
                if one.uid in followed.pairs
            )
        found.left_behind(
            following, 'the restore', edits.missing(before.whole, after.whole), followed.touched
        )
        _stay(found, before.whole, following, list(opened.outputs) + readers_opened)
        trained = [parameter for one in after.trained for parameter in one.parameters]
        replaced = difference.replaced(followed.parts, trained)
        known = dict(zip(found.trainers, other_trainers.trained_in(saved, found.trainers)))
        others, _ = other_trainers.changes(
            found.trainers,
            before.whole,
            following,
            lambda trainer, now, whole: (
                self._known_plan(trainer, whole, known[trainer], optimizations)
                or planned(_Restore(), None, now.whole, whole, replaced, now.trained)
            ),
        )

        def rest(undo):
            other_trainers.put(self._network, others, random, undo)
            found.follow(following, undo)
            restore()

        return rest

    def _known_plan(self, trainer, whole, learners, optimizations):
        """Returns the Plan of another Trainer for a checkpoint's network; None if it is not known.

        Args:
            trainer (cntk.Trainer): the other one.
            whole (cntk.Function): what it computes in that network.
            learners (list): see `other_trainers.trained_in`.
            optimizations (list of nc.Optimization): see `rebuild`.
        """
        present = {parameter.uid: parameter for parameter in whole.parameters}
        if learners is None or not all(uid in present for _, uids in learners for uid in uids):
            return None
        given = other_trainers.given(trainer, sum(made_by is None for made_by, _ in learners))
        if given is None:
            return None
        theirs = [(made_by, tuple(present[uid] for uid in uids)) for made_by, uids in learners]
        return Plan(self._trained(theirs, given, optimizations), {}, [])


def _stay(found, whole, following, opened):
    """Leaves alone the other Trainers in which a restore changes nothing but what is open.

    So does attaching, so that their own checkpoints fit them.

    Args:
        found (readers.Readers): of the network.
        whole (cntk.Function): of the network before the restore.
        following (dict): uid of an output to the Variable that replaces it; changed in place.
        opened (list of cntk.Variable): the outputs of `whole` and `found`, with blocks open.
    """
    open_of = {old.uid: new for old, new in zip(list(whole.outputs) + found.outputs, opened)}
    staying, changing = [], []
    for trainer in found.trainers:
        outputs = state.current(trainer).whole.outputs
        before, after = (C.combine([to[o.uid] for o in outputs]) for to in (open_of, following))
        (staying if other_trainers.same(before, after) else changing).append(trainer)
    other_trainers.stay(staying, whole, following)
    found.trainers = changing


def _check_given(saved, given, original):
    """Refuses a checkpoint whose learners train different Parameters than this script's learners.

    Raises:
        ValueError: this script did not write the checkpoint.
    """
    place_of = {
        uid: place
        for uid, place in zip(original.leaves[0], saved.phase.parameters)
        if place is not None
    }
    theirs = [set(owned) for made_by, owned in saved.phase.learners if made_by is None]
    for number, (owned, learner) in enumerate(zip(theirs, given)):
        mine = next((trained for one, trained in original.learners if one.learner is learner), None)
        if mine is not None and {
            place_of[uid] for uid in mine if uid in place_of
        } != owned.intersection(place_of.values()):
            raise ValueError(
                f'the checkpoint {saved.file} was written by another script: its learner number '
                f'{number} trains other Parameters of the network than '
                f'{learner_facts.describe(learner)} of this one does: build it with the same '
                'learners'
            )
