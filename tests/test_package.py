"""What the package shows of itself: its names, its version."""
import subprocess
import sys

import netopt_callbacks as nc
from paths import CLONE


def test_dir_shows_the_public_names_and_no_other():
    assert [name for name in dir(nc) if not name.startswith('__')] == sorted(nc.__all__)
    assert len(set(nc.__all__)) == len(nc.__all__)
    for name in nc.__all__:
        assert getattr(nc, name) is not None, name


def test_star_import():
    names = {}
    exec('from netopt_callbacks import *', names)
    assert set(nc.__all__) == set(names) - {'__builtins__'}


def test_version_on_the_command_line():
    said = subprocess.check_output(
        [sys.executable, '-m', 'netopt_callbacks', '--version'], cwd=CLONE, universal_newlines=True
    )
    assert said == f'netopt_callbacks {nc.__version__}\n'
