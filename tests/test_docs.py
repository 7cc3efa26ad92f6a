"""README and docs, run: every Python block, and every command that can run here."""
import ast
import glob
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from paths import CLONE, PYTHONPATH

DOCUMENTS = ['README.md'] + sorted(
    os.path.relpath(path, CLONE) for path in glob.glob(os.path.join(CLONE, 'docs', '*.md'))
)
# Commands that are not run here, and why.
LEFT = {
    'make demo': 'tests/examples/test_demo.py runs what it runs',
    'make test': 'this is a part of it',
    'make docs': 'installs packages',
    'make wheel': 'compiles for minutes',
    'tensorboard': 'serves a browser; tests/observers/test_event_files.py reads such files',
    'python -m pip': 'installs packages',
    'pip': 'installs packages; tests/test_setup.py installs the package',
    'python -m netopt_callbacks doctor --fix': 'changes the environment; see tests/test_runtime.py',
    'python -m netopt_callbacks bench': 'takes minutes; see tests/native/test_native_bench.py',
    'python -m tests.bench.': 'takes minutes; see the tests of the parts',
    'python -m pytest': 'the tests themselves: that their files are there is checked',
    'python examples/measure_': 'takes many minutes, and MNIST; see tests/examples',
}
STARTS = ('make', 'pip', 'python', '.venv/bin/', 'tensorboard', 'mpiexec')


def text_of(document):
    with open(os.path.join(CLONE, document), encoding='utf-8') as file:
        return file.read()


def blocks(document, language):
    """Returns [(number of the line before it, text)] of the fenced blocks in a language."""
    text = text_of(document)
    return [
        (text[: found.start()].count('\n') + 1, found.group(1))
        for found in re.finditer(r'^```%s\n(.*?)^```' % language, text, re.DOTALL | re.MULTILINE)
    ]


def commands(document):
    """Returns the shell commands of a document's sh blocks."""
    return parsed(
        line
        for _, block in blocks(document, 'sh')
        for line in block.replace('\\\n', ' ').splitlines()
    )


def mentions(document):
    """Returns the shell commands within the lines of a document."""
    text = re.sub(r'^```.*?^```', '', text_of(document), flags=re.DOTALL | re.MULTILINE)
    spans = [' '.join(span.split()) for span in re.findall(r'`([^`]+)`', text)]
    return parsed(span for span in spans if ' ' in span and span.startswith(STARTS))


def parsed(lines):
    """Returns each command without its comment, on the interpreter of the tests."""
    found = [shlex.split(line, comments=True) for line in lines]
    found = [[word for word in words if not word.startswith('OMP_NUM_THREADS=')] for words in found]
    return [' '.join(map(shlex.quote, words)).replace('.venv/bin/', '') for words in found if words]


def reason_left(command):
    """Returns why a command is not run, or None."""
    return next((why for start, why in LEFT.items() if command.startswith(start)), None)


def readme(monkeypatch):
    """What README's example takes for granted: a script for MNIST, here on small scans."""
    features, label = C.input_variable((1, 8, 8), name='features'), C.input_variable(10)
    monkeypatch.syspath_prepend(os.path.join(CLONE, 'examples'))
    digits = importlib.import_module('digits')
    images, labels = digits.digits()
    network = digits.create_network(features)
    criterion = (
        C.cross_entropy_with_softmax(network, label),
        C.classification_error(network, label),
    )
    source = C.io.MinibatchSourceFromData({'x': images[:192], 'y': labels[:192]})
    return dict(
        trainer=C.Trainer(network, criterion, [C.sgd(network.parameters, 0.1)]),
        source=source,
        streams={features: source.streams.x, label: source.streams.y},
        x_held_out=images[192:256],
        y_held_out=labels[192:256],
    )


def saves_something(names):
    """README's example saves 30 % of the parameters of the layers it changes, and more bytes."""
    result = names['session'].result
    changed = [note for record in result.records for note in record.layers if not note.skipped]
    assert [note.name for note in changed] == ['hidden', 'second_conv']
    before, after = (
        sum(getattr(note, f'parameters_{when}') for note in changed) for when in ('before', 'after')
    )
    assert after <= 0.7 * before
    assert changed[0].parameters_after <= 0.7 * changed[0].parameters_before
    assert result.records[-1].network_after.bytes < result.records[0].network_before.bytes / 3
    assert result.parity.passed and os.listdir(os.path.join('runs', 'mnist'))
    assert os.path.getsize('model.onnx') > 0


def native(monkeypatch):
    """What docs/native.md takes for granted: arrays of sizes that fit each other."""
    random = np.random.RandomState(0)
    return dict(
        x=random.randn(8, 64, 8, 8).astype('f'),
        weights=random.randn(32, 64, 3, 3).astype('f'),
        scale=random.rand(32).astype('f'),
        bias=random.randn(32).astype('f'),
        t0=random.randn(64).astype('f'),
        d0=random.rand(64) < 0.5,
        w1=random.randn(128, 64, 3, 3).astype('f'),
        t1=random.randint(-20, 20, 128).astype('i'),
        d1=random.rand(128) < 0.5,
        w2=random.randn(128 * 4 * 4, 10).astype('f'),
        a=random.rand(10).astype('f'),
        b=random.randn(10).astype('f'),
    )


def deployed(monkeypatch):
    """What docs/deploy.md takes for granted: a session that has been trained, and an input."""
    names = readme(monkeypatch)
    session = nc.training_session(
        trainer=names['trainer'],
        mb_source=names['source'],
        mb_size=64,
        model_inputs_to_streams=names['streams'],
        max_samples=192,
        epoch_size=192,
        data=(names['x_held_out'], names['y_held_out']),
        callbacks=[nc.FactorDense(epoch=1, rank=8)],
    )
    session.train()
    return dict(session=session, nc=nc, x=names['x_held_out'])


# What the blocks of a document take for granted, as its text says, and what must hold after them.
GIVEN = {'README.md': readme, 'docs/native.md': native, 'docs/deploy.md': deployed}
AFTERWARDS = {'README.md': saves_something}
SHORTER = {'README.md': ('60000', '192')}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to run in that has the clone's own folders in it."""
    for name in ('examples', 'tests', 'docs', 'netopt_callbacks'):
        os.symlink(os.path.join(CLONE, name), str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv('PYTHONPATH', PYTHONPATH)
    return tmp_path


@pytest.mark.parametrize('document', [each for each in DOCUMENTS if blocks(each, 'python')])
def test_python_blocks_run(document, folder, monkeypatch):
    names = GIVEN[document](monkeypatch) if document in GIVEN else {}
    names['__name__'] = 'document'
    for line, code in blocks(document, 'python'):
        file = re.match(r'# (\w+\.py)\n', code)
        if file:  # a file of its own, which a command of the page runs
            (folder / file.group(1)).write_text(code)
            continue
        # The line numbers of an error are those of the page.
        exec(
            compile('\n' * line + code.replace(*SHORTER.get(document, ('', ''))), document, 'exec'),
            names,
        )
    AFTERWARDS.get(document, lambda names: None)(names)
    for command in commands(document):
        if not reason_left(command):
            run(command)


def test_commands_of_pages_without_python_run(folder):
    for document in DOCUMENTS:
        if not blocks(document, 'python'):
            for command in commands(document):
                if not reason_left(command):
                    run(command)


def test_commands_in_the_text_exist(folder):
    """They name what is there, and take the options that they are shown with."""
    with open(os.path.join(CLONE, 'Makefile')) as file:
        targets = re.findall(r'^([a-z-]+):', file.read(), re.MULTILINE)
    for document in DOCUMENTS:
        for command in mentions(document):
            words = shlex.split(command)
            if words[0] == 'make':
                assert words[1] in targets, command
            elif not reason_left(command):
                run(command + ' --help')


def test_files_that_pages_name_exist():
    for document in DOCUMENTS:
        text = text_of(document)
        for name in re.findall(r'\b((?:tests|examples)/[\w/]+\.\w+)\b', text):
            assert os.path.exists(os.path.join(CLONE, name)), (document, name)
        for name in re.findall(r'`(\w+/test_\w+)`', text):
            assert os.path.exists(os.path.join(CLONE, 'tests', name + '.py')), (document, name)
        for name in re.findall(r'\]\(([^)#:]+)(?:#[^)]*)?\)', text):
            place = os.path.join(CLONE, os.path.dirname(document), name)
            assert os.path.exists(place), (document, name)


@pytest.mark.parametrize(
    'function',
    [nc.training_session, nc.attach, nc.train, nc.optimize],
    ids=lambda one: one.__name__,
)
def test_the_guide_has_every_argument_of_an_entry_point_and_its_default(function):
    table = text_of('docs/guide.md').split('### Arguments of the entry points')[1].split('\n## ')[0]
    head, _, *rows = [
        [cell.strip().strip('`') for cell in line.split('|')[1:-1]]
        for line in table.splitlines()
        if line.startswith('|')
    ]
    column = head.index('nc.' + function.__name__)
    assert {row[0]: row[column] for row in rows if row[column]} == {
        name: 'required' if argument.default is argument.empty else repr(argument.default)
        for name, argument in inspect.signature(function).parameters.items()
    }


def texts(path):
    """Returns the strings of a Python file; what an f-string fills in is {}."""
    with open(path) as file:
        tree = ast.parse(file.read())
    found = [each.s for each in ast.walk(tree) if isinstance(each, ast.Str)]
    for each in ast.walk(tree):
        if isinstance(each, ast.JoinedStr):
            found.append(''.join(getattr(part, 's', '{}') for part in each.values))
    return [' '.join(text.split()) for text in found]


def test_the_messages_of_troubleshooting_are_those_of_the_package():
    package = os.path.join(CLONE, 'netopt_callbacks', '**', '*.py')
    said = [text for path in glob.glob(package, recursive=True) for text in texts(path)]
    ours = text_of('docs/troubleshooting.md').split('\n## ')[3:]  # before: pip's and CNTK's own
    rows = [row.split(' | ')[0] for part in ours for row in part.splitlines() if row[:1] == '|']
    quoted = [words for row in rows for words in re.findall(r'`([^`]+)`', row)]
    assert len(quoted) > 50
    for words in quoted:
        assert any(words in text for text in said), words


def test_every_reason_is_of_a_command():
    shown = [command for each in DOCUMENTS for command in commands(each) + mentions(each)]
    for start in LEFT:
        assert any(command.startswith(start) for command in shown), start


def run(command):
    words = shlex.split(command)
    if words[0] == 'mpiexec':
        words[0] = os.path.join(sys.prefix, 'bin', 'mpiexec')
        words[1:1] = ['--allow-run-as-root', '--oversubscribe']
    words = [sys.executable if word == 'python' else word for word in words]
    done = subprocess.run(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Without it, the child gets what MPI has set in this process if another test used it, and
        # mpiexec ends without a word.
        env=dict(os.environ),
        universal_newlines=True,
    )
    assert done.returncode == 0, f'{command}\n{done.stdout}'
