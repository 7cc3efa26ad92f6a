"""Finding and replacing layers: the only code that edits CNTK graphs.

Public as `nc.graph`: it is what an optimization of your own is written with. See `docs/graph.md`.
"""
from . import stand_ins  # noqa: F401  (takes effect by the import)
from .blocks import Block, made_of
from .checks import check_model
from .edit import clone_shared, replace, substitute
from .filters import check_filter, taken, takes
from .find import frozen_layers, layers, other_products
from .layer import Layer
from .names import name_layers
from .pieces import placeholder_like
from .refusal import no_layers_error, taken_of_other_kinds
from .scope import is_trained, seen_first, trained_by, trained_part
from .user_functions import cloned_whole
from .values import evaluate, flat, opened
from .walk import Level, body, function_of, functions, primitives, walk
from .weights import constant_weights

__all__ = [
    'Block',
    'Layer',
    'Level',
    'body',
    'check_filter',
    'check_model',
    'clone_shared',
    'cloned_whole',
    'constant_weights',
    'evaluate',
    'flat',
    'frozen_layers',
    'function_of',
    'functions',
    'is_trained',
    'layers',
    'made_of',
    'name_layers',
    'no_layers_error',
    'opened',
    'other_products',
    'placeholder_like',
    'primitives',
    'replace',
    'seen_first',
    'substitute',
    'taken',
    'taken_of_other_kinds',
    'takes',
    'trained_by',
    'trained_part',
    'walk',
]
