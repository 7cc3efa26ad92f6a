"""The two optimizations in a session: what shows only in a run."""
import numpy as np
import pytest

import cntk as C
import netopt_callbacks as nc
from user_script import SAMPLES, Identity, Script


def conv(layer):
    return layer.name == 'conv'


def test_where_no_rank_saves_anything_training_goes_on_as_if_nothing_had_been_due():
    script = Script(sweeps=2)
    # Of a function nothing is known before; a number is refused, see test_factor_dense.
    full = nc.FactorDense(epoch=1, rank=lambda W: min(W.shape), filter_function=lambda layer: True)
    outcome = script.run([full])
    (record,) = script.session.result.records
    assert [(note.name, note.rank) for note in record.layers] == [
        ('hidden', None),
        ('classify', None),
    ]
    assert all(
        f'rank {rank} saves nothing' in note.skipped
        and f'rank {rank} saves nothing' in script.session.result.summary()
        and note.parameters_before == note.parameters_after
        for rank, note in zip((12, 5), record.layers)
    )
    assert outcome == Script(sweeps=2).run([Identity(epoch=1)])


def test_without_held_out_data_the_record_says_what_was_not_calibrated():
    script = Script(sweeps=2, test=False, cross_validation=0)
    script.run([nc.BinarizeConvolution(epoch=1, filter_function=conv)])
    (note,) = script.session.result.records[0].layers
    assert note.message.startswith('no held-out data to calibrate input_shift and output_scale on')
    assert note.message in script.session.result.summary()


def shift_of(model):
    (shift,) = (parameter for parameter in model.parameters if parameter.name == 'input_shift')
    return shift.value


def test_a_learned_shift_starts_calibrated_and_is_trained_by_its_own_learner():
    shifts = {}
    for rate in (0.0, 0.1):
        script = Script(sweeps=2, test=False)
        learner = lambda parameters: C.sgd(parameters, C.learning_parameter_schedule(rate))
        script.run(
            [
                nc.BinarizeConvolution(
                    epoch=1, filter_function=conv, input_shift='learn', learner=learner
                )
            ],
            data=script.held_out,
        )
        shifts[rate] = shift_of(script.session.result.model)
    # A pixel is the sum of two numbers in [0, 1), so the best threshold of two levels is near 1.
    assert 0.5 < shifts[0.0].item() < 1.5
    assert shifts[0.1].item() != shifts[0.0].item()


@pytest.mark.parametrize('operands', ['both', 'inputs'])
def test_the_latent_weights_stay_the_parameter_that_the_users_learner_trains(operands):
    script = Script(sweeps=2, test=False)
    W = script.z.conv.W
    values = []
    optimization = nc.BinarizeConvolution(epoch=1, filter_function=conv, operands=operands)
    prepare = optimization.prepare

    def prepared(model, minibatches):
        values.append(W.value)
        prepare(model, minibatches)

    optimization.prepare = prepared
    script.run([optimization], data=script.held_out)
    assert any(parameter.uid == W.uid for parameter in script.learners[0].parameters)
    assert W.uid in {parameter.uid for parameter in script.z.parameters}
    assert not np.array_equal(values[0], W.value) and values[0].shape == W.shape
    assert script.trainer.total_number_of_samples_seen == 2 * SAMPLES


def recurrent_losses(own):
    """Returns the losses of a recurrent network whose layers are factored after 10 minibatches."""
    random = np.random.RandomState(2)
    C.cntk_py.reset_random_seed(1)
    x, label = C.sequence.input_variable(12), C.input_variable(3)
    step = C.layers.Dense(16, name='step')
    model = C.layers.Sequential(
        [
            C.layers.Dense(16, name='in'),
            C.layers.Recurrence(lambda h, v: C.tanh(step(h) + v)),
            C.sequence.last,
            C.layers.Dense(3, name='out'),
        ]
    )(x)
    make = lambda parameters: C.momentum_sgd(parameters, C.learning_parameter_schedule(0.1), 0.9)
    trainer = C.Trainer(model, C.cross_entropy_with_softmax(model, label), [make(model.parameters)])
    losses = []
    with nc.attach(
        trainer, [nc.FactorDense(epoch=1, rank=3, learner=make if own else None)], epoch_size=80
    ) as run:
        for _ in range(20):
            sequences = [random.rand(steps, 12).astype('f') for steps in random.randint(1, 6, 8)]
            trainer.train_minibatch(
                {x: sequences, label: np.eye(3, dtype='f')[random.randint(0, 3, 8)]}
            )
            losses.append(trainer.previous_minibatch_loss_average)
    return losses, [note.rank for note in run.result.records[0].layers]


def test_layers_around_and_inside_a_recurrence_are_factored_in_a_running_trainer():
    packed, ranks = recurrent_losses(own=False)
    assert ranks == [3, 3, None] and len(set(packed)) == 20
    # A learner of their own starts where the reset leaves the packed ones: the same bits.
    assert packed == recurrent_losses(own=True)[0]


def test_optimization_whose_init_forgets_the_one_of_its_base_has_the_defaults():
    class Own(nc.Optimization):
        def __init__(self, factor):
            self.factor = factor

        def transform(self, model):
            return model

    script = Script(sweeps=1, test=False)
    script.run([Own(2)])
    (record,) = script.session.result.records
    assert (record.optimization, record.samples) == ('Own', 0)
