"""Asks the filter of an optimization, a function of a `Layer`, which layers it takes."""
from typing import Optional

from .._types import Filter
from .layer import Layer


def check_filter(filter_function: Optional[Filter]) -> None:
    """Raises TypeError for a `filter_function` that is neither a function nor None."""
    if filter_function is not None and not callable(filter_function):
        raise TypeError(
            "the filter_function of layers must be callable with a Layer, or None, got "
            f"{filter_function!r}; write for example lambda layer: layer.name == 'hidden'"
        )


def takes(filter_function: Filter, layer: Layer) -> bool:
    """Returns whether a filter takes a layer.

    Raises:
        AttributeError: the filter asks a Layer for an attribute that it does not have.
    """
    try:
        return bool(filter_function(layer))
    except AttributeError as error:
        raise AttributeError(
            f'filter_function, called with the Layer {layer.label}: {error}; a Layer has '
            + ', '.join(sorted(name for name in dir(layer) if name[0] != '_'))
        ) from error
