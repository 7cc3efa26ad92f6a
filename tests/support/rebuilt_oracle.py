"""What a factored run has to equal: a plain CNTK Trainer over explicit W1 and W2, with nothing of
the engine.

`Plain` trains a network in a loop and, at a time the test says, builds another plain Trainer over
W1, W2 in W's place. Each learner is made again by the same call of CNTK; its state is carried by
hand.
"""
import cntk as C
import numpy as np
import scipy.sparse
from cntk import cntk_py
from cntk.internal.utils import _py_dict_to_cntk_dict, _to_cntk_dict_value
from cntk.layers.typing import Tensor

from user_script import LEARNERS, RATES, SAMPLES

RANK = 3
BATCH = 64
STATE = 'smoothed_gradients'
BLOCK = 'blockLevelSmoothedGradient'

cntk_py.force_deterministic_algorithms()


def halves(W, rank=RANK):
    """Returns W1, W2 of a matrix: a truncated SVD by NumPy. A `factor_function`."""
    left, values, right = np.linalg.svd(W, full_matrices=False)
    return (left[:, :rank] * values[:rank]).astype(W.dtype), np.array(right[:rank], W.dtype)


def _rate(value=0.05, **options):
    return C.learning_parameter_schedule(value, **options)


class Weighty(C.learners.UserLearner):
    """Momentum in NumPy, a learner of the user's own that says how it goes on over other
    Parameters."""

    def __init__(self, parameters):
        super().__init__(parameters, _rate())
        self.velocities = [np.zeros(parameter.shape, np.float32) for parameter in parameters]

    def update(self, gradient_values, training_sample_count, sweep_end):
        for parameter, velocity in zip(parameters_of(self), self.velocities):
            gradient = np.asarray(gradient_values[parameter].to_ndarray())
            # By the norm of all of it: W1 and W2 in one array would train otherwise.
            velocity *= np.float32(0.9)
            velocity += gradient / (np.linalg.norm(gradient) + np.float32(1e-6))
            parameter.value = parameter.value - np.float32(0.01) * velocity
        return True

    def create_checkpoint(self):
        return _py_dict_to_cntk_dict(
            {
                'velocities': [
                    [float(one) for one in velocity.ravel()] for velocity in self.velocities
                ]
            }
        )

    def restore_from_checkpoint(self, checkpoint):
        for velocity, saved in zip(self.velocities, checkpoint['velocities']):
            velocity.ravel()[:] = saved

    def rebuilt(self, parameters):
        self.successor = Weighty(parameters)
        carry_velocities(self, self.successor)
        return self.successor


def carry_velocities(old, new):
    """Gives a `Weighty` the velocities that another has for the Parameters both train."""
    places = {parameter.uid: place for place, parameter in enumerate(parameters_of(old))}
    for place, parameter in enumerate(parameters_of(new)):
        if parameter.uid in places:
            new.velocities[place] = old.velocities[places[parameter.uid]].copy()


def parameters_of(learner):
    """Returns the Parameters of any learner of CNTK's."""
    parameters = learner.parameters
    if callable(parameters):
        parameters = parameters()
        C.internal.map_if_possible(parameters)
    return list(parameters)


def _without_minibatch_size(parameters):
    """Returns an adam whose minibatch size is set after it was made; its rate is per 8 samples."""
    learner = C.adam(parameters, _rate(0.02, minibatch_size=8), 0.9)
    learner.minibatch_size = C.learners.IGNORE
    return learner


# Name: for each learner, which of the Parameters it trains, and the call of CNTK that makes it.
KINDS = {
    name: [(slice(None), lambda p, make=make: make(p)[0])]
    for name, make in LEARNERS.items()
    if name not in ('several', 'part', 'user', 'user and sgd', 'sgd and user with state')
}
KINDS.update(
    {
        'adamax': [(slice(None), lambda p: C.adam(p, _rate(0.003), 0.9, adamax=True))],
        'adam of unit gain off': [
            (slice(None), lambda p: C.adam(p, _rate(0.003), 0.9, unit_gain=False))
        ],
        'adagrad of each element': [
            (slice(None), lambda p: C.adagrad(p, _rate(), need_ave_multiplier=False))
        ],
        'rmsprop of each element': [
            (
                slice(None),
                lambda p: C.rmsprop(
                    p, _rate(0.003), 0.95, 1.2, 0.7, 10.0, 0.001, need_ave_multiplier=False
                ),
            )
        ],
        'minibatch size set later': [(slice(None), _without_minibatch_size)],
        'rate by samples': [
            (
                slice(None),
                lambda p: C.sgd(p, _rate([(150, 0.1), (200, 0.02), (1, 0.005)], epoch_size=1)),
            )
        ],
        'rate per sample': [
            (
                slice(None),
                lambda p: C.momentum_sgd(
                    p,
                    C.learning_parameter_schedule_per_sample(0.001),
                    C.momentum_schedule_per_sample(0.99),
                ),
            )
        ],
        'rate by sweeps': [
            (slice(None), lambda p: C.adam(p, C.learning_parameter_schedule(RATES), 0.9))
        ],
        'norm and momentum': [
            (
                slice(None),
                lambda p: C.nesterov(
                    p,
                    _rate(),
                    0.9,
                    gradient_clipping_threshold_per_sample=0.01,
                    gradient_clipping_with_truncation=False,
                    l2_regularization_weight=1e-3,
                ),
            )
        ],
        'several': [
            (slice(0, 3), lambda p: C.momentum_sgd(p, _rate(), 0.9)),
            (slice(3, 6), lambda p: C.adam(p, _rate(0.003), 0.9)),
        ],
        'several, W in the second': [
            (slice(0, 2), lambda p: C.adam(p, _rate(0.003), 0.9)),
            (slice(2, 6), lambda p: C.rmsprop(p, _rate(0.003), 0.95, 1.2, 0.7, 10.0, 0.001)),
        ],
        'W alone': [
            (slice(2, 3), lambda p: C.fsadagrad(p, _rate(0.003), 0.9)),
            (slice(3, 6), lambda p: C.sgd(p, _rate())),
        ],
        'part': [(slice(1, 4), lambda p: C.momentum_sgd(p, _rate(), 0.9))],
        'part without W': [(slice(3, 6), lambda p: C.momentum_sgd(p, _rate(), 0.9))],
        'user with rebuilt': [(slice(None), Weighty)],
        'sgd and user with rebuilt': [
            (slice(3, 6), lambda p: C.sgd(p, _rate())),
            (slice(0, 3), Weighty),
        ],
    }
)


class Plain:
    """A network of three Dense layers, or two over one-hot input, its data and its learners; alike
    in every instance.

    Args:
        kind (str): of `KINDS`.
        sparse (bool): whether the layer that is factored reads a sparse input.
        wrap (callable): a learner to the one the Trainer gets: one for several workers.
    """

    def __init__(self, kind='momentum_sgd', sparse=False, wrap=None):
        cntk_py.reset_random_seed(1)
        random = np.random.RandomState(3)
        self.kind, self.sparse, self.wrap = KINDS[kind], sparse, wrap
        self.labels = np.eye(5, dtype=np.float32)[random.randint(0, 5, SAMPLES)]
        if sparse:
            self.data = scipy.sparse.csr_matrix(
                np.eye(30, dtype=np.float32)[random.randint(0, 30, SAMPLES)]
            )
        else:
            self.data = (self.labels.dot(random.rand(5, 30)) + random.rand(SAMPLES, 30)).astype(
                np.float32
            )
        self.x = C.input_variable(30, is_sparse=sparse, name='x')
        self.label = C.input_variable(5, name='label')
        layers = [
            C.layers.Dense(16, activation=C.relu, name='first'),
            C.layers.Dense(12, activation=C.tanh, name='hidden'),
            C.layers.Dense(5, name='classify'),
        ]
        self.z = C.layers.Sequential(layers[sparse:])(self.x)
        self.names = ('first', 'hidden', 'classify')[sparse:]
        self.parameters = [
            p for name in self.names for p in (getattr(self.z, name).W, getattr(self.z, name).b)
        ]
        if sparse:  # six Parameters, as the other
            gain, shift = C.parameter((5,), init=1, name='gain'), C.parameter(
                (5,), init=0, name='shift'
            )
            self.z = self.z * gain + shift
            self.parameters += [gain, shift]
        self._criterion()
        self.learners, self.inner = [], []
        for part, make in self.kind:
            self._add(make(self.parameters[part]))
        self.build()
        self.source = C.io.MinibatchSourceFromData(
            {'x': (self.data, Tensor[30]), 'label': (self.labels, Tensor[5])}
        )
        self.losses = []

    def _criterion(self):
        self.loss = C.cross_entropy_with_softmax(self.z, self.label)
        self.metric = C.classification_error(self.z, self.label)

    def _add(self, learner):
        self.inner.append(learner)
        self.learners.append(learner if self.wrap is None else self.wrap(learner))

    def build(self):
        """Builds a Trainer as any script does."""
        self.trainer = C.Trainer(self.z, (self.loss, self.metric), self.learners)

    @property
    def W(self):
        """The weights of the layer 'hidden'."""
        return self.parameters[0 if self.sparse else 2]

    def train(self, minibatches, workers=1, rank=0):
        for _ in range(minibatches):
            minibatch = self.source.next_minibatch(BATCH * workers, workers, rank)
            self.trainer.train_minibatch(
                {
                    self.x: minibatch[self.source.streams.x],
                    self.label: minibatch[self.source.streams.label],
                }
            )
            self.losses.append(self.trainer.previous_minibatch_loss_average)
        return self

    # The oracle.

    def synchronize(self):
        """Gives all workers the same Parameters; `factor` carries the states of the learners from
        here, since to ask twice is to synchronize twice."""
        if self.wrap is not None:
            self.states = [learner.create_checkpoint() for learner in self.learners]
        return self

    def factor(self, pair, project=False, own=None):
        """Goes on with a new Trainer over W1, W2; what is carried of the learners' state is carried
        here, by hand.

        Args:
            pair: the arrays W1 and W2.
            project (bool): whether the smoothed gradient of W1 and W2 begins with that of W, by the
                chain rule.
            own (callable): makes a learner for W1 and W2 alone; None leaves them to the one of W.
        """
        return self._exchanged([self.W], pair, pair if project else None, own)

    def cut(self, function):
        """Goes on with a new Trainer over what `function` makes of W1 and W2."""
        return self._exchanged(self.factors, function(*(p.value for p in self.factors)))

    def _exchanged(self, retired, values, project=None, own=None):
        added = [C.Parameter(value.shape, init=value) for value in values]
        gone = [p.uid for p in retired]

        def exchanged(parameters, added=added):
            return [
                new
                for p in parameters
                for new in (added if p.uid == gone[0] else [] if p.uid in gone else [p])
            ]

        old, self.learners, self.inner = self.inner, [], []
        for number, ((_, make), learner) in enumerate(zip(self.kind, old)):
            before = parameters_of(learner)
            after = exchanged(before, [] if own else added)
            if after:
                state = None if self.wrap is None else self.states[number]
                new = make(after)
                _carry(learner, new, before, after, gone[0], project)
                self._add(new)
                if state is not None:
                    self.learners[-1].restore_from_checkpoint(_around(state, new, before, after))
        if own is not None and any(
            p.uid == gone[0] for learner in old for p in parameters_of(learner)
        ):
            self._add(own(added))
        self.parameters = exchanged(self.parameters)
        self.factors = added
        self.over(added)
        self.build()
        return self

    def over(self, added):
        """Writes the network down in primitives."""
        W1, W2 = added
        rest = [p for p in self.parameters if p.uid not in (W1.uid, W2.uid)]
        data = self.x
        if not self.sparse:
            first, bias = rest[:2]
            data, rest = C.relu(C.times(data, first) + bias), rest[2:]
        z = C.tanh(C.times(C.times(data, W1), W2) + rest[0])
        z = C.times(z, rest[1]) + rest[2]
        self.z = z * rest[3] + rest[4] if self.sparse else z
        self._criterion()

    def outcome(self):
        """Returns losses, values and learner states: the values in the order of `parameters`,
        as bytes."""
        return outcome_of(self.losses, self.parameters, self.inner)


def outcome_of(losses, parameters, learners):
    """Returns what a run leaves as comparable bytes."""
    return (
        repr(losses),
        [parameter.value.tobytes() for parameter in parameters],
        [state_of(one) for one in learners],
    )


def state_of(learner):
    """Returns the state of a learner as comparable values."""
    while hasattr(learner, 'successor'):
        learner = learner.successor
    if isinstance(learner, Weighty):
        return [velocity.tobytes() for velocity in learner.velocities]
    state = learner.create_checkpoint()
    smoothed = (
        [(np.shape(one), np.asarray(one).tobytes()) for one in state[STATE]]
        if STATE in state.keys()
        else None
    )
    return (
        smoothed,
        [repr(state[key]) for key in sorted(state.keys()) if 'ount' in key or 'umber' in key],
        learner.learning_rate(),
        learner.total_number_of_samples_seen(),
    )


def _around(state, inner, before, after):
    """Returns the state of a learner for several workers around one over other Parameters."""

    def count(number):
        return cntk_py.DictionaryValue(cntk_py.SizeTWrapper(number))

    def base(samples):
        made = cntk_py.Dictionary()
        made['totalNumberOfSamplesSeen'] = count(samples)
        made['localLearners'] = cntk_py.DictionaryValueFromDict(inner.create_checkpoint())
        return made

    if BLOCK not in state.keys():
        return base(state['totalNumberOfSamplesSeen'])
    blocks = {p.uid: np.asarray(value) for p, value in zip(before, state[BLOCK])}
    made = cntk_py.Dictionary()
    made['base'] = cntk_py.DictionaryValueFromDict(base(state['base']['totalNumberOfSamplesSeen']))
    made['localTotalNumSamplesSeen'] = count(state['localTotalNumSamplesSeen'])
    made[BLOCK] = _to_cntk_dict_value(
        [
            np.array(blocks.get(p.uid, np.zeros(p.shape, p.dtype)), order='C').reshape(p.shape)
            for p in after
        ]
    )
    return made


def _carry(old, new, before, after, retired, project):
    """Gives a new learner the state of an old one, with smoothed gradients by Parameter."""
    if isinstance(old, Weighty):
        carry_velocities(old, new)
        return
    state = old.create_checkpoint()
    theirs = {p.uid: value for p, value in zip(before, state[STATE])}
    mine = []
    for parameter, begin in zip(after, new.create_checkpoint()[STATE]):
        mine.append(np.array(theirs.get(parameter.uid, begin), order='C').reshape(np.shape(begin)))
    if (
        project is not None
        and np.size(theirs.get(retired, ())) == len(project[0]) * project[1].shape[1]
    ):
        gradient = np.asarray(theirs[retired]).reshape(len(project[0]), -1)
        place = [p.uid for p in before].index(retired)
        mine[place] = gradient.dot(project[1].T).reshape(mine[place].shape)
        mine[place + 1] = project[0].T.dot(gradient).reshape(mine[place + 1].shape)
    state[STATE] = mine
    new.restore_from_checkpoint(state)
