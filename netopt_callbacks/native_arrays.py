"""Checks of arrays and numbers for the native kernels: exactly the type and shape, or an error
that says what came."""
from typing import Any, Sequence, Tuple

import numpy as np

INT32 = 2**31 - 1


def empty(shape: Sequence[int]) -> np.ndarray:
    """An array to give as `out`, not filled: its data begin at a multiple of 64 bytes.

    There no vector that is stored crosses a cache line; elsewhere it may, which costs large outputs
    of small kernels a fifth of their time.

    Args:
        shape (tuple of int): of the array.

    Returns:
        float32 array of that shape, C-contiguous.
    """
    size = int(np.prod(shape, dtype=np.int64))
    items = np.empty(size + 15, np.float32)
    first = -items.__array_interface__['data'][0] % 64 // 4
    return items[first : first + size].reshape(shape)


def frozen(array: np.ndarray) -> np.ndarray:
    copy = np.array(array, order='C')
    copy.flags.writeable = False
    return copy


def float32_array(array: np.ndarray, name: str, rank: int) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        received = array.dtype.str if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f'{name} must be a float32 array, received {received}')
    if array.ndim != rank:
        raise ValueError(f'{name} must have rank {rank}, received shape {array.shape}')
    if array.flags.c_contiguous and array.flags.aligned:
        return array  # np.require would find the same, in 2 microseconds
    return np.require(array, requirements=['C_CONTIGUOUS', 'ALIGNED'])


def float32_vector(array: Any, name: str, length: int) -> np.ndarray:
    array = float32_array(array, name, 1)
    if array.shape != (length,):
        raise ValueError(f'{name} must have shape ({length},), received {array.shape}')
    return array


def check_out(out: np.ndarray, shape: Sequence[int]) -> None:
    if not isinstance(out, np.ndarray) or out.dtype != np.float32:
        raise TypeError('out must be a float32 array')
    if out.shape != shape or not out.flags.carray:
        raise ValueError(
            f'out must be C-contiguous, aligned and writable with shape {shape}, received shape '
            f'{out.shape}'
        )


def two(values: Any, name: str) -> Tuple[Any, Any]:
    try:
        first, second = values
    except (TypeError, ValueError):
        raise TypeError(
            f'{name} must be a pair, for height and width, received {values!r}'
        ) from None
    return first, second


def pair_of_integers(values: Any, name: str, least: int) -> Tuple[int, int]:
    first, second = two(values, name)
    return checked_integer(first, name, least, INT32), checked_integer(second, name, least, INT32)


def checked_integer(value: Any, name: str, least: int, most: int) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f'{name} must be an integer, received {value!r}')
    if not least <= value <= most:
        raise ValueError(f'{name} must be from {least} to {most}, received {value}')
    return int(value)
