"""Blocks with random state are opened under callbacks; a script goes on using them by name."""
import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc

SIZE, BATCH = 6, 16


def encoder(name='enc', size=8):
    """Returns a block of the script's own with a Dropout layer in it."""
    hidden = C.layers.Dense(12, C.tanh, name='hidden')
    drop = C.layers.Dropout(0.3, seed=3, name='drop')
    top = C.layers.Dense(size, C.tanh, name='top')

    @C.BlockFunction('Encoder', name)
    def encode(v):
        return top(drop(hidden(v)))

    return encode


class Script:
    """A network around such a block, its trainer and a minibatch."""

    def __init__(self, encode):
        random = np.random.RandomState(4)
        x, y = C.input_variable(SIZE), C.input_variable(3)
        self.z = C.layers.Dense(3, name='out')(encode(C.layers.Dense(SIZE, name='first')(x)))
        self.data = random.normal(size=(BATCH, SIZE)).astype(np.float32)
        self.minibatch = {
            x: self.data,
            y: np.eye(3, dtype=np.float32)[random.randint(3, size=BATCH)],
        }
        self.loss = C.cross_entropy_with_softmax(self.z, y)
        sgd = C.sgd(self.z.parameters, C.learning_parameter_schedule(0.1))
        self.trainer = C.Trainer(self.z, (self.loss, None), [sgd])

    def attach(self, epoch, names=('hidden',)):
        factor = nc.FactorDense(epoch, rank=2, filter_function=lambda layer: layer.name in names)
        return nc.attach(self.trainer, [factor], epoch_size=BATCH)

    def train(self, minibatches):
        for _ in range(minibatches):
            self.trainer.train_minibatch(self.minibatch)


def named(parameters):
    return [(parameter.name, parameter.uid, parameter.shape) for parameter in parameters]


def names(block):
    return [parameter.name for parameter in block.parameters]


def test_parameters_of_a_block_of_the_script_by_its_name(tmpdir):
    case, file = Script(encoder()), str(tmpdir.join('model'))
    before = named(case.z.enc.parameters)
    assert len(before) == 4
    with case.attach(2) as run:
        case.train(1)
        for found in case.z.enc, case.z.find_by_name('enc'), case.z.out.inputs[-1].owner:
            assert named(found.parameters) == before
        assert {p.uid for p in case.loss.grad(case.minibatch, wrt=case.z.enc.parameters)} == {
            uid for _, uid, _ in before
        }
        case.trainer.save_checkpoint(file)
        case.train(2)
        factored = names(case.z.enc)
        assert sorted(factored) == ['W', 'W1', 'W2', 'b', 'b']
        case.trainer.restore_from_checkpoint(file)
        assert named(case.z.enc.parameters) == before
        case.train(3)
        assert names(case.z.enc) == factored
    assert names(run.result.model.enc) == factored
    mine = {p.uid for p in run.result.model.parameters}
    assert {p.uid for p in run.result.model.enc.parameters} < mine


def test_parameters_of_blocks_in_a_row_and_of_one_in_another():
    def both(v):
        inner, behind = encoder('inner', SIZE), C.layers.Dense(SIZE, name='behind')

        @C.BlockFunction('Outer', 'outer')
        def outer(w):
            return behind(inner(w))

        return encoder('last')(outer(encoder('enc', SIZE)(v)))

    case = Script(both)
    outer = named(case.z.outer.parameters)
    found = {name: named(case.z.find_by_name(name).parameters) for name in ('enc', 'last')}
    with case.attach(1, names=('first',)):
        case.train(2)
        assert named(case.z.outer.parameters) == outer and len(outer) == 6
        assert sorted(named(case.z.inner.parameters)) == sorted(
            one for one in outer if one[1] not in {p.uid for p in case.z.behind.parameters}
        )
        for name, parameters in found.items():
            assert named(case.z.find_by_name(name).parameters) == parameters


def test_dropout_layer_has_no_parameters_and_an_alias_of_the_script_none_either():
    drop = C.layers.Dropout(0.3, name='drop')
    case = Script(lambda v: C.alias(drop(C.layers.Dense(8)(v)), name='mine'))
    with case.attach(1, names=('first',)):
        case.train(2)
        assert case.z.drop.parameters == () and case.z.mine.parameters == ()
        with pytest.raises(Exception, match='BlockRoot'):
            case.z.mine.block_root


@pytest.mark.parametrize('place', ['layer', 'block'])
def test_rate_of_a_dropout_layer_is_set_by_its_name(place):
    """As in plain CNTK, bit for bit with nothing due, and after a swap."""

    def trained(epoch, rates):
        C.cntk_py.reset_random_seed(4)
        drop = C.layers.Dropout(0.5, seed=3, name='drop')
        case = Script(drop if place == 'layer' else encoder())
        depth = -1 if place == 'block' else 0
        run = case.attach(epoch, names=('first',)) if epoch else None
        for rate in rates:
            case.train(1)
            case.z.find_by_name('drop', depth=depth).block_root.set_attribute('dropoutRate', rate)
        case.train(1)
        computed = case.z.eval({case.z.arguments[0]: case.data}).tobytes()
        if epoch == 99:
            with pytest.raises(ValueError, match='training ended after'):
                run.finish()
        elif epoch:
            run.finish()
        return computed

    ends = [trained(None, rates) for rates in ([0.4, 0.2], [0.4, 0.3])]
    assert ends == [trained(99, rates) for rates in ([0.4, 0.2], [0.4, 0.3])]
    assert ends[0] != ends[1]
    assert trained(1, [0.4, 0.2]) != trained(1, [0.4, 0.3])
