"""The trainable binary convolution or Dense as a CNTK block: building one, and reading one back.

Inside the block, in this order, so that the native op can repeat every rounding::

    u   = x - shift                                     if there is a shift
    acc = product(sign(clip_w W), sign(clip_x u))       integers: exact in float32 below 2^24
    y   = acc * (mean|W| * gain)                        `weight_scale`, and a Constant per output
    y   = y * mean|u|                                   `input_scale`
    y   = y + offset                                    a Constant per output
    y   = y + b, activation                             as the layer had them

sign is `cntk.straight_through_impl`: forward +1 where its argument is > 0 and -1 elsewhere
(sign(0) = -1), gradient 1 where |argument| <= 1 and 0 elsewhere. The scales come after the product,
never before it: multiplying by alpha W would round in every addition. Padded taps contribute
0, as in any CNTK convolution. What a product, a channel and an output is says the layer's `Kind`.

Reading goes by what a graph computes and nothing else, so a model that was saved and loaded
lowers like the one that was trained.
"""
import cntk as C
import numpy as np

from .. import graph
from ..graph import functions
from . import binary
from .binary_kinds import KINDS, kind_of_block, kind_of_layer

OP_NAMES = tuple(kind.op_name for kind in KINDS)
# Binary input, float weights: the first stage of `operands='inputs'`.
INPUTS_OP_NAMES = tuple(kind.inputs_op_name for kind in KINDS)

_SIGN = 'StraightThrough'


class Recipe:
    """How one layer is binarized; what was calibrated is already a number here.

    Args:
        weight_scale (str): 'channel', 'layer' or None.
        input_scale (str): 'sample' or None.
        shift (cntk.Constant or cntk.Parameter): one number per channel, taken from the input; None
            for none.
        gain, offset (array): float32 [outputs], constant; None for none.
        input_clip, weight_clip (float): powers of two that scale into the straight-through window.
        operands (str): 'both', 'inputs', or 'weights' where the input is binary already.
    """

    def __init__(
        self,
        weight_scale='channel',
        input_scale='sample',
        shift=None,
        gain=None,
        offset=None,
        input_clip=1.0,
        weight_clip=1.0,
        operands='both',
    ):
        self.weight_scale = weight_scale
        self.input_scale = input_scale
        self.shift = shift
        self.gain = gain
        self.offset = offset
        self.input_clip = input_clip
        self.weight_clip = weight_clip
        self.operands = operands


def build(layer, recipe):
    """Returns the layer with binary operands; bias, activation and name as they are.

    Args:
        layer (nc.graph.Layer): a convolution of 2 spatial axes, or a Dense.
        recipe (Recipe): what to binarize, and how.

    Returns:
        cntk.Function: a block, unapplied, with one placeholder; W and b are the layer's own.
    """
    kind = kind_of_layer(layer)
    op_name = kind.inputs_op_name if recipe.operands == 'inputs' else kind.op_name
    return layer.rebuilt(core_of(layer, recipe), op_name)


def core_of(layer, recipe):
    """Returns what takes the product's place: unapplied, with one placeholder."""
    kind = kind_of_layer(layer)
    weights, data = kind.weights_of(layer.core), kind.data_of(layer.core)
    inlet = C.placeholder(data.shape, data.dynamic_axes)
    centered, new_data, replacements = inlet, inlet, {}
    if recipe.operands != 'weights':
        if recipe.shift is not None:
            centered = C.minus(inlet, recipe.shift, name='input_minus_shift')
        new_data = C.straight_through_impl(
            _clipped(centered, recipe.input_clip), name='input_sign'
        ).output
    if recipe.operands != 'inputs':
        replacements[weights] = C.straight_through_impl(
            _clipped(weights, recipe.weight_clip), name='weight_sign'
        ).output
    replacements[data] = new_data
    core = C.as_composite(layer.core).clone(C.CloneMethod.share, replacements)
    scale = _output_scale(layer, weights, recipe)
    if scale is not None:
        core = C.element_times(core, scale, name='scaled')
    if recipe.operands != 'weights' and recipe.input_scale is not None:
        core = C.element_times(
            core,
            C.reduce_mean(C.abs(centered), axis=C.Axis.all_static_axes()),
            name='scaled_by_input',
        )
    if recipe.offset is not None:
        core = C.plus(core, _per_output(layer, recipe.offset, 'offset'))
    return core


def _output_scale(layer, weights, recipe):
    """Returns what the integers are multiplied by, or None: it depends on Parameters and
    Constants alone."""
    gain = None if recipe.gain is None else _per_output(layer, recipe.gain, 'gain')
    if recipe.operands == 'inputs' or recipe.weight_scale is None:
        return gain
    magnitude = _mean_magnitude(layer, weights, recipe.weight_scale)
    return magnitude if gain is None else C.element_times(magnitude, gain)


def _per_output(layer, values, name):
    shape = kind_of_layer(layer).output_shape(layer.core)
    return C.constant(np.asarray(values, np.float32).reshape(shape), name=name)


def _clipped(operand, factor):
    return (
        operand if factor == 1 else C.element_times(operand, C.constant(factor, dtype=np.float32))
    )


def _mean_magnitude(layer, weights, scale):
    """Returns mean |W| per output, or of all as a scalar; it has a gradient."""
    if scale == 'layer':
        return C.reduce_mean(C.abs(weights), axis=C.Axis.all_static_axes())
    return kind_of_layer(layer).mean_magnitude(layer.core, weights)


class BinaryLayer:
    """A block `BinaryConvolution` or `BinaryDense`, read: what `nc.graph.replace` and lowering need
    of it.

    Attributes:
        kind (Kind): which of the two.
        name (str), label (str): as the user named it, and for messages.
        block (cntk.Function): the block.
        input, output (cntk.Variable): what it reads and computes in its model.
        W (cntk.Parameter): latent weights; a cntk.Constant where the network is frozen, None where
            the block holds bare signs.
        core (cntk.Function): the product inside the block; its output is the integers.
        operand (cntk.Variable): inside the block, what the native op reads and compares.
        signed (cntk.Variable): inside the block, what the sign of the input is taken of.
        replaced (cntk.Variable): inside the block, what the native op computes: the
            integers, times the weights' scale, plus the bias, as far as these follow directly.
    """

    def __init__(self, block):
        self.block = block
        self.kind = kind_of_block(block)
        self.name = block.name
        self.output = block.outputs[0]
        self._content = graph.body(block)
        self._functions = functions(self._content.outputs)
        self.core = self._product()
        self.signed = self.kind.data_of(self.core).owner.inputs[0]
        self.operand, self._threshold = self._comparison()
        self.W = self._weights()
        self._scale, self._bias, self.replaced = self._epilogue()

    @property
    def label(self):
        """The layer for messages."""
        return "{} '{}' (W of {})".format(
            self.kind.op_name,
            self.name or '(unnamed)',
            'x'.join(str(side) for side in self.kind.weights_of(self.core).shape),
        )

    @property
    def input(self):
        # Asked for each time: CNTK exchanges placeholders when it infers shapes anew.
        return self.block.block_arguments_mapping[0][1]

    @property
    def content(self):
        """What the block computes, as a composite with one placeholder."""
        return self._content

    def signs(self):
        """Returns sign(W) as CNTK evaluates it: float32, of W's shape as the product reads it."""
        weights = self.kind.weights_of(self.core)
        return _value_of(weights).reshape(weights.shape)

    def weight_clip(self):
        """Returns the factor that scales the latent weights into the straight-through window."""
        signed = self.kind.weights_of(self.core).owner.inputs[0]
        if not signed.is_output:
            return 1.0
        # Frozen weights are a Constant too, and with `reduction_rank=0` a reshape comes between.
        factors = [read for read in signed.owner.inputs if read.is_constant and not read.shape]
        return float(_value_of(factors[0])) if factors else 1.0

    def scale(self):
        """Returns the weights' scale as CNTK evaluates it, float32 [outputs], or None."""
        return None if self._scale is None else self._per_output(self._scale)

    def bias(self):
        """Returns the bias the native op adds, float32 [outputs], or None."""
        return None if self._bias is None else self._per_output(self._bias)

    def threshold(self):
        """Returns what the input is compared with, float32 [channels], or None for 0."""
        if self._threshold is None:
            return None
        return np.ascontiguousarray(np.ravel(_value_of(self._threshold)), np.float32)

    def _product(self):
        found = [function for function in self._functions if binary_kind(function) is self.kind]
        if len(found) != 1:
            raise ValueError(
                f"block {self.kind.op_name} '{self.name}' must hold one {self.kind.noun} of two "
                f"signs, got {len(found)}, so this package did not make it; give the block another "
                f"op name, or make it with nc.{self.kind.optimization}"
            )
        return found[0]

    def _comparison(self):
        """Returns (operand, threshold): x - t > 0 is x > t in float32, so the native op need
        not subtract."""
        if not self.signed.is_output or self.signed.owner.op_name != 'Minus':
            return self.signed, None
        minuend, shift = self.signed.owner.inputs
        if _is_fixed(shift) and shift.shape == self.kind.channel_shape(self.core):
            return minuend, shift
        return self.signed, None

    def _weights(self):
        weights = self.kind.weights_of(self.core)
        if not weights.is_output:
            return None
        expression = C.as_composite(weights.owner)
        # A frozen block has no Parameters; what its weights are scaled by has no axes.
        leaves = expression.parameters or [leaf for leaf in expression.constants if leaf.shape]
        if len(leaves) != 1:
            raise ValueError(
                f"block {self.kind.op_name} '{self.name}': the signs of its weights must read one "
                f"Parameter or Constant, got {len(leaves)}; make the block with "
                f"nc.{self.kind.optimization}"
            )
        return leaves[0]

    def _epilogue(self):
        """Returns (scale, bias, last Variable): the times and plus that follow the integers
        directly."""
        scale, current = self._follow(self.core.outputs[0], 'ElementTimes')
        bias, current = self._follow(current, 'Plus')
        return scale, bias, current

    def _follow(self, variable, op_name):
        """Returns (fixed operand, result) of the `op_name` that alone reads `variable`, else
        (None, variable)."""
        readers = [
            function
            for function in self._functions
            if any(read.uid == variable.uid for read in function.inputs)
        ]
        if len(readers) != 1 or readers[0].op_name != op_name:
            return None, variable
        other = [read for read in readers[0].inputs if read.uid != variable.uid]
        if len(other) != 1 or not _is_fixed(other[0]) or not self._is_per_output(other[0]):
            return None, variable
        return other[0], readers[0].outputs[0]

    def _is_per_output(self, variable):
        return int(np.prod(variable.shape)) == 1 or variable.shape == self.kind.output_shape(
            self.core
        )

    def _per_output(self, variable):
        values = np.asarray(_value_of(variable), np.float32).ravel()
        return np.ascontiguousarray(np.broadcast_to(values, (self.kind.outputs(self.core),)))

    def __repr__(self):
        return f'<BinaryLayer {self.label}>'


def as_block(content, op_name, name):
    """Returns an edited content of a block as a block of its own, unapplied, with one placeholder.

    A placeholder belongs to one block: sharing that of the block the content came from
    would spoil that block (CNTK could not load it again).
    """
    shared = content.placeholders[0]
    inner, outer = (C.placeholder(shared.shape, shared.dynamic_axes) for _ in range(2))
    copy = content.clone(C.CloneMethod.share, {shared: inner})
    return C.as_block(copy, [(inner, outer)], op_name, name)


def binary_blocks(model):
    """Returns the blocks `BinaryConvolution` and `BinaryDense` of a model, at any depth, inputs
    first."""
    return [function for function in graph.walk(model) if kind_of_block(function) is not None]


def staged_layers(functions, kind):
    """Returns the layers of a kind whose input is binary and whose weights are not, as
    `nc.graph.Layer`s; frozen ones are none."""
    staged = [
        _staged(block, kind)
        for block in functions
        if block.is_block and block.op_name == kind.inputs_op_name
    ]
    return [layer for layer in staged if layer is not None]


def _staged(block, kind):
    """Returns a block of the first stage as a `nc.graph.Layer`; None where its weights are a
    Constant."""
    content = functions(graph.body(block).outputs)
    core = next(
        function
        for function in content
        if function.op_name == kind.core_op_name
        and not function.is_block
        and _is_sign(kind.data_of(function))
    )
    read = kind.weights_of(core)
    weights = read.owner.inputs[0] if read.is_output else read
    if weights.is_constant:
        return None
    added = {
        operand.uid
        for function in content
        if function.op_name == 'Plus'
        for operand in function.inputs
    }
    named = {parameter.uid: parameter for parameter in block.parameters}
    b = next((parameter for uid, parameter in named.items() if uid in added), None)
    return graph.Layer(kind.layer_op_name, block, core, named[weights.uid], b)


def is_binary_core(function):
    """Whether a Function is a product of fixed signs with the signs of an input."""
    return binary_kind(function) is not None


def binary_kind(function):
    """Returns the Kind of a product of fixed signs with the signs of an input, None of any
    other Function."""
    kind = next((kind for kind in KINDS if kind.core_op_name == function.op_name), None)
    if kind is None or function.is_block:
        return None
    weights = kind.weights_of(function)
    return (
        kind
        if _is_sign(kind.data_of(function)) and (_is_sign(weights) or _is_of_signs(weights))
        else None
    )


def _is_sign(variable):
    return variable.is_output and variable.owner.op_name == _SIGN


def _is_of_signs(variable):
    """Whether a Variable is a Constant of +1, -1 and, where no weight is, 0: float weights that are
    frozen are a Constant too."""
    return variable.is_constant and bool(np.isin(_value_of(variable), (-1, 0, 1)).all())


def latent_error(layer, scale):
    """Returns the relative error of binarizing a layer's weights (see
    `binary.binarization_error`)."""
    rows = kind_of_layer(layer).rows(layer.core, layer.W.value)
    return binary.binarization_error(rows, binary.weight_scale(rows, scale))


def _is_fixed(variable):
    """Whether a Variable depends on Parameters and Constants alone."""
    if variable.is_output:
        return not C.as_composite(variable.owner).arguments
    return variable.is_parameter or variable.is_constant


def _value_of(variable):
    """Returns the value of a Variable that depends on Parameters and Constants alone."""
    if variable.is_output:
        return np.asarray(C.as_composite(variable.owner).eval())
    # `inputs` gives plain Variables, which have no value: look the leaf up through a reader.
    reader = C.alias(variable)
    leaf = next(leaf for leaf in reader.parameters + reader.constants if leaf.uid == variable.uid)
    return leaf.value
