"""What optimizations say of the blocks they make: this package knows no other names than CNTK's."""
from typing import Any, Callable, Optional

import cntk as C

from ..signatures import shown, takes

# Blocks of CNTK's layer library in which a product with a Parameter is no layer of its own. A
# Dense or Convolution *block* inside one (as in AttentionModel) still is.
CNTK_BLOCKS = frozenset(
    [
        'Activation',
        'BatchNormalization',
        'Convolution',
        'ConvolutionTranspose',
        'Delay',
        'Dense',
        'Dropout',
        'Embedding',
        'GRU',
        'LSTM',
        'LayerNormalization',
        'MaxUnpooling',
        'RNNStep',
        'Stabilizer',
    ]
)

LAYERS = {'Dense': 'Times', 'Convolution': 'Convolution'}

_declared = {}  # by op name: (name of the class that makes it, Block)


class Block:
    """What an optimization says of the blocks of one op name that it makes: see
    `nc.Optimization.blocks`.

    Args:
        op_name (str): of the blocks.
        layer (str): 'Dense' or 'Convolution' where the block still is such a layer, with one
            product that reads its weights as they are: `nc.graph.layers` then finds it, and the
            next optimization changes it as any other. None where it is something else now, which is
            found by asking for `op_name`.
        was (str): 'Dense' or 'Convolution': the layer whose place it takes, where it is none any
            more. It goes on counting among those, as for which of a network is the last; None where
            it took no such place.
        kind (str): what a summary calls it; None calls it `op_name`.
        count (callable): (block, row) -> None: corrects the `count.Row` of a block where the
            Parameters in it and the multiply-adds of its products are not what is to be counted.
            None takes these.

    Raises:
        TypeError, ValueError: an argument is not one of these, or `op_name` is that of a layer of
            CNTK.
    """

    def __init__(
        self,
        op_name: str,
        layer: Optional[str] = None,
        kind: Optional[str] = None,
        count: Optional[Callable[[C.Function, Any], Any]] = None,
        was: Optional[str] = None,
    ) -> None:
        for name, value in (('op_name', op_name), ('kind', kind)):
            if not (isinstance(value, str) and value) and not (value is None and name == 'kind'):
                raise TypeError(
                    f"Block: {name} must be a word, got {value!r}; write for example "
                    "nc.Block('DensePruned')"
                )
        if op_name in CNTK_BLOCKS:
            raise ValueError(
                f"Block: op_name must be a name of your own, got '{op_name}', which is a layer of "
                "CNTK; give the blocks another op name, as the second argument of layer.rebuilt"
            )
        if layer is not None and layer not in LAYERS:
            raise ValueError(
                f"Block '{op_name}': layer must be 'Dense', 'Convolution' or None, got {layer!r}; "
                "leave it out if the block is neither"
            )
        if was is not None and was not in LAYERS:
            raise ValueError(
                f"Block '{op_name}': was must name the layer whose place it takes, 'Dense' or "
                f"'Convolution', or None, got {was!r}; give for example was='Dense'"
            )
        if count is not None and not takes(count, 2):
            raise TypeError(
                f"Block '{op_name}': count must be a function of a block and its row, or None, got "
                f"{shown(count)}; leave it out to count Parameters and products"
            )
        self.op_name = op_name
        self.layer = layer
        self.was = was
        self.kind = kind or op_name
        self.count = count

    def __repr__(self) -> str:
        return f'Block({self.op_name!r}, layer={self.layer!r}, kind={self.kind!r})'


def declare(owner: type, blocks: Any) -> None:
    """Makes blocks known by what the class that makes them says of them.

    Args:
        owner (type): the class; one of the same name takes its place, as where a notebook's cell
            runs again.
        blocks (sequence of Block): its own.

    Raises:
        TypeError: `blocks` are none.
        ValueError: another class has said what an op name is.
    """
    blocks = [blocks] if isinstance(blocks, Block) else list(blocks)
    for block in blocks:
        if not isinstance(block, Block):
            raise TypeError(
                f"{owner.__name__}: blocks must hold nc.Block objects, got {block!r}; write blocks "
                "= [nc.Block('DensePruned')]"
            )
        other, _ = _declared.get(block.op_name, (owner.__qualname__, None))
        if other != owner.__qualname__:
            raise ValueError(
                f"{owner.__qualname__}: the op name of its blocks must be its own, got "
                f"'{block.op_name}', of which {other} has said what it is; give one of them "
                "another op name"
            )
    _declared.update((block.op_name, (owner.__qualname__, block)) for block in blocks)


def declared(op_name: str) -> Any:
    """Returns the `Block` that an optimization has said of blocks of an op name, or None."""
    return _declared.get(op_name, (None, None))[1]


def maker(op_name: str) -> Any:
    """Returns the name of the class that makes blocks of a declared op name."""
    return _declared[op_name][0].split('.')[-1]


def op_names() -> Any:
    """Returns the op names that optimizations have said something of, in alphabetical order."""
    return sorted(_declared)


def made_of(layer: Any) -> Any:
    """Returns the op names of blocks that took the place of a 'Dense' or a 'Convolution', in
    alphabetical order."""
    return sorted(op_name for op_name, (_, block) in _declared.items() if block.was == layer)


def is_unit(op_name: str) -> bool:
    """Whether blocks of an op name are one layer, whatever is inside: CNTK's layers, and what
    optimizations make."""
    return op_name in CNTK_BLOCKS or op_name in _declared
