"""Finding the Dense and Convolution layers of a model, by name and by what they compute."""
from collections import namedtuple

from .layer import Layer
from .walk import body, functions

# Blocks of CNTK's layer library, and ours, in which a product with a Parameter is no layer of
# its own. A Dense or Convolution *block* inside one (as in AttentionModel) still is.
LAYER_BLOCKS = frozenset([
    'Activation', 'BatchNormalization', 'BinaryConvolution', 'BinaryConvolveOp', 'BinaryDense',
    'BinaryDenseOp', 'BinaryInputConvolution', 'BinaryInputDense', 'Convolution', 'ConvolutionTranspose',
    'Delay', 'Dense', 'DenseFactored', 'Dropout', 'Embedding', 'GRU', 'LSTM', 'LayerNormalization', 'MaxUnpooling',
    'RNNStep', 'Stabilizer'])

_CORES = {'Dense': 'Times', 'Convolution': 'Convolution'}

OtherProduct = namedtuple('OtherProduct', 'label W reason')
OtherProduct.__doc__ = "A product of data with a Parameter that is no Dense layer: its name, W, and why it is none."


def layers(model, filter_function=None, op_name=None):
    """Returns the Dense and Convolution layers of a model, inputs first.

    A layer is a block `Dense` or `Convolution`, or what computes the same without one:
    `times(x, W)` and `convolution(W, x)` for a Parameter W, with `+ b` where that follows.

    Args:
        model (cntk.Function): any Function; blocks are searched, at any depth.
        filter_function (callable): `Layer -> bool`; None takes every layer.
        op_name (str): 'Dense' or 'Convolution'; None takes both.

    Returns:
        list of Layer: [] where nothing matches; `no_layers_error` says what was seen.

    Raises:
        TypeError: `filter_function` is no function.
        ValueError: `op_name` is neither, or the filter takes one of several layers that
            share W and leaves another.
    """
    if op_name is not None and op_name not in _CORES:
        raise ValueError("op_name must be 'Dense', 'Convolution' or None, got %r; other blocks are found with "
                         'nc.graph.walk(model)' % (op_name,))
    check_filter(filter_function)
    found = [item for item in _search(model) if isinstance(item, Layer)]
    _link(found)
    if op_name is not None:
        found = [layer for layer in found if layer.op_name == op_name]
    if filter_function is None:
        return found
    taken = {layer: bool(filter_function(layer)) for layer in found}
    for layer in found:
        for other in layer.shared_with:
            if taken[layer] and not taken.get(other, True):
                raise ValueError('%s and %s share W, so they must change together, and filter_function takes '
                                 'only the first; let it take both or neither'
                                 % (layer.label, other.label))
    return [layer for layer in found if taken[layer]]


def check_filter(filter_function):
    """Raises TypeError for a `filter_function` that is neither a function nor None."""
    if filter_function is not None and not callable(filter_function):
        raise TypeError("the filter_function of layers must be callable with a Layer, or None, got %r; write for example "
                        "lambda layer: layer.name == 'hidden'" % (filter_function,))


def no_layers_error(model, what, op_name=None):
    """Returns the ValueError of an optimization whose filter left it nothing to do.

    Args:
        model (cntk.Function): the model searched.
        what (str): who found nothing, as 'FactorDense'.
        op_name (str): what it looked for; None stands for both.
    """
    seen = [layer.label for layer in layers(model)]
    seen += ['%s, which is none (%s)' % (product.label, product.reason) for product in other_products(model)]
    return ValueError('%s: expected a %s layer to change, got none. Layers of the model: %s. Check filter_function'
                      % (what, op_name or 'Dense or Convolution', ', '.join(seen) or 'none'))


def other_products(model):
    """Returns the products that multiply by a Parameter from the wrong side, so that they are no layer.

    `Layer.W` is [inputs, outputs] for every Dense, and what is written with it relies on that.

    Returns:
        list of OtherProduct: inputs first.
    """
    return [item for item in _search(model) if isinstance(item, OtherProduct)]


def _search(model):
    """Returns the layers and other products of a model and of its blocks, inputs first."""
    found = []
    pending = [(iter(_of_level(model.outputs, True, ())), True)]
    while pending:
        item = next(pending[-1][0], None)
        if item is None:
            pending.pop()
        elif isinstance(item, (Layer, OtherProduct)):
            found.append(item)
        else:
            block, enclosing = item
            bare = pending[-1][1] and block.op_name not in LAYER_BLOCKS
            pending.append((iter(_of_level(body(block).outputs, bare, enclosing + (block.name,))),
                            bare))
    return found


def _of_level(outputs, bare, enclosing):
    """Returns, inputs first, the layers and other products of a level, and blocks to look into: (block, names)."""
    level = functions(outputs)
    readers = _readers(level, outputs)
    items = []
    for function in level:
        layer = None
        if function.is_block:
            layer = _from_block(function, enclosing)
            if layer is None:
                items.append((function, enclosing))
        elif bare:
            layer = _from_primitives(function, readers, enclosing) or _other_product(function, enclosing)
        if layer is not None:
            items.append(layer)
    return items


def _from_block(block, enclosing):
    """Returns the Layer a Dense or Convolution block is, or None."""
    if block.op_name not in _CORES or len(block.block_arguments_mapping) != 1:
        return None
    outputs = body(block).outputs
    content = functions(outputs)
    cores = [function for function in content
             if function.op_name == _CORES[block.op_name] and _weights(function) is not None]
    if len(cores) != 1:
        return None
    bias = _bias(cores[0], _readers(content, outputs))
    b = bias[1] if bias else next((p for p in block.parameters if p.name == 'b'), None)
    return Layer(block.op_name, block, cores[0], _weights(cores[0]), b, enclosing)


def _from_primitives(core, readers, enclosing):
    """Returns the Layer that a times or convolution outside every layer block is, or None."""
    op_name = next((name for name, op in _CORES.items() if op == core.op_name), None)
    W = _weights(core) if op_name and not core.is_block else None
    if W is None:
        return None
    bias = _bias(core, readers)
    root, b = bias if bias else (core, None)
    return Layer(op_name, root, core, W, b, enclosing)


def _other_product(function, enclosing):
    """Returns the OtherProduct a primitive is, or None."""
    if function.op_name not in ('Times', 'TransposeTimes'):
        return None
    left, right = function.inputs
    data, weights, reader = left, right, function
    reason = 'times_transpose reads its W as [outputs, inputs]'
    if function.op_name == 'Times':
        reason = 'its W is transposed first'
        if left.is_parameter:
            data, weights, reason = right, left, 'its W stands left of the data, as [outputs, inputs]'
        elif right.is_output and right.owner.op_name == 'TransposeAxes':
            reader = right.owner
            weights = reader.inputs[0]
        else:
            return None
    if not weights.is_parameter or data.is_parameter or data.is_constant:
        return None
    name = '.'.join([part for part in enclosing if part] + [function.name or '(unnamed)'])
    sides = 'x'.join(str(side) for side in weights.shape)
    return OtherProduct("product '%s' (W of %s)" % (name, sides), _parameter(reader, weights),
                        reason + '; write times(x, W) with W of [inputs, outputs]')


def _weights(core):
    """Returns the Parameter a times or convolution applies to data, or None."""
    if core.is_block or len(core.inputs) != 2:
        return None
    if core.op_name == 'Times':
        data, weights = core.inputs
        if not len(weights.shape) > core.attributes['outputRank']:
            return None
    else:
        weights, data = core.inputs
        if core.attributes['transpose']:
            return None
    reader = core
    if core.op_name == 'Convolution' and weights.is_output and weights.owner.op_name == 'Reshape':
        # `cntk.convolution(W, x, reduction_rank=0)` gives both a channel axis.
        reader = weights.owner
        weights = reader.inputs[0]
    if not weights.is_parameter or data.is_parameter or data.is_constant:
        return None
    return _parameter(reader, weights)


def _bias(core, readers):
    """Returns (the plus that adds a bias Parameter to `core`, that Parameter), or None."""
    output = core.outputs[0]
    using = readers.get(output.uid, [])
    if len(using) != 1 or using[0] is None or using[0].op_name != 'Plus' or using[0].is_block:
        return None
    others = [variable for variable in using[0].inputs if variable.uid != output.uid]
    if len(others) == 1 and others[0].is_parameter and using[0].shape == output.shape:
        return using[0], _parameter(using[0], others[0])
    return None


def _parameter(function, variable):
    """Returns an input of `function` as the cntk.Parameter it is (`inputs` gives plain Variables)."""
    return next(parameter for parameter in function.parameters if parameter.uid == variable.uid)


def _readers(level, outputs):
    """Returns {uid of a Variable: Functions that read it}; None stands for the level's outputs."""
    readers = {}
    for function in level:
        for variable in function.inputs:
            if variable.is_output:
                readers.setdefault(variable.uid, []).append(function)
    for variable in outputs:
        readers.setdefault(variable.uid, []).append(None)
    return readers


def _link(found):
    """Tells each layer which others read its W."""
    groups = {}
    for layer in found:
        groups.setdefault(layer.W.uid, []).append(layer)
    for group in groups.values():
        for layer in group:
            layer.shared_with = tuple(other for other in group if other is not layer)
