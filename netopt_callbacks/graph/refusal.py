"""The error of an optimization that finds nothing to do."""
from typing import Any, Dict, Iterable, List, Optional

import cntk as C

from .._types import Filter
from . import blocks
from .filters import takes
from .find import OtherProduct, search
from .frozen import Frozen
from .layer import Layer
from .names import name_layers


def no_layers_error(
    model: C.Function,
    what: str,
    op_name: Optional[str] = None,
    named: bool = False,
    filter_function: Optional[Filter] = None,
) -> ValueError:
    """Returns the ValueError of an optimization whose filter left it nothing to do.

    Args:
        model (cntk.Function): the model searched.
        what (str): who found nothing, as 'FactorDense'.
        op_name (str): what it looked for; None stands for both.
        named (bool): whether its filter saw the names that `name_layers` gives.
        filter_function (callable): its filter, to be asked once more for what is wrong with it.
    """
    found = search(model)
    layers = _layers(found, named, model)
    seen = [layer.label for layer in layers]
    seen += [
        f'{item.label}, which is none ({item.reason})'
        for item in found
        if isinstance(item, (OtherProduct, Frozen))
    ]
    changed = [
        item for item in found if isinstance(item, Layer) and item.op_name not in blocks.LAYERS
    ]
    return ValueError(
        '%s: expected a %s layer to change, got none. Layers of the model: %s.%s %s'
        % (
            what,
            op_name or 'Dense or Convolution',
            ', '.join(seen) or 'none',
            ' Changed already: %s.' % ', '.join(item.label for item in changed) if changed else '',
            _left_out(changed, op_name, filter_function)
            or _no_return(layers, op_name, filter_function)
            or 'Check filter_function',
        )
    )


def taken_of_other_kinds(
    model: C.Function, op_name: str, filter_function: Optional[Filter], named: bool = False
) -> List[Layer]:
    """Returns the layers that are no `op_name`, 'Dense' or 'Convolution', and that its filter
    takes."""
    others = [layer for layer in _layers(search(model), named, model) if layer.op_name != op_name]
    return _taken(filter_function, others)


def _layers(found: Iterable[Any], named: bool, model: C.Function) -> List[Layer]:
    layers = [item for item in found if isinstance(item, Layer) and item.op_name in blocks.LAYERS]
    if named:
        name_layers(model, layers)
    return layers


def _taken(filter_function: Optional[Filter], layers: List[Layer]) -> List[Layer]:
    try:
        return [layer for layer in layers if filter_function and takes(filter_function, layer)]
    except Exception:  # it was written for other layers, as one that asks for the shape of W
        return []


def _left_out(
    changed: List[Layer], op_name: Optional[str], filter_function: Optional[Filter]
) -> Optional[str]:
    """Says which of the layers that would be taken an earlier optimization has changed."""
    mine = [layer for layer in changed if op_name in (None, blocks.declared(layer.op_name).was)]
    if filter_function is not None:
        mine = _taken(filter_function, mine)
    by_maker: Dict[str, Dict[str, None]] = {}
    for layer in mine:
        if layer.name:
            by_maker.setdefault(blocks.maker(layer.op_name), {})[f"'{layer.name}'"] = None
    said = [
        f'{" and ".join(names)} {"was" if len(names) == 1 else "were"} changed by {maker}: leave '
        f'{"it" if len(names) == 1 else "them"} out there with its filter_function'
        for maker, names in by_maker.items()
    ]
    return '; '.join(said) or None


def _no_return(
    layers: List[Layer], op_name: Optional[str], filter_function: Optional[Filter]
) -> Optional[str]:
    """Says that a filter has returned None each time."""
    asked = [layer for layer in layers if op_name in (None, layer.op_name) and not layer.follows]
    if filter_function is None or not asked:
        return None
    if any(filter_function(layer) is not None for layer in asked):
        return None
    return (
        f'filter_function returned None for {", ".join(layer.label for layer in asked)}: is a '
        '`return` missing?'
    )
