"""Networks that leave CNTK: what is exported, under which names, and bad arguments."""
import json
import os

import cntk as C
import numpy as np
import pytest

onnx = pytest.importorskip('onnx', reason='the onnx package is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

import netopt_callbacks as nc  # noqa: E402
from netopt_callbacks import deploy, lowering, onnx_file  # noqa: E402
from netopt_callbacks.exporting import check, export as exporting  # noqa: E402
from netopt_callbacks.lowering.segment_pass import lower_segments  # noqa: E402
from segment_networks import binarized, random_network, unsettle  # noqa: E402

BATCHES = (1, 3, 8)


def small(name='image', classes=5):
    """(input, model): two convolutions and a Dense, of which `second` and `hidden` are there to
    be made binary."""
    random = np.random.RandomState(0)
    x = C.input_variable((3, 9, 8), name=name)
    y = C.layers.Convolution2D((3, 3), 8, pad=True, activation=C.relu, name='float')(x)
    y = C.layers.BatchNormalization(map_rank=1)(y)
    y = C.layers.Convolution2D((3, 3), 33, pad=True, bias=False, name='second')(y)
    y = C.layers.BatchNormalization(map_rank=1)(y)
    y = C.layers.MaxPooling((2, 2), 2)(C.relu(y))
    y = C.layers.Dense(20, name='hidden')(y)
    y = C.layers.BatchNormalization()(y)
    model = C.layers.Dense(classes, name='float')(y)
    unsettle(model, random, odd=0)
    return x, model


def run(path, *inputs):
    """Runs a file as it is, with the library; returns the outputs."""
    session = deploy.session(path)
    return session.run(None, dict(zip([value.name for value in session.get_inputs()], inputs)))


def assert_same(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.few(4)
@pytest.mark.parametrize('seed', range(10))
def test_random_networks_are_exported(seed, tmp_path):
    x, model = random_network(seed)
    binary = binarized(model)
    for kind, network in (
        ('float', model),
        ('binary', binary),
        ('alone', lowering.lower_binary_layers(binary)),
    ):
        path = str(tmp_path / (kind + '.onnx'))
        exported = deploy.export(network, path)
        assert exported.comparison.samples == 16 and os.path.getsize(path) == exported.bytes
        assert len(exported.segments) == {'float': 0}.get(kind, len(exported.segments))
        assert bool(exported.segments) == (kind != 'float')


def test_branches_that_are_spliced(tmp_path):
    x = C.input_variable((3, 7, 6), name='image')
    y = C.layers.Convolution2D((3, 3), 9, pad=True, name='one')(x)
    y = C.splice(C.relu(y), C.layers.Convolution2D((1, 1), 40, name='two')(y), y, axis=0)
    y = C.layers.Convolution2D((3, 3), 5, name='three')(y)
    network = lowering.lower_segments(binarized(y, input_scale=None)).model
    exported = deploy.export(network, str(tmp_path / 'file.onnx'))
    (segment,) = exported.segments
    assert exported.comparison.segments == 1


def test_predictions_are_counted_once_a_sample(tmp_path, monkeypatch):
    x, model = small(classes=2)
    for parameter in model.parameters:
        if parameter.shape in ((20, 2), (2,)):  # of the last Dense: both classes get 1
            parameter.value = np.full(parameter.shape, len(parameter.shape) == 1, np.float32)
    binary = binarized(model)
    images = np.random.RandomState(11).randn(20, 3, 9, 8).astype(np.float32)
    path = str(tmp_path / 'file.onnx')

    def compared(network, data=images):
        found = deploy.export(network, path, data=data).comparison
        return found.samples, found.predictions, found.different_predictions

    heads = C.combine([binary, C.layers.Dense(3)(binary), C.layers.Dense((2, 2))(binary)])
    assert compared(binary) == compared(heads) == (20, 20, 0)
    assert compared(binary, images[:1]) == (1, 1, 0)
    assert compared(C.layers.Dense((2, 2))(binary)) == (20, 0, 0)
    scalar_of_a_step = C.reduce_sum(C.sequence.input_variable(6), axis=0)
    steps = [np.random.RandomState(12).randn(5, 6).astype(np.float32) for _ in range(4)]
    assert compared(C.reshape(scalar_of_a_step, ()), (steps,)) == (4, 0, 0)
    run_file = check._Session.run

    def a_little_more(session, feed):
        outputs = run_file(session, feed)
        for name, output in outputs.items():
            if output.shape == (20, 2) and name != 'y':  # of a segment alone
                output[[3, 5], 1] += 1e-6
        return outputs

    monkeypatch.setattr(check._Session, 'run', a_little_more)
    assert compared(binary) == (20, 20, 2)


def test_any_batch_under_the_user_s_names_with_one_bit_a_weight(tmp_path):
    x, model = small()
    binary = binarized(model)
    path = str(tmp_path / 'small.onnx')
    images = np.random.RandomState(1).randn(20, 3, 9, 8).astype(np.float32)
    exported = deploy.export(binary, path, data={'image': images})
    assert (
        exported.inputs == ['image'] and exported.comparison.segments == len(exported.segments) >= 1
    )
    for batch in BATCHES:
        values = np.random.RandomState(batch).randn(batch, 3, 9, 8).astype(np.float32)
        assert_same(run(path, values)[0], binary.eval({binary.arguments[0]: values}))
    file = onnx.load(path)
    assert [opset.version for opset in file.opset_import if not opset.domain] == [13]
    states = [tensor for tensor in file.graph.initializer if tensor.name.startswith('netopt_state')]
    weights = 8 * 33 * 9 + 33 * 4 * 4 * 20
    bits = 8 * sum(len(tensor.raw_data) for tensor in states)
    floats = 32 * (3 * 8 * 9 + 20 * 5)  # where these layers are in the segment
    most = 64 * 33 * 9 + 64 * 4 * 4 * 20 + floats + 8 * 4000  # channels are filled up to 64
    assert weights <= bits <= most
    assert {node.domain for node in file.graph.node} == {'', 'netopt'}
    assert {function.name for function in file.functions} == {
        node.op_type for node in file.graph.node if node.domain
    }


def test_several_inputs_and_outputs_keep_names_and_order(tmp_path):
    a, b = C.input_variable((4, 6, 5), name='second one'), C.input_variable(7, name='a')
    y = C.layers.Convolution2D((3, 3), 4, pad=True, name='map')(a)
    heads = C.combine(
        [
            C.layers.Dense(3, name='zebra')(y),
            C.layers.Dense(2, name='ant')(y),
            C.alias(C.layers.Dense(3)(b) + C.layers.Dense(3)(y), name='both'),
        ]
    )
    path = str(tmp_path / 'heads.onnx')
    exported = deploy.export(heads, path)
    names = [argument.name.replace(' ', '_') for argument in heads.arguments]
    assert exported.inputs == names and exported.outputs == ['zebra', 'ant', 'both']
    values = {
        argument: np.random.RandomState(2).randn(*((3,) + argument.shape)).astype(np.float32)
        for argument in heads.arguments
    }
    expected = heads.eval(values)
    for found, output in zip(
        run(path, *[values[argument] for argument in heads.arguments]), heads.outputs
    ):
        assert_same(found, expected[output])


def test_an_input_that_is_an_output(tmp_path):
    x, y = C.input_variable((3, 9, 8), name='x'), C.input_variable(3, name='y')
    path = str(tmp_path / 'file.onnx')
    exported = deploy.export(C.combine([x, C.layers.Dense(3, name='z')(x), y]), path)
    assert exported.outputs == ['x_2', 'z', 'y_2'] and sorted(exported.inputs) == ['x', 'y']
    values = {'x': np.ones((2, 3, 9, 8), np.float32), 'y': np.eye(2, 3, dtype=np.float32)}
    found = run(path, *[values[name] for name in exported.inputs])
    assert np.array_equal(found[0], values['x']) and np.array_equal(found[2], values['y'])


def test_a_factored_and_a_loaded_network(tmp_path):
    x, model = small()
    factored = nc.factorization.factor_dense(model, projection_function=lambda W: 3)
    path = str(tmp_path / 'factored.onnx')
    assert deploy.export(factored, path).segments == []
    values = np.random.RandomState(3).randn(3, 3, 9, 8).astype(np.float32)
    assert_same(run(path, values)[0], factored.eval({factored.arguments[0]: values}))
    lowered = nc.quantization.convert_to_native_binary_convolution(binarized(model))
    lowered.save(str(tmp_path / 'lowered.model'))
    loaded = C.load_model(str(tmp_path / 'lowered.model'))
    assert len(deploy.export(loaded, path).segments) == 2
    assert_same(run(path, values)[0], loaded.eval({loaded.arguments[0]: values}))


def test_sequences_with_a_binary_dense(tmp_path):
    x = C.sequence.input_variable(6, name='steps')
    model = C.layers.Dense(3, name='float')(C.layers.Dense(40, name='layer', activation=C.tanh)(x))
    binary = binarized(model)
    path = str(tmp_path / 'sequences.onnx')
    assert len(deploy.export(binary, path).segments) == 1
    values = [np.random.RandomState(4).randn(5, 6).astype(np.float32) for _ in range(3)]
    expected = np.stack(binary.eval({binary.arguments[0]: values}), axis=1)
    assert_same(run(path, np.stack(values, axis=1))[0], expected)


def test_free_sizes_without_padding(tmp_path):
    x = C.input_variable((3, C.FreeDimension, C.FreeDimension), name='image')
    y = C.layers.Convolution2D((3, 3), 8, name='float')(x)
    y = C.layers.Convolution2D((3, 3), 16, name='layer')(y)
    binary = binarized(y)
    path = str(tmp_path / 'free.onnx')
    deploy.export(binary, path)
    for sides in ((9, 11), (32, 7)):
        values = np.random.RandomState(5).randn(2, 3, *sides).astype(np.float32)
        assert_same(run(path, values)[0], binary.eval({binary.arguments[0]: values}))


def test_a_shortcut_over_free_sizes(tmp_path):
    x = C.input_variable((3, C.FreeDimension, C.FreeDimension), name='image')
    y = C.layers.Convolution2D((1, 1), 8, pad=True)(x)
    model = C.layers.Convolution2D((1, 1), 4, strides=2, pad=True, name='shortcut')(C.relu(y))
    path = str(tmp_path / 'free.onnx')
    deploy.export(model, path)
    for sides in ((9, 11), (32, 7), (8, 6)):
        values = np.random.RandomState(5).randn(2, 3, *sides).astype(np.float32)
        assert_same(run(path, values)[0], model.eval({x: values}))


def test_metadata_says_what_the_file_is(tmp_path):
    x, model = small()
    record = nc.Record('BinarizeConvolution', 2, 100, 0.1, 0.3, [(100, 0.3), (200, 0.12)])
    path = str(tmp_path / 'file.onnx')
    exporting.export(binarized(model), path, records=[record], metric=0.12)
    with open(path, 'rb') as file:
        found = onnx_file.metadata(file.read())
    values = {name: json.loads(text) for name, text in found.items()}
    assert values['netopt.format'] == 1 and values['netopt.version'] == nc.__version__
    assert (
        values['netopt.metric'] == 0.12
        and values['netopt.records'][0]['optimization'] == 'BinarizeConvolution'
    )
    assert 'CNTK' in values['netopt.thresholds_read_on'][0]


def test_result_export_writes_the_network_of_a_run(tmp_path):
    x, model = small()
    label = C.input_variable(5)
    criterion = C.combine(
        [C.cross_entropy_with_softmax(model, label), C.classification_error(model, label)]
    )
    random = np.random.RandomState(6)
    images = random.randn(64, 3, 9, 8).astype(np.float32)
    labels = np.eye(5, dtype=np.float32)[random.randint(5, size=64)]
    trainer = C.Trainer(
        model, criterion, [C.sgd(model.parameters, C.learning_parameter_schedule(0.01))]
    )
    with nc.attach(
        trainer,
        epoch_size=64,
        data=(images, labels),
        callbacks=[
            nc.BinarizeConvolution(epoch=1, filter_function=lambda layer: layer.name == 'second'),
            nc.Lower(),
        ],
    ) as attached:
        path = str(tmp_path / 'run.onnx')
        for _ in range(2):
            trainer.train_minibatch({x: images, label: labels})
            with pytest.raises(RuntimeError, match='until the run has ended.* nc.deploy.export'):
                attached.result.export(path)
        assert len(deploy.export(model, path, data=images).segments) == 1
    exported = attached.result.export(path)
    assert exported.comparison.samples == 64 and len(exported.segments) == 1
    lowered = attached.result.lowered
    assert_same(run(path, images)[0], lowered.eval({lowered.arguments[0]: images}))
    with open(path, 'rb') as file:
        records = json.loads(onnx_file.metadata(file.read())['netopt.records'])
    assert [record['optimization'] for record in records] == ['BinarizeConvolution']
    with pytest.raises(RuntimeError, match='until the run has ended'):
        nc.Result().export(path)


def test_a_network_that_is_lowered_in_part_is_exported(tmp_path):
    x, model = small()
    hidden = binarized(model, keep=('float', 'second'))
    path = str(tmp_path / 'file.onnx')
    for lowered in (lowering.lower_binary_layers(hidden), lower_segments(hidden, 'apart').model):
        both = binarized(lowered)
        exported = deploy.export(both, path)
        assert len(exported.segments) == 2
        values = np.random.RandomState(3).randn(3, 3, 9, 8).astype(np.float32)
        assert_same(run(path, values)[0], both.eval({both.arguments[0]: values}))


def test_what_has_no_name_is_input_and_output(tmp_path):
    x, y = C.input_variable(3), C.input_variable(3)
    path = str(tmp_path / 'file.onnx')
    exported = deploy.export(C.combine([C.layers.Dense(2)(x + y), x * y]), path)
    net = deploy.session(path)
    assert [value.name for value in net.get_inputs()] == exported.inputs == ['input', 'input_2']
    assert [value.name for value in net.get_outputs()] == exported.outputs == ['output', 'output_2']


def test_bad_arguments(tmp_path):
    x, model = small()
    path = str(tmp_path / 'file.onnx')
    with pytest.raises(TypeError, match='must be a cntk.Function'):
        deploy.export('model', path)
    with pytest.raises(ValueError, match='apply it'):
        deploy.export(C.layers.Dense(3), path)
    with pytest.raises((TypeError, ValueError)):
        deploy.export(model, path, data=3)
    with pytest.raises(ValueError, match='data for argument image .* got str: give a NumPy array'):
        deploy.export(model, path, data=('x',))
    with pytest.raises(TypeError, match="data must be arrays .* got the str 'x'; open a file"):
        deploy.export(model, path, data='x')
    assert os.listdir(str(tmp_path)) == []


PATHS = [
    (lambda folder: None, TypeError, 'must be text or a pathlib.Path, got None; give the name'),
    (lambda folder: 3, TypeError, 'must be text or a pathlib.Path, got 3; give the name'),
    (
        lambda folder: b'bytes of a file' * 9,
        TypeError,
        "must be .*, got b'bytes .{,30}'; give the name",
    ),
    (lambda folder: '', ValueError, "must name a file, got ''; give"),
    (lambda folder: 'a\0b', ValueError, 'must name a file, got .*; give'),
    (lambda folder: str(folder / 'new') + os.sep, ValueError, 'must name a file, got .*; give'),
    (lambda folder: folder, ValueError, 'must be that of a file, got .*, which is a folder'),
    (lambda folder: os.devnull, ValueError, 'must be that of a file, .* or a device; give'),
]


def test_a_recurrence_on_lstm_is_not_blamed_for_another_fault(tmp_path, monkeypatch):
    """Its own delays are written with it, for any batch."""

    def differing(*_):
        raise deploy.ExportError('output 0 differs from CNTK')

    monkeypatch.setattr(exporting, 'compare', differing)
    x = C.sequence.input_variable(6, name='words')
    with pytest.raises(deploy.ExportError, match='^output 0 differs from CNTK$'):
        deploy.export(C.layers.Recurrence(C.layers.LSTM(5))(x), str(tmp_path / 'file.onnx'))


@pytest.mark.parametrize('path, error, said', PATHS)
def test_a_path_that_is_none_is_refused_before_anything_is_done(
    path, error, said, tmp_path, monkeypatch
):
    monkeypatch.setattr(exporting, 'CutNetwork', None)
    with pytest.raises(error, match='^deploy.export: path ' + said):
        deploy.export(small()[1], path(tmp_path))
    with pytest.raises(error, match='^deploy.session: path ' + said):
        deploy.session(path(tmp_path))
    assert os.listdir(str(tmp_path)) == []


def test_a_folder_that_takes_no_file_is_refused_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, 'CutNetwork', None)
    with pytest.raises(FileNotFoundError, match='there is no folder .*nowhere; make it'):
        deploy.export(small()[1], str(tmp_path / 'nowhere' / 'file.onnx'))
    monkeypatch.setattr(os, 'access', lambda *_: False)  # root may write anywhere
    with pytest.raises(PermissionError, match='nothing may be written into .*; give another'):
        deploy.export(small()[1], tmp_path / 'file.onnx')
    assert os.listdir(str(tmp_path)) == []


def test_a_path_of_pathlib(tmp_path):
    path = tmp_path / 'file.onnx'
    assert deploy.export(small()[1], path).path == str(path)
    assert deploy.session(path).get_inputs()[0].name == 'image'
    with pytest.raises(FileNotFoundError, match='there is no file .*other.onnx; write it'):
        deploy.session(tmp_path / 'other.onnx')


def test_the_tolerance_is_not_what_makes_the_comparison_pass(tmp_path, monkeypatch):
    """Outputs differ by roundings alone: a tenth of what is admitted is enough."""
    monkeypatch.setattr(check, 'TOLERANCE', 1e-5)
    x, model = small()
    assert (
        deploy.export(binarized(model), str(tmp_path / 'file.onnx')).comparison.largest_error < 1e-5
    )


def test_a_segment_without_a_standard_form_is_refused_by_name(tmp_path, monkeypatch):
    x, model = small()
    cut = exporting.CutNetwork

    def with_a_large_window(network, *_):
        made = cut(network)
        made.segments[0].state = nc.native.Program(
            [dict(op='average_pool', input='x', values='y', kernel=(9, 9))],
            {'x': (3, 12, 12)},
            ['y'],
        ).state()
        return made

    monkeypatch.setattr(exporting, 'CutNetwork', with_a_large_window)
    with pytest.raises(
        NotImplementedError,
        match="segment 'second_to_hidden'.*pool.* of a larger image.*keep",
    ):
        deploy.export(binarized(model), str(tmp_path / 'file.onnx'))
