"""New Parameters packed into the storage of those a transform retired.

`Plan` works out which Parameter goes where before anything changes, so that all that can be
refused is; see `tenants` for what packing is.
"""
import collections

import numpy as np

from .. import graph
from . import fit, learners as learner_facts
from .swap import describe
from .tenants import Tenant, size_of, view


class Plan(object):
    """Where the Parameters of a transformed graph live, worked out before anything changes.

    Args:
        optimization (nc.Optimization): what made the new graph.
        before, after (cntk.Function): the plain graphs before and after.
        tenants (list of Tenant): of `before`.
        learners (list of cntk.learners.Learner): of the trainer.
        replaced (list of Replaced): what the transform says of Parameters that took the place of others.

    Attributes:
        learners (list): of the new trainer.
        read (list of cntk.Parameter): what the learners train of the new graph, without the
            retired Parameters that store nothing any more.
        owned (list of cntk.Parameter): new ones that `learner=` of the optimization trains.
        messages (list of str): for the record.

    Raises:
        ValueError: a new Parameter fits nowhere, or its learner would not train it rightly.
    """

    def __init__(self, optimization, before, after, tenants, learners, replaced):
        self._optimization = optimization
        self._hosts = {tenant.parameter.uid: tenant for tenant in tenants}
        self._owners = learner_facts.owners(learners)
        self._replaced_by = {new.uid: one for one in replaced for new in one.added}
        self._after = after
        self._replaced = replaced
        self.learners = list(learners)
        self.owned = []
        self.messages = []
        known = set(parameter.uid for parameter in before.parameters)
        present = set(parameter.uid for parameter in after.parameters)
        self._tenants = [tenant for tenant in tenants if tenant.parameter.uid in present]
        self._fresh = []
        self._free = self._free_ranges(learners, tenants, present)
        frozen = self._frozen(tenants)
        added = [parameter for parameter in after.parameters
                 if parameter.uid not in known and parameter.uid not in frozen]
        if added and optimization.learner is not None:
            self._own_learner(added)
        else:
            for parameter in added:
                self._pack(parameter)
        hosts = set(tenant.storage.uid for tenant in self._tenants + self._fresh)
        self._unread = [storage for uid, storage in self._storages.items() if uid not in hosts]
        unread = set(storage.uid for storage in self._unread)
        self.read = [parameter for parameter in learner_facts.parameters_of(self.learners)
                     if parameter.uid not in unread]
        self._projections = self._projected(tenants) if optimization.learner_state == 'project' \
            else {}

    def _free_ranges(self, learners, tenants, present):
        """Returns {storage uid: [(offset, size)]} and keeps the storages in learner order."""
        hosts = set(tenant.storage.uid for tenant in tenants)
        self._storages = collections.OrderedDict(
            (parameter.uid, parameter) for parameter in learner_facts.parameters_of(learners)
            if parameter.uid in hosts or parameter.uid not in present)
        free = {}
        kept = _by_storage(self._tenants)
        for uid, storage in self._storages.items():
            taken = sorted((tenant.offset, tenant.size) for tenant in kept.get(uid, ()))
            free[uid], position = [], 0
            for offset, size in taken + [(size_of(storage), 0)]:
                if offset > position:
                    free[uid].append((position, offset - position))
                position = offset + size
        return free

    def _frozen(self, tenants):
        """Returns the uids of added Parameters whose layer no learner trained before."""
        trained = set(parameter.uid
                      for parameter in learner_facts.parameters_of(self.learners))
        trained.update(tenant.parameter.uid for tenant in tenants)
        frozen = set()
        for one in self._replaced:
            if one.retired and not any(old.uid in trained for old in one.retired):
                frozen.update(parameter.uid for parameter in one.added)
                self.messages.append('%s: no learner trained this layer, none trains it now'
                                     % one.layer)
        return frozen

    def _own_learner(self, added):
        learner = self._optimization.learner(list(added))
        covered = set(parameter.uid for parameter in learner_facts.parameters_of([learner]))
        for parameter in added:
            if parameter.uid not in covered:
                raise ValueError('%s: the learner that learner= makes must train all new Parameters, got one '
                                 'without %s; hand it the whole list it is given'
                                 % (self._optimization.name, describe(parameter)))
        self.learners.append(learner)
        self.owned = list(added)

    def _pack(self, parameter):
        one = self._replaced_by.get(parameter.uid)
        for storage in self._storages_for(parameter, one):
            if storage.dtype != parameter.dtype:
                continue
            for index, (offset, size) in enumerate(self._free[storage.uid]):
                if size >= size_of(parameter):
                    self._free[storage.uid][index] = (offset + size_of(parameter),
                                                      size - size_of(parameter))
                    tenant = Tenant(storage, offset, parameter)
                    self._refuse_misfits(tenant, one)
                    self._fresh.append(tenant)
                    return
        raise ValueError(
            '%s: %s adds %s, and no Parameter it retires leaves room for it, so no learner would '
            'train it. Give it one: learner=lambda parameters: cntk.sgd(parameters, schedule)'
            % (self._optimization.name, one.layer if one else 'the transform',
               describe(parameter)))

    def _storages_for(self, parameter, one):
        """Returns the storages a new Parameter may be packed into, the preferred ones first.

        Only those of the learner that trained what it replaces: packed elsewhere, another
        learner would train it without a word.
        """
        mine = [self._hosts[old.uid].storage.uid if old.uid in self._hosts else old.uid
                for old in (one.retired if one else ())]
        preferred = [uid for uid in mine if uid in self._storages]
        owners = []
        for uid in preferred or self._storages:
            if self._owners[uid] not in owners:
                owners.append(self._owners[uid])
        if len(owners) > 1 and not preferred:
            raise ValueError(
                '%s: it adds %s and retires Parameters of %d learners (%s), and does not say which '
                'of them it replaces: return nc.Transformed(model, notes, replaced=[nc.Replaced(name, '
                'retired=(W,), added=(W1, W2)), ...])'
                % (self._optimization.name, describe(parameter), len(owners),
                   ', '.join(map(learner_facts.describe, owners))))
        others = [uid for uid in self._storages
                  if uid not in preferred and self._owners[uid] in owners]
        return [self._storages[uid] for uid in preferred + others]

    def _refuse_misfits(self, tenant, one):
        if tuple(tenant.storage.shape) != tuple(tenant.parameter.shape):
            fit.refuse_misfit(self._optimization, one.layer if one else describe(tenant.parameter),
                              tenant.storage, self._owners[tenant.storage.uid],
                              fit.reads_sparse(self._after, tenant.parameter))

    def packed(self):
        """Returns the transformed graph with every tenant read out of its storage."""
        views = {tenant.parameter: view(tenant) for tenant in self._tenants + self._fresh}
        return graph.substitute(self._after, views) if views else self._after

    def write(self, undo):
        """Writes the values into the storages and resets, or projects, the state of the tenants.

        Args:
            undo (contextlib.ExitStack): gets what puts values and state back.
        """
        tenants = _by_storage(self._tenants + self._fresh)
        for storage in self.written:
            flat = np.zeros(size_of(storage), storage.dtype)
            for tenant in tenants.get(storage.uid, ()):
                flat[tenant.offset:tenant.offset + tenant.size] = \
                    tenant.parameter.value.reshape(-1)
            undo.callback(setattr, storage, 'value', storage.value)
            storage.value = flat.reshape(storage.shape)
        self._reset(undo)

    @property
    def written(self):
        """The Parameters whose values `write` replaces."""
        changed = set(tenant.storage.uid for tenant in self._fresh)
        changed.update(parameter.uid for parameter in self._unread)
        return [storage for uid, storage in self._storages.items() if uid in changed]

    def _reset(self, undo):
        changed, kept = _by_storage(self._fresh), _by_storage(self._tenants)
        # One that nothing reads any more would go on moving with its momentum.
        edits = {storage.uid: _state_of((), ()) for storage in self._unread}
        for uid in changed:
            edits[uid] = _state_of(kept.get(uid, ()), self._projections.get(uid, ()))
            if learner_facts.shares_count(self._owners[uid]):
                self.messages.append(
                    'the learner state of %s is reset; the smoothed count that %s keeps for '
                    'all its Parameters is not'
                    % (describe(self._storages[uid]), learner_facts.describe(self._owners[uid])))
        learner_facts.rewrite_state(self.learners, edits, undo)

    def _projected(self, tenants):
        """Returns {uid of a storage: [(where M is read, projection, tenants of what comes out)]}."""
        found = {}
        for one in self._replaced:
            fresh = [tenant for tenant in self._fresh
                     if any(tenant.parameter.uid == new.uid for new in one.added)]
            if not fresh:
                continue
            self._refuse_projection(one, fresh)
            old = one.retired[0]
            source = self._hosts.get(old.uid) or Tenant(old, 0, old)
            ordered = [next(tenant for tenant in fresh if tenant.parameter.uid == new.uid)
                       for new in one.added]
            found.setdefault(source.storage.uid, []).append((source, one.projection, ordered))
        return found

    def _refuse_projection(self, one, fresh):
        what = "%s: layer %s: learner_state='project'" % (self._optimization.name, one.layer)
        if one.projection is None or len(one.retired) != 1:
            raise ValueError("%s, but the transform says of this layer no projection of its one "
                             "retired Parameter: give Replaced(projection=...), or "
                             "learner_state='reset'" % what)
        source = self._hosts.get(one.retired[0].uid)
        storage = source.storage if source is not None else one.retired[0]
        if any(tenant.storage.uid != storage.uid for tenant in fresh):
            raise ValueError("%s, but not all that replaces %s fits into it: use "
                             "learner_state='reset'" % (what, describe(one.retired[0])))
        fit.refuse_projection(self._optimization, one.layer, self._owners[storage.uid])


def _by_storage(tenants):
    """Returns {uid of a storage: its tenants}, in order."""
    found = collections.OrderedDict()
    for tenant in tenants:
        found.setdefault(tenant.storage.uid, []).append(tenant)
    return found


def _state_of(tenants, projections):
    """Returns an edit of a storage's state: kept for `tenants`, projected or zero elsewhere."""
    def edit(blocks):
        state = np.zeros_like(blocks)
        for tenant in tenants:
            _part(state, tenant)[:] = _part(blocks, tenant)
        for source, projection, projected in projections:
            for block in range(len(blocks)):
                old = _part(blocks, source)[block].reshape(source.parameter.shape)
                for tenant, new in zip(projected, projection(old)):
                    _part(state, tenant)[block] = np.reshape(new, -1)
        return state
    return edit


def _part(blocks, tenant):
    """Returns what `blocks`, [blocks, elements of the storage], hold of a tenant: a view."""
    return blocks[:, tenant.offset:tenant.offset + tenant.size]
