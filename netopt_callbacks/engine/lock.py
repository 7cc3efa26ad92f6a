"""One process at a time trains under a checkpoint name.

The lock is the operating system's, of a record of the file `lock` in the checkpoint's folder, so it
ends with the process that holds it, however that ends: a file that is left behind locks nothing. It
is no lock of the descriptor (`flock`), which a child process would go on holding.
"""
import errno
import json
import os
import socket

try:
    import fcntl
except ImportError:  # an operating system without such locks
    fcntl = None  # type: ignore

_NAME = 'lock'
_held = {}  # by absolute path: the descriptor, of this process


class Lock:
    """Of one checkpoint name.

    Args:
        file (str): the name.
        folder (str): the one beside it; is made, and taken away again where nothing else came into
            it.
    """

    def __init__(self, file, folder):
        self._file = file
        self._folder = os.path.abspath(folder)
        self._path = os.path.join(self._folder, _NAME)
        self._owner = None

    def take(self, shared=False):
        """Takes the lock; a file system without locks, or one that cannot be written, gives none.

        Args:
            shared (bool): whether others in this process may have it too.

        Raises:
            RuntimeError: another process has it, or this one has.
        """
        if self._path in _held:
            if not shared:
                raise RuntimeError(self._words('this process'))
            return
        if fcntl is None:
            return
        try:
            descriptor = self._locked()
        except OSError:
            return  # what cannot be written is an error where it is written
        if descriptor is not None:
            _held[self._path], self._owner = descriptor, os.getpid()

    def release(self):
        """Gives the lock back, where this object took it."""
        if self._owner != os.getpid():
            return  # never taken, or taken by the process that this one is a child of
        self._owner = None
        try:
            os.remove(self._path)
            os.rmdir(self._folder)
        except OSError:
            pass  # there is something else in it, or the user took it away
        os.close(_held.pop(self._path))

    def _locked(self):
        """Returns the descriptor of the locked file; None where a worker of the same job has it."""
        os.makedirs(self._folder, exist_ok=True)
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is(descriptor):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, json.dumps(_me()).encode('utf-8'))
                    return descriptor
            except OSError as error:
                holder = _holder(descriptor)
                os.close(descriptor)
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                if holder.get('job') and holder['job'] == _me()['job']:
                    return None
                raise RuntimeError(
                    self._words(
                        'process {} on {}'.format(
                            holder.get('process', '(unknown)'),
                            holder.get('computer', 'some computer'),
                        )
                    )
                )
            os.close(descriptor)  # whoever had it has taken the file away meanwhile

    def _is(self, descriptor):
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            return False
        mine = os.fstat(descriptor)
        return (now.st_dev, now.st_ino) == (mine.st_dev, mine.st_ino)

    def _words(self, holder):
        return (
            f'{holder} is training under the checkpoint name {self._file}, and two would overwrite '
            'what the other needs: wait until it has ended, or give this run another name; nothing '
            'was written'
        )


def _me():
    # Open MPI names the job that mpiexec started, the same to all its workers.
    return {
        'process': os.getpid(),
        'computer': socket.gethostname(),
        'job': os.environ.get('PMIX_NAMESPACE'),
    }


def _holder(descriptor):
    try:
        found = json.loads(os.read(descriptor, 4096).decode('utf-8'))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
