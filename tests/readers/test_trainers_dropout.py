"""Dropout under several Trainers over the same layers: each draws the masks that it would draw in
plain CNTK, across a swap and a restore. CNTK keeps one state for each Trainer, though they may
share the Function."""
import os

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from readers_scripts import Turns, operations, score
from test_readers import new_process
from test_readers_trainers import SAMPLES, factoring


class Rebuilt(nc.Optimization):
    """Puts the same computation in the place of a layer."""

    def transform(self, model):
        (layer,) = [one for one in nc.graph.layers(model) if one.name == 'hidden']
        x = C.placeholder()
        same = C.alias(C.tanh(C.times(x, layer.W) + layer.b), 'hidden')
        return nc.graph.replace(model, {layer: same})


WHERE = ['trunk', 'first', 'second', 'both']


class Dropping(Turns):
    """Two tasks on one trunk: dropout behind the trunk, or before the last layer of a task."""

    def __init__(self, where, each=(1, 2)):
        self.where, self.each = where, each
        super().__init__()

    def build(self):
        tops = [(p[2], p[3]) for p in self.parameters]
        trunk = C.dropout(self.trunk, 0.3, seed=5) if self.where == 'trunk' else self.trunk
        before = [
            C.dropout(trunk, 0.3, seed=7 + place) if self.where in (name, 'both') else trunk
            for place, name in enumerate(('first', 'second'))
        ]
        self.zs = [C.times(x, W) + b for x, (W, b) in zip(before, tops)]
        self.trainers = [
            C.Trainer(z, (C.cross_entropy_with_softmax(z, y), score(z, y)), [learner])
            for z, y, learner in zip(self.zs, self.ys, self.learners)
        ]

    def train(self, turns, order=(0, 1)):
        for _ in range(turns):
            for place in order:
                for _ in range(self.each[place]):
                    self.trainers[place].train_minibatch(
                        {self.x: self.data, self.ys[place]: self.labels[place]}
                    )

    def values(self):
        """Returns the values of all Parameters, by layer; factored ones last."""
        return [
            p.value.tobytes()
            for trainer in self.trainers
            for learner in trainer.parameter_learners
            for p in learner.parameters
        ]

    def save(self, folder, name):
        for number, trainer in enumerate(self.trainers):
            trainer.save_checkpoint(os.path.join(str(folder), name + str(number)))

    def restore(self, folder, name):
        for number, trainer in enumerate(self.trainers):
            trainer.restore_from_checkpoint(os.path.join(str(folder), name + str(number)))


@pytest.mark.parametrize('each', [(1, 1), (1, 2), (3, 1)])
@pytest.mark.parametrize('where', WHERE)
def test_masks_after_a_swap_are_those_of_plain_cntk(where, each):
    """Also where the other Trainer is the first to train after it."""
    plain, case = Dropping(where, each), Dropping(where, each)
    with nc.attach(case.trainers[0], [Rebuilt(epoch=2)], epoch_size=each[0] * SAMPLES):
        for both in plain, case:
            both.train(3)
            both.train(3, order=(1, 0))
    assert case.values() == plain.values()


@pytest.mark.parametrize('first', [0, 1])
@pytest.mark.parametrize('where', WHERE)
def test_trainer_that_has_not_trained_before_the_swap_begins_with_its_first_mask(where, first):
    plain, case = Dropping(where), Dropping(where)
    for both in plain, case:
        both.train(2, order=(first,))
    with nc.attach(case.trainers[0], [Rebuilt(epoch=0)], epoch_size=SAMPLES):
        for both in plain, case:
            both.train(2, order=(1, 0))
    assert case.values() == plain.values()


@pytest.mark.parametrize('where', WHERE)
def test_observers_alone_leave_the_masks_of_another_trainer(where, tmpdir):
    plain, case = Dropping(where), Dropping(where)
    for both in plain, case:
        both.train(2, order=(0,))
    with nc.attach(case.trainers[0], [nc.Observer()], epoch_size=SAMPLES):
        for both in plain, case:
            both.train(1, order=(1,))
            both.trainers[1].save_checkpoint(str(tmpdir.join('other')))
            both.train(2)
    assert case.values() == plain.values()


@pytest.mark.few(3)
@pytest.mark.parametrize('kind', [Rebuilt, factoring])
@pytest.mark.parametrize('where', WHERE)
def test_trainers_with_dropout_go_back_and_ahead_together(where, kind, tmpdir):
    case = Dropping(where)
    with nc.attach(case.trainers[0], [kind(epoch=2)], epoch_size=2 * SAMPLES):
        case.train(3)
        case.save(tmpdir, 'early')
        case.train(3)
        case.save(tmpdir, 'late')
        case.train(3)
        end = case.values()
        for name, rest in (('early', 6), ('late', 3), ('late', 3), ('early', 6)):
            case.restore(tmpdir, name)
            case.train(rest)
            assert case.values() == end, name


@pytest.mark.parametrize('where', WHERE)
def test_trainers_saved_again_before_they_train(where, tmpdir):
    """Right after a restore, each checkpoint holds the state of its own Trainer."""
    case = Dropping(where)
    with nc.attach(case.trainers[0], [factoring(epoch=1)], epoch_size=2 * SAMPLES):
        case.train(4)
        case.save(tmpdir, 'one')
        case.train(2)
        end = case.values()
        case.restore(tmpdir, 'one')
        case.save(tmpdir, 'two')
        case.train(1)
        case.restore(tmpdir, 'two')
        case.train(2)
        assert case.values() == end


def dropping_main(where, due, folder, kill):
    """Trains, in two processes: the first saves both Trainers, the second restores both."""
    case = Dropping(where)
    with nc.attach(case.trainers[0], [factoring(epoch=int(due))], epoch_size=2 * SAMPLES):
        if os.path.exists(os.path.join(folder, 'model0')):
            case.restore(folder, 'model')
        else:
            case.train(5)
            case.save(folder, 'model')
        case.train(4)
    assert 'DenseFactored' in operations(*case.zs)
    print('TOLD', [np.frombuffer(value, np.float32).tolist() for value in case.values()])


@pytest.mark.few(2)
@pytest.mark.parametrize('due', [1, 4])
@pytest.mark.parametrize('where', WHERE)
def test_trainers_with_dropout_after_a_resume_in_a_new_process(where, due, tmpdir):
    whole = new_process(tmpdir, 'test_trainers_dropout.dropping_main', where, due)
    assert new_process(tmpdir, 'test_trainers_dropout.dropping_main', where, due) == whole
