"""NumPy's integers are integers wherever the public API takes one."""
import json

import cntk as C
import numpy as np
import pytest
from cntk.train.training_session import DataUnit

import netopt_callbacks as nc
from netopt_callbacks.integers import plain
from netopt_callbacks.table import shown

TYPES = [np.int8, np.int64, np.uint16, np.uint64]
X = np.random.RandomState(0).rand(64, 12).astype('f')
Y = np.eye(3, dtype='f')[np.random.RandomState(1).randint(0, 3, 64)]


def criterion():
    x, y = C.input_variable(12), C.input_variable(3)
    z = C.layers.Sequential(
        [C.layers.Dense(10, name='hidden'), C.layers.Dense(3, name='classify')]
    )(x)
    return x, y, z, (C.cross_entropy_with_softmax(z, y), C.classification_error(z, y))


def factored(integer, epoch=1):
    return nc.FactorDense(
        epoch=integer(epoch), rank=integer(2), filter_function=lambda layer: layer.name == 'hidden'
    )


def check(result):
    """The record is JSON, and its numbers are ints."""
    (record,) = result.records
    assert type(record.epoch) is int and type(record.samples) is int and record.layers[0].rank == 2
    assert json.loads(json.dumps(record.to_dict()))['epoch'] == 1


@pytest.mark.parametrize('integer', TYPES)
def test_in_a_hand_loop(integer):
    x, y, z, functions = criterion()
    trainer = C.Trainer(z, functions, [C.sgd(z.parameters, C.learning_parameter_schedule(0.1))])
    with nc.attach(trainer, [factored(integer)], epoch_size=integer(64), data=(X, Y)) as run:
        for _ in range(3):
            trainer.train_minibatch({x: X, y: Y})
    check(run.result)


@pytest.mark.few(4)
@pytest.mark.parametrize('integer', TYPES)
@pytest.mark.parametrize(
    'epoch_size',
    [
        lambda integer: integer(64),
        lambda integer: (integer(1), DataUnit.sweep),
        lambda integer: (integer(4), DataUnit.minibatch),
    ],
)
def test_in_a_session(integer, epoch_size, tmp_path):
    x, y, z, functions = criterion()
    trainer = C.Trainer(z, functions, [C.sgd(z.parameters, C.learning_parameter_schedule(0.1))])
    source = C.io.MinibatchSourceFromData(dict(x=X, y=Y), max_samples=192)
    session = nc.training_session(
        trainer,
        source,
        integer(16),
        {x: source.streams.x, y: source.streams.y},
        progress_frequency=integer(100),
        max_samples=np.int64(192) if integer is np.int8 else integer(192),
        callbacks=[factored(integer)],
        epoch_size=epoch_size(integer),
        data=(X, Y),
    )
    session.train()
    check(session.result)


@pytest.mark.parametrize('integer', TYPES)
def test_in_function_train(integer):
    x, y, z, functions = criterion()
    summary = nc.train(
        C.combine(functions),
        (X, Y),
        minibatch_size=integer(16),
        max_epochs=integer(3),
        epoch_size=integer(64),
        progress_frequency=integer(100),
        callbacks=[factored(integer)],
        parameter_learners=[C.sgd(z.parameters, C.learning_parameter_schedule(0.1))],
    )
    check(summary.result)


@pytest.mark.parametrize('integer', TYPES)
def test_elsewhere(integer, tmp_path):
    assert type(nc.FactorDense(epoch=(integer(2), DataUnit.sweep), rank=2).epoch[0]) is int
    assert type(nc.TensorBoard(tmp_path, every=integer(5)).every) is int
    x = C.input_variable((2, 8, 8))
    made = nc.quantization.binary_convolution(
        (integer(3), integer(3)), integer(4), integer(2), strides=integer(2)
    )(x)
    assert made.shape == (4, 3, 3)
    assert (
        nc.Lower(tolerance=integer(0)).tolerance == 0
        and nc.Lower(tolerance=np.float32(0.5)).tolerance == 0.5
    )
    assert shown(integer(100)) == '100' and shown(np.int64(12345)) == '12,345'
    nc.native.set_num_threads(integer(1))
    ops = [
        dict(op='pack', input='x', bits='b', threshold=integer(0)),
        dict(op='unpack', input='b', values='y'),
    ]
    values = np.float32([[-1, 1, 0.5]])
    assert nc.native.Program(ops, dict(x=(3,)), ['y'])(values).tolist() == [[-1, 1, 1]]


def test_what_is_no_integer_stays_refused(tmp_path):
    assert plain(np.bool_(True)) == True and plain(2.0) == 2.0 and plain('3') == '3'  # noqa: E712
    for wrong in (np.bool_(True), np.float64(1), '1', np.array([1])):
        with pytest.raises(TypeError, match='epoch'):
            nc.FactorDense(epoch=wrong, rank=2)
        with pytest.raises(TypeError, match='every'):
            nc.TensorBoard(tmp_path, every=wrong)
