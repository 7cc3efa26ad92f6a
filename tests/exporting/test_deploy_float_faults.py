"""Faults of the standard form of a segment with float layers: the check finds them."""
import numpy as np
import pytest

pytest.importorskip('onnx', reason='the onnx package is not installed')
pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

from netopt_callbacks import deploy  # noqa: E402
from netopt_callbacks.exporting import body, float_layer  # noqa: E402
from netopt_callbacks.lowering import lower_segments  # noqa: E402
from segment_networks import binarized  # noqa: E402
from test_deploy_floats import chain, images_of, lowered, residual  # noqa: E402


def times_a_little_more(self, op):
    weights = honest_floats(self, op)
    return self.add('Mul', [weights, self.constant(np.float32(1.001))])


def of_float_layers(change):
    """Returns what gives `_sums` another op where it has float weights."""

    def sums(self, op, weights, *bias):
        is_float = op.name == 'float_convolution'
        return honest_sums(self, change(op) if is_float else op, weights, *bias)

    return sums


def shifted(op):
    top, bottom, left, right = op.fields['padding']
    moved = np.array([top + bottom, 0, left, right])
    return op._replace(fields=dict(op.fields, padding=moved))


def ended_wrongly(which):
    def ended(self, op, value, shape):
        if op.name == which:
            value = self.add('Mul', [value, self.constant(np.float32(1 + 2.0**-20))])
        honest_ended(self, op, value, shape)

    return ended


honest_floats, honest_sums = body._Body._floats, body._Body._sums
honest_ended = body._Body._ended
FAULTS = [
    ('_floats', times_a_little_more, '^float layer 0 of segment .*terms add up to'),
    ('_sums', of_float_layers(shifted), '^float layer 0 of segment .*terms add up to'),
    ('_ended', ended_wrongly('float_convolution'), '^segment .* in standard operators differs'),
    ('_ended', ended_wrongly('convolution'), '^what float layer 1 of segment .* reads'),
]


@pytest.mark.parametrize('name, fault, said', FAULTS, ids=['weights', 'pads', 'after', 'before'])
def test_a_fault_of_the_standard_form_is_found(name, fault, said, tmp_path, monkeypatch):
    model = lowered(chain)
    monkeypatch.setattr(body._Body, name, fault)
    with pytest.raises(deploy.ExportError, match=said):
        deploy.export(model, str(tmp_path / 'file.onnx'), data=images_of(model))
    assert not list(tmp_path.iterdir())


def a_little(which, by):
    """Returns what merges the steps of a float layer wrongly."""

    def wrongly(steps):
        parts = honest_merged(steps)
        if len(parts) > which and isinstance(parts[which], float_layer.Affine):
            parts[which] = by(parts[which])
        return parts

    return wrongly


honest_merged = float_layer.merged


@pytest.mark.parametrize(
    'by',
    [
        lambda affine: affine._replace(factor=affine.factor * 1.001),
        lambda affine: affine._replace(offset=affine.offset + 0.01),
        lambda affine: float_layer.Affine(np.ones(1), np.zeros(1)),
    ],
    ids=['factor', 'offset', 'none'],
)
def test_a_wrong_normalization_of_a_float_layer_is_found(by, tmp_path, monkeypatch):
    model = lowered(residual)
    monkeypatch.setattr(float_layer, 'merged', a_little(0, by))
    with pytest.raises(deploy.ExportError, match='^float layer 0 of segment .*terms add up to'):
        deploy.export(model, str(tmp_path / 'file.onnx'), data=images_of(model))


@pytest.mark.parametrize('size', [1, 1e-3, 1e-5, 1e-8])
def test_a_wrong_normalization_of_one_filter_is_found_whatever_its_size(
    size, tmp_path, monkeypatch
):
    model = residual()
    for parameter in model.parameters:
        if parameter.name in ('scale', 'bias') and parameter.shape == (8,):
            values = np.random.RandomState(1).uniform(0.5, 1, 8).astype(np.float32)
            values[3] *= size
            parameter.value = values

    def negated(affine):
        offset = affine.offset.copy()
        offset[3] *= -1 if len(offset) == 8 else 1  # of the first layer
        return affine._replace(offset=offset)

    monkeypatch.setattr(float_layer, 'merged', a_little(0, negated))
    model = lower_segments(binarized(model, input_scale=None)).model
    with pytest.raises(
        deploy.ExportError, match='^float layer 0 of .* in 1 of 8 filters, the f.* 3'
    ):
        deploy.export(model, str(tmp_path / 'file.onnx'), data=images_of(model))


def test_a_left_out_relu_of_a_float_layer_is_found(tmp_path, monkeypatch):
    model = lowered(chain)
    monkeypatch.setattr(float_layer, 'merged', lambda steps: honest_merged(steps)[:1])
    with pytest.raises(deploy.ExportError, match='^float layer 0 of segment .*terms add up to'):
        deploy.export(model, str(tmp_path / 'file.onnx'), data=images_of(model))
