"""Whether a learner can train what takes the place of a Parameter of its own.

Asked twice: of what the optimizations expect to retire, before training; and of every Parameter that
`adopt.Plan` packs, when an optimization is applied.
"""
import cntk as C

from .. import graph
from ..optimizations.base import Transformed, as_transformed
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
        if not isinstance(returned, (C.Function, Transformed)):
            raise TypeError('%s: check(model) must return a cntk.Function, an nc.Transformed or None, got %r; None is '
                            'where nothing is known yet' % (optimization.name, returned))
        expected = as_transformed(returned, optimization.name)
        for note in expected.layers:
            for old in note.retired if optimization.learner is None else ():
                storage = storages.get(old.uid, old)
                if storage.uid in owners and not _same_shape(note, old):
                    refuse_misfit(optimization, note.name, storage, owners[storage.uid], reads_sparse(model, old))
        model = expected.model


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
    if optimization.learner_state == 'project':
        refuse_projection(optimization, layer, learner)


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


def _same_shape(note, old):
    """Whether all that replaces a Parameter has its shape, and so a storage for itself."""
    return bool(note.added) and all(tuple(new.shape) == tuple(old.shape) for new in note.added)
