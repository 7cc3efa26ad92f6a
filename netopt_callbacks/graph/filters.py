"""Asks the filter of an optimization, a function of a `Layer`, which layers it takes."""
from typing import List, Optional

import numpy as np

from .. import signatures
from .._types import Filter
from .layer import Layer, key_of


def check_filter(filter_function: Optional[Filter]) -> None:
    """Raises TypeError for a `filter_function` that is neither None nor a function of a Layer."""
    if filter_function is not None and not signatures.takes(filter_function, 1):
        raise TypeError(
            "the filter_function of layers must be callable with a Layer, or None, got "
            f"{signatures.shown(filter_function)}; write for example lambda layer: layer.name == "
            "'hidden'"
        )


def takes(filter_function: Filter, layer: Layer) -> bool:
    """Returns whether a filter takes a layer.

    Raises:
        AttributeError: the filter asks a Layer for an attribute that it does not have.
        TypeError: what it returns is neither true nor false, as an array of several elements.
    """
    try:
        answer = filter_function(layer)
    except AttributeError as error:
        raise AttributeError(
            f'filter_function, called with the Layer {layer.label}: {error}; a Layer has '
            + ', '.join(sorted(name for name in dir(layer) if name[0] != '_'))
        ) from error
    try:
        return bool(answer)
    except (TypeError, ValueError) as error:
        got = f'{answer!r}: {error}'
        if isinstance(answer, np.ndarray):  # its values may fill pages
            got = (
                f'an array of shape {answer.shape} and dtype {answer.dtype}; use .any(), .all() or '
                '.size'
            )
        raise TypeError(
            f'filter_function must return True or False for {layer.label}, got {got}'
        ) from error


def taken(filter_function: Filter, layers: List[Layer]) -> List[Layer]:
    """Returns those of the layers of a model that a filter takes, and those that follow them.

    Raises:
        ValueError: it takes one of several layers that share W and leaves another.
    """
    answers = {layer: takes(filter_function, layer) for layer in layers if not layer.follows}
    for layer in layers:
        for other in layer.shared_with:
            if answers.get(layer) and not answers.get(other, True):
                raise ValueError(
                    f'{layer.label} and {other.label} share W, so they must change together, and '
                    'filter_function takes only the first; let it take both or neither'
                )
    keys = {key_of(layer) for layer, answer in answers.items() if answer}
    return [
        layer for layer in layers if answers.get(layer) or layer.follows and key_of(layer) in keys
    ]
