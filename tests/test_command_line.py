"""What the command line says where its output cannot be written: one line at most, and status 1."""
import os
import subprocess
import sys

import cntk as C
import pytest

from netopt_callbacks import bench, summary
from paths import CLONE

PROGRAM = [sys.executable, '-m', 'netopt_callbacks']


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    path = str(tmp_path_factory.mktemp('saved') / 'z.model')
    C.layers.Dense(3, name='hidden')(C.input_variable(4)).save(path)
    return path


def status(arguments, redirected='', **options):
    """Returns (exit status, lines on stderr but CNTK's own) of a command under a redirection of
    the shell."""
    done = subprocess.run(
        ['sh', '-c', f'exec "$@" {redirected}', 'sh'] + PROGRAM + arguments,
        cwd=CLONE,
        env=dict(os.environ, PYTHONWARNINGS='ignore'),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        **options,
    )
    lines = done.stderr.splitlines()
    return done.returncode, [line for line in lines if 'process wide default device' not in line]


COMMANDS = pytest.mark.parametrize('command', [['doctor'], ['summary', ''], ['--version']])


@COMMANDS
@pytest.mark.parametrize(
    'redirected, words', [('>/dev/full', 'No space left'), ('>&-', 'standard output is closed')]
)
def test_output_that_cannot_be_written(command, redirected, words, model):
    code, said = status([part or model for part in command], redirected)
    assert code == 1 and len(said) == 1, said
    assert said[0].startswith('python -m netopt_callbacks: ') and words in said[0]


@COMMANDS
def test_reader_that_has_gone(command, model):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert status([part or model for part in command], stdout=writing) == (1, [])
    finally:
        os.close(writing)


@COMMANDS
def test_closed_stderr_changes_nothing(command, model):
    code, said = status([part or model for part in command], '2>&-', stdout=subprocess.DEVNULL)
    assert (code, said) == (0, [])


@pytest.mark.parametrize('option', ['--threads', '--batches', '--rounds'])
@pytest.mark.parametrize('value', ['0', '-1', 'x', '1.5', '²', str(10**30)])
def test_numbers_of_the_bench(option, value, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.main([option + '=' + value])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and f'{option}: expected a whole number from 1 to' in said
    assert f'received {value!r}' in said


def test_every_command_is_named_as_it_is_called(capsys):
    with pytest.raises(SystemExit):
        summary.main([])
    assert 'usage: python -m netopt_callbacks summary' in capsys.readouterr().err
