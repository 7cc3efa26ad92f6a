"""The error of an optimization that finds nothing to do."""
from typing import Optional

import cntk as C

from . import blocks
from .find import OtherProduct, search
from .frozen import Frozen
from .layer import Layer
from .names import name_layers


def no_layers_error(
    model: C.Function, what: str, op_name: Optional[str] = None, named: bool = False
) -> ValueError:
    """Returns the ValueError of an optimization whose filter left it nothing to do.

    Args:
        model (cntk.Function): the model searched.
        what (str): who found nothing, as 'FactorDense'.
        op_name (str): what it looked for; None stands for both.
        named (bool): whether its filter saw the names that `name_layers` gives.
    """
    found = search(model)
    layers = [item for item in found if isinstance(item, Layer) and item.op_name in blocks.LAYERS]
    if named:
        name_layers(model, layers)
    seen = [layer.label for layer in layers]
    seen += [
        f'{item.label}, which is none ({item.reason})'
        for item in found
        if isinstance(item, (OtherProduct, Frozen))
    ]
    changed = [
        item.label
        for item in found
        if isinstance(item, Layer) and item.op_name not in blocks.LAYERS
    ]
    return ValueError(
        '%s: expected a %s layer to change, got none. Layers of the model: %s.%s Check '
        'filter_function'
        % (
            what,
            op_name or 'Dense or Convolution',
            ', '.join(seen) or 'none',
            ' Changed already: %s.' % ', '.join(changed) if changed else '',
        )
    )
