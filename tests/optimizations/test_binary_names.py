"""Layers that the user gave no name: told apart in records, summary, parity, later filters and
saved models."""
import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from binary_networks import images
from netopt_callbacks import graph, summary
from netopt_callbacks.optimizations.binarize_convolution import binarize_convolution
from netopt_callbacks.optimizations.binarize_dense import binarize_dense
from netopt_callbacks.optimizations.binary_block import binary_blocks


def every(layer):
    return True


def unnamed(conv_names=('',) * 4, dense_names=('',) * 3):
    """Returns (input, network): convolutions of one shape, then Dense layers of one shape but
    the last."""
    x = C.input_variable((3, 6, 6), name='x')
    layers = [
        C.layers.Convolution2D((3, 3), 3, pad=True, activation=C.relu, name=name)
        for name in conv_names
    ]
    layers += [C.layers.Dense(8, activation=C.relu, name=name) for name in dense_names[:-1]]
    return x, C.layers.Sequential(layers + [C.layers.Dense(3, name=dense_names[-1])])(x)


def test_each_layer_has_its_place_as_its_name():
    _, model = unnamed()
    assert [note.name for note in binarize_convolution(model).layers] == [
        f'Convolution_{n}' for n in (1, 2, 3, 4)
    ]
    assert [note.name for note in binarize_dense(model).layers] == ['Dense_1', 'Dense_2', 'Dense_3']
    assert [block.name for block in binary_blocks(binarize_convolution(model).model)] == [
        'Convolution_2',
        'Convolution_3',
    ]
    assert [layer.name for layer in graph.layers(model)] == [
        ''
    ] * 7, 'the given model stays as it is'


def test_names_that_the_user_gave_stay_and_are_counted():
    _, model = unnamed(conv_names=('', 'mine', '', 'Convolution_3'))
    transformed = binarize_convolution(model, every)
    assert [note.name for note in transformed.layers] == [
        'Convolution_1',
        'mine',
        'Convolution_3_',
        'Convolution_3',
    ]
    assert [block.name for block in binary_blocks(transformed.model)] == [
        note.name for note in transformed.layers
    ]


@pytest.mark.parametrize('form', ['bare', 'block', 'applied twice'])
def test_in_every_form(form):
    x, model = unnamed()
    if form == 'bare':
        W = [C.parameter((3, 3, 3, 3), init=C.glorot_uniform()) for _ in range(3)]
        model = x
        for each in W:
            model = C.relu(
                C.convolution(each, model, auto_padding=[False, True, True])
                + C.parameter((3, 1, 1))
            )
    elif form == 'block':
        inner = model

        @C.BlockFunction('Mine', 'mine')
        def mine(data):
            return inner.clone('share', {x: data})

        model = mine(C.input_variable(x.shape))
    elif form == 'applied twice':
        model = C.combine([model, model(x / 255)])
    names = [note.name for note in binarize_convolution(model, every).layers]
    assert names == ['Convolution_%d' % (n + 1) for n in range(3 if form == 'bare' else 4)]


def test_a_later_filter_sees_the_names_of_the_first_record():
    _, model = unnamed()
    first = binarize_convolution(
        model, lambda layer: layer.name in ('Convolution_2', 'Convolution_3'), operands='inputs'
    )
    seen = []
    second = binarize_convolution(
        first.model, lambda layer: seen.append(layer.name) or layer.name == 'Convolution_3'
    )
    assert (
        seen == [note.name for note in first.layers] == [f'Convolution_{n}' for n in (1, 2, 3, 4)]
    )
    assert [block.name for block in binary_blocks(second.model)] == ['Convolution_3']
    seen.clear()
    third = binarize_convolution(
        second.model, lambda layer: seen.append(layer.name) or layer.name == 'Convolution_4'
    )
    assert seen == ['Convolution_1', 'Convolution_2', 'Convolution_4']
    assert [block.name for block in binary_blocks(third.model)] == [
        'Convolution_3',
        'Convolution_4',
    ]


def test_a_factored_dense_keeps_its_place():
    _, model = unnamed()
    factored = (
        nc.FactorDense(rank=1, filter_function=lambda layer: layer.W.shape == (3, 6, 6, 8))
        .transform(model)
        .model
    )
    assert [note.name for note in binarize_dense(factored, every).layers] == ['Dense_2', 'Dense_3']


def test_names_are_in_saved_models_and_reports(tmp_path):
    x, model = unnamed()
    data = [{x: images(x.shape, 20)}]
    optimizations = [nc.BinarizeConvolution(), nc.BinarizeDense()]
    trained = model
    for optimization in optimizations:
        trained = optimization.transform(trained).model
    path = str(tmp_path / 'trained.model')
    trained.save(path)
    loaded = C.load_model(path)
    names = ['Convolution_2', 'Convolution_3', 'Dense_1', 'Dense_2']
    assert [block.name for block in binary_blocks(loaded)] == names
    lower = nc.Lower(tolerance=0, float_layers='apart')
    lowered, found = lower.run(trained, optimizations, data)
    assert [layer.name for layer in found.layers] == names
    report = summary.of_model(lowered)
    assert all(name in report for name in names)


def test_in_a_run():
    x, model = unnamed(conv_names=('', '', ''))
    label = C.input_variable(3)
    trainer = C.Trainer(
        model,
        (C.cross_entropy_with_softmax(model, label), C.classification_error(model, label)),
        [C.sgd(model.parameters, C.learning_parameter_schedule(0.01))],
    )
    data, labels = images(x.shape, 32), np.eye(3, dtype=np.float32)[np.arange(32) % 3]
    seen = []
    callbacks = [
        nc.BinarizeConvolution(epoch=1, operands='inputs', filter_function=every),
        nc.BinarizeConvolution(
            epoch=2, filter_function=lambda layer: seen.append(layer.name) or True
        ),
        nc.BinarizeDense(epoch=2),
        nc.Lower(),
    ]
    with nc.attach(trainer, callbacks, epoch_size=32, data=(data, labels)) as run:
        for _ in range(3):
            trainer.train_minibatch({x: data, label: labels})
    names = ['Convolution_1', 'Convolution_2', 'Convolution_3']
    first, second, third = run.result.records
    assert [note.name for note in first.layers] == [note.name for note in second.layers] == names
    assert set(seen) == set(names)
    assert [note.name for note in third.layers] == ['Dense_1', 'Dense_2', 'Dense_3']
    assert [layer.name for layer in run.result.parity.layers] == names + ['Dense_1', 'Dense_2']
    assert '(unnamed)' not in run.result.summary()
