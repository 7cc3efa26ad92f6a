"""The one place that imports CNTK, and goes on where it cannot be imported.

`cntk` is the module, or None; `error` is then what its import raised.
"""
import os
import warnings

from . import runtime

# What CNTK 2.7 says on every system newer than itself, and on every machine without a GPU.
_EXPECTED_WARNINGS = (
    r'Unsupported Linux distribution',
    r'\s*#+ Missing optional dependency \(GPU-Specific\)',
)


def _import_cntk():
    """Returns (cntk, None), or (None, the error) where it cannot be imported."""
    prefix = runtime.Runtime.here().opal_prefix()
    if prefix is not None:
        os.environ.setdefault('OPAL_PREFIX', prefix)
    try:
        import numpy  # noqa: F401  here: the filters it adds for itself would go with those below
    except ImportError as error:
        return None, error
    with warnings.catch_warnings():
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings('ignore', message, UserWarning)
        try:
            import cntk
        except (ImportError, OSError) as error:
            return None, error
    return cntk, None


def available():
    """Returns whether CNTK could be imported."""
    return cntk is not None


def require():
    """Returns the module `cntk`.

    Raises:
        ImportError: CNTK's own, with what to do, where it cannot be imported.
    """
    if cntk is None:
        raise ImportError(
            f'{error}\nThis part of netopt_callbacks needs CNTK. What is missing, and how '
            'to mend it: python -m netopt_callbacks doctor'
        ) from error
    return cntk


cntk, error = _import_cntk()
