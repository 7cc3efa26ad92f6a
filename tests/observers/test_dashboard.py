"""What the dashboard shows of 1-bit layers and ranks, against numbers computed another way."""
import struct
import sys
import types
import zlib

import numpy as np
import pytest

import netopt_callbacks as nc
from netopt_callbacks.observers import pictures
from test_observers import curve, read
from user_script import Script


def conv(layer):
    return layer.name == 'conv'


def binarize():
    return nc.BinarizeConvolution(epoch=1, filter_function=conv)


def weights_of(script):
    return next(each for each in script.z.parameters if each.shape == (6, 1, 3, 3))


class Weights(nc.Observer):
    """Reads the script's own W of the convolution at each epoch and at the swap."""

    def __init__(self, script):
        super().__init__()
        self._W = weights_of(script)
        self.seen = []

    def on_epoch(self, epoch, samples):
        self.seen.append((samples, self._W.value.copy()))


def script():
    """A run in which many latent weights are outside the window |w| <= 1, and many near 0."""
    made = Script(sweeps=4, test=False)
    W = weights_of(made)
    W.value = W.value * np.where(np.arange(54).reshape(6, 1, 3, 3) % 3, 4, 1e-3)
    return made


def test_tensorboard_changes_no_bit_of_a_run_with_1_bit_layers(tmp_path):
    one, other = script(), script()
    assert one.run([binarize()], data=one.held_out) == other.run(
        [binarize(), nc.TensorBoard(str(tmp_path), every=1)], data=other.held_out
    )


def test_flips_and_the_share_outside_the_window(tmp_path):
    one = script()
    weights = Weights(one)
    one.run([binarize(), weights, nc.TensorBoard(str(tmp_path))], data=one.held_out)
    swap = one.session.result.records[0].samples
    after = [(samples, W) for samples, W in weights.seen if samples >= swap]
    assert len(after) == 4
    outside = [
        (samples, round(float(np.float32((np.abs(W) > 1).mean())), 6)) for samples, W in after
    ]
    assert all(0.05 < share < 0.95 for _, share in outside)
    assert curve(tmp_path, 'weights/conv/outside_window') == outside
    flips = [
        (samples, sum(a * b <= 0 for a, b in zip(W.ravel(), before.ravel())) / W.size)
        for (_, before), (samples, W) in zip(after, after[1:])
    ]
    assert any(share for _, share in flips)
    assert curve(tmp_path, 'weights/conv/flip_ratio') == [
        (samples, round(float(np.float32(share)), 6)) for samples, share in flips
    ]


def test_every_scalar_has_a_description(tmp_path):
    one = script()
    one.run(
        [
            nc.FactorDense(epoch=1, rank=3, filter_function=lambda layer: layer.name == 'hidden'),
            binarize(),
            nc.TensorBoard(str(tmp_path)),
        ],
        data=one.held_out,
    )
    accumulator = read(tmp_path)
    tags = accumulator.Tags()['scalars']
    assert len(tags) > 15
    for tag in tags:
        assert len(accumulator.SummaryMetadata(tag).summary_description) > 20, tag


def decoded(data):
    """Returns the pixels of a PNG file whose lines have no filter: uint8 [height, width, 3]."""
    assert data[:8] == b'\x89PNG\r\n\x1a\n'
    place, packed = 8, b''
    while place < len(data):
        size, kind = struct.unpack('>I4s', data[place : place + 8])
        body = data[place + 8 : place + 8 + size]
        assert struct.unpack('>I', data[place + 8 + size :][:4])[0] == zlib.crc32(kind + body)
        if kind == b'IHDR':
            width, height, depth, colours = struct.unpack('>IIBB', body[:10])
            assert (depth, colours) == (8, 2)
        elif kind == b'IDAT':
            packed += body
        place += size + 12
    lines = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + 3 * width)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, 3)


@pytest.mark.parametrize('rank', [0, 1, 2, 3])
def test_the_picture_of_singular_values(rank):
    """Three bars of 1, 1/2 and 1/8 of the height; the middle of each, from the bottom up."""
    picture = decoded(pictures.png(pictures.singular_values([8.0, 4.0, 1.0], rank)))
    assert picture.shape == (320, 640, 3)
    inside = picture[24:-24, 24:-24]
    height, width = inside.shape[:2]
    dark, light, white, grey = (31, 119, 180), (190, 205, 220), (255, 255, 255), (225, 225, 225)
    for bar, share in enumerate((1, 0.5, 0.125)):
        column = [tuple(pixel) for pixel in inside[::-1, (2 * bar + 1) * width // 6]]
        filled = round(share * height)
        assert set(column[:filled]) == {dark if bar < rank else light}
        assert set(column[filled:]) <= {white, grey}
    red = [n for n in range(width) if (inside[:, n] == (214, 39, 40)).all()]
    assert red and all(abs(n - rank * width / 3) <= 2 for n in red)


def test_a_frame_has_a_row_for_each_optimization(monkeypatch):
    """pandas is in nobody's requirements, so what it is given is looked at."""
    given = []
    monkeypatch.setitem(
        sys.modules,
        'pandas',
        types.SimpleNamespace(
            DataFrame=lambda rows, columns: given.append((rows, columns)) or 'the frame'
        ),
    )
    one = script()
    one.run([binarize()], data=one.held_out)
    result = one.session.result
    assert result.to_frame() == 'the frame'
    ((rows, columns),) = given
    (row,), (record,) = rows, result.records
    assert set(row) == set(columns)
    assert (row['optimization'], row['epoch']) == ('BinarizeConvolution', 1)
    assert row['metric_now'] == record.metric_now and row['worst_metric'] == record.worst[1]
    assert row['bytes_after'] < row['bytes_before']
    monkeypatch.setitem(sys.modules, 'pandas', None)
    with pytest.raises(ImportError, match='pip install pandas'):
        result.to_frame()
