"""Refuses what is no model, and what cannot stand in a dict of replacements."""
from collections.abc import Mapping
from typing import Any

import cntk as C


def check_model(what: str, model: Any) -> None:
    """Raises TypeError for a `model` that is no Function.

    Args:
        what (str): who was given the model, for the message.
        model: what was given.
    """
    if not isinstance(model, C.Function):
        raise TypeError(
            f'{what}: model must be a cntk.Function, got {model!r}; give the network itself: z, '
            'not z.output and not [z]'
        )


def check_replacements(what, given, is_key, is_value, example):
    """Raises TypeError for an argument that is no dict, or holds another key or value than it may.

    Args:
        what (str): the argument and what it must be a dict of, for the message.
        given: the argument.
        is_key, is_value (callable): tell whether it may hold something.
        example (str): how to write it.
    """
    wrong = [] if isinstance(given, Mapping) else [repr(given)]
    for old, new in () if wrong else given.items():
        if not is_key(old):
            wrong.append(f'the key {old!r}')
        elif not is_value(new):
            wrong.append(f'{new!r} for {old!r}')
    if wrong:
        raise TypeError(f'{what}, got {wrong[0]}; write for example {example}')


def is_layer(value: Any) -> bool:
    """Whether a value is a Layer, or has what of a Layer is needed to replace it."""
    return all(hasattr(value, name) for name in ('input', 'output', 'label', 'name'))


def is_function(value: Any) -> bool:
    return isinstance(value, C.Function)


def is_variable(value: Any) -> bool:
    """Whether a value is a Variable, or a Function, which stands for its output."""
    return isinstance(value, (C.cntk_py.Variable, C.Function))
