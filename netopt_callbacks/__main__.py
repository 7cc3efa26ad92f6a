"""python -m netopt_callbacks doctor | summary MODEL | bench"""
import argparse
import importlib
import sys

COMMANDS = {
    'doctor': 'tells what this environment lacks for training, and mends what it can',
    'summary': 'shows the layers of a saved model: shapes, parameters, multiply-adds',
    'bench': 'verifies and times the native bit convolution on this machine',
}


def main(argv=None):
    """Runs one command, from its own module, with the arguments that follow it."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog='python -m netopt_callbacks', formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='\n'.join('%-8s %s' % command for command in COMMANDS.items()))
    parser.add_argument('command', choices=COMMANDS, help='its own options: COMMAND --help')
    command = parser.parse_args(argv[:1]).command
    return importlib.import_module('netopt_callbacks.' + command).main(argv[1:])


if __name__ == '__main__':
    sys.exit(main())
