"""Packed Parameters against Parameters of their own: the same bits, forward and trained."""
import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from netopt_callbacks.engine import tenants
from user_script import LEARNERS, SAMPLES, Identity, Script

RANK = 3


class Factor(nc.Optimization):
    """Factors the layer 'hidden' into random W1, W2: the oracle of the packing, not of an SVD."""

    size = RANK

    def transform(self, model):
        layer, = nc.graph.layers(model, lambda layer: layer.name == 'hidden')
        random = np.random.RandomState(4)
        shape = tuple(layer.W.shape[:-1])
        self.w1 = C.Parameter(shape + (self.size,), name='W1', init=random.uniform(
            -.3, .3, shape + (self.size,)).astype(np.float32))
        self.w2 = C.Parameter((self.size, 12), name='W2', init=random.uniform(
            -.3, .3, (self.size, 12)).astype(np.float32))
        data = C.placeholder()
        core = C.times(C.times(data, self.w1), self.w2)
        return nc.Transformed(
            nc.graph.replace(model, {layer: layer.rebuilt(core, 'DenseFactored')}),
            [nc.LayerNote(layer.name, layer.W.shape)],
            [nc.Replaced(layer.name, retired=(layer.W,), added=(self.w1, self.w2))])


def factors(model):
    found = {parameter.name: parameter.value for parameter in model.parameters}
    return found['W1'], found['W2']


def trained(learner, own):
    """Returns (other Parameters, W1, W2) after training with packed factors, or with their own."""
    script = Script(learner=learner, sweeps=2, test=False, cross_validation=0, dropout=False)
    make = (lambda parameters: LEARNERS[learner](parameters)[0]) if own else None
    script.run([Factor(epoch=0, learner=make)])
    model = script.session.result.model
    rest = [p.value.tobytes() for p in model.parameters if p.name not in ('W1', 'W2')]
    return rest, [w.tobytes() for w in factors(model)]


@pytest.mark.parametrize('learner', ['sgd', 'momentum_sgd', 'nesterov', 'adam', 'adadelta', 'fsadagrad',
                                     'L1 and L2', 'clipping'])
def test_packed_trains_as_parameters_of_their_own(learner):
    assert trained(learner, own=False) == trained(learner, own=True)


@pytest.mark.parametrize('learner, reason', [
    ('adagrad', 'need_ave_multiplier'), ('rmsprop', 'need_ave_multiplier'),
    ('clipping by norm', 'by norm'), ('noise', 'noise')])
def test_learner_that_couples_elements_is_refused(learner, reason):
    script = Script(learner=learner)
    before = script.state()
    with pytest.raises(ValueError, match='layer hidden.*%s.*learner=lambda' % reason):
        script.run([Factor(epoch=0)])
    assert script.state() == before
    trained(learner, own=True)


class TooLarge(Factor):
    """Adds more than it retires."""

    size = 100


def test_parameters_that_fit_nowhere_are_refused():
    script = Script()
    with pytest.raises(ValueError, match='TooLarge: hidden adds W[12] of shape.*learner=lambda'):
        script.run([TooLarge(epoch=0)])
    script.trainer.train_minibatch({script.x: script.images[:8], script.label: script.labels[:8]})


def test_learner_that_forgets_a_parameter_is_refused():
    script = Script()
    with pytest.raises(ValueError, match='must train all new Parameters, got one without W2'):
        script.run([Factor(epoch=0, learner=lambda parameters: C.sgd(parameters[:1], 0.1)
                           if parameters[0].name == 'W1' else C.sgd(parameters[1:], 0.1))])


def test_state_of_the_packed_is_reset_and_all_other_state_stays():
    script = Script(test=False, cross_validation=0, sweeps=1)
    script.run_plain()
    learner, = script.learners
    before = [np.array(g) for g in learner.create_checkpoint()['smoothed_gradients']]
    with nc.attach(script.trainer, [Factor(epoch=0)], epoch_size=SAMPLES) as run:
        run.start()
        after = [np.array(g) for g in learner.create_checkpoint()['smoothed_gradients']]
    for parameter, old, new in zip(learner.parameters, before, after):
        if parameter.shape == (6, 6, 6, 12):
            assert old.any() and not new.any()
        else:
            assert old.any() and np.array_equal(old, new)


@pytest.mark.parametrize('learner, blocks', [('momentum_sgd', 1), ('nesterov', 1), ('sgd', 0)])
def test_projected_state_is_the_chain_rule(learner, blocks):
    """M of W becomes M W2^T and W1^T M; against NumPy in float64."""
    script = Script(learner=learner, test=False, cross_validation=0, sweeps=1)
    script.run_plain()
    trained, = script.learners
    place = [p.shape for p in trained.parameters].index((6, 6, 6, 12))
    state = lambda: np.array(trained.create_checkpoint()['smoothed_gradients'][place]) \
        if blocks else np.zeros(0)
    before = state().astype(np.float64)
    optimization = nc.FactorDense(epoch=0, rank=RANK, learner_state='project',
                                  filter_function=lambda layer: layer.name == 'hidden')
    with nc.attach(script.trainer, [optimization], epoch_size=SAMPLES) as run:
        run.start()
        after = state().reshape(-1)
    if not blocks:
        assert not after.size
        return
    w1, w2 = (w.astype(np.float64) for w in factors(run.result.model))
    gradient = before.reshape(216, 12)
    oracle = {'W1': gradient.dot(w2.T), 'W2': w1.reshape(216, RANK).T.dot(gradient)}
    expected = np.zeros_like(after)
    for tenant in tenants.release(script.z)[1]:
        expected[tenant.offset:tenant.offset + tenant.size] = oracle[tenant.parameter.name].ravel()
    assert before.any() and np.count_nonzero(expected) == RANK * (216 + 12)
    # float32 sums of up to 216 products.
    np.testing.assert_allclose(after, expected, rtol=0,
                               atol=216 * 2. ** -24 * np.abs(expected).max())


def split_script():
    """Returns a script whose layer 'hidden' is trained by adam, all else by momentum_sgd."""
    script = Script(test=False)
    hidden = [p for p in script.z.parameters if p.shape == (6, 6, 6, 12)]
    others = [p for p in script.z.parameters if p.shape != (6, 6, 6, 12)]
    script.learners = LEARNERS['momentum_sgd'](others) + LEARNERS['adam'](hidden)
    script.trainer = C.Trainer(script.z, (script.loss, script.metric), script.learners, [])
    script.arguments['trainer'] = script.trainer
    return script


@pytest.mark.parametrize('make, words', [
    (lambda: Script(learner='adam'), "FactorDense: learner_state='project', but the trainer has "
                                     "no learner it is defined for, it has adam.*'reset'"),
    (split_script, "layer hidden: learner_state='project', but adam trains it")])
def test_projection_for_an_adaptive_learner_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make().run([nc.FactorDense(epoch=1, rank=2, learner_state='project',
                                   filter_function=lambda layer: layer.name == 'hidden')])


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
            w1 = C.Parameter(shape[:-1] + (2,), init=.1)
            w2 = C.Parameter((2,) + shape[-1:], init=.1)
            data = C.placeholder()
            found[layer] = layer.rebuilt(C.times(C.times(data, w1), w2, output_rank=1), 'Factored')
        return nc.graph.replace(model, found)


def test_no_parameter_passes_to_another_learner_without_a_word():
    Script(test=False, sweeps=1).run([Unsaid(epoch=0)])         # one learner: nothing to mistake
    script = split_script()
    with pytest.raises(ValueError, match='2 learners .momentum_sgd, adam.*retired='):
        script.run([Unsaid(epoch=0)])


def test_model_of_a_trainer_without_one_is_the_loss_as_the_user_wrote_it():
    script = Script(test=False, sweeps=2)
    script.trainer = C.Trainer(None, (script.loss, script.metric), script.learners, [script.log])
    script.arguments['trainer'] = script.trainer
    script.run([Factor(epoch=1, learner=lambda parameters: C.sgd(parameters, 0.05))],
               data=script.held_out)
    model = script.session.result.model
    assert sorted(p.shape for p in model.parameters if p.name in ('W1', 'W2')) \
        == [(3, 12), (6, 6, 6, 3)]
    assert (6, 6, 6, 12) not in [p.shape for p in model.parameters]
    assert not [c.name for c in model.constants if c.name.startswith('netopt_callbacks')]


def test_release_gives_the_values_back_and_export_shares_nothing():
    script = Script(test=False)
    optimization = Factor(epoch=0)
    script.run([optimization, Identity(epoch=2)])
    model = script.session.result.model
    feed = {script.x: script.images[:7]}
    assert np.array_equal(model.eval(feed), script.z.eval(feed))
    assert model.arguments[0].uid == script.x.uid
    mine = {parameter.uid for parameter in model.parameters}
    assert not mine & {parameter.uid for parameter in script.z.parameters}
    plain, found = tenants.release(script.z)
    assert sorted(t.parameter.name for t in found) == ['W1', 'W2']
    assert np.array_equal(plain.eval(feed), script.z.eval(feed))


def test_layer_no_learner_trains_stays_untrained():
    script = Script(learner='part')         # the learner has the first four Parameters only
    trained_names = [p.shape for p in script.learners[0].parameters]
    assert (6, 6, 6, 12) in trained_names   # 'hidden' is among them
    script = Script(learner='part')
    frozen = [p for p in script.z.parameters if p.shape == (6, 6, 6, 12)][0]
    learner = C.sgd([p for p in script.z.parameters if p.uid != frozen.uid], 0.1)
    script.trainer = C.Trainer(script.z, (script.loss, script.metric), [learner], [])
    script.arguments['trainer'], script.learners = script.trainer, [learner]
    optimization = Factor(epoch=1)
    script.run([optimization])
    record, = script.session.result.records
    assert 'no learner trained this layer' in record.notes[0]
    assert np.array_equal(factors(script.session.result.model)[1], optimization.w2.value)


def test_second_optimization_keeps_the_first_ones_tenants():
    class Again(nc.Optimization):
        """Looks at the graph the first left: plain, with W1 and W2 as Parameters."""

        def transform(self, model):
            self.names = sorted(parameter.name for parameter in model.parameters)
            return model

    script, again = Script(test=False), Again(epoch=2)
    once = Script(test=False)
    once.run([Factor(epoch=1)])
    script.run([Factor(epoch=1), again])
    assert again.names.count('W1') == again.names.count('W2') == 1
    assert script.outcome() == once.outcome()


def test_transform_that_loses_an_output_or_a_parameter_is_refused():
    class Loses(nc.Optimization):
        def transform(self, model):
            return C.combine(model.outputs[:-1])

    class Detached(nc.Optimization):
        def transform(self, model):
            return 'not a Function'

    for optimization, error, words in ((Loses(), ValueError, 'same outputs'),
                                       (Detached(), TypeError, 'must return a cntk.Function')):
        script = Script()
        with pytest.raises(error, match=words):
            script.run([optimization])
        script.trainer.train_minibatch({script.x: script.images[:8],
                                        script.label: script.labels[:8]})


def test_retired_parameter_without_a_successor_stays_reachable():
    """CNTK ends the process where a learner's Parameter has no way to the loss."""
    class Removes(nc.Optimization):
        def transform(self, model):
            layer, = nc.graph.layers(model, lambda layer: layer.name == 'hidden')
            data = C.placeholder()
            fixed = C.constant(layer.W.value)
            return nc.graph.replace(model, {layer: layer.rebuilt(C.times(data, fixed), 'Fixed')})

    script = Script(test=False)
    script.run([Removes(epoch=1)])
    assert script.trainer.total_number_of_samples_seen == 4 * SAMPLES


def test_retired_parameter_stays_zero_under_momentum():
    """Factors under a learner of their own leave the storage of W to none; it is read as zero times W."""
    script = Script(test=False)
    storage = script.z.find_by_name('hidden').W
    script.run([Factor(epoch=1, learner=lambda parameters: C.sgd(parameters, 0.05))])
    assert script.session.result.records[0].samples < script.trainer.total_number_of_samples_seen
    assert not storage.value.any()
