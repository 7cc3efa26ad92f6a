"""Segments over sequences and over images of free size leave CNTK."""
import cntk as C
import numpy as np
import pytest

pytest.importorskip('onnx', reason='the onnx package is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

from binary_networks import images  # noqa: E402
from netopt_callbacks import deploy  # noqa: E402
from segment_networks import binarized, unsettle  # noqa: E402


def sessions(path):
    """Yields a session with the library, and one without it."""
    yield deploy.session(path)
    yield onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])


def test_images_of_any_size(tmp_path):
    x = C.input_variable((4, C.FreeDimension, C.FreeDimension), name='image')
    y = C.layers.Convolution2D((3, 3), 8, pad=True, activation=C.relu, name='one')(x)
    y = C.layers.MaxPooling((2, 2), 2)(y)
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='two')(y)
    trained = binarized(C.layers.Convolution2D((1, 1), 3, name='float')(y), input_scale=None)
    path = str(tmp_path / 'any.onnx')
    exported = deploy.export(trained, path, data=images((4, 9, 12), 5))
    assert exported.segments == ['one_to_two']
    for session in sessions(path):
        for size in ((9, 12), (8, 7), (21, 30)):
            values = images((4,) + size, 3)
            (found,) = session.run(None, {'image': values})
            np.testing.assert_allclose(found, trained.eval(values), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('batch', [1, 3])
def test_sequences_of_images(batch, tmp_path):
    """BatchNormalization and convolutions over steps are refused outside of a segment."""
    x = C.sequence.input_variable((4, 6, 6), name='frames')
    y = C.layers.Convolution2D((3, 3), 8, pad=True, bias=False, name='one')(x)
    y = C.relu(C.layers.BatchNormalization(map_rank=1)(y))
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='two')(y)
    y = C.layers.BatchNormalization()(C.layers.Dense(5, name='three')(y))
    model = C.layers.Dense(3, name='float')(y)
    unsettle(model, np.random.RandomState(3), odd=0)
    trained = binarized(model, input_scale=None)
    path = str(tmp_path / 'frames.onnx')
    exported = deploy.export(
        trained, path, data=([images((4, 6, 6), count, seed=count) for count in (3, 1, 4)],)
    )
    assert exported.segments == ['one_to_three']
    frames = images((4, 6, 6), 7 * batch).reshape(7, batch, 4, 6, 6)
    expected = np.stack(trained.eval({x: list(frames.swapaxes(0, 1))}), axis=1)
    for session in sessions(path):
        (found,) = session.run(None, {'frames': frames})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
