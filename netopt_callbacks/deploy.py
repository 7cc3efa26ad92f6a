"""Networks in ONNX Runtime, without CNTK: one file, one library; `docs/deploy.md` has the details.

    from netopt_callbacks import deploy
    net = deploy.session('model.onnx', threads=1)
    outputs = net.run(None, {'image': x})

`library` and `session` need NumPy and ONNX Runtime, and run on any Python from 3.6. `export` writes
the file; it needs CNTK.
"""
import glob
import os
import reprlib
import sysconfig
from typing import Any, Optional, TYPE_CHECKING

from ._types import Path
from .integers import plain

if TYPE_CHECKING:
    import cntk
    import onnxruntime

__all__ = ['ExportError', 'export', 'library', 'session']

LIBRARY = '_onnx'
OLDEST = (1, 10)  # ONNX Runtime that the library works with


class ExportError(RuntimeError):
    """The file cannot be put together, or does not compute what the network does; none was
    written."""


def library() -> str:
    """Returns the path of the library that adds our operators to ONNX Runtime, for any program that
    can register one.

    It is no Python module: `SessionOptions.register_custom_ops_library(path)` in Python,
    `OrtApi::RegisterCustomOpsLibrary` in C, and what other languages call so.

    Raises:
        ImportError: the package was installed without it.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    own = os.path.join(folder, LIBRARY + (sysconfig.get_config_var('EXT_SUFFIX') or '.so'))
    found = (
        [own] if os.path.exists(own) else sorted(glob.glob(os.path.join(folder, LIBRARY + '.*so')))
    )
    if not found:
        raise ImportError(
            f'the library of operators netopt_callbacks/{LIBRARY}*.so is missing; reinstall the '
            'package with a C++17 compiler at hand'
        )
    return found[0]


def session(path: Path, threads: Optional[int] = 1) -> 'onnxruntime.InferenceSession':
    """Returns an `onnxruntime.InferenceSession` of a file that `export` wrote, with the library
    registered.

    Args:
        path (str): of the file.
        threads (int): that one call of `run` may use; None for as many as ONNX Runtime takes by
            itself.

    Raises:
        ImportError: ONNX Runtime or the library is missing, or ONNX Runtime is too old.
        OSError: the file is not there, or cannot be read.
        TypeError, ValueError: an argument, or the file, is not one that can be used, with a
            sentence that says why.
    """
    runtime, threads = _runtime(), plain(threads)
    path = file_path('deploy.session', path)
    if not os.path.exists(path):
        raise FileNotFoundError(
            f'deploy.session: there is no file {path}; write it with nc.deploy.export, or give '
            'another path'
        )
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int)):
        raise TypeError(f'threads must be an integer or None, got {threads!r}')
    if threads is not None and not 1 <= threads <= 256:
        raise ValueError(f'threads must be from 1 to 256, got {threads}')
    from . import onnx_file

    data = onnx_file.checked(path)
    options = runtime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
        # What the library, which cannot ask the session, shares its work out to.
        options.add_session_config_entry('netopt.threads', str(threads))
    segments = onnx_file.segments(data)
    if (
        0 < segments <= onnx_file.MOST_SEGMENTS
    ):  # no more than the file needs, since each operator takes time
        options.add_session_config_entry('netopt.segments', str(segments))
    # Threads that wait for work without a rest take the processor from other sessions.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    try:
        options.register_custom_ops_library(library())
        return runtime.InferenceSession(data, options, providers=['CPUExecutionProvider'])
    except Exception as error:  # ONNX Runtime has classes of its own, with no base but this
        raise ValueError(
            f'{path}: ONNX Runtime {runtime.__version__} refuses the file: {_first(error)}'
        ) from error


def export(model: 'cntk.Function', path: Path, data: Any = None, float_layers: str = 'cntk') -> Any:
    """Writes a network as one ONNX file that runs without CNTK, and runs it before it is handed
    over.

    Args:
        model (cntk.Function): applied to its inputs: trained, optimized or not, or lowered.
        path (str): of the file. What is there is replaced only by a file that passed.
        data: NumPy arrays in the order of the model's arguments, or a minibatch source, on which
            the file is compared with the network; seeded random numbers without it.
        float_layers (str): as of `nc.Lower`. With 'native' the file is faster, and float sums of
            its segments are CNTK's within 1e-4 of a sample's scale, also with the library. A file
            that would differ by more is written with 'cntk', at last with 'apart'.

    Returns:
        Exported: what was written and how it compares.

    Raises:
        ImportError: CNTK, `onnx` or `onnxruntime` is missing.
        TypeError, ValueError: an argument is not one of these.
        OSError: no file can be written there.
        NotImplementedError: the network holds something that would not be right in the file: its
            name, and what to do.
        ExportError: the file cannot be put together, or does not compute what the network does;
            none is written.
    """
    from .exporting import exporter

    return exporter()(model, path, data, float_layers)


def file_path(what: str, path: Any) -> str:
    """Returns the path of a file, as `what` was given it, as text; the file need not be there.

    Raises:
        TypeError, ValueError: it is no path, or that of something else than a file.
    """
    if isinstance(path, bytes) or not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f'{what}: path must be text or a pathlib.Path, got {reprlib.repr(path)}; give the name '
            'of a file'
        )
    text = os.fsdecode(path)
    if '\0' in text or not os.path.basename(text):
        raise ValueError(f'{what}: path must name a file, got {text!r}; give a name')
    if os.path.exists(text) and not os.path.isfile(text):
        raise ValueError(
            f'{what}: path must be that of a file, got {text!r}, which is a folder or a device; '
            'give the name of a file'
        )
    return text


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"deploy.session needs ONNX Runtime ({error}): pip install 'netopt_callbacks[deploy]'"
        ) from error
    version = tuple(int(part) for part in onnxruntime.__version__.split('.')[:2])
    if version < OLDEST:
        raise ImportError(
            'deploy.session needs ONNX Runtime %d.%d or newer, this is %s'
            % (OLDEST + (onnxruntime.__version__,))
        )
    return onnxruntime


def _first(error: BaseException) -> str:
    return ' '.join(str(error).split())[:500]
