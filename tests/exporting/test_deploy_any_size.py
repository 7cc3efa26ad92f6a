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


def image_and_sequence(over_image, over_words):
    """Returns a network of an image and a sequence, with an output of each."""
    image = C.input_variable((3, 6, 6), name='image')
    words = C.sequence.input_variable(6, name='words')
    return C.combine([over_image(image), over_words(words)])


def convolved(image):
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='one')(image)
    return C.layers.Dense(2, name='float')(C.layers.Dense(5, activation=C.relu)(y))


def binary(image):
    return binarized(convolved(image), input_scale=None)


NETWORKS = {
    'plain': (lambda image: C.layers.Dense(2)(image), C.layers.Dense(3)),
    'convolution': (convolved, C.layers.Dense(3)),
    'binary': (binary, C.layers.Dense(3)),
    'lstm': (convolved, lambda words: C.layers.Recurrence(C.layers.LSTM(4))(words)),
    'gru': (binary, lambda words: C.layers.Recurrence(C.layers.GRU(4))(words)),
    'sum': (convolved, lambda words: C.layers.Dense(2)(C.sequence.reduce_sum(words))),
    'normalized sum': (
        binary,
        lambda words: C.layers.LayerNormalization()(C.sequence.reduce_sum(words)),
    ),
}


@pytest.mark.parametrize('with_data', [False, True])
@pytest.mark.parametrize('first', ['image', 'words'])
@pytest.mark.parametrize('kind', sorted(NETWORKS))
def test_an_image_and_a_sequence_in_one_network(tmp_path, kind, first, with_data):
    """CNTK's exporter puts the batch first where there are no steps, and second where there are."""
    model = image_and_sequence(*NETWORKS[kind])
    if first == 'words':
        model = C.combine(list(reversed(model.outputs)))
    path = str(tmp_path / 'both.onnx')
    random = np.random.RandomState(1)
    data = {
        'image': images((3, 6, 6), 3),
        'words': [random.randn(steps, 6).astype(np.float32) for steps in (2, 5, 1)],
    }
    deploy.export(model, path, data=data if with_data else None)
    arguments = {argument.name: argument for argument in model.arguments}
    for batch, steps in ((5, 3), (1, 4)):
        image, words = images((3, 6, 6), batch), random.randn(steps, batch, 6).astype(np.float32)
        expected = model.eval(
            {arguments['image']: image, arguments['words']: list(words.swapaxes(0, 1))}
        )
        for session in sessions(path):
            found = session.run(None, {'image': image, 'words': words})
            for output, values in zip(model.outputs, found):
                there = expected[output]
                there = np.stack(there, 1) if len(output.dynamic_axes) > 1 else np.asarray(there)
                np.testing.assert_allclose(values.reshape(there.shape), there, rtol=1e-4, atol=1e-5)
