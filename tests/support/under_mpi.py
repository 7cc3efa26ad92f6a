"""Starts a test's script under mpiexec, as a user does."""
import os
import subprocess
import sys

from paths import PYTHONPATH


def mpiexec(file, *arguments, workers=2, timeout=240, **environment):
    """Returns the finished process of some workers; `stdout` has what all wrote to both streams.

    Args:
        file (str): the script of each worker.
        arguments: of the script; as text.
        environment: variables, besides those of this process.
    """
    command = [os.path.join(sys.prefix, 'bin', 'mpiexec'), '--allow-run-as-root', '--oversubscribe']
    command += ['-n', str(workers), sys.executable, '-W', 'ignore', os.path.abspath(file)]
    return subprocess.run(
        command + [str(argument) for argument in arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        env=dict(
            os.environ,
            OPAL_PREFIX=sys.prefix,
            OMP_NUM_THREADS='1',
            PYTHONPATH=PYTHONPATH,
            **environment,
        ),
        universal_newlines=True,
    )
