"""What a binary convolution and a binary Dense differ in: operands, channels, outputs, and what is
supported.

All else about binary layers is written once, in terms of a `Kind`. A *channel* is what shares one
threshold, an *output* what shares one scale, gain and offset; both are laid out so that CNTK
broadcasts them over the input and the output of the product.
"""
import cntk as C
import numpy as np

from .. import graph
from .convolution_geometry import is_computed_wrongly
from .products import notes_of_products


class Kind:
    """One kind of layer that can be binarized.

    `core` is the product inside the layer: of float operands, or of their signs.

    Attributes:
        layer_op_name (str): op name of the float layer, as `nc.graph.Layer` has it.
        core_op_name (str): op name of the primitive that multiplies.
        op_name (str): of the binary block.
        inputs_op_name (str): of the block of the first stage, with binary input and float weights.
        optimization (str): what binarizes it.
        noun (str): the layer in a sentence.
        keeps_first (bool): whether the first of the network stays float without a filter, too.
    """

    def __init__(self, layer_op_name, core_op_name, noun, keeps_first):
        self.layer_op_name = layer_op_name
        self.core_op_name = core_op_name
        self.op_name = 'Binary' + layer_op_name
        self.inputs_op_name = 'BinaryInput' + layer_op_name
        self.optimization = 'Binarize' + layer_op_name
        self.noun = noun
        self.keeps_first = keeps_first

    @property
    def other_op_names(self):
        """Op names of blocks that other optimizations have made of such a layer."""
        return tuple(
            name
            for name in graph.made_of(self.layer_op_name)
            if name not in (self.op_name, self.inputs_op_name)
        )

    def weights_of(self, core):
        """Returns the Variable of the weights that `core` reads."""
        raise NotImplementedError

    def data_of(self, core):
        """Returns the Variable that `core` applies the weights to."""
        raise NotImplementedError

    def channel_shape(self, core):
        """Returns the shape of one number per channel."""
        raise NotImplementedError

    def output_shape(self, core):
        """Returns the shape of one number per output."""
        raise NotImplementedError

    def outputs(self, core):
        """Returns the number of outputs."""
        return int(np.prod(self.output_shape(core), dtype=np.int64))

    def rows(self, core, weights):
        """Returns an array of weights as [outputs, ...], one row for each output."""
        raise NotImplementedError

    def by_channel(self, core, values):
        """Returns an array [samples, ...] of what `core` reads as [samples, channels, ...]."""
        raise NotImplementedError

    def by_output(self, core, values):
        """Returns an array [samples, ...] of what `core` computes as [samples, outputs, ...]."""
        raise NotImplementedError

    def mean_magnitude(self, core, weights):
        """Returns mean |W| of each output as a Function of `output_shape`; it has a gradient."""
        raise NotImplementedError

    def key_of(self, function, keys):
        """Returns which of these uids stands for the weights of a Function, if it is a layer, else
        None.

        Args:
            function (cntk.Function): any; a layer is one with or without a block, float, binary or
                in another form.
            keys (collection of str): as `ends.keys_of` gives them: uids of the weights of layers.
        """
        if function.is_block:
            names = (self.layer_op_name, self.op_name, self.inputs_op_name) + self.other_op_names
            read = [function] + list(function.parameters) if function.op_name in names else ()
            return next((each.uid for each in read if each.uid in keys), None)
        if function.op_name != self.core_op_name:
            return None
        weights = self.weights_of(function)
        if weights.is_output and weights.owner.op_name == 'Reshape':
            weights = weights.owner.inputs[0]
        return weights.uid if weights.uid in keys else None

    def check(self, layer):
        """Refuses a float layer that cannot be binarized.

        Args:
            layer (nc.graph.Layer): of this kind.

        Raises:
            ValueError: it is not applied to an input yet.
            NotImplementedError: it is valid, and not supported.
        """
        weights, data = self.weights_of(layer.core), self.data_of(layer.core)
        if data.shape == C.placeholder().shape or any(side < 0 for side in weights.shape):
            raise ValueError(
                f'{layer.label}: to be binarized it must know its input, and got a placeholder: '
                'the model is not applied to an input yet; apply it to an input_variable first'
            )
        self._check_form(layer, weights, data)
        if layer.W.dtype != np.float32:
            raise NotImplementedError(
                f'{layer.label}: its weights must be float32, in which the native op computes, got '
                f'{np.dtype(layer.W.dtype).name}; build the network in float32'
            )

    def notes_of_others(self, model):
        """Returns a note for each Parameter that is multiplied by in a form that is no layer of
        this kind."""
        return []

    def _check_form(self, layer, weights, data):
        raise NotImplementedError


class _Convolution(Kind):
    """Weights [filters, channels, height, width]; an output is a filter."""

    def weights_of(self, core):
        return core.inputs[0]

    def data_of(self, core):
        return core.inputs[1]

    def channel_shape(self, core):
        return (self.data_of(core).shape[0], 1, 1)

    def output_shape(self, core):
        return (core.shape[0], 1, 1)

    def rows(self, core, weights):
        return weights.reshape(core.shape[0], -1)

    def by_channel(self, core, values):
        return values

    def by_output(self, core, values):
        return values

    def mean_magnitude(self, core, weights):
        filters = weights.shape[0]
        means = C.reduce_mean(C.reshape(C.abs(weights), (filters, -1)), axis=1)
        return C.reshape(means, (filters, 1, 1))

    def _check_form(self, layer, weights, data):
        if len(weights.shape) != 4 or len(data.shape) != 3:
            raise NotImplementedError(
                f'{layer.label}: only 2-D convolutions can be binarized, weights [filters, '
                'channels, height, width] and input [channels, height, width]; these are '
                f'{weights.shape} and {data.shape}. Leave it out with filter_function'
            )
        attributes = layer.attributes
        if attributes['autoPadding'][0] or data.shape[0] != weights.shape[1] * attributes['groups']:
            raise NotImplementedError(
                '%s: its filters slide along the channels too (input %s, auto_padding %s), and can '
                'be binarized only where they go over all channels: build it with '
                'auto_padding=[False, ...], or leave it out with filter_function'
                % (layer.label, data.shape, list(attributes['autoPadding']))
            )
        if is_computed_wrongly(layer.core):
            raise NotImplementedError(
                '%s: with groups no axis may be padded more after than before, and with %d groups '
                'one is, which CNTK computes wrongly on a CPU (its fallback engine ignores '
                'groups); take filters of odd sides' % (layer.label, attributes['groups'])
            )


class _Dense(Kind):
    """Weights [inputs..., outputs...]; a channel is an element of the first input axis.

    Of an input that is a vector, each element is a channel; of a feature map [channels, height,
    width] each map is one, as for a convolution. Leading axes of the input that are mapped over
    (`map_rank`) are more samples.
    """

    def weights_of(self, core):
        return core.inputs[1]

    def data_of(self, core):
        return core.inputs[0]

    def input_shape(self, core):
        """Returns the axes that a product sums over."""
        shape = self.weights_of(core).shape
        return tuple(shape[: len(shape) - int(core.attributes['outputRank'])])

    def channel_shape(self, core):
        inputs = self.input_shape(core)
        return inputs[:1] + (1,) * (len(inputs) - 1)

    def output_shape(self, core):
        return tuple(self.weights_of(core).shape[len(self.input_shape(core)) :])

    def rows(self, core, weights):
        return np.ascontiguousarray(weights.reshape(-1, self.outputs(core)).T)

    def by_channel(self, core, values):
        return values.reshape((-1,) + self.input_shape(core))

    def by_output(self, core, values):
        return values.reshape(-1, self.outputs(core))

    def mean_magnitude(self, core, weights):
        means = C.reduce_mean(C.reshape(C.abs(weights), (-1, self.outputs(core))), axis=0)
        return C.reshape(means, self.output_shape(core))

    def notes_of_others(self, model):
        return notes_of_products(model)

    def _check_form(self, layer, weights, data):
        if layer.input.is_sparse:
            raise NotImplementedError(
                f'{layer.label}: to be binarized its input must be dense, got a sparse one, of '
                'which CNTK takes no sign; leave it out with filter_function, or make the '
                'input_variable with is_sparse=False'
            )


CONVOLUTION = _Convolution('Convolution', 'Convolution', 'convolution', keeps_first=True)
DENSE = _Dense('Dense', 'Times', 'Dense', keeps_first=False)

KINDS = (CONVOLUTION, DENSE)


def kind_of_layer(layer):
    """Returns the Kind of a `nc.graph.Layer`."""
    return next(kind for kind in KINDS if kind.layer_op_name == layer.op_name)


def kind_of_block(block):
    """Returns the Kind of a wholly binary block, None of any other Function."""
    if not block.is_block:
        return None
    return next((kind for kind in KINDS if kind.op_name == block.op_name), None)
