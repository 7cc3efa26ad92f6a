"""One of two networks that are compared, and which blocks of the two belong together."""
from itertools import islice, zip_longest

from .. import graph
from ..graph import evaluate, opened
from ..optimizations import binary_block
from . import binary_segment
from .replace import OP_NAMES


class Twin:
    """One of the two networks, with everything that is compared on its own level."""

    def __init__(self, model, op_names):
        self._model = opened(model, lambda block: block.is_block and block.op_name in op_names)
        self.blocks = [
            function
            for function in graph.primitives(self._model)
            if function.is_block and function.op_name in op_names
        ]
        self._operands = [_operands_of(block) for block in self.blocks]
        self.outputs = self.inputs = None

    def evaluate(self, minibatch):
        """Returns itself, with `outputs` (list) and `inputs` (for each block a list), values as
        `graph.values.evaluate` gives them."""
        outputs = list(self._model.outputs)
        operands = [operand for operands in self._operands for operand in operands]
        values = iter(evaluate(outputs + operands, minibatch))
        self.outputs = list(islice(values, len(outputs)))
        self.inputs = [list(islice(values, len(operands))) for operands in self._operands]
        return self


def _operands_of(block):
    if block.op_name == binary_segment.OP_NAME:
        return binary_segment.operands_of(block)
    return [block.block_arguments_mapping[0][1]]


def places_of_new(blocks, before):
    """Returns where among the blocks of a lowered network the native ops of layers are that it
    did not hold before its layers were lowered one by one.

    The order is the same if the same blocks are opened: segments are among both.
    """
    places = [place for place, block in enumerate(blocks) if block.op_name in OP_NAMES]
    opened = Twin(before, binary_block.OP_NAMES + OP_NAMES + (binary_segment.OP_NAME,)).blocks
    held = [
        block.op_name in OP_NAMES for block in opened if block.op_name != binary_segment.OP_NAME
    ]
    return [
        place for place, is_held in zip_longest(places, held) if place is not None and not is_held
    ]


def check_pairs(blocks, lowered_blocks, segments, lowered_segments):
    """Refuses a lowered network that does not hold what was made of the trained one.

    Args:
        blocks, lowered_blocks (list of cntk.Function): layers that were lowered one by one.
        segments, lowered_segments (iterable of str): names.

    Raises:
        ValueError: says what it should hold, and what it holds.
    """
    names = [[block.name for block in each] for each in (blocks, lowered_blocks)]
    if names[0] != names[1]:
        raise ValueError(
            'the lowered network should hold the native ops %s, one for each block '
            'BinaryConvolution of the trained one, but holds %s; a lower() of your own must leave '
            'them as they are' % tuple(names)
        )
    if sorted(segments) != sorted(lowered_segments):
        raise ValueError(
            f'the lowered network should hold the segments {sorted(segments)}, but holds '
            f'{sorted(lowered_segments)}; a lower() of your own must leave them as '
            'they are'
        )
