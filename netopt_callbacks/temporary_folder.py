"""Makes temporary folders, also where a cleaner removes what they lay in while a run trains."""
import contextlib
import os
import shutil
import tempfile


@contextlib.contextmanager
def temporary_folder(what):
    """Context that makes a folder, gives its name, and removes it with what is in it.

    Args:
        what (str): what it is for, for the message.

    Raises:
        RuntimeError: no folder can be made.
    """
    with _naming(what):
        os.makedirs(tempfile.gettempdir(), exist_ok=True)
        folder = tempfile.mkdtemp(prefix='netopt_callbacks-')
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_again(folder, what):
    """Makes a temporary folder again if it has been removed since it was made.

    Raises:
        RuntimeError: it cannot be made.
    """
    with _naming(what):
        os.makedirs(folder, 0o700, exist_ok=True)  # as mkdtemp: other users must not read it


@contextlib.contextmanager
def _naming(what):
    try:
        yield
    except OSError as error:
        raise RuntimeError(
            f'{what} takes a temporary file, and no folder for it can be made ({error}): make '
            'room, or name another folder in the environment variable TMPDIR'
        ) from error
