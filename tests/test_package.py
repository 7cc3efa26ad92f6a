"""What the package shows of itself: its names, its version, its annotations."""
import ast
import inspect
import os
import subprocess
import sys

import pytest

import netopt_callbacks as nc
from paths import CLONE, PYTHONPATH

NAMESPACES = (nc, nc.graph, nc.native, nc.deploy, nc.factorization, nc.quantization)


def test_dir_shows_the_public_names_and_no_other():
    assert [name for name in dir(nc) if not name.startswith('__')] == sorted(nc.__all__)
    assert len(set(nc.__all__)) == len(nc.__all__)
    for name in nc.__all__:
        assert getattr(nc, name) is not None, name


def test_star_import():
    names = {}
    exec('from netopt_callbacks import *', names)
    assert set(nc.__all__) == set(names) - {'__builtins__'}


def test_type_checkers_are_told_the_same_names():
    with open(nc.__file__) as file:
        (block,) = [node for node in ast.parse(file.read()).body if isinstance(node, ast.If)][:1]
    told = [name.name for node in block.body for name in getattr(node, 'names', ())]
    told += [node.target.id for node in block.body if isinstance(node, ast.AnnAssign)]
    assert block.test.id == 'TYPE_CHECKING' and sorted(told) == sorted(nc.__all__)


def test_version_on_the_command_line():
    said = subprocess.check_output(
        [sys.executable, '-m', 'netopt_callbacks', '--version'], cwd=CLONE, universal_newlines=True
    )
    assert said == f'netopt_callbacks {nc.__version__}\n'


def public_functions():
    """Yields (name, function) of all that a user may call; not what a base class has said."""
    for namespace in NAMESPACES:
        for name in namespace.__all__:
            value = getattr(namespace, name)
            if inspect.isfunction(value):
                yield f'{namespace.__name__}.{name}', value
            elif inspect.isclass(value) and not issubclass(value, tuple):
                inherited = {name for base in value.__mro__[1:] for name in vars(base)}
                for method, member in vars(value).items():
                    if method in inherited and method != '__init__':
                        continue
                    function = member.fget if isinstance(member, property) else member
                    function = getattr(function, '__func__', function)
                    if inspect.isfunction(function) and (method == '__init__' or method[0] != '_'):
                        yield f'{namespace.__name__}.{name}.{method}', function


def test_what_is_public_is_annotated():
    functions = dict(public_functions())
    assert len(functions) > 100
    for name, function in functions.items():
        signature = inspect.signature(function)
        untold = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.annotation is parameter.empty and parameter.name not in ('self', 'cls')
        ]
        assert not untold and signature.return_annotation is not signature.empty, (name, untold)


SCRIPT = '''
import netopt_callbacks as nc

def hidden(layer: nc.graph.Layer) -> bool:
    return layer.name == 'hidden'

session = nc.training_session(
    trainer=None, mb_source=None, mb_size=64, model_inputs_to_streams=None, epoch_size=60000,
    callbacks=[nc.FactorDense(epoch=2, rank=nc.energy(0.9), filter_function=hidden), nc.Lower()])
session.train()
drop: str = session.result.records[0].drop
nc.BinarizeDense(epoch='4')
'''


@pytest.mark.slow
def test_a_script_is_checked_against_the_annotations(tmp_path):
    pytest.importorskip('mypy')
    script = tmp_path / 'script.py'
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, '-m', 'mypy', '--ignore-missing-imports', '--cache-dir', str(tmp_path)]
        + ['--config-file', '', str(script)],
        stdout=subprocess.PIPE,
        universal_newlines=True,
        cwd=CLONE,
    )
    found = [line.split(': ', 2)[2] for line in done.stdout.splitlines() if 'script.py:' in line]
    assert len(found) == 2, done.stdout
    assert 'has type "Optional[float]"' in found[0] and '"epoch" to "BinarizeDense"' in found[1]


@pytest.mark.parametrize(
    'missing, line, words',
    [
        ('tensorboardX', "nc.TensorBoard('runs')", "pip install 'netopt_callbacks[train]'"),
        ('tqdm', 'nc.ProgressBar()', "pip install 'netopt_callbacks[train]'"),
        (
            'onnx',
            "nc.deploy.export(C.square(C.input_variable(2)), 'model.onnx')",
            "pip install 'netopt_callbacks[export]'",
        ),
    ],
)
def test_a_missing_extra_is_named(missing, line, words, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            '-W',
            'ignore',
            '-c',
            f'import sys; sys.modules[{missing!r}] = None\n'
            f'import cntk as C, netopt_callbacks as nc\n{line}',
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        cwd=str(tmp_path),
        env=dict(os.environ, PYTHONPATH=PYTHONPATH),
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('ImportError') and missing in last and words in last


BELOW = {
    'trainers': set(),
    'readers': {'trainers'},
    'checkpoints': {'trainers'},
    'evaluation': {'trainers'},
    'engine': {'trainers', 'readers', 'checkpoints', 'evaluation'},
}


@pytest.mark.parametrize('package', sorted(BELOW))
def test_what_the_engine_is_built_of_knows_nothing_above_it(package):
    folder = os.path.join(os.path.dirname(nc.__file__), package)
    imported = set()
    for name in os.listdir(folder):
        if name.endswith('.py'):
            with open(os.path.join(folder, name)) as file:
                nodes = list(ast.walk(ast.parse(file.read())))
            for node in nodes:
                if isinstance(node, ast.ImportFrom) and node.level == 2:
                    names = [node.module] if node.module else [one.name for one in node.names]
                    imported.update(name.split('.')[0] for name in names)
    assert imported & set(BELOW) == BELOW[package]
