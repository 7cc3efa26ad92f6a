"""python -m netopt_callbacks doctor | summary MODEL | bench"""
import argparse
import importlib
import io
import os
import sys

import netopt_callbacks

PROGRAM = 'python -m netopt_callbacks'
COMMANDS = {
    'doctor': 'tells what this environment lacks for training, and mends what it can',
    'summary': 'shows the layers of a saved model: shapes, parameters, multiply-adds',
    'bench': 'verifies and times the native bit convolution on this machine',
}


def main(argv=None):
    """Runs one command, from its own module, with the arguments that follow it."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='\n'.join('%-8s %s' % command for command in COMMANDS.items()),
    )
    parser.add_argument(
        '--version', action='version', version='netopt_callbacks ' + netopt_callbacks.__version__
    )
    parser.add_argument('command', choices=COMMANDS, help='its own options: COMMAND --help')
    command = parser.parse_args(argv[:1]).command
    if command == 'summary' and not {'-h', '--help'} & set(argv):
        try:
            importlib.import_module('netopt_callbacks._cntk').require()
        except ImportError as error:
            sys.stderr.write(
                f'summary loads the model with CNTK, which cannot be imported: {error}\n'
            )
            return 1
    return importlib.import_module('netopt_callbacks.' + command).main(argv[1:])


def run():
    """Runs main; returns its exit code, or 1 if what it shows cannot be written.

    A reader that has gone, as in `... | head -1`, needs no message.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, 'w')
    if sys.stdout is None:
        sys.stderr.write(f'{PROGRAM}: standard output is closed, and nothing was done\n')
        return 1
    _escape_what_cannot_be_shown()
    try:
        try:
            return main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()
    except OSError as error:
        _forget_output()
        sys.stderr.write(f'{PROGRAM}: {error}\n')
    return 1


def _forget_output():
    """Lets Python end in silence, which writes at its end what it could not write before."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _escape_what_cannot_be_shown():
    """Lets names of layers and files through in any locale, as LC_ALL=C: letters it lacks
    become escapes."""
    for name in ('stdout', 'stderr'):
        stream = getattr(sys, name)
        if hasattr(stream, 'buffer'):
            stream.flush()
            setattr(
                sys,
                name,
                io.TextIOWrapper(
                    stream.buffer,
                    encoding=stream.encoding,
                    errors='backslashreplace',
                    line_buffering=stream.line_buffering,
                ),
            )


if __name__ == '__main__':
    sys.exit(run())
