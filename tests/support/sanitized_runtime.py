"""ONNX Runtime with the sanitized library of operators, in a process of its own."""
import os
import sys

import native_builds

PYTHONS = [sys.executable] + [
    python for python in os.environ.get('NETOPT_DEPLOY_PYTHONS', '').split(':') if python
]

# Runs a script on the sanitized library. Each tensor gets memory of its own, since the sanitizer
# does not see what is read past the end of one in an arena.
START = '''
import runpy, sys
import onnxruntime
from netopt_callbacks import deploy
assert deploy.library().startswith(sys.argv[1]), deploy.library()
class SessionOptions(onnxruntime.SessionOptions):
    def __init__(self):
        super().__init__()
        self.enable_cpu_mem_arena = self.enable_mem_pattern = False
onnxruntime.SessionOptions = SessionOptions
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name='__main__')
'''


def run(package, python, implementation, script, *arguments):
    """Returns the last line that a script prints, on the library of `build_sanitized_library`."""
    done = native_builds.run_sanitized(
        [python, '-c', START, package, script] + [str(argument) for argument in arguments],
        python_path=package,
        # A runtime that is asked for more memory than there is says so, rather than the sanitizer.
        ASAN_OPTIONS='detect_leaks=0:allocator_may_return_null=1',
        NETOPT_NATIVE=implementation,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout.splitlines()[-1]
