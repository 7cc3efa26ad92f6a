"""Runs what CNTK's own tests start with mpiexec as the tests themselves are run.

They start `mpiexec -n 4 python FILE ARGS`, maybe from a process under mpiexec. As a script, this
file is such a worker: it runs FILE under the plugin.
"""
import os
import runpy
import subprocess
import sys

MPIEXEC = [
    os.path.join(os.path.dirname(sys.executable), 'mpiexec'),
    '--allow-run-as-root',
    '--oversubscribe',
]
# What mpiexec tells its workers, which another mpiexec must not be told.
_OF_MPI = ('OMPI_', 'PMIX_', 'PRTE_', 'ORTE_')


def redirect():
    """Lets `subprocess.Popen` start our workers in the place of `mpiexec ... python ...`."""
    start = subprocess.Popen.__init__

    def redirected(self, command, *rest, **options):
        if isinstance(command, list) and command[0] == 'mpiexec':
            place = command.index('python')
            command = MPIEXEC + command[1:place] + [sys.executable, __file__] + command[place + 1 :]
            options['env'] = {
                name: value for name, value in os.environ.items() if not name.startswith(_OF_MPI)
            }
        start(self, command, *rest, **options)

    subprocess.Popen.__init__ = redirected


if __name__ == '__main__':
    import cntk_own_tests_plugin  # noqa: F401

    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name='__main__')
