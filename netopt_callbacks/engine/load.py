"""The one place where the engine reads a saved graph."""
from ..safe_load import load_model


def load_graph(file):
    """Returns the Function that a file holds, once the names in it that CNTK would run have been
    looked at.

    Raises:
        ValueError: a name in the file is none of a package that is there.
        RuntimeError: of CNTK, where the file cannot be loaded.
    """
    return load_model(file)
