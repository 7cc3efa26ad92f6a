"""Plans which learner trains which Parameter after an optimization has changed the network.

The plan is made twice: before training, from what the optimizations expect to change, and for the
transformed network. This module changes nothing.
"""
import collections
from typing import NamedTuple

import cntk as C

from .. import graph
from ..optimizations.base import Transformed
from ..optimizations.of_a_run import in_order, told_apart
from . import learner_facts, remember
from .learner_facts import Trained, describe_parameter
from .state import current, identity


class Plan(NamedTuple):
    """Which learner trains what after an optimization."""

    trained: tuple  # the `Trained` of each learner
    begin_with: dict  # uid of a Parameter: what its smoothed gradient begins with
    messages: list  # notes for the record


_REMEDY = (
    'Give the new Parameters a learner of their own, '
    'learner=lambda parameters: cntk.sgd(parameters, schedule)%s'
)
_REMEDY_USER = ', or give the learner a method rebuilt(parameters)'


class _Planner:
    """Computes a `Plan`; see `planned`."""

    def __init__(self, optimization, index, before, after, replaced, trained):
        self._optimization = optimization
        self._trained = trained
        self._replaced = [one for one in replaced if one.retired or one.added]
        known = {parameter.uid for parameter in before.parameters}
        present = {parameter.uid for parameter in after.parameters}
        self._owner = {
            parameter.uid: place
            for place, one in enumerate(trained)
            for parameter in one.parameters
        }
        self._retired = [
            parameter
            for one in trained
            for parameter in one.parameters
            if parameter.uid not in present
        ]
        self._messages = []
        frozen = self._frozen()
        self._added = [
            parameter
            for parameter in after.parameters
            if parameter.uid not in known and parameter.uid not in frozen
        ]
        self._index = index

    def _frozen(self):
        """Returns the uids of added Parameters that replace a layer no learner trained."""
        frozen = set()
        for one in self._replaced:
            if one.retired and not any(old.uid in self._owner for old in one.retired):
                frozen.update(parameter.uid for parameter in one.added)
                self._messages.append(
                    f'{one.layer}: no learner{_but_of_another_trainer(one.retired)}'
                )
        return frozen

    def plan(self):
        lists = [list(one.parameters) for one in self._trained]
        own = self._optimization.learner is not None and self._added
        newcomers = collections.OrderedDict()  # index of a learner: added Parameters it trains
        if not own:
            for parameter in self._added:
                newcomers.setdefault(self._place_of(parameter), []).append(parameter)
        begin_with = self._projected() if self._optimization.learner_state == 'project' else {}
        for place, parameters in enumerate(lists):
            self._exchange(place, parameters, newcomers.get(place, []))
        trained = [
            one._replace(parameters=tuple(parameters))
            for one, parameters in zip(self._trained, lists)
        ]
        if own:
            trained.append(self._own_learner())
        return Plan(tuple(trained), begin_with, self._messages)

    def _place_of(self, parameter):
        """Returns the index of the learner for an added Parameter: that of what it replaces."""
        one = next(
            (one for one in self._replaced if any(new.uid == parameter.uid for new in one.added)),
            None,
        )
        places = (
            {self._owner[old.uid] for old in (one.retired if one else ()) if old.uid in self._owner}
            or {self._owner[old.uid] for old in self._retired}
            or set(range(len(self._trained)))
        )
        if len(places) > 1:
            names = ', '.join(
                learner_facts.describe(self._trained[place].learner) for place in sorted(places)
            )
            raise ValueError(
                f'{self._optimization.name}: it adds {describe_parameter(parameter)}, and which of '
                f'{len(places)} learners ({names}) is to train it is not said: return '
                'nc.Transformed(model, notes, replaced=[nc.Replaced(name, retired=(W,), added=(W1, '
                'W2)), ...]), or give learner=lambda parameters: cntk.sgd(parameters, schedule)'
            )
        return places.pop()

    def _exchange(self, place, parameters, newcomers):
        """Edits a learner's `parameters`: the new ones take the places of those they replace."""
        learner = self._trained[place].learner
        gone = {parameter.uid for parameter in self._retired}
        left = [parameter for parameter in parameters if parameter.uid not in gone]
        if len(left) == len(parameters) and not newcomers:
            return
        reason = learner_facts.not_rebuilt(learner)
        if reason is not None:
            if newcomers:
                raise _refusal(self._optimization, self._layer_of(newcomers[0]), learner, reason)
            return  # it keeps Parameters that nothing reads any more, see `mark.reaching`
        if not left and not newcomers:
            return  # CNTK has no learner without Parameters
        after = collections.OrderedDict()
        for parameter in parameters:
            if parameter.uid not in gone:
                after[parameter.uid] = parameter
                continue
            after.update((new.uid, new) for new in self._replacements(parameter, newcomers))
        after.update((new.uid, new) for new in newcomers)
        parameters[:] = after.values()
        self._say_reset(learner, newcomers)

    def _replacements(self, retired, newcomers):
        mine = {new.uid for new in newcomers}
        return [
            new
            for one in self._replaced
            if any(old.uid == retired.uid for old in one.retired)
            for new in one.added
            if new.uid in mine
        ]

    def _layer_of(self, parameter):
        return next(
            (
                one.layer
                for one in self._replaced
                if any(new.uid == parameter.uid for new in one.added)
            ),
            describe_parameter(parameter),
        )

    def _say_reset(self, learner, newcomers):
        if newcomers and learner_facts.shares_count(learner):
            self._messages.append(
                'the learner state of %s begins at zero; the smoothed count that %s keeps for '
                'all its Parameters is not reset'
                % (', '.join(map(describe_parameter, newcomers)), learner_facts.describe(learner))
            )

    def _own_learner(self):
        learner = made_learner(self._optimization, self._added)
        return Trained(learner, tuple(self._added), self._index)

    def _projected(self):
        begin_with = {}
        for one in self._replaced:
            if not one.added or not any(old.uid in self._owner for old in one.retired):
                continue
            if one.projection is None or len(one.retired) != 1:
                raise ValueError(
                    f"{self._optimization.name}: layer {one.layer}: learner_state='project', but "
                    "the transform says of this layer no projection of its one retired Parameter: "
                    "give Replaced(projection=...), or learner_state='reset'"
                )
            learner = self._trained[self._owner[one.retired[0].uid]].learner
            _refuse_projection(self._optimization, one.layer, learner)
            begin_with.update(
                learner_facts.projected(learner, one.retired[0], one.projection, one.added)
            )
        return begin_with


def _but_of_another_trainer(retired):
    """Returns how a note goes on about Parameters that no learner of its own trainer trains."""
    leaves = set(map(identity, retired))
    learners = collections.OrderedDict(
        (learner_facts.describe(one.learner), None)
        for trainer in remember.trainers()
        for one in current(trainer).trained
        if not leaves.isdisjoint(map(identity, one.parameters))
    )
    if not learners:
        return ' trained this layer, none trains it now'
    return (
        ' of this Trainer trained this layer, none trains it now; another Trainer trains it, '
        f'before and after ({", ".join(learners)})'
    )


def made_learner(optimization, parameters):
    """Returns the learner that `learner=` of an optimization makes for the Parameters it adds.

    Raises:
        TypeError: it makes no learner.
        ValueError: the learner leaves out some of the Parameters.
    """
    learner = optimization.learner(list(parameters))
    if not isinstance(learner, C.cntk_py.Learner):
        raise TypeError(
            f'{optimization.name}: learner= must return one cntk.learners.Learner over the '
            f'Parameters it is given, got {learner!r}; write learner=lambda parameters: '
            'cntk.sgd(parameters, schedule)'
        )
    covered = {parameter.uid for parameter in learner_facts.parameters_of([learner])}
    for parameter in parameters:
        if parameter.uid not in covered:
            raise ValueError(
                f'{optimization.name}: the learner that learner= makes must train all '
                f'new Parameters, got one without {describe_parameter(parameter)}; hand it the '
                'whole list it is given'
            )
    return learner


def planned(optimization, index, before, after, replaced, trained):
    """Returns the `Plan` for a transformed network.

    Args:
        optimization (nc.Optimization): what transformed it.
        index (int): its index in the list of the run's optimizations.
        before, after (cntk.Function): the network before and after.
        replaced (list of nc.Replaced): which Parameters replace which, according to the transform.
        trained (tuple of Trained): the learners before.

    Raises:
        ValueError: a learner that would have to train other Parameters cannot be rebuilt over them,
            or it is not known which learner is to train a new Parameter.
    """
    return _Planner(optimization, index, before, after, replaced, trained).plan()


def unread(trained, loss):
    """Returns the Parameters of learners that a loss does not read."""
    read = {parameter.uid for parameter in loss.parameters}
    return [
        parameter for one in trained for parameter in one.parameters if parameter.uid not in read
    ]


def refuse_expected(optimizations, model, trained, others=()):
    """Lets optimizations check a model before training, and refuses what no learner could train.

    Each optimization gets the model as the previous ones are expected to leave it, as far as known.

    Args:
        optimizations (list of nc.Optimization): those still to be applied.
        model (cntk.Function): the graph of the trainer.
        trained (tuple of Trained): the learners of the trainer.
        others (sequence of (str, tuple of Trained)): other Trainers over the same layers: the names
            of their networks, and their learners.

    Raises:
        TypeError, ValueError: `check` raises it or returns something other than a model; or a
            learner does not fit.
    """
    mine = _owners(trained)
    theirs = [(name, _owners(one)) for name, one in others]
    known = set(mine)
    for index in in_order(optimizations):
        optimization = optimizations[index]
        with told_apart(optimization, optimizations):
            expected = _expected(optimization, model, known, mine, theirs)
        if expected is None:
            return
        known.update(new.uid for one in expected.replaced for new in one.added)
        model = expected.model


def _expected(optimization, model, known, mine, theirs):
    """Returns what an optimization says, before training, that it will make of a model; None if it
    does not know. Adds to the owners who will train the new Parameters."""
    with graph.trained_by(known):
        returned = optimization.check(model)
    if returned is None:
        return None
    expected = returned if isinstance(returned, Transformed) else Transformed(returned)
    if not isinstance(expected.model, C.Function):
        raise TypeError(
            f'{optimization.name}: check(model) must return a cntk.Function, an nc.Transformed '
            f'or None, got {expected.model!r}; None means that nothing is known yet'
        )
    replaced = [one for one in expected.replaced if one.retired]
    _refuse_replaced(optimization, replaced, mine)
    for name, owners in theirs:
        try:
            _refuse_replaced(optimization, replaced, owners)
        except ValueError as error:
            raise ValueError(
                f'another Trainer over the same layers ({name}) cannot follow. {error}'
            )
    for owners in [mine] + [owners for _, owners in theirs]:
        for one in replaced:
            owner = next((owners[old.uid] for old in one.retired if old.uid in owners), None)
            if owner is not None and optimization.learner is None:
                owners.update((new.uid, owner) for new in one.added)
    return expected


def _owners(trained):
    """Returns {uid of a Parameter: the learner that trains it}."""
    return {parameter.uid: one.learner for one in trained for parameter in one.parameters}


def _refuse_replaced(optimization, replaced, owners):
    """Refuses a layer that has to change but cannot, or layers that may change if none can."""
    possible = []
    for one in replaced:
        try:
            _refuse_one(optimization, one, owners)
        except ValueError as error:
            if one.added:
                raise
            possible.append(error)
    if possible and len(possible) == len(replaced):
        raise possible[0]


def _refuse_one(optimization, one, owners):
    for old in one.retired:
        if old.uid not in owners:
            continue
        learner = owners[old.uid]
        if optimization.learner_state == 'project':
            _refuse_projection(optimization, one.layer, learner)
        reason = learner_facts.not_rebuilt(learner)
        if optimization.learner is None and reason is not None:
            raise _refusal(optimization, one.layer, learner, reason)


def _refusal(optimization, layer, learner, reason):
    users = _REMEDY_USER if 'UserLearner needs' in reason else ''
    return ValueError(
        f'{optimization.name}: layer {layer}: its learner ({learner_facts.describe(learner)}) '
        f'would have to train its new Parameters in the place of those it retires, and {reason}. '
        f'{_REMEDY % users}'
    )


def _refuse_projection(optimization, layer, learner):
    reason = learner_facts.no_projection(learner)
    if reason is not None:
        raise ValueError(
            f"{optimization.name}: layer {layer}: learner_state='project', but "
            f"{learner_facts.describe(learner)} trains it: {reason}. Use learner_state='reset'"
        )
