"""Changes the other Trainers over the layers of a network.

Each keeps the random state of its own, see `own_random_state`.

A checkpoint of such a Trainer is plain CNTK's, which restores the state of learners by position. So
the order of their Parameters must be the one at the time of the save. The two graphs do not tell
it: the file of the phase does, or, for a checkpoint of the network as it was built, what the
Trainer was built with.
"""
import cntk as C

from ..checkpoints import saved_graph
from ..trainers import learner_facts, own_random_state, remember, state
from ..trainers.state import own
from . import edits


def original(trainer):
    """Returns the `Original` of another Trainer: what it was built with."""
    return remember.facts(trainer).original or saved_graph.original_of(state.current(trainer))


def described(trainers):
    """Returns what `saved_graph.places` needs to know about other Trainers, in order."""
    return [(state.current(trainer), original(trainer)) for trainer in trainers]


def count_as_given(trainers):
    """Makes the learners that an earlier run made count as the script's own.

    Those of a Trainer that has had a run itself belong to that run.
    """
    for trainer in trainers:
        facts, now = remember.facts(trainer), state.current(trainer)
        if facts.phases is None and any(one.made_by is not None for one in now.trained):
            facts.state = now._replace(
                trained=tuple(one._replace(made_by=None) for one in now.trained)
            )


def trained_in(saved, trainers):
    """Returns what the learners of other Trainers train in a checkpoint's network.

    Args:
        saved (checkpoint.Saved): the checkpoint.
        trainers (list of cntk.Trainer): in the order they were made.

    Returns:
        list: for each Trainer a list with, for each learner, (index of the optimization that made
            it or None, uids of Parameters); None for a Trainer of which that is not known.
    """
    originals = [original(trainer) for trainer in trainers]
    if saved.phase is None:
        return [[(None, uids) for _, uids in its.learners] for its in originals]
    kept = saved.phase.others
    if kept is None or len(kept) != len(trainers):
        return [None] * len(trainers)
    return [
        _uids(learners, its.leaves[0], saved.graph.parameters)
        for learners, its in zip(kept, originals)
    ]


def _uids(learners, its, parameters):
    found = []
    for made_by, owned in learners:
        if any(place is None or (not here and place >= len(its)) for here, place in owned):
            return None
        uids = [parameters[place].uid if here else its[place] for here, place in owned]
        found.append((made_by, uids))
    return found


def given(trainer, count):
    """Returns the script's learners of another Trainer, if there are `count`, else None.

    They are those it has now, or, if a run has added some, those it was built with.
    """
    now = [one.learner for one in state.current(trainer).trained if one.made_by is None]
    built = [one.learner for one, _ in original(trainer).learners]
    return next((learners for learners in (now, built) if len(learners) == count), None)


def stay(trainers, whole, following):
    """Leaves unchanged what other Trainers compute and `whole` does not.

    Args:
        trainers (list of cntk.Trainer): the others.
        whole (cntk.Function): of the network before a change.
        following (dict): uid of an output before: the Variable that replaces it; changed in place.
    """
    mine = {output.uid for output in whole.outputs}
    for trainer in trainers:
        following.update(
            (output.uid, output)
            for output in state.current(trainer).whole.outputs
            if output.uid not in mine
        )


def changes(trainers, whole, following, plan):
    """Returns the changes of other Trainers over the layers, and notes for the record.

    Args:
        trainers, whole, following: as of `stay`; those stay in which nothing changes.
        plan (callable): (a Trainer, its State, its graph after the change) -> `Plan`.

    Returns:
        (list, list of str): of (other Trainer, its next State, what its learners begin with), and
            the notes.
    """
    changed, messages, staying = [], [], []
    for trainer in trainers:
        before = state.current(trainer)
        after = C.combine([following[output.uid] for output in before.whole.outputs])
        if same(after, before.whole):
            staying.append(trainer)
            continue
        trained, begin_with, _ = plan(trainer, before, after)
        changed.append((trainer, before._replace(whole=own(after), trained=trained), begin_with))
        messages.append(
            'another Trainer reads these layers too; its network and its learners (%s) changed '
            'with this one'
            % ', '.join(learner_facts.describe(one.learner) for one in before.trained)
        )
    stay(staying, whole, following)
    return changed, messages


def same(one, other):
    """Whether two graphs have the same operations, Parameters and Constants."""
    return state.signature(one) == state.signature(other) and edits.leaves(one) == edits.leaves(
        other
    )


def pulled(network, trainers):
    """Copies the random state of a network's and of other Trainers from C++ into their graphs.

    Args:
        network (network.Network): its Trainer comes last, as a graph may be of several.
        trainers (list of cntk.Trainer): the others.

    Returns:
        dict: for each Trainer the samples that it has seen and its `own_random_state.copies`;
            empty if there are no others.
    """
    if not trainers:
        return {}
    every = [network.of(trainer, network.workers) for trainer in trainers] + [network]
    for one in every:
        own_random_state.hold(one.trainer)
    return {
        one.trainer: (
            one.trainer.total_number_of_samples_seen,
            own_random_state.copies(one.pulled().whole),
        )
        for one in every
    }


def put(network, changes, random, undo):
    """Puts the next States of other Trainers into them.

    Args:
        network (network.Network): has changed already.
        changes (list): what the function `changes` returned.
        random (dict): what `pulled` returned.
        undo (contextlib.ExitStack): receives what restores everything.
    """
    for trainer, after, begin_with in changes:
        network.of(trainer, network.workers).put(after, begin_with, undo)
    for trainer, (samples, kept) in random.items():
        facts = remember.facts(trainer)
        if facts.last is not None:
            undo.callback(setattr, facts, 'random', facts.random)
            facts.random = own_random_state.held(samples, kept, state.current(trainer).whole)
