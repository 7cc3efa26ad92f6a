"""Loads saved graphs; the only module of the engine that does."""
from ..safe_load import load_model


def load_graph(file):
    """Returns the Function in a file, after checking the names in it that CNTK would execute.

    Raises:
        ValueError: a name in the file belongs to no installed package.
        RuntimeError: CNTK cannot load the file.
    """
    return load_model(file)
