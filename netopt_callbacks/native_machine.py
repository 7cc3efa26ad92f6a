"""What the native kernels run on: implementations, threads, and how fast the machine is."""
import os
from typing import Any, List, Optional

import numpy as np

from netopt_callbacks.native_arrays import checked_integer

try:
    from netopt_callbacks import _native
except ImportError as error:
    raise ImportError(
        f'the native extension netopt_callbacks._native is missing or broken ({error}); '
        'reinstall the package with a C++17 compiler at hand'
    ) from error


MOST_THREADS = 256


def all_implementations() -> List[str]:
    """Names of all compiled implementations, best first, whether or not this machine can run
    them."""
    return _native.all_implementations()


def implementations() -> List[str]:
    """Names of the implementations this machine (processor and operating system) can run, best
    first."""
    return _native.implementations()


def implementation() -> str:
    """Name of the implementation that a new object gets: the best one, or the one `NETOPT_NATIVE`
    names.

    Raises:
        ValueError: `NETOPT_NATIVE` names no implementation.
        RuntimeError: it names one that this machine cannot run. Another one is never taken instead.
    """
    forced = os.environ.get('NETOPT_NATIVE')
    if not forced:
        return implementations()[0]
    if forced not in all_implementations():
        raise ValueError(
            'NETOPT_NATIVE={} is unknown; known: {}'.format(
                forced, ', '.join(all_implementations())
            )
        )
    if forced not in implementations():
        raise RuntimeError(
            'NETOPT_NATIVE=%s cannot run on this machine; it can run: %s'
            % (forced, ', '.join(implementations()))
        )
    return forced


def num_threads() -> int:
    """The number of threads a call may use; by default the number of processors this process
    may run on."""
    return _native.num_threads()


def set_num_threads(threads: int) -> None:
    """Sets the number of threads a call may use, 1 to 256, for the whole process. Results do
    not depend on it."""
    _native.set_num_threads(checked_integer(threads, 'threads', 1, MOST_THREADS))


def least_shared_seconds() -> float:
    """What `set_least_shared_seconds` has set; 50 microseconds by default."""
    return _native.least_shared_seconds()


def set_least_shared_seconds(seconds: float) -> None:
    """Sets which work of a `Program` threads share, for the whole process: an op, or images, that
    take one thread at least so long. 0 shares all of it. The first four calls of an image size that
    have few images are run by one thread, to learn what its ops take. Results do not depend on any
    of this.

    Raises:
        ValueError: `seconds` is negative or not a number.
    """
    if not seconds >= 0:
        raise ValueError(f'seconds must be at least 0, got {seconds!r}')
    _native.set_least_shared_seconds(seconds)


def cpu_name() -> str:
    """The processor's name as it gives it itself."""
    return _native.cpu_name().strip('\0 ')


def peak(name: str, seconds: float) -> float:
    """Binary multiply-adds per second of an implementation's arithmetic in registers, one
    thread, the best of `seconds`."""
    return _native.peak(name, seconds)


def port_limit(name: str, seconds: float) -> Optional[float]:
    """Binary multiply-adds per second that this machine's clock and ports allow an implementation,
    or None where not known.

    Measured: how many of its instructions of either kind the processor takes when nothing else
    runs. A check of `peak`, which should come near it."""
    return _native.port_limit(name, seconds) or None


def stream(x: np.ndarray, out: np.ndarray) -> Any:
    """Seconds to read the float32 array x once and write out once, and nothing else, one thread."""
    return _native.stream(x, out)


def clock_rate(seconds: float) -> Any:
    """The processor's clock in Hz now, from a chain of dependent additions, the best of
    `seconds`."""
    return _native.clock_rate(seconds)
