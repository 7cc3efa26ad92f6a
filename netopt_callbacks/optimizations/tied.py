"""Weights that more than their layer reads."""
import cntk as C

from .. import graph


def weights_read_elsewhere(model, layers):
    """Returns the uids of the layers' weights that something else reads too: tied, or an L2 term.

    What the script computes of weights alone beside its network, such as their norm, does not
    count: the engine names it, and it goes on computing what it did.
    """
    cores = {layer.core.uid for layer in layers}
    mine = {layer.W.uid for layer in layers}
    trained = len(graph.trained_part(model).outputs)
    beside = [output for output in model.outputs[trained:] if C.combine([output]).arguments]
    whole = C.combine(list(model.outputs[:trained]) + beside)
    return {
        read.uid
        for function in graph.walk(whole)
        if function.uid not in cores
        for read in (_given(function, cores) if function.is_block else function.inputs)
        if read.uid in mine
    }


def _given(block, cores):
    """Returns what a block is applied to; nothing where it is the block of one of the layers."""
    if any(part.uid in cores for part in graph.walk(graph.body(block))):
        return []
    return [actual for _, actual in block.block_arguments_mapping]
