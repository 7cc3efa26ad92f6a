"""Whether a learner can train what takes the place of a Parameter of its own.

Asked twice: of what the optimizations expect to retire, before training; and of every Parameter that
`adopt.Plan` packs, when an optimization is applied.
"""
import cntk as C

from .. import graph
from ..optimizations.base import Transformed
from . import learners as learner_facts
from .callbacks import in_order
from .swap import describe

_REMEDY = 'Give its new Parameters a learner of their own: learner=lambda parameters: cntk.sgd(parameters, schedule)'


def refuse_expected(optimizations, model, tenants, learners):
    """Lets optimizations refuse a model before training, and refuses what no learner could train.

    Each gets the model as those before it are expected to leave it, as far as that is known.

    Args:
        optimizations (list of nc.Optimization): those still to be applied.
        model (cntk.Function): the plain graph of the trainer.
        tenants (list of Tenant): of `model`.
        learners (list of cntk.learners.Learner): of the trainer.

    Raises:
        TypeError, ValueError: what `check` raises or returns wrongly; a learner that does not fit.
    """
    owners = learner_facts.owners(learners)
    storages = {tenant.parameter.uid: tenant.storage for tenant in tenants}
    for index in in_order(optimizations):
        optimization = optimizations[index]
        returned = optimization.check(model)
        if returned is None:
            return
        expected = returned if isinstance(returned, Transformed) else Transformed(returned)
        if not isinstance(expected.model, C.Function):
            raise TypeError('%s: check(model) must return a cntk.Function, an nc.Transformed or None, got %r; None is '
                            'where nothing is known yet' % (optimization.name, expected.model))
        _refuse_replaced(optimization, [one for one in expected.replaced if one.retired], model, storages, owners)
        model = expected.model


def _refuse_replaced(optimization, replaced, model, storages, owners):
    """Refuses a layer that is to change, or layers that may change where none of them could."""
    possible = []
    for one in replaced:
        try:
            _refuse_one(optimization, one, model, storages, owners)
        except ValueError as error:
            if one.added:
                raise
            possible.append(error)
    if possible and len(possible) == len(replaced):
        raise possible[0]


def _refuse_one(optimization, one, model, storages, owners):
    for old in one.retired:
        storage = storages.get(old.uid, old)
        if storage.uid not in owners:
            continue
        if optimization.learner_state == 'project':
            refuse_projection(optimization, one.layer, owners[storage.uid])
        if optimization.learner is None and _shapes(one.added) != _shapes(one.retired):
            refuse_misfit(optimization, one.layer, storage, owners[storage.uid], reads_sparse(model, old))


def refuse_misfit(optimization, layer, storage, learner, sparse):
    """Raises ValueError where a learner would not train rightly what shares one of its Parameters.

    Args:
        optimization (nc.Optimization), layer (str): for the message.
        storage (cntk.Parameter): what would be shared.
        learner (cntk.learners.Learner): what trains it.
        sparse (bool): whether the layer reads a sparse input.
    """
    reason = learner_facts.couples_elements(learner)
    if reason:
        raise ValueError('%s: layer %s: its new Parameters would share the storage of %s, which its learner (%s) '
                         'trains, but %s. %s' % (optimization.name, layer, describe(storage),
                                                 learner_facts.describe(learner), reason, _REMEDY))
    if sparse:
        raise ValueError('%s: layer %s reads a sparse input, and CNTK has no sparse gradient for a part of a '
                         'Parameter. %s' % (optimization.name, layer, _REMEDY))


def refuse_projection(optimization, layer, learner):
    """Raises ValueError where the state of a learner does not map through a transform."""
    reason = learner_facts.no_projection(learner)
    if reason:
        raise ValueError("%s: layer %s: learner_state='project', but %s trains it: %s. Use learner_state='reset'"
                         % (optimization.name, layer, learner_facts.describe(learner), reason))


def reads_sparse(model, parameter):
    """Whether `parameter` multiplies a sparse argument of `model`, inside blocks or not."""
    if not any(argument.is_sparse for argument in model.arguments):
        return False
    meaning, products = {}, []
    for function in graph.walk(model, into_blocks=True):
        if function.is_block:
            meaning.update((inner.uid, outer)
                           for inner, outer in function.block_arguments_mapping)
        elif any(variable.uid == parameter.uid for variable in function.inputs):
            products.append(function)
    for function in products:
        for variable in function.inputs:
            while variable.uid in meaning:
                variable = meaning[variable.uid]
            if variable.is_input and variable.is_sparse:
                return True
    return False


def _shapes(parameters):
    """Returns the shapes of Parameters in a fixed order: equal ones find a storage each for themselves."""
    return sorted(tuple(parameter.shape) for parameter in parameters)
