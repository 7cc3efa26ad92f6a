"""A loop that asks for outputs now and then gets them after each swap and restore, as from CNTK.

CNTK allows in any minibatch what the first one has asked for, and nothing else.
"""
import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from user_script import Identity

ROWS = 8


class Loop:
    """A user's loop over a network with a hidden layer that two parts of the loss read.

    Args:
        dropout (float): behind the hidden layer.
        kind (type): of the trainer.
        model (bool): whether the trainer is given the model.
    """

    def __init__(self, dropout=0.0, kind=C.Trainer, model=True):
        C.cntk_py.reset_random_seed(1)
        self.x, self.y = C.input_variable(5), C.input_variable(3)
        self.h = C.layers.Dense(6, activation=C.tanh, name='h')(self.x)
        behind = C.layers.Dropout(dropout, seed=5)(self.h) if dropout else self.h
        self.z = C.layers.Dense(3, name='z')(behind)
        self.ce = C.cross_entropy_with_softmax(self.z, self.y)
        self.penalty = C.reduce_mean(C.square(self.h))
        self.loss = self.ce + 0.1 * self.penalty
        self.trainer = self.another(kind, self.z if model else None)
        self._random = np.random.RandomState(0)
        self.fetched = []

    def another(self, kind=C.Trainer, model=None):
        """Returns a trainer of the same network."""
        learner = C.momentum_sgd(self.z.parameters, C.learning_parameter_schedule(0.1), 0.9)
        return kind(model, (self.loss, C.classification_error(self.z, self.y)), [learner])

    def minibatch(self):
        labels = np.eye(3, dtype=np.float32)[self._random.randint(0, 3, ROWS)]
        return {self.x: self._random.randn(ROWS, 5).astype(np.float32), self.y: labels}

    def run(self, first, last, names, every=3):
        """Trains minibatches; keeps the outputs of the parts of these names of every third one."""
        for number in range(first, last):
            if number % every:
                assert self.trainer.train_minibatch(self.minibatch()) is True
                continue
            asked = [self.variable(name) for name in names]
            _, values = self.trainer.train_minibatch(self.minibatch(), outputs=asked)
            assert len(values) == len(asked)
            if number % 3 == 0:
                self.fetched += [values[output].tobytes() for output in asked]

    def variable(self, name):
        part = getattr(self, name)
        return part.output if isinstance(part, C.Function) else part

    def outcome(self):
        values = [np.array(parameter.value).tobytes() for parameter in self.loss.parameters]
        return self.fetched, values, self.trainer.previous_minibatch_loss_average


def factor(epoch):
    return nc.FactorDense(epoch=epoch, rank=2, filter_function=lambda layer: layer.name == 'h')


def attached(loop, *epochs):
    return nc.attach(loop.trainer, [Identity(epoch=each) for each in epochs], epoch_size=2 * ROWS)


@pytest.mark.parametrize('names', [['h'], ['h', 'z'], ['ce', 'penalty'], ['x', 'ce']], ids=str)
@pytest.mark.parametrize('model', [True, False])
def test_swaps_change_nothing_of_what_is_asked(names, model):
    plain, ours = (Loop(dropout=0.3, model=model) for _ in range(2))
    plain.run(0, 12, names)
    with attached(ours, 0, 1, 2, 4):
        ours.run(0, 12, names)
    assert ours.outcome() == plain.outcome()


def test_what_was_asked_before_the_run_counts_and_what_is_asked_after_it():
    plain, ours = Loop(), Loop()
    plain.run(0, 16, ['h'])
    ours.run(0, 4, ['h'])
    with attached(ours, 0, 2) as run:
        ours.run(4, 8, ['h'])
    assert [record.samples for record in run.result.records] == [0, 4 * ROWS]
    ours.run(8, 16, ['h'])
    assert ours.outcome() == plain.outcome()


@pytest.mark.parametrize('finished', [False, True])
def test_a_restore_changes_nothing_of_what_is_asked(tmpdir, finished):
    def trained(loop, file, end):
        loop.run(0, 5, ['ce', 'penalty'])
        loop.trainer.save_checkpoint(file)
        loop.run(5, 7, ['ce', 'penalty'])
        end()
        loop.trainer.restore_from_checkpoint(file)
        loop.run(7, 15, ['ce', 'penalty'])
        return loop.outcome()

    ours = Loop()
    run = attached(ours, 0, 1)
    got = trained(ours, str(tmpdir.join('ours')), run.finish if finished else lambda: None)
    run.finish()
    assert got == trained(Loop(), str(tmpdir.join('plain')), lambda: None)


@pytest.mark.parametrize('back', [False, True])
def test_over_a_change_of_the_network_it_is_what_is_asked_each_time(tmpdir, back):
    """A restore may lead to the network of before a swap; its parts are then asked for again."""

    def trained(every):
        loop, file = Loop(), str(tmpdir.join(f'saved-{every}'))
        with nc.attach(loop.trainer, [factor(epoch=2)], epoch_size=2 * ROWS):
            loop.run(0, 2, ['h', 'penalty'], every)
            loop.trainer.save_checkpoint(file)
            loop.run(2, 7, ['h', 'penalty'], every)
            if back:
                loop.trainer.restore_from_checkpoint(file)
            loop.run(7, 14, ['h', 'penalty'], every)
        return loop.outcome()

    assert trained(every=3) == trained(every=1)


def test_what_the_network_has_lost_is_not_asked_for_any_more():
    def trained(*lost):
        loop = Loop()
        W = next(parameter for parameter in loop.h.parameters if parameter.name == 'W')
        with nc.attach(loop.trainer, [factor(epoch=1)], epoch_size=2 * ROWS) as run:
            asked = [loop.h.output] + [W for _ in lost]
            _, values = loop.trainer.train_minibatch(loop.minibatch(), outputs=asked)
            assert len(values) == len(asked)
            loop.run(1, 8, ['h'])
        assert W not in run.result.model.parameters
        return loop.outcome()

    assert trained('W') == trained()


def in_a_hand_loop(loop):
    with nc.attach(loop.trainer, [factor(epoch=1)], epoch_size=2 * ROWS):
        loop.run(0, 4, ['z'])


def in_a_loop_that_fails(loop):
    with pytest.raises(KeyError):
        with nc.attach(loop.trainer, [factor(epoch=1)], epoch_size=2 * ROWS):
            loop.run(0, 4, ['z'])
            raise KeyError


def in_a_session(loop):
    minibatches = [loop.minibatch() for _ in range(4)]
    source = C.io.MinibatchSourceFromData(
        {
            name: np.concatenate([minibatch[key] for minibatch in minibatches])
            for name, key in (('x', loop.x), ('y', loop.y))
        },
    )
    streams = {loop.x: source.streams.x, loop.y: source.streams.y}
    nc.training_session(
        loop.trainer,
        source,
        ROWS,
        streams,
        max_samples=4 * ROWS,
        callbacks=[factor(epoch=1)],
        epoch_size=2 * ROWS,
    ).train()


@pytest.mark.parametrize('train', [in_a_hand_loop, in_a_loop_that_fails, in_a_session])
def test_variables_kept_from_before_the_run_are_asked_for_after_it(train):
    kept, fresh = Loop(), Loop()
    last = kept.z.output
    train(kept)
    train(fresh)
    for asked in ([last], []):
        minibatch = kept.minibatch()
        mine = dict(zip((fresh.x, fresh.y), (minibatch[kept.x], minibatch[kept.y])))
        got = kept.trainer.train_minibatch(minibatch, outputs=asked)
        expected = fresh.trainer.train_minibatch(mine, [fresh.z.output for _ in asked])
        if not asked:
            assert got is expected is True
            continue
        values, expected = got[1], expected[1]
        assert set(values) == set(asked) and len(values) == len(expected)
        assert values[last].tobytes() == expected[fresh.z.output].tobytes()
        assert values[kept.z.output].tobytes() == values[last].tobytes()
    assert kept.outcome() == fresh.outcome()


class Asking(C.Trainer):
    """A trainer of the user's own that asks for outputs itself."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seen = []

    def train_minibatch(self, arguments, part, ask):
        if not ask:
            return super().train_minibatch(arguments)
        updated, values = super().train_minibatch(arguments, outputs=[part.output])
        self.seen.append(values[part.output].tobytes())
        return updated


def test_a_trainer_that_asks_by_itself_goes_on_asking():
    plain, ours = Loop(kind=Asking), Loop(kind=Asking)

    def train(loop):
        for number in range(10):
            assert loop.trainer.train_minibatch(loop.minibatch(), part=loop.h, ask=number % 3 == 0)

    train(plain)
    with attached(ours, 0, 1, 2):
        train(ours)
    assert ours.trainer.seen == plain.trainer.seen and ours.outcome() == plain.outcome()


def test_another_trainer_that_follows_goes_on_asking():
    def trained(every):
        loop = Loop()
        first, second = loop.trainer, loop.another()
        with nc.attach(first, [factor(epoch=1)], epoch_size=4 * ROWS):
            for number in range(8):
                first.train_minibatch(loop.minibatch())
                loop.trainer = second
                loop.run(number, number + 1, ['penalty'], every)
        return loop.outcome()

    assert trained(every=3) == trained(every=1)
