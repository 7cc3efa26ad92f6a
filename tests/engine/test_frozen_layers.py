"""Layers that cannot be changed, or are not this trainer's to change: told, counted, and left
alone."""
import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from netopt_callbacks import count, graph, summary


def network():
    x = C.input_variable(12, name='x')
    return x, C.layers.Sequential(
        [C.layers.Dense(10, activation=C.tanh, name='base'), C.layers.Dense(8, name='head')]
    )(x)


def frozen():
    """Transfer learning: a frozen base under a head that is trained."""
    x, model = network()
    base = C.combine([model.base]).clone(C.CloneMethod.freeze, {x: x})
    return C.layers.Dense(8, name='new head')(base)


def test_the_error_says_that_layers_are_frozen():
    _, model = network()
    whole = model.clone(C.CloneMethod.freeze, {})
    with pytest.raises(ValueError) as caught:
        nc.FactorDense(rank=2).transform(whole)
    for name, sides in (('base', '12x10'), ('head', '10x8')):
        assert f"Dense '{name}' (W of {sides}), which is none (it is frozen" in str(caught.value)
    images = C.input_variable((1, 6, 6))
    convolution = C.layers.Convolution2D((3, 3), 4, name='conv')(images).clone(
        C.CloneMethod.freeze, {}
    )
    with pytest.raises(
        ValueError, match=r"Convolution 'conv' \(W of 4x1x3x3\), which is none \(it is frozen"
    ):
        nc.BinarizeConvolution().transform(convolution)
    bare = C.times(C.input_variable(4), C.constant(np.ones((4, 3), 'f')), name='bare')
    with pytest.raises(
        ValueError, match=r"Dense 'bare' \(W of 4x3\), which is none \(it is frozen"
    ):
        nc.FactorDense(rank=2).transform(bare)


def test_a_frozen_layer_among_others_is_left_with_a_note():
    model = frozen()
    assert [found.root.name for found in graph.frozen_layers(model)] == ['base']
    notes = {note.name: note for note in nc.FactorDense(rank=2).transform(model).layers}
    assert sorted(notes) == ['base', 'new head']
    assert 'it is frozen' in notes['base'].skipped and notes['new head'].rank == 2


def test_frozen_numbers_are_counted_beside_those_that_are_trained():
    rows = {row.name: row for row in count.rows(frozen())}
    base, head = rows['base'], rows['new head']
    assert (base.parameters, base.frozen, base.macs, base.shape) == (0, 12 * 10 + 10, 120, (12, 10))
    assert (head.parameters, head.frozen, head.macs) == (88, 0, 80)
    assert (base.bytes, head.bytes) == (4 * 130, 4 * 88)
    assert count.totals(frozen()) == (88, 200) and count.whole(frozen()).bytes == 4 * 218
    text = summary.of_model(frozen())
    assert 'frozen' in text.splitlines()[0] and '130' in text
    assert 'frozen' not in summary.of_model(network()[1])


def test_statistics_of_a_batch_normalization_are_no_frozen_weights():
    x = C.input_variable((2, 4, 4))
    for method, expected in ((C.CloneMethod.clone, (4, 0)), (C.CloneMethod.freeze, (0, 4))):
        model = C.layers.BatchNormalization(map_rank=1, name='norm')(x).clone(method, {})
        (row,) = count.rows(model)
        assert (row.parameters, row.frozen) == expected


class Two:
    """A generator whose trainer reads a discriminator that another trainer trains."""

    def __init__(self):
        C.cntk_py.reset_random_seed(3)
        self.noise = C.input_variable(6)
        self.generator = C.layers.Dense(9, activation=C.tanh, name='make')(self.noise)
        self.verdict = C.layers.Dense(7, activation=C.relu, name='judge')(self.generator)
        self.loss = C.reduce_mean(C.square(self.verdict))
        learner = C.sgd(self.generator.parameters, C.learning_parameter_schedule(0.01))
        self.trainer = C.Trainer(self.verdict, self.loss, [learner])

    def run(self, *optimizations):
        with nc.attach(self.trainer, list(optimizations), epoch_size=4) as run:
            for _ in range(3):
                self.trainer.train_minibatch(
                    {self.noise: np.random.RandomState(0).rand(4, 6).astype('f')}
                )
        return run.result.records


def test_layers_that_no_learner_trains_are_left_where_nobody_asks_for_them():
    (record,) = Two().run(nc.FactorDense(1, rank=2))
    notes = {note.name: note for note in record.layers}
    assert notes['make'].rank == 2 and notes['make'].skipped is None
    assert 'no learner of the trainer trains it' in notes['judge'].skipped
    assert notes['judge'].parameters_before == notes['judge'].parameters_after == 9 * 7 + 7
    assert (notes['judge'].macs_before, notes['judge'].macs_after) == (63, 63)


def test_layers_that_no_learner_trains_stay_float_where_nobody_asks_for_them():
    (record,) = Two().run(nc.BinarizeDense(1))
    notes = {note.name: note for note in record.layers}
    assert notes['make'].skipped is None
    assert 'no learner of the trainer trains it' in notes['judge'].skipped
    (record,) = Two().run(nc.BinarizeDense(1, filter_function=lambda layer: True))
    assert [note.skipped for note in record.layers] == [None, None]


def test_a_filter_that_takes_them_has_them():
    (record,) = Two().run(nc.FactorDense(1, rank=2, filter_function=lambda layer: True))
    assert {note.name: note.rank for note in record.layers} == {'make': 2, 'judge': 2}


def test_where_none_is_trained_it_is_told_before_training():
    two = Two()
    two.run(nc.FactorDense(1, rank=2))
    with pytest.raises(
        ValueError,
        match="FactorDense: expected a Dense layer.*Dense 'judge'.*: left as it was.*"
        'no learner of the trainer trains it',
    ):
        two.run(nc.FactorDense(1, rank=2))


def test_what_an_earlier_optimization_adds_is_trained_too():
    class Wider(nc.Optimization):
        """Puts a layer with new Parameters in the place of another."""

        def check(self, model):
            return self.transform(model)

        def transform(self, model):
            (layer,) = graph.layers(model, lambda layer: layer.name == 'make')
            W = C.Parameter(layer.W.shape, init=layer.W.value, name='W')
            new = graph.substitute(model, {layer.W: W})
            return nc.Transformed(new, replaced=[nc.Replaced('make', (layer.W,), (W,))])

    records = Two().run(Wider(1), nc.FactorDense(2, rank=2))
    assert [note.rank for note in records[1].layers if note.name == 'make'] == [2]
