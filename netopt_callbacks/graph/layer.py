"""What a filter and a transform see of a Dense or Convolution layer."""
import weakref
from typing import Any, Dict, Iterable, Optional, Sequence, Tuple

import cntk as C
import numpy as np

from .edit import rebuild
from .pieces import placeholder_like, unapplied, with_outputs
from .walk import body


class Layer:
    """A Dense or Convolution layer of a model, however it was written.

    It behaves like CNTK's block of that layer; what is not listed here comes from the block,
    or from the last primitive where the layer was written without one. Layers compare and
    hash by the Variable they compute, so they can be the keys of a dict.

    Attributes:
        name (str): as the user named it, '' where they did not.
        op_name (str): 'Dense' or 'Convolution'; of a layer that an optimization has made something
            else of, the op name of its block (see `nc.Block`). Its `core` and `W` are None where it
            has no such one.
        W (cntk.Parameter): weights as CNTK stores them: [inputs..., outputs...] of a Dense,
            [filters, channels, height, width] of a 2-D Convolution.
        b (cntk.Parameter): bias, or None.
        shape (tuple of int): shape of the output, as of any CNTK Function.
        input (cntk.Variable): what the layer reads.
        output (cntk.Variable): what it computes.
        root (cntk.Function): the block; of a layer without one, its last primitive.
        core (cntk.Function): the primitive that applies W to data: times or convolution.
        data, computed (cntk.Variable): what `core` applies W to and what it computes, inside the
            block.
        attributes (dict): those of `core`: `outputRank` of a times; `strides`, `autoPadding`,
            `lowerPad`, `upperPad`, `dilation`, `groups` ... of a convolution.
        enclosing (tuple of str): names of the blocks around it, outermost first.
        shared_with (tuple of Layer): the other layers that read the same W, as when a model is
            applied twice: `z(x)` and `z(x / 255)`. Transform them together, with the same new
            Parameters.
        follows (bool): whether the layer is no part of what the trainer trains, but of another
            Function of the script that reads the same W: it changes with the layer that is. No
            filter is asked about it.
    """

    def __init__(
        self,
        op_name: str,
        root: C.Function,
        core: Optional[C.Function],
        W: Optional[C.Variable],
        b: Optional[C.Variable],
        enclosing: Sequence[str] = (),
        output: Optional[C.Variable] = None,
        computed: Optional[C.Variable] = None,
    ) -> None:
        self.op_name = op_name
        self.root = root
        self.core: C.Function = core
        self.W: C.Variable = W
        self.b: C.Variable = b
        self.output = root.outputs[0] if output is None else output
        self.computed = computed if computed is not None or core is None else core.outputs[0]
        self.model = None  # held: no edge of a CNTK graph keeps a Function alive
        self.name = root.name or ('' if core is None else core.name)
        self.enclosing = tuple(enclosing)
        self._shared: Tuple['weakref.ref[Layer]', ...] = ()
        self.follows = False

    @property
    def shared_with(self) -> Tuple['Layer', ...]:
        return tuple(layer for layer in (other() for other in self._shared) if layer is not None)

    def share(self, others: Iterable['Layer']) -> None:
        """Tells the layer which others read its W; held weakly, so that a search leaves no
        garbage with a graph in it."""
        self._shared = tuple(weakref.ref(other) for other in others)

    @property
    def shape(self) -> Tuple[int, ...]:
        return self.output.shape

    @property
    def input(self) -> C.Variable:
        # Asked for each time: CNTK exchanges the placeholders inside a block whenever it infers
        # shapes anew, as it does when a model is evaluated or applied.
        return self.root.block_arguments_mapping[0][1] if self.root.is_block else self.data

    @property
    def data(self) -> C.Variable:
        """What `core` applies W to."""
        return self.core.inputs[1 if self.core.op_name == 'Convolution' else 0]

    @property
    def attributes(self) -> Dict[str, Any]:
        return {} if self.core is None else self.core.attributes

    @property
    def label(self) -> str:
        """The layer for messages: its name after those of the blocks around it, and W's shape."""
        return label_of(
            self.op_name,
            self.enclosing,
            self.name,
            sorted(self.parameters, key=lambda parameter: parameter.name)
            if self.W is None
            else [self.W],
        )

    @property
    def output_rank(self) -> int:
        """Number of axes of W that are outputs of a Dense."""
        return int(self.core.attributes['outputRank'])

    @property
    def macs(self) -> Optional[int]:
        """Multiply-adds per sample of one application of the layer (of a sequence: per step).

        Every element of `core`'s output sums as many products as W holds for it, so axes
        that a Dense maps over and positions of a filter count once each. None where such an axis
        has no fixed size (FreeDimension, or the steps that a convolution goes over), and without
        `core`.
        """
        if self.core is None or any(
            side < 0 for side in tuple(self.computed.shape) + tuple(self.W.shape)
        ):
            return None
        kernels = (
            self.W.shape[-self.output_rank :] if self.core.op_name == 'Times' else self.W.shape[:1]
        )
        return (
            int(np.prod(self.computed.shape)) * int(np.prod(self.W.shape)) // int(np.prod(kernels))
        )

    def rebuilt(self, core: C.Function, op_name: str, name: Optional[str] = None) -> C.Function:
        """Returns the layer with another core: bias, activation and all else as they are.

        Args:
            core (cntk.Function): what takes the place of the times or the convolution:
                unapplied, with one placeholder, of the same output shape.
            op_name (str): op name of the new block.
            name (str): name of the new block; None keeps the layer's.

        Returns:
            cntk.Function: a block, unapplied, with one placeholder: what `replace` takes.

        Raises:
            ValueError: the layer has no core.
        """
        if self.core is None:
            raise ValueError(
                f'{self.label}: to be rebuilt a layer must apply one Parameter to data, and it '
                'does not; replace it as a whole with nc.graph.replace'
            )
        inlet = placeholder_like(self.input)
        content, source = self._content()
        piece = unapplied(core, self.data, self.computed, 'the core of ' + self.label)
        new = rebuild(content, {source: inlet}, {self.computed.uid: piece}, set())
        outer = placeholder_like(self.input)
        return C.as_block(new, [(inlet, outer)], op_name, self.name if name is None else name)

    def _content(self) -> Tuple[C.Function, C.Variable]:
        """Returns what the layer computes as a composite, and which Variable of it is the input."""
        if self.root.is_block:
            return body(self.root), self.root.block_arguments_mapping[0][0]
        return with_outputs(self.root, [self.output]), self.input

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_') or 'root' not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.root, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layer) and self.output.uid == other.output.uid

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.output.uid)

    def __repr__(self) -> str:
        return f'<Layer {self.label}>'


def key_of(layer: Layer) -> Any:
    """Returns what applications of one layer share: its W, or all Parameters of a block that has
    no such one; a block without any is an application of its own."""
    if layer.W is not None:
        return layer.W.uid
    return frozenset(leaf.uid for leaf in layer.root.parameters) or layer.root.uid


def label_of(
    op_name: str, enclosing: Sequence[str], name: str, weights: Sequence[C.Variable]
) -> str:
    """Returns a layer for messages: `Dense 'tower.hidden' (W of 20x30)`.

    Args:
        op_name (str), name (str): of the layer.
        enclosing (sequence of str): names of the blocks around it, outermost first.
        weights (sequence of cntk.Variable): whose shapes are told; the first is W where it has no
            name.
    """
    path = '.'.join([part for part in enclosing if part] + [name or '(unnamed)'])
    sides = ', '.join(
        '{} of {}'.format(
            one.name if len(weights) > 1 and one.name else 'W',
            'x'.join(str(side) for side in one.shape),
        )
        for one in weights
        if len(one.shape)
    )
    return "{} '{}'{}".format(op_name, path, f' ({sides})' if sides else '')
