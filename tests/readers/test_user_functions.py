"""UserFunctions of the script: whatever the engine copies, the script's object stays the one whose
attributes count. Plain CNTK is the oracle."""
import cntk as C
import numpy as np
import pytest
from cntk.ops.functions import UserFunction

import netopt_callbacks as nc
from user_script import Identity

SAMPLES, PER_EPOCH, EPOCHS = 16, 4, 4
FACTOR = nc.FactorDense(epoch=1, rank=4, filter_function=lambda layer: layer.name == 'hidden')


class Copied(nc.Optimization):
    """Copies the whole graph, which changes nothing."""

    def transform(self, model):
        return nc.graph.clone_shared(model)


class Reverse(UserFunction):
    """Reverses the gradient by a strength that the script sets, and counts its calls."""

    strength = 0.25  # a class may have defaults, too

    def __init__(self, argument, name='reverse'):
        super().__init__([argument], name=name)
        self.calls = 0

    def infer_outputs(self):
        read = self.inputs[0]
        return [C.output_variable(read.shape, read.dtype, read.dynamic_axes)]

    def forward(self, argument, device=None, outputs_to_retain=None):
        self.calls += 1
        return None, argument

    def backward(self, state, root_gradients):
        return -self.strength * root_gradients


class ReverseWithClone(Reverse):
    """It has a `clone` and a `deserialize` of its own, which begin anew."""

    def clone(self, cloned_inputs):
        return ReverseWithClone(cloned_inputs[0], self.name)

    @staticmethod
    def deserialize(inputs, name, state):
        return ReverseWithClone(inputs[0], name)


class Clamped(Reverse):
    """Keeps its strength within [0, 1], whoever sets it."""

    def __setattr__(self, name, value):
        super().__setattr__(name, min(max(value, 0), 1) if name == 'strength' else value)


class Checked:
    """A descriptor that keeps its value in the `__dict__` of the object, as validators do."""

    def __get__(self, one, kind=None):
        return self if one is None else one.__dict__.get('strength', 0.25)

    def __set__(self, one, value):
        one.__dict__['strength'] = value


class ReverseWithDescriptor(Reverse):
    strength = Checked()


class ReverseWithProperty(Reverse):
    @property
    def strength(self):
        return self.__dict__.get('_strength', 0.25)

    @strength.setter
    def strength(self, strength):
        self.__dict__['_strength'] = strength


class ReverseByGetattr(Reverse):
    """What it lacks it finds in its options."""

    def __init__(self, argument, name='reverse'):
        self.__dict__['options'] = dict(factor=1.0)
        super().__init__(argument, name)

    def __getattr__(self, name):
        if name in self.__dict__.get('options', ()):
            return self.__dict__['options'][name]
        return super().__getattr__(name)

    def backward(self, state, root_gradients):
        return -self.strength * self.factor * root_gradients


class ReverseWithSlots(Reverse):
    """Its constructor makes what a copy of the attributes would not have."""

    __slots__ = ('sign',)

    def __init__(self, argument, name='reverse'):
        super().__init__([argument][0], name)
        self.sign = -1

    def clone(self, cloned_inputs):
        return self.__class__(cloned_inputs[0], self.name)

    def backward(self, state, root_gradients):
        return self.sign * self.strength * root_gradients


KINDS = [
    Reverse,
    ReverseWithClone,
    Clamped,
    ReverseWithDescriptor,
    ReverseWithProperty,
    ReverseByGetattr,
    ReverseWithSlots,
]


class Adaptation:
    """Domain adaptation as in DANN (arXiv 1505.07818): two layers behind reversed gradients."""

    def __init__(self, kind, dropout=False):
        C.cntk_py.reset_random_seed(1)
        self.x, self.y = C.input_variable(20), C.input_variable(3)
        hidden = C.layers.Dense(16, C.tanh, name='hidden')(self.x)
        if dropout:
            hidden = C.layers.Dropout(0.25, seed=3)(hidden)
        self.users = [kind(hidden), kind(hidden)]
        self.z = C.layers.Dense(3, name='out')(hidden)
        domains = [
            C.layers.Dense(3, name=f'domain{number}')(C.user_function(user))
            for number, user in enumerate(self.users)
        ]
        self.loss = sum(
            [C.cross_entropy_with_softmax(domain, self.y) for domain in domains],
            C.cross_entropy_with_softmax(self.z, self.y),
        )
        self.trainer = C.Trainer(
            self.z,
            (self.loss, C.classification_error(self.z, self.y)),
            [C.momentum_sgd(self.loss.parameters, 0.1, 0.9)],
        )

    def attach(self, optimization):
        return nc.attach(self.trainer, [optimization], epoch_size=SAMPLES * PER_EPOCH)

    def train(self, minibatches):
        """Returns what is known after each: loss, calls of both."""
        found = []
        for number in minibatches:
            random = np.random.RandomState(number)
            self.users[0].strength = 0.5 * (number // PER_EPOCH)
            if number == 7:
                self.users[1].strength = 0.125
            minibatch = {
                self.x: random.randn(SAMPLES, 20).astype(np.float32),
                self.y: np.eye(3, dtype=np.float32)[random.randint(0, 3, SAMPLES)],
            }
            self.trainer.train_minibatch(minibatch)
            loss = self.trainer.previous_minibatch_loss_average
            found.append((loss, [user.calls for user in self.users]))
        return found


@pytest.mark.few(11)
@pytest.mark.parametrize('dropout', [False, True], ids=['', 'dropout'])
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('epoch', [1, EPOCHS])
def test_a_copied_graph_computes_with_the_script_s_object(kind, dropout, epoch):
    plain = Adaptation(kind, dropout).train(range(EPOCHS * PER_EPOCH))
    for optimization in Copied(epoch=epoch), Identity(epoch=epoch):
        case = Adaptation(kind, dropout)
        with case.attach(optimization) as run:
            assert case.train(range(EPOCHS * PER_EPOCH)) == plain
        assert run.result.model is not None
        assert [type(user) for user in case.users] == [kind] * 2
        assert (
            case.users[0].strength == Adaptation(kind).users[0].strength + 1.5 - 0.25
            or kind is Clamped
        )
        calls = case.users[0].calls
        run.result.criterion.eval(
            {
                argument: np.zeros((1,) + argument.shape, np.float32)
                for argument in run.result.criterion.arguments
            }
        )
        assert case.users[0].calls == calls  # the exported network is one of its own


@pytest.mark.parametrize('kind', [Reverse, ReverseWithClone])
@pytest.mark.parametrize(
    'optimization',
    [Identity(epoch=1), Copied(epoch=1), FACTOR],
    ids=['identity', 'copied', 'factor'],
)
def test_a_resumed_script_computes_with_its_own_object(kind, optimization, tmp_path):
    """CNTK's own restore needs `deserialize`; ours takes the objects of the script."""
    file, kill, end = str(tmp_path / 'checkpoint'), 2 * PER_EPOCH, EPOCHS * PER_EPOCH
    case = Adaptation(kind)
    case.attach(optimization)
    case.train(range(kill))
    case.trainer.save_checkpoint(file)
    seen = [user.calls for user in case.users]
    expected = case.train(range(kill, end))
    again = Adaptation(kind)
    again.attach(optimization)
    again.users[1].strength = 0.125  # the script knows; CNTK's checkpoints do not
    again.trainer.restore_from_checkpoint(file)
    assert [
        (loss, [calls + before for calls, before in zip(each, seen)])
        for loss, each in again.train(range(kill, end))
    ] == expected


@pytest.mark.parametrize('optimization', [Identity(epoch=1), FACTOR], ids=['identity', 'factor'])
@pytest.mark.parametrize('saves', [False, True], ids=['', 'checkpoints'])
def test_a_session_trains_a_user_function_without_deserialize(optimization, saves, tmp_path):
    def trained(callbacks):
        case = Adaptation(Reverse)
        random = np.random.RandomState(0)
        source = C.io.MinibatchSourceFromData(
            dict(
                x=random.randn(96, 20).astype(np.float32),
                y=np.eye(3, dtype=np.float32)[random.randint(0, 3, 96)],
            )
        )
        options = dict(
            trainer=case.trainer,
            mb_source=source,
            mb_size=SAMPLES,
            model_inputs_to_streams={case.x: source.streams.x, case.y: source.streams.y},
            max_samples=3 * 96,
        )
        if saves:
            options['checkpoint_config'] = C.CheckpointConfig(
                str(tmp_path / str(callbacks is None)), frequency=96
            )
        if callbacks is None:
            C.training_session(**options).train()
        else:
            nc.training_session(callbacks=callbacks, epoch_size=96, **options).train()
        return case.users[0].calls, case.z.eval({case.x: np.ones((1, 20), np.float32)}).tobytes()

    ours, plain = trained([optimization]), trained(None)
    assert ours[0] == plain[0] == 18
    assert (ours == plain) == (optimization is not FACTOR)


def test_what_a_method_takes_away_or_adds_is_on_the_object_of_the_script():
    class Changing(Reverse):
        def forward(self, argument, device=None, outputs_to_retain=None):
            self.calls += 1
            if self.calls == 2:
                self.seen = argument.shape
            if self.calls == 3:
                del self.seen
            return None, argument

    case = Adaptation(Changing)
    user, has = case.users[0], []
    with case.attach(Copied(epoch=0)):
        for number in range(3):
            case.train([number])
            has.append(hasattr(user, 'seen'))
    assert has == [False, True, False] and user.calls == 3


def test_a_load_by_the_script_is_cntks_own(tmp_path):
    """It needs `deserialize`, and what it gives is another network."""
    file = str(tmp_path / 'model')
    case = Adaptation(Reverse)
    with case.attach(Copied(epoch=1)):
        case.train(range(2 * PER_EPOCH))
        case.loss.save(file)
        with pytest.raises(Exception, match='stub method|SWIG director'):
            C.load_model(file)


def test_two_of_one_name_are_told_apart_in_a_resume(tmp_path):
    file = str(tmp_path / 'checkpoint')
    case = Adaptation(Reverse)
    case.attach(Copied(epoch=1))
    case.train(range(2 * PER_EPOCH))
    case.trainer.save_checkpoint(file)
    case.users[0].factor, case.users[1].factor = 'first', 'second'
    case.trainer.restore_from_checkpoint(file)
    before = [user.calls for user in case.users]
    strengths = [3.0, 0.0]
    for user, strength in zip(case.users, strengths):
        user.strength = strength
    expected = case.train([2 * PER_EPOCH + 1])[0][0]
    again = Adaptation(Reverse)
    again.attach(Copied(epoch=1))
    again.trainer.restore_from_checkpoint(file)
    for user, strength in zip(again.users, strengths[::-1]):
        user.strength = strength
    assert [user.calls for user in case.users] == [calls + 1 for calls in before]
    again.users[0].strength, again.users[1].strength = (
        case.users[0].strength,
        case.users[1].strength,
    )
    assert again.train([2 * PER_EPOCH + 1])[0][0] == expected
