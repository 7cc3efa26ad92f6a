"""A file that does not compute what CNTK does is not handed over."""
import os

import cntk as C
import numpy as np
import pytest

onnx = pytest.importorskip('onnx', reason='the onnx package is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

from netopt_callbacks import deploy  # noqa: E402
from netopt_callbacks.exporting import check, export as exporting  # noqa: E402
from netopt_callbacks.lowering import segment_pass  # noqa: E402
from segment_networks import binarized  # noqa: E402
from test_deploy import assert_same, small  # noqa: E402


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
