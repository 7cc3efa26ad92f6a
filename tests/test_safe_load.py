"""Models from elsewhere: what CNTK would run of them is looked at before CNTK sees the file."""
import os
import subprocess
import sys

import cntk as C
import numpy as np
import pytest
from cntk.ops.functions import UserFunction

import netopt_callbacks as nc
from binary_networks import binarized, convolutions, images, same_bits
from netopt_callbacks import __main__ as command_line
from netopt_callbacks import safe_load
from netopt_callbacks.lowering.replace import lower_binary_layers

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(nc.__file__)))


class Twice(UserFunction):
    """A function of a user's own."""

    def __init__(self, x, name='', state='plain'):
        super().__init__([x], as_numpy=True, name=name)
        self.kept = state

    def infer_outputs(self):
        return [
            C.output_variable(
                self.inputs[0].shape, self.inputs[0].dtype, self.inputs[0].dynamic_axes
            )
        ]

    def forward(self, argument, device=None, outputs_to_retain=None):
        return None, 2 * argument

    def serialize(self):
        return {'module': self.kept, 'class': self.kept}

    @staticmethod
    def deserialize(inputs, name, state):
        return Twice(inputs[0], name)


def crafted(path, module=None, name=None, state='plain'):
    """Saves a network whose file names another module or class for its function."""
    x = C.input_variable(3)
    model = C.layers.Dense(2)(C.user_function(Twice(x, state=state)))
    before = Twice.__module__, Twice.__name__
    try:
        Twice.__module__, Twice.__name__ = (
            was if new is None else new for was, new in zip(before, (module, name))
        )
        model.save(str(path))
    finally:
        Twice.__module__, Twice.__name__ = before
    return str(path)


def touch(path):
    return f"open({str(path)!r}, 'w')"


@pytest.mark.parametrize('how', ['module', 'class'])
def test_what_cntk_itself_does(tmp_path, how):
    """If this ever fails, CNTK has mended it, and the check may go."""
    ran = tmp_path / 'ran'
    if how == 'module':
        file = crafted(tmp_path / 'model', f'os import path; {touch(ran)}; from os', 'system')
    else:
        file = crafted(tmp_path / 'model', 'os', f'system; {touch(ran)}')
    subprocess.run(
        [
            sys.executable,
            '-W',
            'ignore',
            '-c',
            'import cntk, sys; cntk.load_model(sys.argv[1])',
            file,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert ran.exists()


@pytest.mark.parametrize(
    'module, name',
    [
        ('os import path; {touch}; from os', 'system'),
        ('os', 'system; {touch}'),
        ('os import path\n{touch}\nfrom os', 'system'),
        ('os', 'system as x, {touch}'),
        ('os', '__import__("os").system("touch {ran}")'),
        ('', 'system'),
        ('os', ''),
        ('.', 'x'),
        ('os..path', 'x'),
        ('.os', 'x'),
        ('os.path.', 'x'),
        ('os system', 'x'),
        ('o-s', 'x'),
        ('../lib', 'x'),
        ('/lib/x.so', 'x'),
        ('no_such_package_here', 'x'),
        ('antigravity', 'x'),
        ('idlelib.idle', 'x'),
        ('xxlimited', 'x'),
        ('pip.__main__', 'x'),
        ('os\0', 'system'),
        ('os', 'system\0'),
    ],
)
def test_strings_that_are_no_names_of_packages_are_refused(tmp_path, capsys, module, name):
    ran = tmp_path / 'ran'
    fill = dict(touch=touch(ran), ran=ran)
    if '\0' in module + name:  # CNTK does not save one
        file = crafted(tmp_path / 'model', module.replace('\0', '!'), name.replace('\0', '!'))
        with open(file, 'rb') as stream:
            data = stream.read().replace(b'os!', b'os\0').replace(b'system!', b'system\0')
        with open(file, 'wb') as stream:
            stream.write(data)
    else:
        file = crafted(tmp_path / 'model', module.format(**fill), name.format(**fill))
    loaded = set(sys.modules)
    with pytest.raises(
        ValueError, match='was not loaded: it names the (module|class) .* Load only models'
    ):
        safe_load.load_model(file)
    assert command_line.main(['summary', file]) == 1
    said = capsys.readouterr()
    assert 'was not loaded' in said.err and len(said.err.splitlines()) == 1 and not said.out
    assert not ran.exists() and not {'antigravity', 'idlelib', 'xxlimited', 'pip'} & (
        set(sys.modules) - loaded
    )


def test_functions_of_packages_are_loaded(tmp_path):
    model = safe_load.load_model(crafted(tmp_path / 'model'))
    assert model.eval(np.ones((1, 3), np.float32)).shape == (1, 2)
    features, network = convolutions()
    lowered = lower_binary_layers(binarized(network))
    lowered.save(str(tmp_path / 'lowered'))
    values = images(features.shape)
    assert same_bits(safe_load.load_model(tmp_path / 'lowered').eval(values), lowered.eval(values))


@pytest.mark.parametrize('state', ['not a name; at all', 'os; import x'])
def test_what_a_function_keeps_for_itself_is_its_own(tmp_path, state):
    safe_load.load_model(crafted(tmp_path / 'model', state=state))


def test_a_checkpoint_is_a_model_too(tmp_path):
    x, y = C.input_variable(3), C.input_variable(2)
    model = C.layers.Dense(2)(C.layers.Dropout(0.5)(C.user_function(Twice(x))))
    trainer = C.Trainer(model, C.squared_error(model, y), [C.adam(model.parameters, 0.1, 0.9)])
    trainer.save_checkpoint(str(tmp_path / 'checkpoint'))
    for name in ('checkpoint', 'checkpoint.ckp'):
        safe_load.check_model(str(tmp_path / name))
    assert len(safe_load.load_model(str(tmp_path / 'checkpoint')).parameters) == 2


def test_a_module_that_is_not_imported_yet(tmp_path, monkeypatch):
    (tmp_path / 'their_package').mkdir()
    (tmp_path / 'their_package' / '__init__.py').write_text('')
    (tmp_path / 'their_package' / 'functions.py').write_text('from test_safe_load import Twice')
    monkeypatch.syspath_prepend(tmp_path)
    file = crafted(tmp_path / 'model', 'their_package.functions')
    safe_load.check_model(file)
    assert 'their_package' not in sys.modules  # looked for, and not run
    safe_load.load_model(file)


# The file as CNTK may read it.


def message(*fields):
    """Returns a protobuf message of (number, bytes) and (number, int)."""
    out = b''
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def varint(value):
    out = b''
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def text(value):
    return message((1, 2), (2, 6), (8, value))


BAD = text(b'os; x')
GOOD = text(b'netopt_callbacks')


@pytest.mark.parametrize(
    'entry',
    [
        message((1, b'module'), (2, BAD)),
        message((2, BAD), (1, b'module')),
        message((1, b'module'), (2, GOOD), (2, BAD)),
        message((1, b'module'), (2, BAD), (2, GOOD)),
        message((1, b'other'), (2, BAD), (1, b'module')),
        message((1, b'module'), (2, message((8, b'os; x'), (2, 6)))),
        message((1, b'class'), (2, text(b'x; y'))),
        message((1, b'module\0padding'), (2, BAD)),
        message((1, b'state'), (2, BAD), (1, b'module')),
        message((9, 7), (77, b'?'), (1, b'module'), (2, BAD)),
        varint((1 << 32) | (1 << 3 | 2)) + varint(6) + b'module' + message((2, BAD)),
        varint(1 << 3 | 2) + b'\x86\x00' + b'module' + message((2, BAD)),
    ],
    ids=str,
)
@pytest.mark.parametrize('where', ['root', 'deep', 'split', 'large'])
def test_every_way_to_write_a_name(tmp_path, entry, where):
    inner = message((1, 2), (2, entry))
    value = message((1, 2), (2, 10), (12, inner))
    if where == 'deep':
        for _ in range(40):
            value = message((2, 9), (11, message((1, value), (1, value))))
            if len(value) > 10**5:
                break
    if where == 'split':
        value = message(
            (2, 10), (12, message((2, message((1, b'class'), (2, text(b'Fine')))))), (12, inner)
        )
    file = message((1, 2), (2, message((1, b'primitive_functions'), (2, value))))
    if where == 'root':
        file = inner
    if where == 'large':
        file = b'\x6b\x74\x6e\x63' + len(file).to_bytes(4, 'little') + file + b'\xff' * 50
    (tmp_path / 'model').write_bytes(file)
    with pytest.raises(ValueError, match='was not loaded'):
        safe_load.check_model(str(tmp_path / 'model'))


def test_damaged_files_are_refused_in_words(tmp_path):
    features, network = convolutions()
    network.save(str(tmp_path / 'model'))
    whole = (tmp_path / 'model').read_bytes()
    random, path = np.random.RandomState(0), str(tmp_path / 'damaged')
    for size in list(range(1, 200)) + list(random.randint(1, len(whole), 50)):
        with open(path, 'wb') as stream:
            stream.write(whole[:size])
        try:
            safe_load.check_model(path)
        except ValueError as error:
            assert 'is no model that CNTK 2.7 has written, or it is damaged' in str(error)
    for content in (b'text', os.urandom(1000), b'\x0b' * 9, b'\xff' * 20):
        with open(path, 'wb') as stream:
            stream.write(content)
        with pytest.raises(ValueError, match='is no model'):
            safe_load.check_model(path)


def test_files_that_are_not_there_or_empty_are_left_to_cntk(tmp_path):
    with pytest.raises(ValueError, match='neither a file nor'):
        safe_load.load_model(str(tmp_path / 'none'))
    (tmp_path / 'empty').write_bytes(b'')
    with pytest.raises(Exception):
        safe_load.load_model(str(tmp_path / 'empty'))


# The command.


@pytest.mark.parametrize('locale', ['C', 'C.UTF-8'])
def test_summary_in_any_locale(tmp_path, locale):
    x = C.input_variable(3)
    model = C.layers.Dense(2, name='caf\u00e9')(x)
    model.save(str(tmp_path / 'plain'))
    file = str(tmp_path / 'mod\u00e8le')
    os.rename(str(tmp_path / 'plain'), file)
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-m', 'netopt_callbacks', 'summary', file.encode('utf-8')],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, LC_ALL=locale, PYTHONIOENCODING='', PYTHONUTF8='0', PYTHONPATH=ROOT),
    )
    assert done.returncode == 0, done.stderr
    assert (
        'caf\u00e9'.encode() if locale == 'C.UTF-8' else b'caf'
    ) in done.stdout and b'Dense' in done.stdout
    missing = subprocess.run(
        [
            sys.executable,
            '-W',
            'ignore',
            '-m',
            'netopt_callbacks',
            'summary',
            file.encode('utf-8') + b'x',
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, LC_ALL=locale, PYTHONPATH=ROOT),
    )
    assert (
        missing.returncode == 1
        and b'Traceback' not in missing.stderr
        and b'is no CNTK model' in missing.stderr
    )


def test_summary_without_cntk(tmp_path):
    """An interpreter for which CNTK's package is broken."""
    (tmp_path / 'cntk').mkdir()
    (tmp_path / 'cntk' / '__init__.py').write_text('raise ImportError("libmpi.so.12: cannot open")')
    done = subprocess.run(
        [sys.executable, '-m', 'netopt_callbacks', 'summary', 'model'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([str(tmp_path), ROOT])),
    )
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert 'libmpi.so.12: cannot open' in done.stderr and 'netopt_callbacks doctor' in done.stderr
