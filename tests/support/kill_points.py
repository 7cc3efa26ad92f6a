"""The library that kills a process, or lets a write fail, at a call of the file system."""
import os
import subprocess

from paths import SUPPORT


def compiled(folder):
    """Returns the path of `kill_points.cpp`, compiled into a folder, for `LD_PRELOAD`."""
    path = os.path.join(str(folder), 'kill_points.so')
    source = os.path.join(SUPPORT, 'kill_points.cpp')
    subprocess.check_call(
        ['g++', '-O1', '-std=c++17', '-shared', '-fPIC', '-o', path, source, '-ldl']
    )
    return path
