"""The options of callbacks: as text, and as values that a record keeps and a resume compares."""
import inspect
import os

import numpy as np

from ..optimizations.ranks import Rule


def _options_of(callback):
    """Returns {option: value} of a callback.

    The options are the arguments of its constructor that the object, or its `options`, has as
    attributes of the same name.
    """
    options = {}
    for name in inspect.signature(type(callback).__init__).parameters:
        for holder in (callback, getattr(callback, 'options', None)):
            if name != 'self' and hasattr(holder, name):
                options[name] = getattr(holder, name)
                break
    return options


def described(callback):
    """Returns (class name, {option: value as text}) of a callback."""
    return (
        type(callback).__name__,
        {name: _shown(value) for name, value in _options_of(callback).items()},
    )


def _shown(value):
    """Returns an option as text; a function as its name and where it is defined."""
    code = getattr(value, '__code__', None)
    if code is None:
        return repr(value)
    return f'{value.__name__} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})'


def kept(optimization):
    """Returns {option: value} of an optimization but for its epoch, JSON-ready.

    A value is a number, a text, a bool, None or a list of such. Anything else is {'text': ...},
    which is the same for rank rules of one value, for all functions, and for all objects of a
    class: in two processes, nothing else tells whether they are the same.
    """
    options = sorted(_options_of(optimization).items())  # as the file of a phase gives them back
    return {name: _kept(value) for name, value in options if name != 'epoch'}


def _kept(value):
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, str) or type(value) is float and value == value:
        return value
    if isinstance(value, (tuple, list)):
        return [_kept(part) for part in value]
    if isinstance(value, Rule):
        return {'text': value.value}
    return {'text': '<function>' if callable(value) else f'<{type(value).__name__}>'}


def refuse_changed(file, phase, options):
    """Refuses a checkpoint whose applied optimizations had other options than this script's have.

    Args:
        file (str): the checkpoint.
        phase (Phase): its phase; the records of versions before have no options.
        options (list of dict): what `kept` returns of each optimization of the script, which are
            those of the phase's schedule.

    Raises:
        ValueError: names the options, and what to do.
    """
    for index, record in zip(phase.fired, phase.records):
        before, now = record.get('options') or {}, options[index]
        changed = [name for name in before if name in now and now[name] != before[name]]
        if changed:
            was, has = (
                ', '.join(f'{name}={_said(values[name])}' for name in changed)
                for values in (before, now)
            )
            raise ValueError(
                f'the checkpoint {file} was written after %s(epoch=%s) was applied with {was}, and '
                f'this script has {has}, which comes too late: give another checkpoint name to '
                f'train with {has}, or put {was} back' % tuple(phase.schedule[index])
            )


def _said(value):
    if isinstance(value, dict):
        return value['text']
    if isinstance(value, list):
        return '({})'.format(', '.join(map(_said, value)) + ',' * (len(value) == 1))
    return repr(value)
