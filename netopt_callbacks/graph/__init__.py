"""Finding and replacing layers: the only code that edits CNTK graphs.

Public as `nc.graph`: it is what an optimization of your own is written with. See `docs/graph.md`.
"""
from .edit import clone_shared, replace, substitute
from .find import layers, no_layers_error, other_products
from .layer import Layer
from .scope import seen_first, trained_part
from .walk import body, primitives, walk

__all__ = ['Layer', 'body', 'clone_shared', 'layers', 'no_layers_error', 'other_products', 'primitives',
           'replace', 'seen_first', 'substitute', 'trained_part', 'walk']
