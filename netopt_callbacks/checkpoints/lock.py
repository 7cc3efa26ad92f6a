"""Makes sure that only one process at a time trains under a checkpoint name.

The operating system locks a record of the file `lock` in the checkpoint's folder. The lock ends
with the process that holds it, however that ends; a file that is left behind locks nothing. It is
not a lock of the descriptor (`flock`), which a child process would keep holding.
"""
import errno
import json
import os
import socket

try:
    import fcntl
except ImportError:  # the operating system has no such locks
    fcntl = None  # type: ignore

_NAME = 'lock'
_held = {}  # by absolute path: the descriptor of a lock that this process holds


class Lock:
    """The lock of one checkpoint name.

    Args:
        file (str): the name.
        folder (str): the folder beside it; created if missing, and removed if nothing else is in
            it.
    """

    def __init__(self, file, folder):
        self._file = file
        self._folder = os.path.abspath(folder)
        self._path = os.path.join(self._folder, _NAME)
        self._owner = None

    def take(self, shared=False):
        """Takes the lock; does nothing on a file system that is read-only or has no locks.

        Args:
            shared (bool): whether others in this process may hold it too.

        Raises:
            RuntimeError: another process holds it, or this one does.
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
            return  # the checkpoint's own write reports that it cannot be written
        if descriptor is not None:
            _held[self._path], self._owner = descriptor, os.getpid()

    def release(self):
        """Releases the lock, if this object took it."""
        if self._owner != os.getpid():
            return  # never taken, or taken by the parent process
        self._owner = None
        try:
            os.remove(self._path)
            os.rmdir(self._folder)
        except OSError:
            pass  # something else is in it, or the user removed it
        os.close(_held.pop(self._path))

    def _locked(self):
        """Returns the descriptor of the locked file; None if a worker of the same job holds it."""
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
            os.close(descriptor)  # the previous holder has removed the file in the meantime

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
    # Open MPI's name for the job that mpiexec started; all its workers see the same name.
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
