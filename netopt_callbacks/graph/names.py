"""Names for the layers that the user gave none, and for what must not share one."""
from typing import Any, Dict, Iterable, Set

import cntk as C

from . import blocks
from .find import search
from .layer import Layer, key_of
from .scope import trained_part
from .walk import walk


def name_layers(model: C.Function, layers: Iterable[Layer]) -> None:
    """Gives each layer without a name one: its kind and its place among those, as 'Dense_2'.

    What optimizations have made of such layers is counted, so that a name stays when other layers
    change; what is made of the layer with `Layer.rebuilt` bears it. Layers that share W have one
    name. The model stays as it is.

    Args:
        model (cntk.Function): the one that they were found in.
        layers (iterable of Layer): Dense and Convolution layers.
    """
    # Other Functions of the script, which follow, must not change a name: they are not there when
    # a filter is tried before training.
    part = trained_part(model)
    places = _places(part)
    taken = {function.name for function in walk(part)}
    for layer in layers:
        if not layer.name:
            name = f'{layer.op_name}_{places[layer.op_name][key_of(layer)]}'
            while name in taken:
                name += '_'
            layer.name = name


def free_name(name: str, taken: Set[str]) -> str:
    """Returns a name that is not in the set `taken` yet, and adds it: with a number behind it where
    need be."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f'{name}_{number}'
    taken.add(free)
    return free


def _places(model: C.Function) -> Dict[str, Dict[Any, int]]:
    """Returns, for 'Dense' and 'Convolution', {key of a layer: its place}, from 1 on."""
    places: Dict[str, Dict[Any, int]] = {kind: {} for kind in blocks.LAYERS}
    for item in search(model):
        if isinstance(item, Layer):
            said = blocks.declared(item.op_name)
            kind = item.op_name if item.op_name in blocks.LAYERS else said and said.was
            if kind is not None:
                places[kind].setdefault(key_of(item), len(places[kind]) + 1)
    return places
