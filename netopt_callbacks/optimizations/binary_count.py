"""What the blocks of binary layers count: bits, 1-bit multiply-adds, and what they keep beside
them."""
import cntk as C

from .. import count, graph
from ..lowering.replace import OPS
from .binary_block import is_binary_core


def blocks_of(kind, native_op_name):
    """Returns what `nc.Optimization.blocks` says of the blocks of a `Kind`, and of those it is
    lowered to."""
    return (
        graph.Block(kind.op_name, count=count_binary, was=kind.layer_op_name),
        graph.Block(kind.inputs_op_name, was=kind.layer_op_name),
        graph.Block(native_op_name, count=count_native),
    )


def count_binary(block, row):
    """Corrects the row of a block `BinaryConvolution` or `BinaryDense`."""
    content = list(graph.walk(graph.body(block)))
    cores = [function for function in content if is_binary_core(function)]
    row.binary_macs = count.total(count.macs_of(core) for core in cores)
    if not cores:
        return
    kept = _kept_beside_bits(block, content, cores[0])
    if row.frozen:
        row.binary_weights = count.elements(row.shape)
        row.frozen = row.binary_weights + kept
    else:
        row.binary_weights = count.elements(row.shape) if row.parameters else 0
        row.parameters += kept


def count_native(block, row):
    """Adds a native bit convolution or product, which holds its weights as packed bits and has
    no Parameters."""
    op = next(
        function for function in graph.walk(graph.body(block)) if function.op_name == 'UserFunction'
    )
    # CNTK hands back a plain Function; only what it serializes is the op's own.
    made = OPS[block.op_name].deserialize(op.inputs, op.name, op.serialize()['state'])
    floats = [made.state[name] for name in ('scale', 'bias', 'threshold')]
    row.shape = made.weights_shape
    weights = count.elements(row.shape)
    row.binary_weights += weights
    row.parameters += row.binary_weights + sum(f.size for f in floats if f is not None)
    outputs = count.elements(op.outputs[0].shape)
    row.binary_macs = (
        None if outputs is None else outputs * (weights // made.state['words'].shape[0])
    )
    row.macs = count.total([row.macs, row.binary_macs])


def _kept_beside_bits(block, content, core):
    """Returns how many floats a binary convolution or Dense keeps beside bits and Parameters.

    These are what was calibrated per output or channel, a bias that is frozen, and the scale its
    integers are multiplied by, into which what that is made of goes when it is lowered.
    """
    kept, merged = 0, {leaf.uid for leaf in graph.constant_weights(core)}
    for function in content:
        if (
            function.op_name == 'ElementTimes'
            and not function.is_block
            and any(operand.uid == core.output.uid for operand in function.inputs)
        ):
            scale = next(operand for operand in function.inputs if operand.uid != core.output.uid)
            whole = C.as_composite(scale.owner) if scale.is_output else None
            if whole is None or not whole.arguments and not whole.placeholders:
                kept += count.elements(scale.shape)
                merged |= {scale.uid} if whole is None else {leaf.uid for leaf in whole.constants}
    return kept + sum(
        count.elements(constant.shape)
        for constant in block.constants
        if constant.uid not in merged and len(constant.shape)
    )
