"""Small scripts in which more than the Trainer reads a network, after the shapes that CNTK's
examples have."""
import cntk as C
import numpy as np
from cntk import cntk_py
from cntk.layers.typing import Tensor

import netopt_callbacks as nc

BATCH, CLASSES, SHAPE = 16, 4, (1, 6, 6)

cntk_py.force_deterministic_algorithms()

OPTIMIZATIONS = {
    'factor': lambda epoch=1: nc.FactorDense(
        epoch=epoch, rank=3, filter_function=lambda layer: layer.name == 'hidden'
    ),
    'binarize': lambda epoch=1: nc.BinarizeConvolution(
        epoch=epoch, filter_function=lambda layer: layer.name == 'see'
    ),
    'binarize dense': lambda epoch=1: nc.BinarizeDense(
        epoch=epoch, filter_function=lambda layer: layer.name == 'hidden'
    ),
}
OP_NAMES = {
    'factor': 'DenseFactored',
    'binarize': 'BinaryConvolution',
    'binarize dense': 'BinaryDense',
}


def layers(last=CLASSES):
    """Returns a network without an input: a layer function."""
    return C.layers.Sequential(
        [
            C.layers.Convolution2D((3, 3), 6, pad=True, activation=C.relu, name='see'),
            C.layers.Dense(12, activation=C.tanh, name='hidden'),
            C.layers.Dense(last, name='act'),
        ]
    )


def momentum(parameters):
    return C.momentum_sgd(parameters, C.learning_parameter_schedule(0.05), 0.9)


def operations(*functions):
    """Returns the op names of Functions, those within blocks too."""
    return {
        part.op_name for function in functions for part in nc.graph.walk(function, into_blocks=True)
    }


def first(function, samples):
    """Returns what a Function of one input computes of the first two of a minibatch."""
    (argument,) = function.arguments
    return function.eval({argument: samples})[:2].reshape(2, -1)


def over(operation, values):
    """Returns an operation of CNTK on an array, in a graph of its own."""
    x = C.input_variable(values.shape[1:])
    return operation(x).eval({x: values})


def score(z, y):
    """Returns a metric that, of one sample and a one-hot y, is one output of the network: bit
    for bit."""
    return C.reduce_sum(C.element_times(z, y))


def told_by(trainer, x, y, samples, classes=CLASSES):
    """Returns the outputs of the network inside a C++ trainer whose metric is `score`: what is
    true, whoever says else.

    Those of the first two samples: it is asked for the mean of a minibatch (of 2 ** n samples, so
    that it is exact).
    """
    told = np.zeros((2, classes), np.float32)
    for place in np.ndindex(*told.shape):
        one = np.zeros((len(samples), classes), np.float32)
        one[place] = 1
        told[place] = trainer.test_minibatch({x: samples, y: one}) * len(samples)
    return told


class Shared:
    """One layer function, applied by the trainer and by others; Functions over it; two clones
    that share nothing."""

    def __init__(self, model=True):
        cntk_py.reset_random_seed(4)
        random = np.random.RandomState(4)
        self.data = random.normal(size=(128,) + SHAPE).astype(np.float32)
        self.labels = np.eye(CLASSES, dtype=np.float32)[
            self.data.reshape(128, -1)[:, :CLASSES].argmax(1)
        ]
        self.few = self.data[:BATCH]
        self.net = layers()
        self.x, self.y = C.input_variable(SHAPE, name='x'), C.input_variable(CLASSES, name='y')
        self.z = self.net(self.x)
        self.soft = C.softmax(self.z)
        self.other = self.net(C.input_variable(SHAPE, name='other'))
        self.half = self.net(C.input_variable(SHAPE, name='double') * 0.5)
        self.both = C.combine([self.soft, self.z])
        self.error = C.squared_error(self.z, self.y)
        self.kept = self.z.output, self.soft.output
        self.clones = [
            self.net.clone(C.CloneMethod.freeze)(self.x),
            self.z.clone(C.CloneMethod.clone),
        ]
        self.cloned = [first(clone, self.few).tobytes() for clone in self.clones]
        self.criterion = C.combine(
            [C.cross_entropy_with_softmax(self.z, self.y), score(self.z, self.y)]
        )
        self.learner = momentum(self.z.parameters)
        self.trained = 0
        self.trainer = C.Trainer(
            self.z if model else None,
            tuple(self.criterion.outputs[n].owner for n in (0, 1)),
            [self.learner],
        )

    def minibatch(self, number):
        first = number * BATCH % 128
        return {
            self.x: self.data[first : first + BATCH],
            self.y: self.labels[first : first + BATCH],
        }

    def train(self, minibatches):
        for _ in range(minibatches):
            self.trainer.train_minibatch(self.minibatch(self.trained))
            self.trained += 1

    def readings(self):
        """Returns what each reader says are the outputs for `few`; what is made now is one."""
        fresh = C.combine([self.z])
        return {
            'z': first(self.z, self.few),
            'another application': first(self.other, self.few),
            'behind another operation': first(self.half, 2 * self.few),
            'an output of a combination': first(C.combine([self.both.outputs[1]]), self.few),
            'a combination made now': first(fresh, self.few),
            'an application made now': first(self.net(C.input_variable(SHAPE)), self.few),
        }

    def check(self, truth=None):
        """Finds all readers to compute what the trainer does, to the last bit; returns that."""
        truth = told_by(self.trainer, self.x, self.y, self.few) if truth is None else truth
        for name, found in self.readings().items():
            assert found.tobytes() == truth.tobytes(), name
        for soft in self.soft, C.softmax(self.z):
            assert first(soft, self.few).tobytes() == over(C.softmax, truth).tobytes()
        errors = self.error.eval({self.x: self.few, self.y: self.labels[:BATCH]}).ravel()[:2]
        labels = C.constant(self.labels[:1])
        assert (
            errors[:1].tobytes()
            == over(lambda row: C.squared_error(row, labels), truth[:1]).ravel().tobytes()
        )
        assert [first(clone, self.few).tobytes() for clone in self.clones] == self.cloned
        return truth

    def has(self, *kinds):
        """Whether all readers hold the blocks of these optimizations and of no other."""
        expected = {OP_NAMES[kind] for kind in kinds}
        return all(
            operations(function) & set(OP_NAMES.values()) == expected
            for function in (
                self.z,
                self.soft,
                self.other,
                self.half,
                self.both,
                self.error,
                self.net,
            )
        ) and not operations(*self.clones) & set(OP_NAMES.values())


class Agent:
    """A network without inputs that is acted on, and a criterion that holds another application
    of it."""

    def __init__(self):
        cntk_py.reset_random_seed(5)
        random = np.random.RandomState(5)
        net = self.net = layers(3)
        net.update_signature(Tensor[SHAPE])

        @C.Function
        @C.layers.Signature(environment=Tensor[SHAPE], actions=Tensor[3], targets=Tensor[1])
        def criterion(environment, actions, targets):
            return C.reduce_sum(
                C.square(targets - C.reduce_sum(net(environment) * actions)), name='loss'
            )

        self.criterion = criterion
        self.target = net.clone(C.CloneMethod.freeze)
        self.trainer = C.Trainer(criterion, (criterion, None), [momentum(net.parameters)])
        self.states = random.rand(64, *SHAPE).astype(np.float32)
        self.actions = np.eye(3, dtype=np.float32)[random.randint(3, size=64)]
        self.targets = random.rand(64, 1).astype(np.float32)

    def train(self, minibatches):
        for number in range(minibatches):
            rows = slice(number * BATCH % 64, number * BATCH % 64 + BATCH)
            self.trainer.train_minibatch(
                self.trainer.loss_function.argument_map(
                    environment=self.states[rows],
                    actions=self.actions[rows],
                    targets=self.targets[rows],
                )
            )

    def losses(self, function):
        """Returns the losses of a few states as a criterion computes them."""
        return function.eval(
            function.argument_map(
                environment=self.states[:BATCH],
                actions=self.actions[:BATCH],
                targets=self.targets[:BATCH],
            )
        ).ravel()

    def acted(self):
        """Returns the same from the outputs of the network that is acted on."""
        x, actions, targets = C.input_variable(3), C.input_variable(3), C.input_variable(1)
        loss = C.reduce_sum(C.square(targets - C.reduce_sum(x * actions)))
        return loss.eval(
            {
                x: self.net.eval(self.states[:BATCH]),
                actions: self.actions[:BATCH],
                targets: self.targets[:BATCH],
            }
        ).ravel()


def sequence_model():
    return C.layers.Sequential(
        [
            C.layers.Embedding(8, name='embed'),
            C.layers.Recurrence(C.layers.LSTM(10)),
            C.layers.Dense(12, activation=C.tanh, name='hidden'),
            C.layers.Dense(CLASSES, name='out'),
        ]
    )


def sequence_criterion(model):
    """Returns a criterion over a layer function, as CNTK's ATIS example makes one to train and
    one to evaluate."""

    @C.Function.with_signature(
        C.layers.typing.Sequence[Tensor[15]], C.layers.typing.Sequence[Tensor[CLASSES]]
    )
    def criterion(query, labels):
        z = model(query)
        return C.cross_entropy_with_softmax(z, labels), C.classification_error(z, labels)

    return criterion


class Turns:
    """Two tasks on one trunk, two Trainers in turns. `second` makes the learner of the other
    task's."""

    def __init__(self, second=momentum, first=momentum):
        cntk_py.reset_random_seed(6)
        random = np.random.RandomState(6)
        self.data = random.normal(size=(64, 8)).astype(np.float32)
        self.labels = [np.eye(n, dtype=np.float32)[random.randint(n, size=64)] for n in (3, 2)]
        self.x = C.input_variable(8, name='x')
        self.ys = [C.input_variable(n, name=f'y{n}') for n in (3, 2)]
        self.trunk = C.layers.Dense(20, activation=C.tanh, name='hidden')(self.x)
        self.zs = [C.layers.Dense(n, name=f'task{n}')(self.trunk) for n in (3, 2)]
        tops = [getattr(z, f'task{n}') for z, n in zip(self.zs, (3, 2))]
        self.parameters = [[self.trunk.W, self.trunk.b, top.W, top.b] for top in tops]
        self.learners = [
            make(parameters) for make, parameters in zip((first, second), self.parameters)
        ]
        self.build()

    def build(self):
        self.trainers = [
            C.Trainer(z, (C.cross_entropy_with_softmax(z, y), score(z, y)), [learner])
            for z, y, learner in zip(self.zs, self.ys, self.learners)
        ]

    def train(self, turns):
        for _ in range(turns):
            for trainer, y, labels in zip(self.trainers, self.ys, self.labels):
                trainer.train_minibatch({self.x: self.data, y: labels})

    def told(self):
        """Returns what the network of each trainer computes."""
        return [
            told_by(trainer, self.x, y, self.data, y.shape[0])
            for trainer, y in zip(self.trainers, self.ys)
        ]
