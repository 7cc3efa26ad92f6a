"""Describes a full or failing disk for error messages."""
import errno
import os
import shutil


def disk_of(path):
    """Names the disk that a path is on, and how much room it has."""
    mounted = os.path.abspath(path)
    while not os.path.exists(mounted):
        mounted = os.path.dirname(mounted)
    try:
        free = '%.1f MB free' % (shutil.disk_usage(mounted).free / 1e6)
    except OSError as error:
        free = f'no answer: {error.strerror}'
    while not os.path.ismount(mounted):
        mounted = os.path.dirname(mounted)
    return f'the disk mounted at {mounted} ({free})'


def why(error):
    """Returns the message of an OSError, without its number."""
    return error.strerror or str(error)


def has_no_links(error):
    """Whether an OSError means that a file system has no hard links."""
    return error.errno in (
        errno.EPERM,
        errno.EOPNOTSUPP,
        errno.ENOSYS,
        errno.EMLINK,
        errno.EXDEV,
        errno.EINVAL,
    )
