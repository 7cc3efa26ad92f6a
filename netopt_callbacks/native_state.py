"""The state of a bit convolution: a dict of packed weights, geometry and vectors."""
from typing import Any, Dict

import numpy as np

from netopt_callbacks import native_limits
from netopt_callbacks.native_arrays import (
    INT32,
    checked_integer,
    float32_vector,
    frozen,
    pair_of_integers,
    two,
)

STATE_VERSION = 1
STATE_KEYS = (
    'version',
    'words',
    'channels',
    'strides',
    'padding',
    'dilation',
    'groups',
    'scale',
    'bias',
    'threshold',
)


def copied(state: Dict[str, Any]) -> Dict[str, Any]:
    """Returns a state with arrays of its own."""
    return {
        name: value.copy() if isinstance(value, np.ndarray) else value
        for name, value in state.items()
    }


def checked_state(state: Any) -> Dict[str, Any]:
    """A complete, consistent, immutable copy of a state, or TypeError or ValueError."""
    if not isinstance(state, dict) or set(state) != set(STATE_KEYS):
        raise ValueError(
            'state must be a dict of {}, received {}'.format(
                ', '.join(STATE_KEYS),
                sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__,
            )
        )
    if state['version'] != STATE_VERSION:
        raise ValueError(
            'state is of version %s, this package reads version %d'
            % (state['version'], STATE_VERSION)
        )
    words = state['words']
    if not isinstance(words, np.ndarray) or words.dtype != np.uint64 or words.ndim != 4:
        raise TypeError(
            'words must be a uint64 array of rank 4 in the byte order of this machine, received %s'
            % (
                f'{words.dtype.str} of rank {words.ndim}'
                if isinstance(words, np.ndarray)
                else type(words).__name__
            )
        )
    if 0 in words.shape:
        raise ValueError(f'words must not be empty, received shape {words.shape}')
    checked = dict(
        version=STATE_VERSION,
        words=frozen(words),
        channels=checked_integer(state['channels'], 'channels', 1, INT32),
        groups=checked_integer(state['groups'], 'groups', 1, INT32),
        strides=pair_of_integers(state['strides'], 'strides', 1),
        dilation=pair_of_integers(state['dilation'], 'dilation', 1),
    )
    filters, channels, groups = words.shape[0], checked['channels'], checked['groups']
    if filters % groups:
        raise ValueError(f'{filters} filters cannot be divided into {groups} groups')
    if words.shape[3] != (channels + 63) // 64:
        raise ValueError(
            f'words has {words.shape[3]} words per tap, {channels} channels need '
            f'{(channels + 63) // 64}'
        )
    sides = two(state['padding'], 'padding')
    checked['padding'] = tuple(pair_of_integers(side, 'padding', 0) for side in sides)
    native_limits.refuse_geometry(
        filters, words.shape[1:3], checked['strides'], checked['padding'], checked['dilation']
    )
    for name, length in (('scale', filters), ('bias', filters), ('threshold', channels * groups)):
        checked[name] = (
            None if state[name] is None else frozen(float32_vector(state[name], name, length))
        )
    return checked
