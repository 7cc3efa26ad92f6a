"""Checkpoints of several Trainers over the same layers, saved together: all are restored, whole or
not at all, and training goes on as without."""
import os

import cntk as C
import pytest

import netopt_callbacks as nc
from netopt_callbacks.checkpoints import phase_file
from readers_scripts import Turns, momentum, operations
from test_readers import new_process
from test_readers_trainers import SAMPLES, Adversaries, factoring


def adam(parameters):
    return C.adam(parameters, C.learning_parameter_schedule(0.01), 0.9)


def rmsprop(parameters):
    return C.rmsprop(parameters, C.learning_parameter_schedule(0.003), 0.95, 1.2, 0.7, 10.0, 0.001)


class Unsaid(nc.Optimization):
    """Factors a layer, and does not say which Parameters replace which."""

    def transform(self, model):
        return factoring().transform(model).model


class Heads(Turns):
    """Two tasks in turns; the trunk is trained by the second Trainer only."""

    def __init__(self):
        super().__init__()
        self.parameters[0] = self.parameters[0][2:]
        self.learners[0] = momentum(self.parameters[0])
        self.build()


OWN = dict(learner=adam)
CASES = {
    'the other one has the layer alone': (Heads, factoring),
    'alone, with a learner of the optimization': (Heads, lambda: factoring(**OWN)),
    'a learner of the optimization': (Turns, lambda: factoring(**OWN)),
    'not said what is replaced': (Turns, Unsaid),
    'two optimizations': (Turns, None),
}


def optimizations(kind):
    make = CASES[kind][1]
    if make is not None:
        return [make()]
    again = nc.BinarizeDense(epoch=2, filter_function=lambda layer: layer.name == 'task3')
    return [factoring(**OWN), again]


def learned(case):
    """Returns what each learner of each Trainer trains, and all values."""
    return [
        [
            [(p.name, p.shape, p.value.tobytes()) for p in learner.parameters]
            for learner in trainer.parameter_learners
        ]
        for trainer in case.trainers
    ]


@pytest.mark.parametrize('kind', list(CASES))
def test_trainers_go_back_and_ahead_together(kind, tmpdir):
    case = CASES[kind][0]()
    told = {}

    def saved(name):
        for number, trainer in enumerate(case.trainers):
            trainer.save_checkpoint(str(tmpdir.join(name + str(number))))
        told[name] = learned(case)

    with nc.attach(case.trainers[0], optimizations(kind), epoch_size=2 * SAMPLES):
        case.train(1)
        saved('early')
        case.train(4)
        saved('late')
        case.train(3)
        end = learned(case)
        for name, rest in (('early', 7), ('late', 3), ('late', 3), ('early', 7)):
            for number, trainer in enumerate(case.trainers):
                trainer.restore_from_checkpoint(str(tmpdir.join(name + str(number))))
            assert learned(case) == told[name], name
            case.train(rest)
            assert learned(case) == end, name


def turns_main(kind, folder, kill):
    """Trains, in two processes: the first saves both Trainers, the second restores both."""
    case = CASES[kind][0]()
    files = [os.path.join(folder, name) for name in 'ab']
    resumed = os.path.exists(files[0])
    with nc.attach(case.trainers[0], optimizations(kind), epoch_size=2 * SAMPLES):
        if resumed:
            for trainer, file in zip(case.trainers, files):
                trainer.restore_from_checkpoint(file)
        else:
            case.train(5)
            for trainer, file in zip(case.trainers, files):
                trainer.save_checkpoint(file)
        case.train(3)
        print('TOLD', learned(case))


@pytest.mark.few(1)
@pytest.mark.parametrize('kind', list(CASES))
def test_trainers_after_a_resume_in_a_new_process(kind, tmpdir):
    whole = new_process(tmpdir, 'test_trainers_restored.turns_main', kind)
    assert new_process(tmpdir, 'test_trainers_restored.turns_main', kind) == whole


class Both(Adversaries):
    """A GAN whose layers are both factored under the generator's Trainer, whose learner trains
    one of them."""

    def factored(self):
        names = ('g_hidden', 'd_hidden')
        return nc.FactorDense(epoch=1, rank=4, filter_function=lambda layer: layer.name in names)

    def values(self):
        return [p.value.tobytes() for p in self.d.loss_function.parameters]


def test_adversaries_that_are_factored_together_go_back_and_ahead(tmpdir):
    case = Both()
    files = [str(tmpdir.join(name)) for name in ('g0', 'd0', 'g', 'd')]
    with nc.attach(case.g, [case.factored()], epoch_size=16 * 6):
        case.train(0, 3)
        case.g.save_checkpoint(files[0])
        case.d.save_checkpoint(files[1])
        case.train(3, 12)
        case.g.save_checkpoint(files[2])
        case.d.save_checkpoint(files[3])
        case.train(12, 16)
        end = case.values()
        for begin, (g, d) in ((3, files[:2]), (12, files[2:])):
            case.g.restore_from_checkpoint(g)
            case.d.restore_from_checkpoint(d)
            case.told()
            case.train(begin, 16)
            assert case.values() == end
    assert 'DenseFactored' in operations(case.g_loss)


def test_restore_of_the_other_trainer_that_fails_changes_nothing(tmpdir):
    """CNTK raises only after it has restored the counts and a learner."""
    case, other = Turns(), Turns(adam)
    file = str(tmpdir.join('other'))
    with nc.attach(case.trainers[0], [factoring()], epoch_size=2 * SAMPLES):
        with nc.attach(other.trainers[0], [factoring()], epoch_size=2 * SAMPLES):
            other.train(5)
            other.trainers[1].save_checkpoint(file)
        case.train(4)
        seen = case.trainers[1].total_number_of_samples_seen
        before = learned(case)
        with pytest.raises(Exception):
            case.trainers[1].restore_from_checkpoint(file)
        assert case.trainers[1].total_number_of_samples_seen == seen
        assert learned(case) == before


def test_learner_that_an_earlier_run_made_is_the_scripts_own_in_the_next(tmpdir):
    """In the other Trainer, too."""
    case = Turns()
    with nc.attach(case.trainers[0], [factoring(epoch=0, **OWN)], epoch_size=2 * SAMPLES):
        case.train(2)
    again = nc.BinarizeDense(
        epoch=1, filter_function=lambda layer: layer.name == 'task3', learner=rmsprop
    )
    with nc.attach(case.trainers[0], [again], epoch_size=2 * SAMPLES):
        case.train(1)
        for number, trainer in enumerate(case.trainers):
            trainer.save_checkpoint(str(tmpdir.join(str(number))))
        case.train(4)
        end = learned(case)
        for number, trainer in enumerate(case.trainers):
            trainer.restore_from_checkpoint(str(tmpdir.join(str(number))))
        case.train(4)
        assert learned(case) == end


def test_what_other_trainers_train_is_in_the_file_of_a_phase(tmpdir):
    case = Turns()
    with nc.attach(case.trainers[0], [factoring(**OWN)], epoch_size=2 * SAMPLES):
        case.train(3)
        case.trainers[0].save_checkpoint(str(tmpdir.join('model')))
    (file,) = tmpdir.join('model.netopt').visit('phase-1.*')
    ((script, own),) = phase_file.read(str(file)).others
    assert script[0] is None and [here for here, _ in script[1]] == [False] * 3
    assert own[0] == 0 and [here for here, _ in own[1]] == [True] * 2
