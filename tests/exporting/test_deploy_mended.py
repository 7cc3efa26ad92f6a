"""What CNTK writes wrongly or not at all: mended, or refused by name, and then nothing is left
behind."""
import os

import cntk as C
import numpy as np
import pytest

onnx = pytest.importorskip('onnx', reason='the onnx package is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

from netopt_callbacks import deploy, lowering  # noqa: E402
from segment_networks import binarized  # noqa: E402
from test_deploy import BATCHES, assert_same, run  # noqa: E402


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
        "PastValue '[^']*' reads the step before .* batch of one: export the network up to there",
    ),
    (
        'the step after, and the steps',
        lambda: (lambda x: C.sequence.future_value(x) + x)(steps(7)),
        "FutureValue '[^']*' reads the step before or after",
    ),
    (
        'the first step',
        lambda: (lambda x: C.element_select(C.sequence.is_first(x), x, -x))(steps(7)),
        "PastValue '[^']*' reads the step before or after",
    ),
    ('Fold', lambda: C.layers.Fold(C.layers.LSTM(3))(steps(7)), 'batch of one'),
    (
        'an LSTM with a cell of its own size',
        lambda: C.layers.Recurrence(C.layers.LSTM(5, cell_shape=7, name='lstm'))(steps(6)),
        r"LSTM '[^']*lstm[^']*' has a cell of the shape \(7,\) .*leave cell_shape out",
    ),
    (
        'an LSTM that gives its cell',
        lambda: C.combine(
            C.layers.Recurrence(C.layers.LSTM(5), return_full_state=True)(steps(6)).outputs
        ),
        "LSTM '[^']*' gives its cell, too .return_full_state.",
    ),
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
    (
        'a slice with strides',
        lambda: C.slice(image(), [0, 1], [0, 1], [0, 0], [1, 2], name='every second'),
        "Slice 'every second' has strides.*; splice slices",
    ),
    (
        'a reversed slice',
        lambda: C.slice(image(), 1, 0, 9, -1, name='reversed'),
        "Slice 'reversed' has strides",
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
        'LayerNormalization with an epsilon of its own',
        lambda x: C.layers.LayerNormalization(epsilon=1e-6)(C.layers.Dense(7)(x) * 1e-4),
    ),
    ('normalized vectors', lambda x: C.mean_variance_normalization(C.layers.Dense(7)(x))),
    (
        'normalized maps',
        lambda x: C.mean_variance_normalization(x, 1e-6, use_stats_across_channels=True)
        + C.mean_variance_normalization(x * 0.01, do_variance_scaling=False),
    ),
    ('one of two values', lambda x: C.combine(C.top_k(C.layers.Dense(7)(x), 2).outputs[:1])),
    ('the other of two', lambda x: C.combine(C.top_k(C.layers.Dense(7)(x), 2).outputs[1:])),
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
    ('sliced to the end', lambda x: C.layers.Dense(3)(x[1:])),
    ('sliced to the end of a later axis', lambda x: C.slice(x, 1, 2, 0)),
    (
        'sliced on several axes',
        lambda x: C.slice(C.slice(x, [0, 1], [1, 2], [0, 0]), [1, 2], [-3, 0], [0, -2]),
    ),
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


def test_normalized_steps_run_batches(tmp_path):
    model = C.mean_variance_normalization(C.layers.Dense(5)(steps(7)))
    assert_steps_run_batches(model, str(tmp_path / 'file.onnx'), 4, 7)


def test_recurrences_run_batches(tmp_path):
    model = C.layers.Dense(3)(C.layers.Recurrence(C.layers.LSTM(5))(steps(7)))
    assert_steps_run_batches(model, str(tmp_path / 'file.onnx'), 4, 7)
