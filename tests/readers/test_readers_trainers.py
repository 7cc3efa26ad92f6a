"""Other Trainers over the same layers follow a change, their learners too; or it is refused
before training."""
import os

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from readers_scripts import OP_NAMES, OPTIMIZATIONS, Turns, momentum, operations
from rebuilt_oracle import STATE, Weighty, carry_velocities, halves
from test_readers import new_process
from user_script import Halves, before_the_import, universal

SAMPLES = 64
LEARNERS = {
    'sgd': lambda p: C.sgd(p, C.learning_parameter_schedule(0.05)),
    'momentum': momentum,
    'adam': lambda p: C.adam(p, C.learning_parameter_schedule(0.003), 0.9),
    'rmsprop': lambda p: C.rmsprop(
        p, C.learning_parameter_schedule(0.003), 0.95, 1.2, 0.7, 10.0, 0.001
    ),
    'user with rebuilt': Weighty,
}


def factoring(epoch=1, **options):
    return nc.FactorDense(
        epoch=epoch,
        rank=3,
        factor_function=halves,
        filter_function=lambda layer: layer.name == 'hidden',
        **options,
    )


def plain_turns(first, second, before, after):
    """Returns the parameters of two plain Trainers that a script builds anew over W1, W2 after
    some turns."""
    case = Turns(LEARNERS[second], LEARNERS[first])
    case.train(before)
    W, b = case.parameters[0][:2]
    factors = [C.Parameter(value.shape, init=value) for value in halves(W.value)]
    trunk = C.tanh(C.times(C.times(case.x, factors[0]), factors[1]) + b)
    case.zs = [C.times(trunk, parameters[2]) + parameters[3] for parameters in case.parameters]
    old, case.learners = case.learners, []
    for name, learner, parameters in zip((first, second), old, case.parameters):
        parameters[:1] = factors
        new = LEARNERS[name](parameters)
        if name == 'user with rebuilt':
            carry_velocities(learner, new)
        else:
            state, fresh = learner.create_checkpoint(), new.create_checkpoint()[STATE]
            state[STATE] = [
                np.array(value, order='C') for value in fresh[:2] + list(state[STATE])[1:]
            ]
            state[STATE] = [
                np.array(value, order='C').reshape(np.shape(one))
                for value, one in zip(state[STATE], fresh)
            ]
            new.restore_from_checkpoint(state)
        case.learners.append(new)
    case.build()
    case.train(after)
    return [p.value.tobytes() for parameters in case.parameters for p in parameters]


def values(case):
    """Returns the same of two trainers that an optimization has changed."""
    found = []
    for trainer, parameters in zip(case.trainers, case.parameters):
        named = {p.name: p for p in trainer.loss_function.parameters}
        found += [p.value.tobytes() for p in [named['W1'], named['W2']] + parameters[1:]]
    return found


@pytest.mark.parametrize('own', [None, momentum], ids=['', 'learner='])
def test_layer_that_only_another_trainer_trains_is_trained_on_and_told_so(own):
    case = Turns()
    case.learners = [momentum(case.parameters[0][2:]), LEARNERS['adam'](case.parameters[1])]
    case.build()
    with nc.attach(case.trainers[0], [factoring(learner=own)], epoch_size=2 * SAMPLES) as run:
        case.train(3)
        factors = [p for p in case.trunk.parameters if p.name in ('W1', 'W2')]
        for trainer, y, labels, trains in zip(case.trainers, case.ys, case.labels, (False, True)):
            before = [p.value for p in factors]
            trainer.train_minibatch({case.x: case.data, y: labels})
            for parameter, value in zip(factors, before):
                assert np.array_equal(parameter.value, value) != trains
    assert run.result.records[0].notes[0] == (
        'hidden: no learner of this Trainer trained this layer, none trains it now; another '
        'Trainer trains it, before and after (adam)'
    )


@pytest.mark.parametrize(
    'first, second',
    [
        ('sgd', 'sgd'),
        ('momentum', 'adam'),
        ('adam', 'rmsprop'),
        ('momentum', 'user with rebuilt'),
        ('rmsprop', 'momentum'),
    ],
)
def test_two_trainers_in_turns_equal_two_built_over_the_factors(first, second):
    case = Turns(LEARNERS[second], LEARNERS[first])
    before = case.trunk
    with nc.attach(case.trainers[0], [factoring()], epoch_size=4 * SAMPLES) as run:
        case.train(12)
        assert [z.eval({case.x: case.data})[:2].tobytes() for z in case.zs] == [
            told.tobytes() for told in case.told()
        ]
    assert values(case) == plain_turns(first, second, 4, 8)
    assert (
        case.trunk is before
        and 'DenseFactored' in operations(case.trunk)
        and 'DenseFactored' in operations(*case.zs)
    )
    assert [note for note in run.result.records[0].notes if 'another Trainer' in note]


@pytest.mark.few(1)
@pytest.mark.parametrize('kind', ['factor', 'binarize dense'])
def test_two_trainers_go_back_and_ahead_together(kind, tmpdir):
    """A checkpoint of each saved at the same time: the one with callbacks is restored first."""
    case = Turns()
    files = {name: [str(tmpdir.join(name + str(n))) for n in (0, 1)] for name in ('early', 'late')}
    told = {}

    def saved(name):
        for trainer, file in zip(case.trainers, files[name]):
            trainer.save_checkpoint(file)
        told[name] = [one.tobytes() for one in case.told()]

    def checked():
        assert [z.eval({case.x: case.data})[:2].tobytes() for z in case.zs] == [
            one.tobytes() for one in case.told()
        ]

    with nc.attach(case.trainers[0], [OPTIMIZATIONS[kind]()], epoch_size=4 * SAMPLES):
        case.train(3)
        saved('early')
        case.train(3)
        saved('late')
        checked()
        case.train(3)
        end = [one.tobytes() for one in case.told()]
        with pytest.raises(ValueError, match='is of another network than this Trainer has now'):
            case.trainers[1].restore_from_checkpoint(files['early'][1])
        assert [one.tobytes() for one in case.told()] == end
        for name, rest in (('late', 3), ('early', 6), ('late', 3), ('early', 6)):
            for trainer, file in zip(case.trainers, files[name]):
                trainer.restore_from_checkpoint(file)
            assert [one.tobytes() for one in case.told()] == told[name], name
            checked()
            assert (OP_NAMES[kind] in operations(*case.zs)) == (name == 'late')
            case.train(rest)
            assert [one.tobytes() for one in case.told()] == end, name
            checked()


@pytest.mark.parametrize(
    'make, words',
    [
        (Halves, r'Halves.*rebuilt\(parameters\)'),
        (universal, 'C.universal'),
        (before_the_import, 'made before `import netopt_callbacks`'),
    ],
)
def test_other_trainer_whose_learner_cannot_be_rebuilt_is_refused_before_training(make, words):
    """With both trainers named, and what to do."""
    case = Turns(second=make)
    before = [p.value.tobytes() for p in case.parameters[0]]
    with pytest.raises(ValueError, match='(?s)another Trainer.*' + words):
        with nc.attach(case.trainers[0], [factoring(epoch=2)], epoch_size=4 * SAMPLES):
            case.trainers[0].train_minibatch({case.x: case.data, case.ys[0]: case.labels[0]})
    assert [p.value.tobytes() for p in case.parameters[0]] == before
    case.train(2)


@pytest.mark.parametrize('make', [Halves, universal])
def test_other_trainer_is_refused_at_the_latest_when_it_would_change(make):
    """Then nothing has changed, neither trainer nor reader."""
    case = Turns(second=make)
    with pytest.raises(ValueError):
        with nc.attach(case.trainers[0], [factoring(epoch=1)], epoch_size=4 * SAMPLES):
            case.train(8)
    assert 'DenseFactored' not in operations(case.trunk, *case.zs)
    assert [z.eval({case.x: case.data})[:2].tobytes() for z in case.zs] == [
        one.tobytes() for one in case.told()
    ]
    case.train(2)


class Failing(Weighty):
    """Raises where it is to be rebuilt."""

    def rebuilt(self, parameters):
        raise KeyError('late')


def test_error_in_the_other_trainer_undoes_the_change_of_the_first():
    plain, case = Turns(Weighty), Turns(Failing)
    with pytest.raises(KeyError, match='late'):
        with nc.attach(case.trainers[0], [factoring()], epoch_size=4 * SAMPLES):
            case.train(8)
    plain.train(4)
    for each in plain, case:
        each.train(3)
    assert [[p.value.tobytes() for p in parameters] for parameters in case.parameters] == [
        [p.value.tobytes() for p in parameters] for parameters in plain.parameters
    ]
    assert [one.tobytes() for one in case.told()] == [one.tobytes() for one in plain.told()]


# A generator whose trainer reads the discriminator.


class Adversaries:
    """Two Trainers: the generator's loss reads the discriminator, the discriminator's reads the
    generator."""

    def __init__(self):
        C.cntk_py.reset_random_seed(1)
        random = np.random.RandomState(1)
        self.noise = random.uniform(-1, 1, (256, 10)).astype(np.float32)
        self.images = np.clip(random.normal(0.7, 0.1, (256, 20)), 0, 1).astype(np.float32)
        self.Z, self.X = C.input_variable(10, name='noise'), C.input_variable(20, name='real')
        scaled = 2 * self.X - 1.0
        dense = lambda size, activation, name: C.layers.Dense(
            size, activation=activation, name=name
        )
        self.fake = dense(20, C.tanh, 'g_out')(dense(24, C.relu, 'g_hidden')(self.Z))
        self.real = dense(1, C.sigmoid, 'd_out')(dense(24, C.relu, 'd_hidden')(scaled))
        self.of_fake = self.real.clone(
            method='share', substitutions={scaled.output: self.fake.output}
        )
        self.g_loss = 1.0 - C.log(self.of_fake)
        self.d_loss = -(C.log(self.real) + C.log(1.0 - self.of_fake))
        make = lambda z: C.fsadagrad(
            z.parameters,
            C.learning_parameter_schedule_per_sample(2e-3),
            C.momentum_schedule_per_sample(0.99),
        )
        self.g = C.Trainer(self.fake, (self.g_loss, None), make(self.fake))
        self.d = C.Trainer(self.real, (self.d_loss, None), make(self.real))

    def train(self, first, last):
        for number in range(first, last):
            rows = slice(number * 16 % 256, number * 16 % 256 + 16)
            self.d.train_minibatch({self.X: self.images[rows], self.Z: self.noise[rows]})
            self.g.train_minibatch({self.Z: self.noise[rows]})

    def told(self):
        """Returns what the generator's trainer makes of some noise, once it is found to be what
        all others do."""
        some = {self.Z: self.noise[:16]}
        verdict, x = self.of_fake.eval(some), C.input_variable(1)
        losses = self.g.loss_function.eval(some)
        assert losses.tobytes() == (1.0 - C.log(x)).eval({x: verdict}).tobytes()
        pixels = C.input_variable(20)
        assert (
            verdict.tobytes()
            == self.discriminator()(pixels).eval({pixels: self.fake.eval(some)}).tobytes()
        )
        both = {self.Z: self.noise[:16], self.X: self.images[:16]}
        assert self.d.loss_function.eval(both).tobytes() == self.d_loss.eval(both).tobytes()
        for prefix, trainer, other in (('d', self.d, self.g), ('g', self.g, self.d)):
            mine = {p.uid for p in trainer.model.parameters}
            assert mine <= {p.uid for p in other.loss_function.parameters}
            assert mine == {
                p.uid for learner in trainer.parameter_learners for p in learner.parameters
            }
        return losses

    def discriminator(self):
        """Returns the trained discriminator of images that are scaled already, as a layer
        function made now."""
        layer = next(
            part for part in nc.graph.walk(self.real, into_blocks=False) if part.name == 'd_hidden'
        )
        return self.real.clone(
            C.CloneMethod.share, {layer.block_arguments_mapping[0][1]: C.placeholder()}
        )


def adversaries_main(prefix, due, folder, kill):
    """Trains, in two processes: the first saves both trainers, the second restores both and
    goes on."""
    case = Adversaries()
    attached = case.g if prefix == 'g' else case.d
    files = [os.path.join(folder, name) for name in 'gd']
    begin = 12 if os.path.exists(files[0]) else 0
    end = 12 if kill == '1' else 20
    optimization = nc.FactorDense(
        epoch=int(due), rank=4, filter_function=lambda layer: layer.name == prefix + '_hidden'
    )
    run = nc.attach(attached, [optimization], epoch_size=16 * 6)
    if begin:
        for trainer, file in sorted(
            zip((case.g, case.d), files), key=lambda pair: pair[0] is not attached
        ):
            trainer.restore_from_checkpoint(file)
        case.told()
    case.train(begin, end)
    assert (
        ('DenseFactored' in operations(case.g_loss))
        == ('DenseFactored' in operations(case.d_loss))
        == (due == '1')
    )
    losses = case.told()
    if kill == '1':
        for trainer, file in zip((case.g, case.d), files):
            trainer.save_checkpoint(file)
    if due == '1':
        run.finish()
    print('TOLD ' + losses.tobytes().hex())


@pytest.mark.few(1)
@pytest.mark.parametrize('prefix', ['g', 'd'])
@pytest.mark.parametrize('due', ['1', '99'])
def test_adversaries_after_a_resume_in_a_new_process(prefix, due, tmpdir):
    whole = new_process(
        tmpdir.mkdir('whole'), 'test_readers_trainers.adversaries_main', prefix, due
    )
    folder = tmpdir.mkdir('halves')
    new_process(folder, 'test_readers_trainers.adversaries_main', prefix, due, kill=1)
    assert new_process(folder, 'test_readers_trainers.adversaries_main', prefix, due) == whole
