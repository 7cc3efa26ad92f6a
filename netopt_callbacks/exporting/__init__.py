"""The way out of CNTK: a network as one ONNX file; `nc.deploy.export` is the face,
`docs/deploy.md` has the details."""
from .. import _cntk


def exporter():
    """Returns the function that writes a file, `export.export`.

    Raises:
        ImportError: CNTK, `onnx` or `onnxruntime` is missing.
    """
    _cntk.require()
    try:
        from .export import export
    except ImportError as error:
        raise ImportError(
            f"an export needs onnx and onnxruntime ({error}): "
            "pip install 'netopt_callbacks[export]'"
        ) from error
    return export
