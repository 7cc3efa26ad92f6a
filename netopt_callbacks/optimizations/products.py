"""What the record says of products that no optimization can change."""
import numpy as np

from .. import graph
from .base import LayerNote


def notes_of_products(model):
    """Returns a note for each W that a product applies to data without being a Dense layer."""
    notes = {}
    for found in graph.other_products(model):
        size = int(np.prod(found.W.shape))
        notes[found.W.uid] = LayerNote(
            found.label,
            found.W.shape,
            skipped=found.reason,
            parameters_before=size,
            parameters_after=size,
        )
    return list(notes.values())


def notes_of_frozen(model, op_name):
    """Returns a note for each W that is a Constant in the block of a layer.

    Args:
        model (cntk.Function): all of it.
        op_name (str): 'Dense' or 'Convolution'.
    """
    notes = {}
    for found in graph.frozen_layers(model):
        if found.op_name == op_name and found.root.is_block:
            notes[found.W.uid] = LayerNote(
                found.root.name or found.label, found.W.shape, skipped=found.reason
            )
    return list(notes.values())
