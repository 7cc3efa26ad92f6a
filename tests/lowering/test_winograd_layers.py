"""`float_layers='native'` does float convolutions by tiles of Winograd where that is faster, within
the gate's tolerance, and by taps where it is not."""
import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from binary_networks import images
from netopt_callbacks import deploy
from netopt_callbacks.lowering import Lower, LoweringError, lower_segments
from netopt_callbacks.lowering.parity_result import FloatParity
from segment_networks import binarized, unsettle

KIND = nc.BinarizeConvolution()
BY_TILES, BY_TAPS = dict(order='winograd'), None


def network():
    """Two float convolutions, which tiles pay for, around a binary one."""
    x = C.input_variable((32, 14, 14), name='image')
    with C.layers.default_options(pad=True, bias=False):
        y = C.layers.Convolution2D((3, 3), 48, name='float')(x)
        y = C.relu(C.layers.BatchNormalization(map_rank=1)(y))
        y = C.layers.Convolution2D((3, 3), 48, name='binary')(y)
        y = C.relu(C.layers.BatchNormalization(map_rank=1)(y))
        y = C.layers.Convolution2D((3, 3), 48, name='float')(y)
        y = C.relu(C.layers.BatchNormalization(map_rank=1)(y))
        y = C.layers.Dense(5, name='float')(C.layers.GlobalAveragePooling()(y))
    unsettle(y, np.random.RandomState(1))
    return x, binarized(C.alias(y, 'scores'), images(x.shape, 9), input_scale=None)


def orders(trained, *arguments):
    """Returns the `order` of the convolutions, in order; None where another one is taken."""
    ops = [op for part in lower_segments(trained, *arguments).segments for op in part.program.ops]
    return [
        dict(order=op['order']) if op.get('order') == 'winograd' else None
        for op in ops
        if op['op'] == 'float_convolution'
    ]


def test_layers_that_tiles_pay_for_are_done_by_tiles():
    x, trained = network()
    assert orders(trained, 'native') == [BY_TILES, BY_TILES]
    assert orders(trained, 'taps') == [BY_TAPS, BY_TAPS]
    lowered, found = Lower(float_layers='native').run(trained, [KIND], [{x: images(x.shape, 20)}])
    first, second, dense = found.segments[0].floats
    assert first.winograd and second.winograd and not dense.winograd
    assert 0 < first.error < 1e-5 and 0 < second.error < 1e-5
    assert "float layer 'float', taken in by tiles of Winograd: " in str(found)
    assert found.to_dict()['segments'][0]['floats'][0]['winograd'] is True
    assert found.float_layers == 'native'
    values = images(x.shape, 3, seed=4)
    (part,) = lower_segments(trained, 'native').segments
    for implementation in nc.native.implementations():
        same = part.program.program(implementation)(values)
        assert np.array_equal(lowered.eval(values), same), implementation


def test_a_layer_that_cannot_be_compared_alone_is_done_by_taps():
    """It is in a block inside a block; where CNTK's order is known it is taken in all the same."""
    x = C.input_variable((32, 14, 14))
    inside = C.placeholder()
    y = C.layers.Convolution2D((3, 3), 48, pad=True, bias=False, name='float')(inside)
    y = C.as_block(C.relu(y), [(inside, x)], 'mine', 'mine')
    model = C.layers.Convolution2D((3, 3), 8, name='binary')(y)
    trained = binarized(model, images(x.shape, 9), input_scale=None)
    assert orders(trained, 'native') == orders(trained, 'taps') == orders(trained)


def test_the_default_keeps_cntks_bits():
    x, trained = network()
    assert BY_TILES not in orders(trained)
    _, found = Lower().run(trained, [KIND], [{x: images(x.shape, 20)}])
    assert not found.with_winograd and found.float_layers == 'cntk'


@pytest.mark.parametrize(
    'options',
    [
        dict(channels=3),  # what goes into tiles costs more than their products save
        dict(size=(3, 3)),  # most of a tile is no output
        dict(strides=2),  # a kernel of two strides
        dict(kernel=(1, 3)),
        dict(kernel=(3, 5)),
        dict(size=(C.FreeDimension, C.FreeDimension)),
    ],
    ids=str,
)
def test_layers_that_tiles_do_not_pay_for_or_cannot_do(options):
    x = C.input_variable((options.get('channels', 32),) + options.get('size', (14, 14)))
    y = C.layers.Convolution2D(
        options.get('kernel', (3, 3)),
        48,
        strides=options.get('strides', 1),
        pad='size' not in options,
        name='float',
    )(x)
    model = C.layers.Convolution2D((1, 1), 4, name='binary')(C.relu(y))
    trained = binarized(model, input_scale=None)
    assert orders(trained, 'native') == [BY_TAPS]


def test_a_layer_that_differs_by_too_much_is_done_by_taps(monkeypatch):
    honest = FloatParity.passed.fget
    monkeypatch.setattr(
        FloatParity, 'passed', property(lambda self: honest(self) and not self.winograd)
    )
    x, trained = network()
    _, found = Lower(float_layers='native').run(trained, [KIND], [{x: images(x.shape, 20)}])
    assert found.passed and not found.with_winograd and found.float_layers == 'taps'
    assert "by taps: by tiles of Winograd the network differs in segment 'binary', l" in str(found)
    assert found.to_dict()['left_tiles'] == found.left_tiles == "segment 'binary', layer 'float'"
    monkeypatch.setattr(FloatParity, 'passed', property(lambda self: False))
    with pytest.raises(LoweringError, match="float layer 'float', taken in: "):
        Lower(float_layers='native').run(trained, [KIND], [{x: images(x.shape, 20)}])


def test_a_file_by_tiles(tmp_path):
    pytest.importorskip('onnx', reason='the onnx package is not installed')
    pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    x, trained = network()
    path, values = str(tmp_path / 'model.onnx'), images(x.shape, 6, seed=3)
    assert deploy.export(trained, path, float_layers='native').segments == ['binary']
    lowering = lower_segments(trained, 'native')
    (part,) = lowering.segments
    session = deploy.session(path)
    for samples in (1, 6):
        (found,) = session.run(None, {'image': values[:samples]})
        assert np.array_equal(found, part.program.program()(values[:samples]))
    deploy.export(lowering.model, path)
    (again,) = deploy.session(path).run(None, {'image': values})
    assert np.array_equal(again, found)
    with pytest.raises(
        ValueError, match="deploy.export: float_layers must be 'cntk', 'native' or 'taps'"
    ):
        deploy.export(trained, path, float_layers='tiles')


def test_the_file_of_a_run_is_made_as_its_network_was_lowered(tmp_path):
    pytest.importorskip('onnx', reason='the onnx package is not installed')
    pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    x, trained = network()
    values, label = images(x.shape, 6, seed=3), C.input_variable(5)
    loss = C.cross_entropy_with_softmax(trained, label)
    trainer = C.Trainer(
        trained, loss, [C.sgd(trained.parameters, C.learning_parameter_schedule(0.001))]
    )
    labels = np.eye(5, dtype=np.float32)[[0, 1, 2, 3, 4, 0]]
    callbacks = [nc.Lower(float_layers='native')]
    with nc.attach(trainer, callbacks, epoch_size=6, data=(values, labels)) as attached:
        trainer.train_minibatch({trained.arguments[0]: values, label: labels})
    path = str(tmp_path / 'model.onnx')
    attached.result.export(path)
    (found,) = deploy.session(path).run(None, {'image': values})
    assert np.array_equal(found, attached.result.lowered.eval(values))


def test_a_file_that_tiles_would_make_wrong_has_cntks_bits(tmp_path, monkeypatch):
    pytest.importorskip('onnx', reason='the onnx package is not installed')
    pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    monkeypatch.setattr(FloatParity, 'passed', property(lambda self: False))
    x, trained = network()
    path, values = str(tmp_path / 'model.onnx'), images(x.shape, 6, seed=3)
    assert deploy.export(trained, path, float_layers='native').float_layers in ('cntk', 'apart')
    (found,) = deploy.session(path).run(None, {'image': values})
    assert np.allclose(found, trained.eval(values), rtol=0, atol=1e-5 * np.abs(found).max())
