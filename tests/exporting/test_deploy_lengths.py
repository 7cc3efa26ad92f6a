"""Sequences of several lengths, and sequence axes of their own: the file runs them as CNTK does."""
import cntk as C
import numpy as np
import pytest

onnx = pytest.importorskip('onnx', reason='the onnx package is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

from netopt_callbacks import deploy, lowering  # noqa: E402
from segment_networks import binarized  # noqa: E402
from test_deploy import assert_same  # noqa: E402

LENGTHS = ((3, 5), (5, 3), (2, 7), (4, 4), (1, 6))


def query_and_document():
    return [
        C.sequence.input_variable(6, sequence_axis=C.Axis(name), name=name)
        for name in ('query', 'document')
    ]


def compared(query, document):
    """One number of both."""
    query = C.sequence.reduce_max(C.layers.Dense(4, activation=C.tanh, name='a')(query))
    document = C.sequence.reduce_max(C.layers.Dense(4, activation=C.tanh, name='b')(document))
    return C.reduce_sum(query * document, axis=0)


def apart(query, document):
    """An output of each axis."""
    layers = C.layers.Dense(4, name='a'), C.layers.Dense(4, name='b')
    return C.combine(
        [C.tanh(layer(steps)).output for layer, steps in zip(layers, (document, query))]
    )


def conditioned(query, document):
    query = C.sequence.reduce_sum(C.layers.Dense(4, name='a')(query))
    document = C.layers.Dense(4, name='b')(document)
    given = document * C.sequence.broadcast_as(query, document)
    return C.layers.Dense(3, name='float')(C.layers.Recurrence(C.layers.GRU(4))(given))


def samples(rng, batch, steps):
    return rng.standard_normal((batch, steps, 6)).astype(np.float32)


@pytest.mark.parametrize('binary', [False, True], ids=['float', 'binary'])
@pytest.mark.parametrize('network', [compared, apart, conditioned])
def test_axes_of_their_own(network, binary, tmp_path):
    model = network(*query_and_document())
    if binary:
        model = lowering.lower_binary_layers(binarized(model))
    path = str(tmp_path / 'file.onnx')
    rng = np.random.RandomState(0)
    for data in (None, [list(samples(rng, 3, 7)) for _ in range(2)]):
        deploy.export(model, path, data)
        for lengths in LENGTHS:
            values = {
                argument.name: samples(rng, 3, steps)
                for argument, steps in zip(query_and_document(), lengths)
            }
            expected = model.eval(
                {argument: list(values[argument.name]) for argument in model.arguments}
            )
            if len(model.outputs) == 1:
                expected = {model.outputs[0]: expected}
            feed = {name: value.swapaxes(0, 1).copy() for name, value in values.items()}
            for session in (deploy.session(path), onnxruntime.InferenceSession(path)):
                for output, found in zip(model.outputs, session.run(None, feed)):
                    wanted = expected[output]
                    if isinstance(wanted, list):
                        wanted = np.stack(wanted, axis=1)
                    assert_same(found, wanted)


def test_each_axis_has_a_name_of_its_own_in_the_file(tmp_path):
    path = str(tmp_path / 'file.onnx')
    deploy.export(apart(*query_and_document()), path)
    names = [
        value.type.tensor_type.shape.dim[0].dim_param
        for values in (onnx.load(path).graph.input, onnx.load(path).graph.output)
        for value in values
    ]
    assert names == ['steps', 'steps_2', 'steps', 'steps_2']


def test_axes_that_must_be_equally_long(tmp_path):
    query, document = query_and_document()
    model = C.tanh(query + C.reconcile_dynamic_axes(document, query))
    path = str(tmp_path / 'file.onnx')
    deploy.export(model, path)
    rng = np.random.RandomState(0)
    values = [samples(rng, 3, 5) for _ in range(2)]
    expected = model.eval(dict(zip((query, document), map(list, values))))
    feed = dict(zip(('query', 'document'), (value.swapaxes(0, 1).copy() for value in values)))
    (found,) = deploy.session(path).run(None, feed)
    assert_same(found, np.stack(expected, axis=1))


@pytest.mark.parametrize('steps', [1, 2, 6])
def test_what_reads_the_step_before_is_refused_whatever_the_steps_of_the_data(steps, tmp_path):
    x = C.sequence.input_variable(6, name='x')
    data = [list(samples(np.random.RandomState(0), 4, steps))]
    with pytest.raises(NotImplementedError, match='reads the step before'):
        deploy.export(C.sequence.past_value(x) + x, str(tmp_path / 'file.onnx'), data)


def test_slices_that_need_two_steps(tmp_path):
    x = C.sequence.input_variable(6, name='x')
    model = C.tanh(C.sequence.slice(x, 1, 0))
    path = str(tmp_path / 'file.onnx')
    deploy.export(model, path)
    values = samples(np.random.RandomState(0), 3, 5)
    (found,) = deploy.session(path).run(None, {'x': values.swapaxes(0, 1).copy()})
    assert_same(found, np.stack(model.eval({x: list(values)}), axis=1))
