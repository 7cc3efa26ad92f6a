"""The gate for a segment with float layers in it that native code sums in another order than CNTK.

Three comparisons, each given the same input, say as much as == does where there are none:

* Each float layer alone, reading CNTK's values: its sums are CNTK's within `tolerance` of the
    sample's own scale.
* All the rest of the program, reading CNTK's sums in the place of its own: integers and outputs ==.
* The Function that is handed over: the outputs of that very program, ==.
"""
import cntk as C
import numpy as np

from .. import graph
from ..optimizations.binary_choice import named_candidates
from ..optimizations.binary_kinds import KINDS
from .output_parity import OutputParity
from .parity_result import FloatParity


def names_of_layers(model):
    """Returns {uid of a product: name} of the float layers of a model, as records name them."""
    return {layer.core.uid: layer.name for kind in KINDS for layer in named_candidates(model, kind)}


def name_of(node, names):
    """Returns the name of the float layer whose product a Node is; `names` as above."""
    function = node.unit.function
    return function.name or node.function.name or names.get(node.function.uid, '(unnamed)')


class FloatLayerProbe:
    """One float layer of a segment, in CNTK and in native code.

    Args:
        part (LoweredSegment): with `program.products`.
        number (int): which of them.
        tolerance (float): as of `Lower`.
        names (dict): what `names_of_layers` returns.
    """

    def __init__(self, part, number, tolerance, names):
        node, _ = part.program.products[number]
        function = node.unit.function
        self.parity = FloatParity(
            name_of(node, names), tolerance, node.sums.get('order') == 'winograd'
        )
        self.variable = node.unit.inputs[0].variable
        self._program = part.program.program_of_product(number)
        source = C.input_variable(
            self.variable.shape, np.float32, dynamic_axes=self.variable.dynamic_axes
        )
        # What reads the block's own placeholder reads what the block does; an alias of a
        # placeholder would not be cloned.
        first = function.is_block and node.data.is_output
        wanted = C.combine(
            [
                C.alias(variable).output
                for variable in [node.function.outputs[0]] + [node.data] * first
            ]
        )
        entry = wanted.placeholders[0] if function.is_block else node.data
        self._trained = wanted.clone(C.CloneMethod.share, {entry: source})
        self._found = OutputParity()

    def compare(self, values):
        """Compares the sums, both reading what the layer reads where its block reads `values`;
        returns CNTK's."""
        expected, *inside = (
            np.ascontiguousarray(graph.flat(each), np.float32)
            for each in graph.evaluate(
                list(self._trained.outputs), {self._trained.arguments[0]: values}
            )
        )
        read = inside[0] if inside else np.ascontiguousarray(graph.flat(values), np.float32)
        ours = self._program(read)
        self._found.add(expected, ours.reshape(expected.shape), np.ones(len(expected), bool))
        self.parity.values += expected.size
        self.parity.error = self._found.unexplained_error
        self.parity.different_not_finite = self._found.different_not_finite
        return expected


class Signs:
    """What a layer in such a segment reads, as bits: the values themselves are nowhere.

    Attributes:
        positive (array): bool [samples, ...].
        tolerance (float): as of `Lower`.
    """

    def __init__(self, positive, tolerance):
        self.positive = positive
        self.tolerance = tolerance
