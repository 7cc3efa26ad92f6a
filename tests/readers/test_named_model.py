"""`model=` is the trainer's network, or the run is refused before it begins."""
import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from user_script import SAMPLES, Identity, Script


def in_a_session(script, **options):
    script.run([Identity(epoch=1)], **options)
    return script.session.result


def in_a_hand_loop(script, **options):
    with nc.attach(script.trainer, [Identity(epoch=1)], epoch_size=64, **options) as run:
        for _ in range(2):
            script.trainer.train_minibatch(
                {script.x: script.images[:64], script.label: script.labels[:64]}
            )
    return run.result


def in_nc_train(script, **options):
    return nc.train(
        C.combine([script.loss, script.metric]),
        (script.images, script.labels),
        minibatch_size=SAMPLES,
        parameter_learners=script.learners,
        callbacks=[Identity(epoch=1)],
        max_epochs=2,
        **options,
    ).result


FRONTS = pytest.mark.parametrize('train', [in_a_session, in_a_hand_loop, in_nc_train])


@FRONTS
@pytest.mark.parametrize(
    'wrong, error',
    [
        (lambda z: C.layers.Dense(3)(C.input_variable(2)), ValueError),
        (lambda z: C.layers.Dense(3), ValueError),
        (lambda z: z.clone('clone'), ValueError),
        (lambda z: C.square(z.arguments[0]), ValueError),
        (lambda z: z.output, TypeError),
        (lambda z: [z], TypeError),
        (lambda z: 'z', TypeError),
    ],
    ids=['another', 'unapplied', 'clone', 'no Parameters', 'output', 'list', 'name'],
)
def test_what_is_no_network_of_the_trainer_is_refused_before_training(train, wrong, error):
    script = Script(sweeps=2)
    with pytest.raises(error, match='model= must be'):
        train(script, model=wrong(script.z))
    assert script.trainer.total_number_of_samples_seen == 0
    assert train(script, model=script.z).complete  # as if the mistake had not been made


@FRONTS
def test_a_part_of_the_network_may_be_named(train):
    script = Script(sweeps=2)
    result = train(script, model=C.combine([script.z.hidden]))
    assert [output.name for output in result.model.outputs] == ['hidden']


@pytest.mark.parametrize('front', [nc.attach, nc.training_session])
def test_a_layer_function_that_the_criterion_applies_may_be_named(front):
    layer = C.layers.Sequential([C.layers.Dense(4, name='hidden'), C.layers.Dense(2)])
    x, y = C.input_variable(3, name='x'), C.input_variable(2, name='y')
    loss = C.squared_error(layer(x), y)
    trainer = C.Trainer(None, loss, [C.sgd(layer.parameters, C.learning_parameter_schedule(0.1))])
    rows = np.ones((8, 3), np.float32), np.ones((8, 2), np.float32)
    if front is nc.attach:
        with nc.attach(trainer, [Identity(epoch=1)], epoch_size=8, model=layer) as run:
            for _ in range(2):
                trainer.train_minibatch(dict(zip((x, y), rows)))
    else:
        source = C.io.MinibatchSourceFromData(dict(zip('xy', rows)), max_samples=16)
        streams = {x: source.streams['x'], y: source.streams['y']}
        run = nc.training_session(
            trainer, source, 8, streams, callbacks=[Identity(epoch=1)], epoch_size=8, model=layer
        )
        run.train()
    assert np.array_equal(run.result.model.eval({x: rows[0]}), layer(x).eval({x: rows[0]}))


def test_a_network_of_before_the_last_change_is_refused():
    """As a Function that a cell of a notebook builds over a layer that has changed since."""
    script, hidden = Script(sweeps=2), lambda layer: layer.name == 'hidden'
    (layer,) = nc.graph.layers(script.z, hidden)
    W = layer.W
    script.run([nc.FactorDense(epoch=1, rank=3, filter_function=hidden)])
    with pytest.raises(ValueError, match='model= must be the network'):
        nc.attach(script.trainer, [Identity()], epoch_size=64, model=C.reduce_sum(W))
