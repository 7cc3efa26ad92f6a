"""What copies of a graph are put together from: unapplied Functions, placeholders, outputs."""
import cntk as C

from .walk import function_of, named

_UNKNOWN = C.placeholder().shape


class Piece:
    """A copy of an unapplied Function, waiting to be connected.

    Attributes:
        function (cntk.Function): held, because a Variable does not keep its Function alive.
        outputs (list of cntk.Variable): what it computes.
        inputs (list of (cntk.Variable, cntk.Variable)): its placeholders, and the Variables
            of the original graph whose counterparts they are to be connected to.
    """

    def __init__(self, function, inputs):
        self.function = function
        self.outputs = list(function.outputs)
        self.inputs = inputs


def unapplied(function, source, replaced, what, name=''):
    """Returns a copy of a Function of one placeholder as the `Piece` to be connected.

    Args:
        function (cntk.Function): unapplied.
        source (cntk.Variable): what its placeholder is to read.
        replaced (cntk.Variable): what its output takes the place of.
        what (str): the layer, for messages.
        name (str): for a Function that has none.

    Raises:
        ValueError: it has another number of placeholders than one, other arguments, or
            computes another shape than `replaced` has.
    """
    arguments = function.arguments
    if len(arguments) != 1 or not arguments[0].is_placeholder or len(function.outputs) != 1:
        raise ValueError(
            f'the new function for {what} must be unapplied: one output, one placeholder, and '
            'nothing else to read but Parameters and Constants; got outputs '
            f'{_named(function.outputs)} and arguments {_named(arguments)}; build it as a layer, '
            'like cntk.layers.Dense(10), or over one cntk.placeholder()'
        )
    inlet = placeholder_like(source)
    copy = function.clone(C.CloneMethod.share, {arguments[0]: inlet})
    if name and not copy.outputs[0].owner.name:
        copy.outputs[0].owner.name = name
        again = placeholder_like(source)  # only in a copy the output has the name too
        inlet, copy = again, copy.clone(C.CloneMethod.share, {inlet: again})
    if _UNKNOWN not in (copy.shape, replaced.shape) and copy.shape != replaced.shape:
        raise ValueError(
            f'the new function for {what} must compute the same shape: expected {replaced.shape}, '
            f'got {copy.shape}; give it the output shape of the layer'
        )
    return Piece(copy, [(inlet, source)])


def with_outputs(like, outputs):
    """Returns `outputs` as a Function of the kind and name of `like`: a combine, or one root with
    its outputs.

    Args:
        like (cntk.Function): tells whether the outputs are those of one Function, and its name.
        outputs (list of cntk.Variable): in the order of `like.outputs`.
    """
    if like.root_function.op_name == 'Combine':
        return named(C.combine(outputs, name=like.root_function.name), like.name)
    return function_of(outputs, like.name)


def placeholder_like(variable: C.Variable) -> C.Variable:
    """Returns a placeholder with the shape, dynamic axes and name of `variable`."""
    if variable.shape == _UNKNOWN:
        return C.placeholder(name=variable.name)
    return C.placeholder(variable.shape, variable.dynamic_axes, name=variable.name)


def _named(variables):
    return '[%s]' % ', '.join(str(variable) for variable in variables)
