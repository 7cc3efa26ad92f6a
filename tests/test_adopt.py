"""Packed Parameters against Parameters of their own: the same bits, forward and trained."""
import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from netopt_callbacks.engine import tenants
from netopt_callbacks.optimizations.base import LayerNote
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
        note = LayerNote(layer.name, layer.W.shape, retired=(layer.W,), added=(self.w1, self.w2))
        return nc.Transformed(
            nc.graph.replace(model, {layer: layer.rebuilt(core, 'DenseFactored')}), [note])


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
    with pytest.raises(ValueError, match='learner= does not train W2'):
        script.run([Factor(epoch=0, learner=lambda parameters: C.sgd(parameters[:1], 0.1)
                           if parameters[0].name == 'W1' else C.sgd(parameters[1:], 0.1))])


def test_state_of_the_packed_is_reset_and_all_other_state_stays():
    script = Script(test=False, cross_validation=0, sweeps=1)
    script.run_plain()
    learner, = script.learners
    before = [np.array(g) for g in learner.create_checkpoint()['smoothed_gradients']]
    with nc.attach(script.trainer, [Factor(epoch=0)], epoch_size=SAMPLES) as run:
        run.engine.start()
        after = [np.array(g) for g in learner.create_checkpoint()['smoothed_gradients']]
    for parameter, old, new in zip(learner.parameters, before, after):
        if parameter.shape == (6, 6, 6, 12):
            assert old.any() and not new.any()
        else:
            assert old.any() and np.array_equal(old, new)


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
