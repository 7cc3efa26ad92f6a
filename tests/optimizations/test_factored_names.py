"""Dense layers that the user gave no name have the same one for FactorDense and for BinarizeDense:
in filters, messages, records, reports, later optimizations and resumed runs."""
import cntk as C
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import netopt_callbacks as nc
from netopt_callbacks import graph

NAMES = ['Dense_1', 'Dense_2', 'Dense_3', 'Dense_4']
DATA = np.random.RandomState(0).randn(64, 12).astype('f')
LABELS = np.eye(4, dtype='f')[np.arange(64) % 4]


def unnamed(names=('',) * 4):
    """Returns (input, network) of four Dense layers, two of them of one shape."""
    x = C.input_variable(12, name='x')
    layers = [
        C.layers.Dense(20, activation=C.relu, name=name, init=C.glorot_uniform(seed=seed))
        for seed, name in enumerate(names[:-1])
    ]
    last = C.layers.Dense(4, name=names[-1], init=C.glorot_uniform(seed=9))
    return x, C.layers.Sequential(layers + [last])(x)


def called(*names):
    return lambda layer: layer.name in names


def noting(seen, *names):
    """A filter of layers of these names that notes whom it was asked about."""
    return lambda layer: seen.append(layer.name) or layer.name in names


def factor(*names, **options):
    return nc.FactorDense(rank=2, filter_function=called(*names), **options)


def blocks(model):
    """Returns [(op name, name)] of the Dense layers of a model, inputs first."""
    names = 'Dense', 'DenseFactored', 'BinaryDense'
    return [(each.op_name, each.name) for each in graph.walk(model) if each.op_name in names]


@pytest.mark.parametrize('made', [nc.FactorDense, nc.BinarizeDense], ids=lambda one: one.__name__)
def test_both_see_the_place_as_the_name(made):
    _, model = unnamed()
    seen = []
    options = dict(rank=2) if made is nc.FactorDense else {}
    done = made(filter_function=noting(seen, 'Dense_2', 'Dense_3'), **options).transform(model)
    assert seen == NAMES
    changed = {'Dense_2', 'Dense_3'}
    assert {note.name for note in done.layers if note.skipped is None} == changed
    assert {name for kind, name in blocks(done.model) if kind != 'Dense'} == changed
    assert [name for _, name in blocks(model)] == [''] * 4, 'the given model stays as it is'


def test_the_default_notes_what_it_leaves_under_its_name():
    taken = nc.FactorDense(rank=2).transform(unnamed()[1]).layers
    assert [note.name for note in taken] == NAMES
    assert [note.name for note in taken if note.skipped] == ['Dense_4']


@pytest.mark.parametrize('first', ['factored', 'binarized'])
def test_a_name_stays_when_another_layer_changes(first):
    model = unnamed()[1]
    factored, binarized = factor('Dense_2'), nc.BinarizeDense(filter_function=called('Dense_2'))
    model = (factored if first == 'factored' else binarized).transform(model).model
    seen = []
    later = nc.BinarizeDense(filter_function=noting(seen, 'Dense_3')).transform(model)
    later = nc.FactorDense(rank=2, filter_function=noting(seen, 'Dense_1')).transform(later.model)
    assert seen == ['Dense_1', 'Dense_3', 'Dense_4', 'Dense_1', 'Dense_4']
    assert blocks(later.model) == [
        ('DenseFactored', 'Dense_1'),
        ('DenseFactored' if first == 'factored' else 'BinaryDense', 'Dense_2'),
        ('BinaryDense', 'Dense_3'),
        ('Dense', ''),
    ]


def test_names_that_the_user_gave_stay_and_no_name_is_given_twice():
    seen = []
    nc.FactorDense(rank=2, filter_function=noting(seen, 'mine')).transform(
        unnamed(('', 'mine', 'Dense_4', ''))[1]
    )
    assert seen == ['Dense_1', 'mine', 'Dense_4', 'Dense_4_']


def test_the_names_of_other_functions_of_the_script_change_none():
    x, model = unnamed()
    shared = C.layers.Dense(7, name='Dense_2')(model)
    done = factor('Dense_2')
    with graph.seen_first(1):
        transformed = done.transform(C.combine([model.output, shared.output]))
    assert [note.name for note in transformed.layers] == ['Dense_2']


def test_messages_list_the_names():
    with pytest.raises(ValueError, match=r"layers? .*Dense 'Dense_4' \(W of 20x4\)"):
        factor('Dense_5').transform(unnamed()[1])
    model = unnamed()[1]
    graph.layers(model)[2].W.value = np.full((20, 20), np.nan, 'f')
    with pytest.raises(ValueError, match="Dense 'Dense_3'.*must be finite"):
        factor('Dense_3').transform(model)


class Interrupts(nc.Observer):
    def on_minibatch(self, samples, loss, metric):
        if samples == 160:
            raise KeyboardInterrupt


def trained(callbacks, **config):
    """Trains a new network of layers without names for 4 epochs of 64 samples; returns the
    session."""
    x, model = unnamed()
    label = C.input_variable(4)
    trainer = C.Trainer(
        model,
        (C.cross_entropy_with_softmax(model, label), C.classification_error(model, label)),
        [C.sgd(model.parameters, C.learning_parameter_schedule(0.05))],
    )
    source = C.io.MinibatchSourceFromData({'x': DATA, 'y': LABELS})
    session = nc.training_session(
        trainer=trainer,
        mb_source=source,
        mb_size=16,
        max_samples=256,
        epoch_size=64,
        model_inputs_to_streams={x: source.streams.x, label: source.streams.y},
        data=(DATA, LABELS),
        callbacks=callbacks,
        **config,
    )
    session.train()
    return session


def plan():
    return [
        factor('Dense_1', 'Dense_2', epoch=1),
        nc.BinarizeDense(epoch=3, filter_function=called('Dense_3')),
    ]


def test_in_a_run(tmp_path):
    board = str(tmp_path / 'board')
    result = trained(plan() + [nc.TensorBoard(board), nc.Lower()]).result
    first, second = result.records
    assert [note.name for note in first.layers] == ['Dense_1', 'Dense_2']
    assert [note.name for note in second.layers if not note.skipped] == ['Dense_3']
    assert '(unnamed)' not in result.summary() and 'Dense_2 ' in result.summary()
    events = EventAccumulator(board)
    events.Reload()
    images = {tag for tag in events.Tags()['images'] if tag.startswith('singular_values/')}
    assert images == {'singular_values/Dense_1', 'singular_values/Dense_2'}


def test_a_run_that_ended_between_the_two_goes_on_with_the_names(tmp_path):
    def config(name):
        return dict(checkpoint_config=C.CheckpointConfig(str(tmp_path / name), frequency=32))

    whole = trained(plan(), **config('whole')).result
    with pytest.raises(KeyboardInterrupt):
        trained(plan() + [Interrupts()], **config('parts'))
    resumed = trained(plan(), **config('parts')).result
    assert resumed.records[0].samples == 64, 'the first change is that of the interrupted run'
    assert blocks(resumed.model) == blocks(whole.model)
    assert [name for _, name in blocks(resumed.model)] == ['Dense_1', 'Dense_2', 'Dense_3', '']
    assert np.array_equal(resumed.model.eval(DATA), whole.model.eval(DATA))
