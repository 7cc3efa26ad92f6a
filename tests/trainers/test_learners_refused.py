"""Which learner trains what after an optimization, and what is refused: said in words, and
before training."""
import gc
import os
import subprocess
import sys
import weakref

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from paths import PYTHONPATH
from rebuilt_oracle import STATE, parameters_of
from user_script import (
    LEARNERS,
    SAMPLES,
    Halves,
    Identity,
    Script,
    before_the_import,
    hidden,
    sgd,
    universal,
)

RANK = 3
HERE = os.path.dirname(os.path.abspath(__file__))
W_SHAPE = (6, 6, 6, 12)


class Factor(nc.Optimization):
    """Factors the layer 'hidden' into random W1, W2, of any size."""

    size = RANK

    def transform(self, model):
        (layer,) = nc.graph.layers(model, hidden)
        random = np.random.RandomState(4)
        shape = tuple(layer.W.shape[:-1])
        self.w1 = C.Parameter(
            shape + (self.size,),
            name='W1',
            init=random.uniform(-0.3, 0.3, shape + (self.size,)).astype(np.float32),
        )
        self.w2 = C.Parameter(
            (self.size, 12),
            name='W2',
            init=random.uniform(-0.3, 0.3, (self.size, 12)).astype(np.float32),
        )
        data = C.placeholder()
        core = C.times(C.times(data, self.w1), self.w2)
        return nc.Transformed(
            nc.graph.replace(model, {layer: layer.rebuilt(core, 'DenseFactored')}),
            [nc.LayerNote(layer.name, layer.W.shape)],
            [nc.Replaced(layer.name, retired=(layer.W,), added=(self.w1, self.w2))],
        )


def weights(model):
    return [p for p in model.parameters if p.shape == W_SHAPE]


def with_learners(make, **options):
    """Returns a script whose learners `make` makes of (W of 'hidden', the other Parameters)."""
    script = Script(**options)
    (W,) = weights(script.z)
    script.learners = make(W, [p for p in script.z.parameters if p.uid != W.uid])
    script.trainer = C.Trainer(
        script.z, (script.loss, script.metric), script.learners, [script.log]
    )
    script.arguments['trainer'] = script.trainer
    return script


# Which learner trains what.


def test_learner_trains_w1_and_w2_in_the_place_of_w():
    script = Script(learner='several', test=False, sweeps=2)
    before = [[p.uid for p in learner.parameters] for learner in script.learners]
    (place,) = (
        number
        for number, learner in enumerate(script.learners)
        if weights(script.z)[0].uid in before[number]
    )
    index, W = before[place].index(weights(script.z)[0].uid), weights(script.z)[0].uid
    optimization = Factor(epoch=1)
    script.run([optimization])
    before[place][index : index + 1] = [optimization.w1.uid, optimization.w2.uid]
    assert [[p.uid for p in learner.parameters] for learner in script.learners] == before
    assert W not in {p.uid for p in script.trainer.model.parameters}
    assert [learner.total_number_of_samples_seen() for learner in script.learners] == 2 * [
        2 * SAMPLES
    ]
    assert {p.uid for p in (optimization.w1, optimization.w2)} <= {
        p.uid for p in script.trainer.model.parameters
    }


class Larger(Factor):
    """Adds more than it retires."""

    size = 100


def test_factors_larger_than_what_they_replace_are_trained():
    script, optimization = Script(test=False, sweeps=1), Larger(epoch=0)
    script.run([optimization])
    first = np.random.RandomState(4).uniform(-0.3, 0.3, (6, 6, 6, 100)).astype(np.float32)
    assert optimization.w1.shape == first.shape and (optimization.w1.value != first).all()


def test_learner_that_forgets_a_parameter_is_refused():
    script = Script()
    with pytest.raises(ValueError, match='must train all new Parameters, got one without W2'):
        script.run(
            [
                Factor(
                    epoch=0,
                    learner=lambda parameters: C.sgd(parameters[:1], 0.1)
                    if parameters[0].name == 'W1'
                    else C.sgd(parameters[1:], 0.1),
                )
            ]
        )


def test_learner_function_of_other_arguments_is_refused_before_there_is_a_run():
    for wrong in (C.sgd, lambda: None):
        with pytest.raises(TypeError, match=r'Factor: learner must be a function of one argument'):
            Factor(learner=wrong)


@pytest.mark.parametrize('made', [lambda p: None, lambda p: [C.sgd(p, 0.1)]])
def test_learner_function_that_returns_no_learner_changes_nothing(made):
    script = Script(test=False)
    with pytest.raises(TypeError, match='Factor: learner= must return one cntk.learners.Learner'):
        script.run([Factor(epoch=1, learner=made)])
    assert [p.name for p in script.z.parameters].count('W1') == 0
    with nc.attach(script.trainer, [Identity()], epoch_size=64) as run:
        script.trainer.train_minibatch(
            {script.x: script.images[:64], script.label: script.labels[:64]}
        )
    assert run.result.complete


@pytest.mark.parametrize('learner', ['momentum_sgd', 'adam', 'fsadagrad', 'rmsprop', 'adadelta'])
def test_state_of_the_new_begins_at_zero_and_all_other_state_stays(learner):
    script = Script(learner=learner, test=False, cross_validation=0, sweeps=1)
    script.run_plain()
    (one,) = script.learners
    state = lambda: {
        p.uid: np.array(g) for p, g in zip(parameters_of(one), one.create_checkpoint()[STATE])
    }
    before, W, optimization = state(), weights(script.z)[0].uid, Factor(epoch=0)
    with nc.attach(script.trainer, [optimization], epoch_size=SAMPLES) as run:
        run.start()
        run.engine.fire()
        after = state()
    new = {optimization.w1.uid, optimization.w2.uid}
    assert set(after) == (set(before) - {W}) | new
    for uid in after:
        assert (
            not after[uid].any()
            if uid in new
            else np.array_equal(before[uid], after[uid]) and before[uid].any()
        )


def test_projected_state_is_the_chain_rule():
    """M of W becomes M W2^T and W1^T M; against NumPy in float64."""
    script = Script(test=False, cross_validation=0, sweeps=1)
    script.run_plain()
    (one,) = script.learners
    state = lambda: {
        p.uid: np.array(g) for p, g in zip(parameters_of(one), one.create_checkpoint()[STATE])
    }
    gradient = state()[weights(script.z)[0].uid].astype(np.float64).reshape(216, 12)
    with nc.attach(
        script.trainer,
        [nc.FactorDense(epoch=0, rank=RANK, learner_state='project', filter_function=hidden)],
        epoch_size=SAMPLES,
    ) as run:
        run.start()
        run.engine.fire()
        w1, w2 = ([p for p in script.z.parameters if p.name == name][0] for name in ('W1', 'W2'))
        after = [state()[w.uid].reshape(w.shape) for w in (w1, w2)]
        values = [w.value.astype(np.float64) for w in (w1, w2)]
    expected = gradient.dot(values[1].T).reshape(w1.shape), values[0].reshape(216, RANK).T.dot(
        gradient
    )
    for found, oracle in zip(after, expected):
        # float32 sums of up to 216 products.
        np.testing.assert_allclose(
            found, oracle, rtol=0, atol=216 * 2.0**-24 * np.abs(oracle).max()
        )
        assert np.count_nonzero(oracle) == oracle.size


@pytest.mark.parametrize(
    'make, words',
    [
        (
            lambda: Script(learner='adam'),
            "learner_state='project', but the trainer has no learner it is defined for, it has "
            "adam.*'reset'",
        ),
        (
            lambda: with_learners(
                lambda W, rest: [C.momentum_sgd(rest, 0.1, 0.9)] + LEARNERS['adam']([W])
            ),
            "layer hidden: learner_state='project', but adam trains it",
        ),
    ],
)
def test_projection_for_an_adaptive_learner_is_refused(make, words):
    script = make()
    with pytest.raises(ValueError, match=words):
        script.run(
            [nc.FactorDense(epoch=1, rank=2, learner_state='project', filter_function=hidden)]
        )
    assert not script.log.events


def test_projection_needs_a_map():
    with pytest.raises(ValueError, match=r'layer hidden: .*Replaced\(projection='):
        Script().run([Factor(epoch=0, learner_state='project')])
    with pytest.raises(ValueError, match='give one of the two'):
        Factor(learner_state='project', learner=lambda parameters: None)


class Unsaid(nc.Optimization):
    """Factors two layers and says nothing of what takes whose place."""

    names = 'hidden', 'classify'

    def transform(self, model):
        found = {}
        for layer in nc.graph.layers(model, lambda layer: layer.name in self.names):
            shape = tuple(layer.W.shape)
            w1 = C.Parameter(shape[:-1] + (2,), init=0.1)
            w2 = C.Parameter((2,) + shape[-1:], init=0.1)
            data = C.placeholder()
            found[layer] = layer.rebuilt(C.times(C.times(data, w1), w2, output_rank=1), 'Factored')
        return nc.graph.replace(model, found)


def test_no_parameter_passes_to_another_learner_without_a_word():
    script = Script(test=False, sweeps=1)  # one learner: nothing to mistake
    script.run([Unsaid(epoch=0)])
    assert {p.uid for p in script.learners[0].parameters} == {
        p.uid for p in script.trainer.model.parameters
    }
    script = with_learners(lambda W, rest: LEARNERS['momentum_sgd'](rest) + LEARNERS['adam']([W]))
    with pytest.raises(ValueError, match='2 learners .momentum_sgd, adam.*retired='):
        script.run([Unsaid(epoch=0)])


def test_layer_no_learner_trains_stays_untrained():
    script = with_learners(lambda W, rest: [sgd(rest)])
    optimization = Factor(epoch=1)
    script.run([optimization])
    (record,) = script.session.result.records
    assert 'no learner trained this layer' in record.notes[0]
    found = {p.name: p.value for p in script.session.result.model.parameters}
    assert np.array_equal(found['W1'], optimization.w1.value) and np.array_equal(
        found['W2'], optimization.w2.value
    )
    assert np.array_equal(
        found['W2'],
        np.random.RandomState(4)
        .uniform(-0.3, 0.3, (648 + 36,))[648:]
        .astype(np.float32)
        .reshape(3, 12),
    )


class Removes(nc.Optimization):
    """Retires W and adds nothing."""

    def transform(self, model):
        (layer,) = nc.graph.layers(model, hidden)
        data = C.placeholder()
        fixed = C.constant(layer.W.value)
        return nc.graph.replace(model, {layer: layer.rebuilt(C.times(data, fixed), 'Fixed')})


@pytest.mark.parametrize('learner', ['momentum_sgd', 'adagrad', 'several', 'user', 'W alone'])
def test_retired_parameter_without_a_successor(learner):
    """A learner lets it go; one that cannot, or would be left with none, keeps it, and CNTK
    does not end the process."""
    script = (
        Script(learner=learner, test=False)
        if learner != 'W alone'
        else with_learners(lambda W, rest: [C.momentum_sgd([W], 0.1, 0.9), sgd(rest)])
    )
    (W,) = weights(script.z)
    with nc.attach(script.trainer, [Removes(epoch=1)], epoch_size=128):
        for number in range(6):
            rows = slice(64 * number, 64 * number + 64)
            script.trainer.train_minibatch(
                {script.x: script.images[rows], script.label: script.labels[rows]}
            )
            if number == 1:
                frozen = W.value
    keeps = any(p.uid == W.uid for one in script.learners for p in parameters_of(one))
    assert keeps == (learner in ('user', 'W alone'))
    assert np.array_equal(W.value, frozen) == (
        learner != 'W alone'
    )  # there momentum goes on, of no effect
    fixed = next(c for c in script.z.constants if c.shape == W_SHAPE)
    assert np.array_equal(fixed.value, frozen) and np.isfinite(
        script.trainer.previous_minibatch_loss_average
    )


def test_retired_parameter_is_no_longer_trained_where_its_factors_have_a_learner_of_their_own():
    script = Script(test=False)
    W, one = weights(script.z)[0], script.learners[0]
    script.run([Factor(epoch=1, learner=sgd)])
    assert W.uid not in {p.uid for p in one.parameters}
    assert len(script.trainer.parameter_learners) == 2


def test_export_shares_nothing():
    script = Script(test=False)
    script.run([Factor(epoch=0), Identity(epoch=2)])
    model = script.session.result.model
    feed = {script.x: script.images[:7]}
    assert np.array_equal(model.eval(feed), script.z.eval(feed))
    assert model.arguments[0].uid == script.x.uid
    assert sorted(p.name for p in model.parameters if p.name in ('W1', 'W2')) == ['W1', 'W2']
    assert not {p.uid for p in model.parameters} & {p.uid for p in script.z.parameters}


def test_network_of_a_trainer_without_a_model():
    script = Script(test=False, sweeps=2)
    script.trainer = C.Trainer(None, (script.loss, script.metric), script.learners, [script.log])
    script.arguments['trainer'] = script.trainer
    script.run([Factor(epoch=1)], data=script.held_out)
    for model in script.session.result.model, script.trainer.loss_function, script.z:
        assert sorted(p.shape for p in model.parameters if p.name in ('W1', 'W2')) == [
            (3, 12),
            (6, 6, 6, 3),
        ]
        assert not weights(model)
        assert not [c.name for c in model.constants if c.name.startswith('netopt_callbacks')]


class Looks(nc.Optimization):
    """Looks at the graph that the one before it left."""

    def transform(self, model):
        self.names = sorted(parameter.name for parameter in model.parameters)
        return model


def test_second_optimization_finds_the_factors_as_parameters():
    script, looks, once = Script(test=False), Looks(epoch=2), Script(test=False)
    once.run([Factor(epoch=1)])
    script.run([Factor(epoch=1), looks])
    assert looks.names.count('W1') == looks.names.count('W2') == 1 and len(looks.names) == 9
    assert script.outcome() == once.outcome()


class Loses(nc.Optimization):
    def transform(self, model):
        return C.combine(model.outputs[:-1])


class Detached(nc.Optimization):
    def transform(self, model):
        return 'not a Function'


@pytest.mark.parametrize(
    'optimization, error, words',
    [(Loses, ValueError, 'same outputs'), (Detached, TypeError, 'must return a cntk.Function')],
)
def test_transform_that_loses_an_output_is_refused(optimization, error, words):
    script = Script()
    before = script.state()
    with pytest.raises(error, match=words):
        script.run([optimization()])
    assert script.state() == before
    script.trainer.train_minibatch({script.x: script.images[:8], script.label: script.labels[:8]})


# What cannot be rebuilt.


def under_a_distributed(parameters):
    return C.train.distributed.data_parallel_distributed_learner(Halves(parameters))


@pytest.mark.few(4)
@pytest.mark.parametrize(
    'make, words',
    [
        (
            Halves,
            r'\(Halves\).*a UserLearner needs a method rebuilt\(parameters\).*learner=lambda.*'
            r'or give the learner a '
            r'method rebuilt',
        ),
        (universal, r'\(universal\).*the update function of C.universal.*learner=lambda'),
        (before_the_import, r'made before `import netopt_callbacks`.*learner=lambda'),
    ],
)
@pytest.mark.parametrize('front', ['session', 'hand loop', 'train'])
def test_learner_that_cannot_be_rebuilt_is_refused_before_training(front, make, words):
    factoring = lambda **options: nc.FactorDense(
        epoch=2, rank=RANK, filter_function=hidden, **options
    )
    # After one of CNTK's: where a UserLearner is the first, CNTK counts no samples.
    script = with_learners(lambda W, rest: [sgd(rest[:1]), make([W] + rest[1:])], dropout=False)
    before = [p.value.tobytes() for p in script.z.parameters]

    def train(optimization):
        if front == 'session':
            script.run([optimization])
        elif front == 'hand loop':
            with nc.attach(script.trainer, [optimization], epoch_size=128):
                for number in range(6):
                    rows = slice(64 * number, 64 * number + 64)
                    script.trainer.train_minibatch(
                        {script.x: script.images[rows], script.label: script.labels[rows]}
                    )
        else:
            nc.train(
                C.combine([script.loss, script.metric]),
                (script.images, script.labels),
                epoch_size=128,
                parameter_learners=script.learners,
                callbacks=[optimization],
                max_epochs=4,
            )

    with pytest.raises(ValueError, match='(?s)FactorDense: layer hidden.*' + words):
        train(factoring())
    assert [p.value.tobytes() for p in script.z.parameters] == before
    train(factoring(learner=sgd))
    assert not weights(script.z) and [p.name for p in script.z.parameters].count('W1') == 1


@pytest.mark.parametrize('make', [Halves, universal, before_the_import])
def test_learner_that_cannot_be_rebuilt_and_need_not_be_is_left_alone(make):
    """It holds no Parameter that is retired."""
    script = with_learners(lambda W, rest: [sgd([W]), make(rest)], dropout=False, test=False)
    mine = script.learners[1].this
    script.run([nc.FactorDense(epoch=1, rank=RANK, filter_function=hidden)])
    assert script.learners[1].this is mine
    assert [p.name for p in script.learners[0].parameters] == ['W1', 'W2']


class Wrong(Halves):
    """Says that it can be rebuilt, and gives something else."""

    answer = None

    def rebuilt(self, parameters):
        return self.answer(parameters) if self.answer else None


@pytest.mark.parametrize(
    'answer',
    [
        None,
        staticmethod(lambda parameters: Halves(parameters[:2])),
        staticmethod(lambda parameters: sgd(parameters)),
    ],
)
def test_rebuilt_that_returns_no_learner_over_these_parameters(answer):
    script = with_learners(lambda W, rest: [Wrong([W] + rest)], dropout=False)
    before = [p.value.tobytes() for p in script.z.parameters]
    with pytest.raises(
        ValueError,
        match=r'rebuilt\(parameters\) of the learner Wrong must return a UserLearner over',
    ):
        Wrong.answer = answer
        with nc.attach(script.trainer, [Factor(epoch=0)], epoch_size=128):
            script.trainer.train_minibatch(
                {script.x: script.images[:64], script.label: script.labels[:64]}
            )
    assert [p.value.tobytes() for p in script.z.parameters] == before
    script.trainer.train_minibatch({script.x: script.images[:64], script.label: script.labels[:64]})
    assert [p.value.tobytes() for p in script.z.parameters] != before


# The memory of what is retired.


def resident():
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def let_go():
    """Prints the megabytes that a swap of a Dense of 64 MB gives back."""
    side = 4096
    x, y = C.input_variable(side), C.input_variable(side)
    z = C.layers.Dense(side, name='hidden', init=C.uniform(0.01))(x)
    trainer = C.Trainer(z, C.squared_error(z, y), [C.momentum_sgd(z.parameters, 1e-6, 0.9)])
    data = {x: np.ones((4, side), 'f'), y: np.ones((4, side), 'f')}
    factors = lambda W, k: (np.full((side, k), 0.01, 'f'), np.full((k, side), 0.01, 'f'))
    with nc.attach(
        trainer, [nc.FactorDense(epoch=1, rank=2, factor_function=factors)], epoch_size=8
    ):
        trainer.train_minibatch(data)
        trainer.train_minibatch(data)
        before = resident()
        trainer.train_minibatch(data)
        gc.collect()
        print('LETGO %d' % ((before - resident()) >> 20))


def test_memory_of_w_and_of_its_state_is_let_go():
    """W and its smoothed gradient are of 64 MB each; what is held of the gradient CNTK may use
    again."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([HERE, PYTHONPATH]))
    output = subprocess.check_output(
        [sys.executable, '-c', 'import test_learners_refused as t; t.let_go()'],
        env=environment,
        universal_newlines=True,
    )
    assert int(output.split('LETGO ')[1]) >= 120, output


def test_parameter_that_is_retired_is_held_by_nothing_of_ours():
    script = Script(test=False)
    held = weakref.ref(weights(script.z)[0])
    script.run([Factor(epoch=1), Identity(epoch=2)])
    gc.collect()
    assert held() is None
