"""The loader and the library against files that are damaged, foreign, of a later version, or
meant to do harm."""
import os
import subprocess
import sys

import numpy as np
import pytest

onnx = pytest.importorskip('onnx', reason='the onnx package is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

from netopt_callbacks import deploy, native, onnx_file  # noqa: E402
from paths import CLONE  # noqa: E402
from test_deploy_body import model_of, random_program  # noqa: E402
from test_deploy_body_values import program_of_several  # noqa: E402

MUTATIONS = 10000
MUTATIONS_OF = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'deploy_mutations.py')


@pytest.fixture
def model():
    ops, inputs, output, _ = random_program(1, 'convolution')
    return model_of(native.Program(ops, inputs, [output]).state(), True)


@pytest.fixture
def models(model):
    """One of a segment of one input and output, one of a segment of several, and one with the
    function of it."""
    ops, inputs, outputs, _ = program_of_several(1, 'convolution')
    state = native.Program(ops, inputs, outputs).state()
    return [model, model_of(state, True), model_of(state, True, function=True)]


def write(model, path):
    path.write_bytes(model.SerializeToString() if hasattr(model, 'SerializeToString') else model)
    return str(path)


@pytest.mark.parametrize('threads', [2, np.int64(2), np.uint8(1), None])
def test_a_file_is_loaded_and_its_metadata_read(threads, model, tmp_path):
    entry = model.metadata_props.add()
    entry.key, entry.value = 'netopt.format', '1'
    path = write(model, tmp_path / 'file.onnx')
    assert [value.name for value in deploy.session(path, threads=threads).get_inputs()] == ['x0']
    assert onnx_file.metadata(onnx_file.checked(path)) == {'netopt.format': '1'}


@pytest.mark.parametrize('share', [0, 0.1, 0.5, 0.9])
def test_a_truncated_file(model, share, tmp_path):
    data = model.SerializeToString()
    path = write(data[: int(len(data) * share)], tmp_path / 'file.onnx')
    with pytest.raises(ValueError, match='is no whole ONNX file|refuses the file'):
        deploy.session(path)


def test_a_file_that_is_something_else(tmp_path):
    for data in (b'PK\x03\x04' + bytes(100), b'a line of text\n', b'\xff' * 40, b'\x80' * 40):
        with pytest.raises(ValueError, match='is no whole ONNX file|refuses the file'):
            deploy.session(write(data, tmp_path / 'file.onnx'))


@pytest.mark.parametrize('layer', ['Dense', 'LSTM'])
def test_a_model_that_cntk_saved(layer, tmp_path):
    C = pytest.importorskip('cntk', reason='cntk is not installed')
    made = (
        C.layers.Dense(3)(C.input_variable(4))
        if layer == 'Dense'
        else C.layers.Recurrence(C.layers.LSTM(3))(C.sequence.input_variable(4))
    )
    path = str(tmp_path / 'file.model')
    made.save(path)
    told = f"looks like a CNTK model.*nc.deploy.export.cntk.load_model.'{path}'., 'model.onnx'.$"
    with pytest.raises(ValueError, match=told):
        deploy.session(path)


def test_a_later_version_of_the_operators(model, tmp_path):
    next(opset for opset in model.opset_import if opset.domain == 'netopt').version = 2
    with pytest.raises(
        ValueError, match='version 2 of the operators of netopt, this package has version 1'
    ):
        deploy.session(write(model, tmp_path / 'file.onnx'))


def test_an_operator_that_the_library_lacks(model, tmp_path):
    next(node for node in model.graph.node).op_type = 'Segment128'
    with pytest.raises(ValueError, match='refuses the file.*Segment128'):
        deploy.session(write(model, tmp_path / 'file.onnx'))


def test_tensors_in_other_files_are_refused(model, tmp_path):
    secret = tmp_path / 'secret'
    secret.write_bytes(bytes(range(256)))
    tensor = model.graph.initializer[0]
    tensor.ClearField('raw_data')
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = 'location', 'secret'
    path = write(model, tmp_path / 'file.onnx')
    with pytest.raises(ValueError, match='in other files, from which nothing is read'):
        deploy.session(path)
    inner = onnx.helper.make_node('Constant', [], ['c'], value=tensor)
    model.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(np.zeros(3, np.uint8), 'state')
    )
    model.graph.node.extend([inner])
    with pytest.raises(ValueError, match='in other files, from which nothing is read'):
        deploy.session(write(model, tmp_path / 'file.onnx'))


def test_graphs_in_graphs_without_end(tmp_path):
    def nested(depth):
        data = b''
        for _ in range(depth):
            attribute = b'\x32' + length(data) + data  # AttributeProto.g
            node = b'\x2a' + length(attribute) + attribute  # NodeProto.attribute
            data = b'\x0a' + length(node) + node  # GraphProto.node
        return b'\x3a' + length(data) + data  # ModelProto.graph

    def length(data):
        size, result = len(data), b''
        while size > 127:
            result, size = result + bytes([size & 127 | 128]), size >> 7
        return result + bytes([size])

    with pytest.raises(ValueError, match='deep'):
        deploy.session(
            write(nested(200) + b'\x32\x08location', tmp_path / 'file.onnx')
        )  # with it, all is searched
    with pytest.raises(ValueError):
        deploy.session(write(nested(200), tmp_path / 'file.onnx'))


@pytest.mark.parametrize(
    'threads, error', [(0, ValueError), (257, ValueError), (True, TypeError), ('2', TypeError)]
)
def test_threads_that_are_none(model, threads, error, tmp_path):
    with pytest.raises(error, match='threads must be'):
        deploy.session(write(model, tmp_path / 'file.onnx'), threads=threads)


def test_wrong_inputs_get_a_sentence(model, tmp_path):
    session = deploy.session(write(model, tmp_path / 'file.onnx'))
    shape = [1] + [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    session.run(None, {'x0': np.zeros(shape, np.float32)})
    for feed in (
        {'y': np.zeros(shape, np.float32)},
        {'x0': np.zeros(shape)},
        {'x0': np.zeros(shape[:2], np.float32)},
        {'x0': np.zeros([1, shape[1] + 1] + shape[2:], np.float32)},
    ):
        with pytest.raises(Exception, match='x|y'):
            session.run(None, feed)


def test_without_the_library_s_file_the_error_says_so(monkeypatch):
    monkeypatch.setattr(deploy, 'LIBRARY', '_nothing')
    with pytest.raises(ImportError, match='library of operators'):
        deploy.library()


def test_cntk_is_not_needed():
    program = (
        'import sys; sys.modules["cntk"] = None; from netopt_callbacks import deploy; '
        'deploy.library(); import netopt_callbacks.onnx_file\n'
        'try: deploy.export(None, "x")\n'
        'except ImportError as error: print("needs CNTK" in str(error))'
    )
    assert (
        subprocess.check_output([sys.executable, '-c', program], cwd=CLONE, universal_newlines=True)
        == 'True\n'
    )


def mutate(models, tmp_path, first, last):
    paths = [write(model, tmp_path / f'file{number}.onnx') for number, model in enumerate(models)]
    for path in paths:
        deploy.session(path)
    done = subprocess.run(
        [sys.executable, MUTATIONS_OF, str(first), str(last)] + paths,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=1800,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    assert done.stdout.split()[0] == str(last - first), done.stdout
    return done.stdout


def test_mutated_files_do_no_harm(models, tmp_path):
    mutate(models, tmp_path, 0, 600)


@pytest.mark.slow
def test_ten_thousand_mutated_files_do_no_harm(models, tmp_path):
    print(mutate(models, tmp_path, 600, 600 + MUTATIONS))


def test_mutated_bytes_never_trouble_the_reader(models):
    datas = [model.SerializeToString() + b'\x32\x08location' for model in models]
    for seed in range(3000):
        random, data = np.random.RandomState(seed), datas[seed // 2 % len(datas)]
        mutated = bytearray(data)
        for _ in range(random.randint(1, 8)):
            mutated[
                random.randint(min(len(data), 400) if seed % 2 else len(data))
            ] = random.randint(256)
        try:
            mutated = bytes(
                mutated[: random.randint(1, len(data) + 1)] if seed % 3 == 0 else mutated
            )
            onnx_file._check(mutated, 'file')
            onnx_file.segments(mutated)
            onnx_file.metadata(mutated)
        except ValueError:
            pass
