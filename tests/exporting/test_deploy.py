"""Networks that leave CNTK: what is exported, what is refused, and that nothing else is left
behind."""
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
from netopt_callbacks.lowering import segment_pass  # noqa: E402
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
    x, y = image(), C.input_variable(3, name='y')
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


class Foreign(C.ops.functions.UserFunction):
    def __init__(self, x, name='foreign'):
        super().__init__([x], as_numpy=True, name=name)

    def forward(self, argument, device=None, outputs_to_retain=None):
        return None, argument

    def infer_outputs(self):
        return [
            C.output_variable(
                self.inputs[0].shape, self.inputs[0].dtype, self.inputs[0].dynamic_axes
            )
        ]


def image(*shape):
    return C.input_variable(shape or (3, 9, 8), name='x')


def steps(*shape):
    return C.sequence.input_variable(shape, name='x')


def recurrence_by_hand(binary):
    x = steps(5)
    before = C.placeholder(shape=(4,), dynamic_axes=x.dynamic_axes)
    y = C.layers.Dense(4, activation=C.tanh, name='loop')(
        C.splice(C.sequence.past_value(before, 0.1), x)
    )
    y = y.replace_placeholders({before: y.output})
    model = C.layers.Dense(3, name='float')(C.layers.Dense(6, name='behind')(y))
    return binarized(model, keep=('float',) if binary else ('float', 'loop'))


def recurrence_over(make):
    """Returns a recurrence with a binary Dense `loop` in what it repeats."""
    layer = C.layers.Dense(4, activation=C.tanh, name='loop')
    step = C.Function(lambda before, x: layer(C.splice(before, x)))
    return binarized(C.layers.Dense(3, name='float')(make(step)(steps(5))))


REFUSED = [
    (
        'a foreign UserFunction',
        lambda: C.user_function(Foreign(image())),
        "'foreign' is a UserFunction",
    ),
    (
        'free axes, padded',
        lambda: C.layers.Convolution2D((3, 3), 2, pad=True)(
            image(3, C.FreeDimension, C.FreeDimension)
        ),
        'axis of free size',
    ),
    (
        'free axes, pooled',
        lambda: C.layers.MaxPooling((3, 3), 2, pad=True, name='pool')(
            image(3, C.FreeDimension, C.FreeDimension)
        ),
        "Pooling 'pool' pads an axis of free size",
    ),
    (
        'free axes, with negative padding of some sizes',
        lambda: C.layers.Convolution2D((1, 1), 2, strides=3, pad=True, name='shortcut')(
            image(3, 9, C.FreeDimension)
        ),
        "Convolution 'shortcut' pads an axis of free size",
    ),
    (
        'negative padding, transposed',
        lambda: C.layers.ConvolutionTranspose2D((1, 1), 2, strides=2, pad=True, name='up')(image()),
        "Convolution 'up' leaves out the outermost",
    ),
    (
        'include_pad',
        lambda: C.pooling(
            image(), C.AVG_POOLING, (3, 3), (2, 2), auto_padding=[True], include_pad=True
        ),
        'include_pad',
    ),
    ('statistics of pixels', lambda: C.layers.BatchNormalization()(image()), 'map_rank=1'),
    (
        'statistics in a sequence',
        lambda: C.layers.BatchNormalization()(C.layers.Dense(4)(steps(7))),
        'feed the steps as a batch',
    ),
    (
        'a convolution in a sequence',
        lambda: C.layers.Convolution2D((3, 3), 2)(steps(3, 9, 8)),
        'feed the steps as a batch',
    ),
    (
        'pooling in a sequence',
        lambda: C.layers.MaxPooling((2, 2), 2)(steps(3, 8, 8)),
        'feed the steps as a batch',
    ),
    ('the last step', lambda: C.sequence.last(steps(7)), 'batch of one'),
    (
        'the last step of a recurrence',
        lambda: C.sequence.last(C.layers.Recurrence(C.layers.LSTM(3))(steps(7))),
        r"^deploy.export: the network ends a sequence with sequence.last .or first, [^;]*; "
        r"GatherPacked '[^']*'., which CNTK's exporter writes for a batch of one: export the "
        r"network up to the sequence, and take the last step [^\[]*$",
    ),
    (
        'the step before',
        lambda: C.sequence.past_value(steps(7)),
        "PastValue '[^']*' reads the step before .* batch of one: .*in the file",
    ),
    ('Fold', lambda: C.layers.Fold(C.layers.LSTM(3))(steps(7)), 'batch of one'),
    ('a recurrence by hand', lambda: recurrence_by_hand(False), 'closes a loop, build .* LSTM'),
    (
        'a binary layer in a recurrence by hand',
        lambda: recurrence_by_hand(True),
        "'loop' is a binary layer inside a recurrence of one's own .* build .* on LSTM",
    ),
    (
        'a binary layer in Recurrence',
        lambda: recurrence_over(C.layers.Recurrence),
        "'loop' is a binary layer inside a recurrence of one's own",
    ),
    (
        'a binary layer in Fold',
        lambda: recurrence_over(C.layers.Fold),
        "'loop' is a binary layer inside a recurrence of one's own",
    ),
    (
        'a binary layer in Recurrence, lowered',
        lambda: lowering.lower_binary_layers(
            recurrence_over(lambda step: C.layers.Recurrence(step, go_backwards=True))
        ),
        "'loop' is a binary layer inside a recurrence of one's own",
    ),
    ('weights on the left', lambda: C.times(C.parameter((5, 7)), image(7)), 'on the left'),
    (
        'a sparse input',
        lambda: C.layers.Dense(3)(C.input_variable(7, is_sparse=True, name='x')),
        "'x' is sparse",
    ),
    (
        'no batch axis',
        lambda: C.relu(C.input_variable((2, 3), dynamic_axes=[], name='x')),
        "'x' has no batch axis",
    ),
    (
        'an output that reads no input',
        lambda: C.combine([C.relu(image()), C.constant(np.ones(3, np.float32)) * 2]),
        'output 1, of shape .3,., has no batch axis',
    ),
    (
        'a border that is repeated',
        lambda: C.pad(image(), [(0, 0), (1, 1), (2, 2)], mode=2, name='border'),
        "Pad 'border' repeats the border",
    ),
    ('an operator of a draft', lambda: C.image_scaler(image(), 0.5, [1, 2, 3]), 'ImageScaler'),
    (
        'an operation that the exporter lacks',
        lambda: C.sinh(image()),
        'Sinh.*; write what the node computes with other operations, or end the network before it',
    ),
    (
        'an operation of two inputs that the exporter lacks',
        lambda: C.cosine_distance(image(4), C.input_variable(4), name='cosine'),
        "CosDistance.*'cosine'.*; write what the node computes with other operations",
    ),
    (
        'a loss',
        lambda: C.cross_entropy_with_softmax(
            C.layers.Dense(4)(image()), C.input_variable(4, name='y')
        ),
        'is a loss',
    ),
    (
        'a dilated convolution',
        lambda: C.layers.Convolution2D((3, 3), 2, dilation=2)(image()),
        'cannot evaluate',
    ),
]


@pytest.mark.parametrize(
    'network, said', [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_what_would_not_be_right_is_refused_by_name_and_leaves_no_file(network, said, tmp_path):
    path = tmp_path / 'file.onnx'
    path.write_bytes(b'what was there')
    with pytest.raises(NotImplementedError, match=said):
        deploy.export(network(), str(path))
    assert path.read_bytes() == b'what was there' and os.listdir(str(tmp_path)) == ['file.onnx']


RIGHT = [
    ('two Dense on one map', lambda x: C.combine([C.layers.Dense(3)(x), C.layers.Dense(2)(x)])),
    (
        'one Dense on two maps',
        lambda x: (lambda dense: dense(x) + dense(C.tanh(x)))(C.layers.Dense(3)),
    ),
    ('LayerNormalization', lambda x: C.layers.LayerNormalization()(C.layers.Dense(7)(x))),
    (
        'names given twice',
        lambda x: C.combine([C.layers.Dense(3, name='z')(x), C.layers.Dense(2, name='z')(x)]),
    ),
    (
        'an inner output',
        lambda x: (lambda h: C.combine([h, C.layers.Dense(3)(h)]))(
            C.layers.Dense(4, activation=C.relu)(x)
        ),
    ),
    ('transposed', lambda x: C.layers.ConvolutionTranspose2D((3, 3), 4, strides=2, pad=True)(x)),
    (
        'grouped',
        lambda x: C.convolution(
            C.parameter((6, 1, 3, 3), init=C.normal(0.3)),
            x,
            auto_padding=[False, True, True],
            groups=3,
        ),
    ),
    (
        'pooling, rounded up',
        lambda x: C.pooling(x, C.MAX_POOLING, (2, 2), (2, 2), ceil_out_dim=True),
    ),
    (
        'the shortcut of a ResNet',
        lambda x: C.layers.Convolution2D((1, 1), 2, strides=2, pad=True)(C.relu(x)),
    ),
    (
        'negative padding at both ends',
        lambda x: C.layers.Convolution2D((1, 2), 2, strides=(4, 5), pad=True)(x),
    ),
    (
        'negative padding, pooled',
        lambda x: C.layers.MaxPooling((1, 3), (3, 3), pad=True)(
            C.layers.AveragePooling((1, 1), (1, 3), pad=(False, True))(x)
        ),
    ),
    (
        'squeezed',
        lambda x: C.layers.Dense(3)(C.squeeze(C.layers.GlobalAveragePooling()(C.relu(x)))),
    ),
    (
        'normalized over more channels than there are',
        lambda x: C.combine(
            [C.local_response_normalization(C.tanh(x), radius, 1.5, 0.4, 0.75) for radius in (1, 7)]
            + [C.local_response_normalization(x[:2], 2, 1, 0.4, 0.5)]
        ),
    ),
    ('padded by reflection', lambda x: C.pad(x, [(0, 0), (1, 2), (3, 0)], mode=1)),
    ('squeezed to one number', lambda x: C.squeeze(C.reduce_sum(x))),
    ('softmax of a map', lambda x: C.softmax(x) * 3),
    ('hardmax of a map', lambda x: C.hardmax(x) + x),
    (
        'fully convolutional',
        lambda x: C.softmax(
            C.layers.GlobalAveragePooling()(C.layers.Convolution2D((1, 1), 5)(C.relu(x)))
        ),
    ),
    ('Dropout', lambda x: C.layers.Dropout(0.5)(C.layers.Dense(5)(x))),
]


@pytest.mark.parametrize('network', [row[1] for row in RIGHT], ids=[row[0] for row in RIGHT])
def test_what_cntk_writes_wrongly_or_not_at_all_is_mended(network, tmp_path):
    model = network(image())
    path = str(tmp_path / 'file.onnx')
    deploy.export(model, path)
    for batch in BATCHES:
        values = np.random.RandomState(batch).randn(batch, 3, 9, 8).astype(np.float32)
        expected = model.eval({model.arguments[0]: values})
        expected = (
            [expected[output] for output in model.outputs]
            if isinstance(expected, dict)
            else [expected]
        )
        for found, wanted in zip(run(path, values), expected):
            assert_same(found, wanted.reshape(found.shape))


@pytest.mark.parametrize('side, stride', [(9, 3), (8, 4), (8, 2)])
def test_a_binary_layer_that_leaves_out_the_outermost_pixels(side, stride, tmp_path):
    x = C.input_variable((4, side, side), name='x')
    y = C.layers.Convolution2D((3, 3), 8, pad=True, activation=C.relu, name='float')(x)
    y = C.layers.Convolution2D((1, 1), 8, strides=stride, pad=True, name='layer')(y)
    binary = binarized(C.layers.Dense(3, name='float')(C.sin(y)))
    path = str(tmp_path / 'file.onnx')
    for network in (binary, lowering.lower_binary_layers(binary)):
        assert len(deploy.export(network, path).segments) == 1
        values = np.random.RandomState(3).randn(3, 4, side, side).astype(np.float32)
        for session in (deploy.session(path), onnxruntime.InferenceSession(path)):
            (found,) = session.run(None, {'x': values})
            assert_same(found, binary.eval({binary.arguments[0]: values}))


def assert_steps_run_batches(model, path, batch, *shape):
    deploy.export(model, path)
    random = np.random.RandomState(7)
    values = [random.randn(batch, *shape).astype(np.float32) for _ in range(3)]
    expected = np.stack(model.eval({model.arguments[0]: values}), axis=1)
    assert_same(run(path, np.stack(values, axis=1))[0], expected)


def test_steps_of_which_a_binary_layer_leaves_out_the_outermost_pixels(tmp_path):
    model = C.layers.Convolution2D((1, 1), 8, strides=3, pad=True, name='layer')(steps(4, 9, 8))
    binary = lowering.lower_binary_layers(binarized(model))
    assert_steps_run_batches(binary, str(tmp_path / 'file.onnx'), 4, 4, 9, 8)


def test_squeezed_steps_run_batches(tmp_path):
    model = C.layers.Dense(3)(C.squeeze(C.reduce_mean(steps(4, 6, 6), (1, 2))))
    assert_steps_run_batches(model, str(tmp_path / 'file.onnx'), 5, 4, 6, 6)


def test_recurrences_run_batches(tmp_path):
    model = C.layers.Dense(3)(C.layers.Recurrence(C.layers.LSTM(5))(steps(7)))
    assert_steps_run_batches(model, str(tmp_path / 'file.onnx'), 4, 7)


@pytest.mark.parametrize(
    'spoil, said',
    [
        (lambda graph: graph.node[-1].input.__setitem__(0, 'nowhere'), 'read what no node gives'),
        (
            lambda graph: graph.output.remove(
                next(value for value in graph.output if value.name.startswith('netopt_entry'))
            ),
            "did not write what segment 'second_to_hidden' reads",
        ),
    ],
    ids=['a node', 'a segment'],
)
def test_what_cannot_be_put_together_is_refused(spoil, said, tmp_path, monkeypatch):
    mended = exporting.exported

    def spoiled(network):
        file = mended(network)
        spoil(file.graph)
        return file

    monkeypatch.setattr(exporting, 'exported', spoiled)
    with pytest.raises(deploy.ExportError, match=said):
        deploy.export(binarized(small()[1]), str(tmp_path / 'file.onnx'))
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize(
    'spoil, said',
    [
        ('bias', 'output 0 differs from CNTK'),
        ('state', 'differs from CNTK'),
    ],
)
def test_a_file_that_computes_something_else_is_not_handed_over(spoil, said, tmp_path, monkeypatch):
    x, model = small()
    path = tmp_path / 'file.onnx'
    path.write_bytes(b'what was there')
    if spoil == 'bias':
        mended = exporting.exported

        def spoiled(network):
            file = mended(network)
            tensor = next(tensor for tensor in file.graph.initializer if list(tensor.dims) == [5])
            array = onnx.numpy_helper.to_array(tensor) + np.float32(0.5)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
            return file

        monkeypatch.setattr(exporting, 'exported', spoiled)
    else:
        cut = exporting.CutNetwork

        def other(model, *_):
            made = cut(model)
            _, different = small()
            for parameter in different.parameters:
                parameter.value = -parameter.value
            made.segments[0].state = cut(binarized(different)).segments[0].state
            return made

        monkeypatch.setattr(exporting, 'CutNetwork', other)
    with pytest.raises(deploy.ExportError, match=said):
        deploy.export(C.tanh(binarized(model)) + C.constant(np.ones(5, np.float32)), str(path))
    assert path.read_bytes() == b'what was there' and os.listdir(str(tmp_path)) == ['file.onnx']


@pytest.mark.parametrize('ties, wrong, said', [(20, 1, 'warned'), (20, 2, 'refused'), (5, 1, '')])
def test_a_file_in_which_bits_tie_everywhere(ties, wrong, said, tmp_path, monkeypatch):
    x, model = small()
    images = np.random.RandomState(11).randn(20, 3, 9, 8).astype(np.float32)
    compare_whole = check._compare_whole

    def with_ties(*arguments):
        found, differ = (each.copy() for each in compare_whole(*arguments))
        found[:ties], differ[:wrong] = True, True
        return found, differ

    monkeypatch.setattr(check, '_compare_whole', with_ties)
    path = tmp_path / 'file.onnx'

    def export():
        return str(deploy.export(binarized(model), str(path), data=images))

    if said == 'refused':
        with pytest.raises(deploy.ExportError, match='ties in 20 of 20 samples, and 2 predictions'):
            export()
        assert not path.exists()
    elif said == 'warned':
        with pytest.warns(UserWarning, match='nothing could be compared.*1 predictions differ'):
            assert 'none without a tie, so end to end nothing could be compared' in export()
    else:
        assert '5 with a tie (largest error' in export()


def test_the_very_file_is_compared_also_as_it_runs_without_the_library(tmp_path, monkeypatch):
    assembled = exporting.assembled

    def spoiled(*arguments):
        file = assembled(*arguments)
        for function in file.functions:
            for value in [
                node.attribute[0].t for node in function.node if node.op_type == 'Constant'
            ]:
                array = onnx.numpy_helper.to_array(value)
                if array.dtype == np.float32:
                    value.CopyFrom(onnx.numpy_helper.from_array(-array))
        return file

    monkeypatch.setattr(exporting, 'assembled', spoiled)
    x, model = small()
    with pytest.raises(deploy.ExportError, match="what the file gives as .* differs from CNTK"):
        deploy.export(binarized(model), str(tmp_path / 'file.onnx'))
    assert os.listdir(str(tmp_path)) == []


def test_a_map_that_is_transposed_between_segments_runs_without_the_library(tmp_path):
    x = C.input_variable((4, 7, 7), name='x')
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='one')(x)
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='two')(C.transpose(y, (0, 2, 1)))
    values = np.random.RandomState(3).randn(3, 4, 7, 7).astype(np.float32)
    binary = binarized(y, values)
    path = str(tmp_path / 'file.onnx')
    assert len(deploy.export(binary, path).segments) == 2
    (found,) = onnxruntime.InferenceSession(path).run(None, {'x': values})
    assert_same(found, binary.eval({binary.arguments[0]: values}))


def test_a_network_lowered_wrongly_is_not_handed_over(tmp_path, monkeypatch):
    """The file computes what the lowered network does, which is not what was given."""
    honest = segment_pass.SegmentProgram

    class Wrong(honest):
        def __init__(self, segment):
            super().__init__(segment)
            self.ops[0]['threshold'] = np.float32(0.7)

    monkeypatch.setattr(segment_pass, 'SegmentProgram', Wrong)
    x, model = small()
    path = tmp_path / 'file.onnx'
    path.write_bytes(b'what was there')
    with pytest.raises(
        deploy.ExportError, match="it first differs in segment 'second_to_hidden', layer 'second'"
    ):
        deploy.export(binarized(model), str(path))
    assert path.read_bytes() == b'what was there' and os.listdir(str(tmp_path)) == ['file.onnx']


def test_what_a_file_gives_is_what_the_given_network_does(tmp_path, monkeypatch):
    """Also where what CNTK's native code gives in between is something else."""
    x, model = small()
    cut = exporting.CutNetwork

    def of_another(network, *_):
        made, other = cut(network), cut(network * 2)
        for name in ('whole', 'model', 'segments'):
            setattr(made, name, getattr(other, name))
        return made

    monkeypatch.setattr(exporting, 'CutNetwork', of_another)
    with pytest.raises(deploy.ExportError, match="at batch 1 .* differs from CNTK"):
        deploy.export(binarized(model), str(tmp_path / 'file.onnx'))
    assert os.listdir(str(tmp_path)) == []


def test_a_network_of_which_nothing_can_be_compared_is_not_handed_over(tmp_path):
    x, model = small()
    model.parameters[0].value = np.full(model.parameters[0].shape, np.nan, np.float32)
    with pytest.raises(deploy.ExportError, match='nothing could be compared.*not finite'):
        deploy.export(model, str(tmp_path / 'file.onnx'))
    with pytest.raises(deploy.ExportError, match='nothing could be compared.*not finite'):
        deploy.export(C.combine([binarized(model) * np.nan]), str(tmp_path / 'file.onnx'))
    assert os.listdir(str(tmp_path)) == []
    some = C.combine([small()[1], C.layers.Dense(2)(x) * np.inf])
    deploy.export(some, str(tmp_path / 'file.onnx'))


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


def test_a_recurrence_on_lstm_is_not_blamed_for_another_fault(tmp_path):
    """Its own delays are written with it, for any batch."""
    x = C.sequence.input_variable(6, name='words')
    both = C.layers.Recurrence(C.layers.LSTM(5), return_full_state=True)(x)
    with pytest.raises(deploy.ExportError) as refused:
        deploy.export(C.combine(list(both.outputs)), str(tmp_path / 'both.onnx'))
    assert 'PastValue' not in str(refused.value) and 'batch of one' not in str(refused.value)


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
