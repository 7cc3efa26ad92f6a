"""Networks with several heads under an identity, bit for bit; UserFunctions that only their
attributes describe."""
import cntk as C
import numpy as np
import pytest
from cntk.ops.functions import UserFunction

import netopt_callbacks as nc
from user_script import Identity

SAMPLES, CLASSES = 8, 3


def heads(kind):
    """Returns (model, loss, metric, labels, x): networks in which a node has three readers or
    more."""
    x = C.input_variable(20, name='x')
    labels = [C.input_variable(CLASSES, name=f'label{number}') for number in range(3)]
    trunk = C.layers.Dense(30, activation=C.tanh, name='trunk')(x)
    outputs = [C.layers.Dense(CLASSES, name=f'head{number}')(trunk) for number in range(3)]
    losses = [C.cross_entropy_with_softmax(*pair) for pair in zip(outputs, labels)]
    loss = losses[0] + losses[1] + losses[2]
    model, metric = outputs[2], C.classification_error(outputs[2], labels[2])
    if kind == 'auxiliary':
        loss = losses[2] + 0.3 * losses[0] + 0.3 * losses[1]
    elif kind == 'several outputs':
        model = C.combine(outputs)
    elif kind == 'penalty':
        loss = loss + 0.01 * C.reduce_sum(C.square(trunk))
    elif kind == 'no model':
        model = None
    return model, loss, metric, labels, x


def losses_of(kind, callbacks):
    C.cntk_py.reset_random_seed(1)
    model, loss, metric, labels, x = heads(kind)
    trainer = C.Trainer(model, (loss, metric), [C.momentum_sgd(loss.parameters, 0.1, 0.9)])
    run = nc.attach(trainer, callbacks, epoch_size=2 * SAMPLES) if callbacks is not None else None
    random = np.random.RandomState(0)
    found = []
    for _ in range(8):
        minibatch = {x: random.randn(SAMPLES, 20).astype(np.float32)}
        minibatch.update(
            (label, np.eye(CLASSES, dtype=np.float32)[random.randint(0, CLASSES, SAMPLES)])
            for label in labels
        )
        trainer.train_minibatch(minibatch)
        found.append(trainer.previous_minibatch_loss_average)
    if run is not None:
        run.finish()
    return found, [parameter.value.tobytes() for parameter in loss.parameters]


@pytest.mark.few(2)
@pytest.mark.parametrize('kind', ['sum', 'auxiliary', 'several outputs', 'penalty', 'no model'])
def test_heads_train_as_without_callbacks(kind):
    """CNTK adds the gradients of a node in the order of the names of its roots."""
    plain = losses_of(kind, None)
    assert losses_of(kind, [nc.Observer()]) == plain
    assert losses_of(kind, [Identity(epoch=0)]) == plain
    assert losses_of(kind, [Identity(epoch=1), Identity(epoch=3)]) == plain


class Gain(UserFunction):
    """Multiplies by an option that CNTK's clone, which calls the class with inputs and name,
    leaves out."""

    def __init__(self, argument, name='gain', gain=1.0):
        self.gain = gain
        super().__init__([argument], name=name)

    def infer_outputs(self):
        read = self.inputs[0]
        return [C.output_variable(read.shape, read.dtype, read.dynamic_axes)]

    def forward(self, argument, device=None, outputs_to_retain=None):
        return None, argument * self.gain

    def backward(self, state, root_gradients):
        return root_gradients * self.gain


class Payload(Gain):
    """One that CNTK's clone cannot construct at all."""

    def __init__(self, gain, argument):
        super().__init__(argument, gain=gain)


@pytest.mark.parametrize(
    'made', [lambda h: Gain(h, gain=3.0), lambda h: Payload(3.0, h)], ids=['option', 'payload']
)
@pytest.mark.parametrize(
    'optimization',
    [
        None,
        Identity(epoch=1),
        nc.FactorDense(epoch=1, rank=4, filter_function=lambda layer: layer.name == 'h'),
    ],
    ids=['observer', 'identity', 'factor'],
)
def test_user_function_keeps_its_options(made, optimization):
    C.cntk_py.reset_random_seed(1)
    x, y = C.input_variable(20, name='x'), C.input_variable(10, name='y')
    hidden = C.layers.Dense(30, activation=C.tanh, name='h')(x)
    user = C.user_function(made(hidden))
    z = C.layers.Dense(10, name='out')(user)
    trainer = C.Trainer(z, (C.squared_error(z, y), None), [C.sgd(z.parameters, 0.01)])
    data = np.random.RandomState(0).rand(8, 20).astype(np.float32)
    targets = np.zeros((8, 10), np.float32)
    with nc.attach(trainer, [optimization or nc.Observer()], epoch_size=8) as run:
        for _ in range(3):
            trainer.train_minibatch({x: data, y: targets})
    for network in z, run.result.model:
        parts = {part.name: part for part in nc.graph.walk(network)}
        layer, out = parts['h'], parts['out']
        weights = {parameter.name: parameter.value for parameter in layer.parameters}
        W = weights['W'] if 'W' in weights else weights['W1'].dot(weights['W2'])
        last = {parameter.name: parameter.value for parameter in out.parameters}
        expected = (3 * np.tanh(data.dot(W) + weights['b'])).dot(last['W']) + last['b']
        assert np.allclose(network.eval({network.arguments[0]: data}), expected, atol=1e-5)


def test_clones_outside_of_the_engine_are_cntks_own():
    x = C.input_variable(3)
    z = C.user_function(Gain(x, gain=3.0))
    data = np.ones((1, 3), np.float32)
    assert z.clone('clone').eval(data).tolist() == [[1.0, 1.0, 1.0]]
    assert nc.graph.clone_shared(z).eval({x: data}).tolist() == [[3.0, 3.0, 3.0]]


def trained(trainer, callbacks, minibatch, times, before=lambda number: None):
    """Returns the losses of one minibatch, trained several times; `before` gets the number of
    each."""
    run = nc.attach(trainer, callbacks, epoch_size=80) if callbacks is not None else None
    found = []
    for number in range(times):
        before(number)
        trainer.train_minibatch(minibatch)
        found.append(trainer.previous_minibatch_loss_average)
    if run is not None:
        run.finish()
    return found


@pytest.mark.few(1)
@pytest.mark.parametrize('duplicates', [True, False])
def test_sampled_softmax_equals_plain_or_is_told_before_training(duplicates):
    def losses(callbacks):
        C.cntk_py.reset_random_seed(3)
        classes = 40
        x, y = C.input_variable(6), C.input_variable(classes, is_sparse=True)
        hidden = C.layers.Dense(8, activation=C.tanh)(x)
        weights = C.constant(np.arange(1, classes + 1, dtype=np.float32)[None])
        drawn = C.random_sample(weights, 5, duplicates, seed=7)
        frequency = C.log(C.random_sample_inclusion_frequency(weights, 5, duplicates, seed=8))
        W = C.parameter((classes, 8), init=C.glorot_uniform(seed=4))
        wrong = C.times_transpose(hidden, C.times(drawn, W)) - C.times_transpose(frequency, drawn)
        right = C.reduce_sum(hidden * C.times(y, W)) - C.times_transpose(frequency, y)
        loss = C.reduce_sum(C.log_add_exp(C.reduce_log_sum_exp(wrong), right) - right)
        trainer = C.Trainer(None, (loss,), [C.sgd(loss.parameters, 0.1)])
        minibatch = {
            x: np.random.RandomState(0).randn(20, 6).astype(np.float32),
            y: C.Value.one_hot([[index] for index in range(20)], classes),
        }
        return trained(trainer, callbacks, minibatch, 8)

    plain = losses(None)
    assert losses([nc.Observer()]) == plain
    if duplicates:
        assert losses([Identity(epoch=1)]) == plain
        return
    with pytest.warns(
        UserWarning, match='inclusion frequencies of a sampled softmax.*With allow_duplicates=True'
    ):
        changed = losses([Identity(epoch=1)])
    assert changed[:4] == plain[:4]
    np.testing.assert_allclose(changed, plain, rtol=0.01)


@pytest.mark.parametrize(
    'draw',
    [C.random.normal_like, C.random.uniform_like, C.random.gumbel_like],
    ids=lambda f: f.__name__,
)
def test_numbers_that_cntk_saves_inexactly_are_told_before_training(draw):
    """As in a variational autoencoder."""

    def losses(callbacks):
        C.cntk_py.reset_random_seed(3)
        x = C.input_variable(6)
        mean = C.layers.Dense(4, name='mean')(x)
        z = C.layers.Dense(6)(mean + 0.1 * draw(mean, seed=5))
        loss = C.squared_error(z, x)
        trainer = C.Trainer(z, (loss, None), [C.sgd(loss.parameters, 0.1)])
        data = np.random.RandomState(0).randn(40, 6).astype(np.float32)
        return trained(trainer, callbacks, {x: data}, 6)

    plain = losses(None)
    assert losses([nc.Observer()]) == plain
    if draw is not C.random.normal_like:
        assert losses([Identity(epoch=1)]) == plain
        return
    with pytest.warns(UserWarning, match='draws from a normal distribution'):
        changed = losses([Identity(epoch=1)])
    assert changed[:2] == plain[:2]


def in_a_layer(x):
    return C.layers.Dense(6)(C.layers.Dropout(0.3, seed=5)(C.layers.Dense(40)(x)))


def in_attention(x):
    """The block reads its arguments in another order than it lists them."""
    keys = C.layers.Dropout(0.1, seed=5)(C.layers.Dense(40)(x))
    query = C.layers.Dropout(0.2, seed=6)(C.layers.Dense(40)(x))
    weights, drop = C.layers.Dense(40), C.layers.Dropout(0.3, seed=7)

    @C.BlockFunction('Attention', 'attention')
    def attention(keys, query):
        return drop(C.tanh(weights(query))) * keys

    return C.layers.Dense(6)(attention(keys, query))


@pytest.mark.parametrize('network', [in_a_layer, in_attention])
@pytest.mark.parametrize('optimization', [None, Identity(epoch=1)], ids=['observer', 'identity'])
def test_the_dropout_inside_a_layer_takes_the_rates_of_the_script(optimization, network):
    def losses(callbacks):
        C.cntk_py.reset_random_seed(3)
        x = C.input_variable(6)
        z = network(x)
        (dropout,) = [
            part
            for part in nc.graph.walk(z)
            if part.op_name == 'Dropout' and not part.is_block and part.attributes['rngSeed'] == 5
        ]
        loss = C.squared_error(z, x)
        trainer = C.Trainer(z, (loss, None), [C.sgd(loss.parameters, 0.001)])
        data = np.random.RandomState(0).randn(40, 6).astype(np.float32)
        return trained(
            trainer,
            callbacks,
            {x: data},
            6,
            lambda number: dropout.set_attribute('dropoutRate', 0.1 * number),
        )

    assert losses([optimization or nc.Observer()]) == losses(None)
