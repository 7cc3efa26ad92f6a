"""What the record says of products that are no layers."""
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
