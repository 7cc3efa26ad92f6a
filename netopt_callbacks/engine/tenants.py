"""Parameters kept inside the storage of others, read out of it and released again.

CNTK's learners are built on a fixed list of Parameters. A transform that retires W and adds
W1, W2 would leave these without a learner and W with one too many. So W stays the learner's
Parameter and becomes *storage*: the graph reads W1 and W2, its *tenants*, as

    W1 = reshape(slice(flatten(W), offset, offset + size), shape)

which computes and trains the same bits as Parameters of their own, for every learner that
treats elements one by one. `release` turns tenants back into Parameters, so that a transform
always sees a plain graph; `adopt.Plan` packs what a transform left.
"""
import cntk as C
import numpy as np

from .. import graph
from ..graph.walk import named

MARK = 'netopt_callbacks.tenant'


class Tenant(object):
    """A Parameter kept inside another one's storage.

    Attributes:
        storage (cntk.Parameter): the learner's Parameter.
        offset (int): first element, in the storage's row-major order.
        parameter (cntk.Parameter): what the plain graph holds instead.
    """

    def __init__(self, storage, offset, parameter):
        self.storage = storage
        self.offset = offset
        self.parameter = parameter

    @property
    def size(self):
        return size_of(self.parameter)


def size_of(parameter):
    """Returns the number of elements of a Parameter."""
    return int(np.prod(parameter.shape))


def release(model):
    """Returns (plain model, tenants): every tenant a Parameter of its own, with its value.

    Args:
        model (cntk.Function): a graph that may hold tenants; left as it is.

    Returns:
        cntk.Function, list of Tenant: the same model where there are none.
    """
    tenants, substitutions = {}, {}
    for reshape in graph.walk(model, into_blocks=True):
        inner = _marked_slice(reshape)
        if inner is None:
            continue
        storage = inner.inputs[0].owner.inputs[0]
        offset = int(inner.attributes['beginIndex'])
        output = reshape.outputs[0]
        place = (storage.uid, offset)
        if place not in tenants:
            tenants[place] = _tenant(_parameter(model, storage), offset, output.shape,
                                     reshape.name)
        substitutions[output] = tenants[place].parameter
    if not tenants:
        return model, []
    return graph.substitute(model, substitutions), list(tenants.values())


def _tenant(storage, offset, shape, name):
    """Returns the tenant with a Parameter of its own that holds its value."""
    value = storage.value.reshape(-1)[offset:offset + int(np.prod(shape))].reshape(shape)
    return Tenant(storage, offset, C.Parameter(init=value, dtype=storage.dtype, name=name))


def _marked_slice(function):
    """Returns the slice under the last reshape of a tenant, or None for any other function."""
    if function.is_block or function.op_name != 'Reshape' or not function.inputs[0].is_output:
        return None
    inner = function.inputs[0].owner
    return inner if inner.name == MARK else None


def _parameter(model, variable):
    """Returns the Parameter object of `model` that `variable` is."""
    return next(known for known in model.parameters if known.uid == variable.uid)


def view(tenant):
    """Returns what reads a tenant out of its storage: a Function, or the whole storage."""
    storage, shape = tenant.storage, tenant.parameter.shape
    if tenant.offset == 0 and tuple(storage.shape) == tuple(shape):
        return storage
    flat = C.reshape(storage, (size_of(storage),))
    part = C.slice(flat, 0, tenant.offset, tenant.offset + tenant.size, name=MARK)
    return C.reshape(part, shape, name=tenant.parameter.name)


def export(model):
    """Returns a copy of `model` with Parameters of its own and no tenants."""
    plain, _ = release(model)
    return named(plain.clone(C.CloneMethod.clone, {argument: argument for argument in plain.arguments}), plain.name)
