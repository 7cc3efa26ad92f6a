"""Several optimizations of one layer in one run: stages in their order, and what excludes each
other."""
import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from user_script import SAMPLES, Script


def conv(layer):
    return layer.name == 'conv'


def binarize(epoch, operands='both', filter_function=conv):
    return nc.BinarizeConvolution(epoch=epoch, filter_function=filter_function, operands=operands)


def hidden(epoch, rank, **options):
    return nc.FactorDense(
        epoch=epoch, rank=rank, filter_function=lambda layer: layer.name == 'hidden', **options
    )


def test_activations_first_then_weights_then_lowered():
    script = Script(test=False, cross_validation=0)
    script.run([binarize(1, 'inputs'), binarize(2), nc.Lower()], data=script.held_out)
    first, second = script.session.result.records
    assert [(record.epoch, record.layers[0].bits_after) for record in (first, second)] == [
        (1, 32),
        (2, 1),
    ]
    assert 'only its input is 1-bit' in first.layers[0].message
    assert 'now its weights are' in second.layers[0].message
    assert (
        script.session.result.parity.layers[0].integers > 0 and script.session.result.parity.passed
    )
    feed = {script.x: script.images[:50]}
    trained, lowered = (
        getattr(script.session.result, name).eval(feed) for name in ('model', 'lowered')
    )
    # float32 layers after the convolution, evaluated in two networks
    np.testing.assert_allclose(lowered, trained, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    'callbacks, words',
    [
        (
            [binarize(1), binarize(2, 'inputs')],
            "BinarizeConvolution.*got none.*'conv'.*1-bit already",
        ),
        ([binarize(3), binarize(1)], "BinarizeConvolution.*got none.*'conv'.*1-bit already"),
        (
            [binarize(1, 'inputs'), binarize(1, 'inputs')],
            "'conv'.*input must be float, and an earlier optimization",
        ),
        ([hidden(1, 3), binarize(1), binarize(2)], '1-bit already'),
    ],
    ids=['weights first', 'twice', 'inputs twice', 'after another'],
)
def test_stages_that_exclude_each_other_are_refused_before_training(callbacks, words):
    script = Script()
    with pytest.raises(ValueError, match=words):
        script.run(callbacks)
    assert script.trainer.total_number_of_samples_seen == 0


@pytest.mark.parametrize(
    'first, samples', [(3, 0), (lambda W: 3, SAMPLES)], ids=['number', 'function']
)
def test_a_layer_that_is_factored_already_is_named_when_nothing_else_is_left(first, samples):
    """Before training, unless a function of the trained weights decides whether it will be
    factored."""
    script = Script(sweeps=2, test=False)
    with pytest.raises(
        ValueError, match="got none.*'classify'.*Changed already: DenseFactored 'hidden'"
    ):
        script.run([hidden(1, first), hidden(1, 2)])
    assert script.trainer.total_number_of_samples_seen == samples


@pytest.mark.parametrize('rank', [3, nc.energy(0.5)], ids=['number', 'function'])
def test_a_learner_that_cannot_train_the_factors_is_refused_before_training(rank):
    script = Script(learner='user')
    with pytest.raises(ValueError, match=r'layer hidden.*rebuilt\(parameters\).*learner=lambda'):
        script.run([hidden(2, rank)])
    assert script.trainer.total_number_of_samples_seen == 0


def momentum_sgd(parameters, rate):
    return C.momentum_sgd(parameters, rate, 0.9)


def trainer_of(script, name, one, other=momentum_sgd):
    """Returns a trainer with one learner for the weights of a layer and another for all else."""
    W, rate = getattr(script.z, name).W, C.learning_parameter_schedule(0.01)
    rest = [parameter for parameter in script.z.parameters if parameter.uid != W.uid]
    return C.Trainer(script.z, (script.loss, script.metric), [other(rest, rate), one([W], rate)])


@pytest.mark.parametrize('rank', [3, nc.energy(0.5)], ids=['number', 'function'])
def test_a_learner_whose_state_cannot_be_projected_is_refused_before_training(rank):
    script = Script()
    trainer = trainer_of(script, 'hidden', lambda parameters, rate: C.adam(parameters, rate, 0.9))
    with pytest.raises(
        ValueError, match="layer hidden: learner_state='project', but adam trains it"
    ):
        script.run([hidden(2, rank, learner_state='project')], trainer=trainer)
    assert trainer.total_number_of_samples_seen == 0


def test_a_layer_that_a_rule_may_leave_is_not_refused_for_its_learner():
    script = Script(sweeps=2, test=False)
    script.run(
        [nc.FactorDense(epoch=1, rank=nc.energy(0.9), filter_function=lambda layer: True)],
        trainer=trainer_of(script, 'classify', C.adagrad),
    )
    classify = script.session.result.records[0].layers[-1]
    assert classify.name == 'classify' and 'saves nothing' in classify.skipped


def test_a_factor_function_that_may_choose_another_rank_is_not_taken_at_its_word():
    def full(W, k):
        return W, np.eye(W.shape[1])

    script = Script(sweeps=2, test=False)
    script.run([hidden(1, 2, factor_function=full), hidden(1, 3)])
    assert [record.layers[0].rank for record in script.session.result.records] == [None, 3]


class Same(nc.Optimization):
    """Puts new Parameters of the same shapes in the place of W and b."""

    def check(self, model):
        return self.transform(model)

    def transform(self, model):
        (layer,) = nc.graph.layers(model, lambda layer: layer.name == 'hidden')
        new = [C.parameter(old.shape, init=old.value, name=old.name) for old in (layer.W, layer.b)]
        return nc.Transformed(
            nc.graph.substitute(model, dict(zip((layer.W, layer.b), new))),
            replaced=[nc.Replaced(layer.name, (layer.W, layer.b), new)],
        )


def test_parameters_of_the_same_shapes_fit_every_learner():
    script = Script(learner='adagrad', sweeps=2, test=False)
    script.run([Same(epoch=1)])
    assert script.session.result.complete


def test_what_is_not_to_be_factored_needs_no_fitting_learner():
    """A layer on which the rank saves nothing beside one that has a learner of its own."""
    script = Script(learner='adagrad', sweeps=2, test=False)
    factor = nc.FactorDense(
        1,
        4,
        filter_function=lambda layer: True,
        learner=lambda parameters: C.sgd(parameters, C.learning_parameter_schedule(0.1)),
    )
    assert [one.layer for one in factor.check(script.z).replaced] == ['hidden']
    script.run([factor])
    (record,) = script.session.result.records
    assert [(note.name, bool(note.skipped)) for note in record.layers] == [
        ('hidden', False),
        ('classify', True),
    ]


def test_stages_are_refused_where_a_run_of_plain_cntk_is_resumed_too(tmpdir):
    options = dict(test=False, checkpoint=SAMPLES, folder=str(tmpdir))
    Script(sweeps=2, **options).run()
    script = Script(sweeps=4, **options)
    with pytest.raises(ValueError, match='1-bit already'):
        script.run([binarize(3), binarize(3)])
    assert script.trainer.total_number_of_samples_seen == 2 * SAMPLES


def test_a_layer_left_for_its_rank_may_be_factored_later():
    script = Script(sweeps=2, test=False)
    script.run([hidden(1, lambda W: 12), hidden(1, 2)])  # of a function nothing is known before
    left, factored = (record.layers[0] for record in script.session.result.records)
    assert left.skipped and left.rank is None and factored.rank == 2
