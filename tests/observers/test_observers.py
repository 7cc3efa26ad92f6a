"""Observers told of made-up runs; what they wrote is read back with TensorBoard's own reader."""
import io
import os

import cntk as C
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import netopt_callbacks as nc
from netopt_callbacks.count import Totals
from netopt_callbacks.observers import tensorboard
from netopt_callbacks.observers.average import Average
from netopt_callbacks.observers.base import Evaluation, Run


def read(folder):
    """Returns the accumulator of a folder, with every point kept."""
    accumulator = EventAccumulator(str(folder), size_guidance={'scalars': 0, 'tensors': 0})
    accumulator.Reload()
    return accumulator


def curve(folder, tag):
    """Returns [(step, value)] of a scalar, [] where there is none; float32 rounded to 6 digits."""
    accumulator = read(folder)
    if tag not in accumulator.Tags()['scalars']:
        return []
    return [(event.step, round(event.value, 6)) for event in accumulator.Scalars(tag)]


def factored(samples=200, before=0.1, after=0.5, layers=None):
    """Returns the record of a made-up factorization."""
    totals = None
    if layers is None:
        totals = Totals(6610 - 6500 + 1412, 6500 - 6400 + 1312, 0, 4 * 1522)
        layers = [
            nc.LayerNote(
                'hidden',
                (64, 100),
                rank=8,
                energy=0.75,
                error=0.5,
                parameters_before=6500,
                parameters_after=1412,
                macs_before=6400,
                macs_after=1312,
            ),
            nc.LayerNote(
                'classify',
                (10, 10),
                skipped='rank 8 saves nothing',
                parameters_before=110,
                parameters_after=110,
                macs_before=100,
                macs_after=100,
            ),
        ]
    return nc.Record(
        'FactorDense', 2, samples, before, after, [(samples, after)], layers, network_after=totals
    )


def tell(observer, epochs=4, swap_epoch=2, run=None):
    """Tells an observer of a made-up run: 100 samples an epoch in minibatches of 40, 40 and 20."""
    run = run or Run(
        epoch_size=100,
        max_samples=100 * epochs,
        metric_name='errs',
        has_held_out=True,
        optimizations=[('FactorDense', swap_epoch)],
        parameters=6610,
        macs=6500,
        binary_macs=0,
        bytes=26440,
        learning_rates=lambda: [0.5, 0.25],
    )
    observer.on_start(run)
    observer.on_evaluation(Evaluation('start', 0, 0, 0.9))
    record = None
    for epoch in range(1, epochs + 1):
        for end, loss, metric in ((40, 1.0, 0.5), (80, 2.0, 0.25), (100, 4.0, 0.0)):
            observer.on_minibatch(100 * (epoch - 1) + end, loss / epoch, metric)
        held_out = {1: 0.4, 2: 0.1, 3: 0.3, 4: 0.125}[epoch]
        drop = None if record is None else record.drop
        recovered = None if record is None else record.recovered_at(held_out)
        kind = 'before' if epoch == swap_epoch else 'epoch'
        observer.on_evaluation(
            Evaluation(
                kind,
                100 * epoch,
                epoch,
                held_out,
                None,
                drop,
                recovered,
                record and 0.5,
                record and epoch - swap_epoch,
                baseline={1: 0.4, 2: 0.1, 3: 0.08, 4: 0.07}[epoch],
            )
        )
        observer.on_epoch(epoch, 100 * epoch)
        if epoch == swap_epoch:
            record = factored()
            observer.on_optimization(record)
            observer.on_evaluation(
                Evaluation('after', 200, 2, 0.5, 'FactorDense', 0.4, 0.0, 0.5, 0, 0.1)
            )
    observer.on_evaluation(Evaluation('cross_validation', 400, 4, 0.2))
    observer.on_evaluation(Evaluation('test', 400, 4, 0.15))
    observer.on_end(nc.Result())


# TensorBoard.


def test_recovery_is_one_curve_with_an_upright_drop(tmp_path):
    tell(nc.TensorBoard(tmp_path))
    # 199 repeats the value before the swap, see TensorBoard._corner.
    assert curve(tmp_path, 'recovery/metric') == [
        (0, 0.9),
        (100, 0.4),
        (199, 0.1),
        (200, 0.1),
        (200, 0.5),
        (300, 0.3),
        (400, 0.125),
    ]
    assert curve(tmp_path, 'recovery/drop') == [(200, 0.4), (300, 0.4), (400, 0.4)]
    assert curve(tmp_path, 'recovery/recovered') == [(200, 0.0), (300, 0.5), (400, 0.9375)]
    assert curve(tmp_path, 'recovery/worst') == [(200, 0.5), (300, 0.5), (400, 0.5)]
    assert curve(tmp_path, 'recovery/epochs') == [(200, 0.0), (300, 1.0), (400, 2.0)]
    assert curve(tmp_path, 'recovery/baseline') == [
        (100, 0.4),
        (199, 0.1),
        (200, 0.1),
        (200, 0.1),
        (300, 0.08),
        (400, 0.07),
    ]
    assert {value for _, value in curve(tmp_path, 'train/learning_rate')} == {0.5}
    assert {value for _, value in curve(tmp_path, 'train/learning_rate/2')} == {0.25}
    assert curve(tmp_path, 'test/cross_validation') == [(400, 0.2)]
    assert curve(tmp_path, 'test/metric') == [(400, 0.15)]


def test_no_sample_is_lost_between_windows(tmp_path):
    tell(nc.TensorBoard(tmp_path, every=2))
    # Epoch 1: (40 * 1 + 40 * 2) / 80; then 20 samples of 4 and 40 of 1/2. The window before the
    # swap ends with it, with one minibatch less.
    assert curve(tmp_path, 'train/loss') == [
        (80, 1.5),
        (140, round((20 * 4 + 40 * 0.5) / 60, 6)),
        (200, round((40 * 1 + 20 * 2) / 60, 6)),
        (280, 0.5),
        (340, round((20 * 4 / 3.0 + 40 * 0.25) / 60, 6)),
        (400, round((40 * 0.5 + 20 * 1) / 60, 6)),
    ]
    assert curve(tmp_path, 'train/metric') == [
        (80, 0.375),
        (140, round(40 * 0.5 / 60, 6)),
        (200, round(40 * 0.25 / 60, 6)),
        (280, 0.375),
        (340, round(40 * 0.5 / 60, 6)),
        (400, round(40 * 0.25 / 60, 6)),
    ]


def test_a_window_larger_than_the_run_is_written_at_the_swap_and_the_end(tmp_path):
    tell(nc.TensorBoard(tmp_path, every=1000))
    assert [step for step, _ in curve(tmp_path, 'train/loss')] == [200, 400]


def test_layers_and_totals_of_an_optimization(tmp_path):
    tell(nc.TensorBoard(tmp_path))
    parameters, macs = 6610 - 6500 + 1412, 6500 - 6400 + 1312
    assert curve(tmp_path, 'size/parameters') == [
        (0, 6610),
        (199, 6610),
        (200, parameters),
        (400, parameters),
    ]
    assert curve(tmp_path, 'size/float_multiply_adds') == [
        (0, 6500),
        (199, 6500),
        (200, macs),
        (400, macs),
    ]
    assert {value for _, value in curve(tmp_path, 'size/binary_multiply_adds')} == {0}
    assert curve(tmp_path, 'size/bytes') == [
        (0, 26440),
        (199, 26440),
        (200, 4 * 1522),
        (400, 4 * 1522),
    ]
    [event] = read(tmp_path).Tensors('netopt/FactorDense/text_summary')
    text = event.tensor_proto.string_val[0].decode('utf-8')
    assert event.step == 200
    assert '**FactorDense** after epoch 2 (200 samples)' in text and 'drop 0.4' in text
    assert (
        '| hidden | 64x100 | 8 | 0.7500 | 0.5000 | 6,500 -> 1,412 | 6,400 -> 1,312 | 32 | - |'
        in text
    )
    assert '| classify | 10x10 | - | - | - | 110 | 100 | - | rank 8 saves nothing |' in text


def test_every_tag_of_a_run_is_known(tmp_path):
    tell(nc.TensorBoard(tmp_path))
    assert sorted(read(tmp_path).Tags()['scalars']) == sorted(
        [
            'train/loss',
            'train/metric',
            'recovery/metric',
            'recovery/drop',
            'recovery/recovered',
            'recovery/worst',
            'recovery/epochs',
            'recovery/baseline',
            'test/cross_validation',
            'test/metric',
            'train/learning_rate',
            'train/learning_rate/2',
            'train/samples_per_second',
            'size/parameters',
            'size/bytes',
            'size/float_multiply_adds',
            'size/binary_multiply_adds',
        ]
    )


def test_layers_without_names_or_with_the_same_name_get_tags_of_their_own(tmp_path):
    board = nc.TensorBoard(tmp_path)
    board.on_start(Run())
    board.on_optimization(
        factored(
            layers=[
                nc.LayerNote('', (4, 4), rank=1),
                nc.LayerNote('same', (4, 4), rank=2),
                nc.LayerNote('same', (4, 4), rank=3),
                nc.LayerNote('a b', (4, 4), rank=4),
            ]
        )
    )
    board.close()
    [event] = read(tmp_path).Tensors('netopt/FactorDense/text_summary')
    lines = event.tensor_proto.string_val[0].decode('utf-8').splitlines()
    assert [line[:14] for line in lines[-4:]] == [
        '| layer1 | 4x4',
        '| same | 4x4 |',
        '| same_3 | 4x4',
        '| a_b | 4x4 | ',
    ]


def test_an_optimization_before_the_first_minibatch(tmp_path):
    board = nc.TensorBoard(tmp_path)
    board.on_start(Run(parameters=10, macs=20))
    board.on_evaluation(Evaluation('before', 0, 0, 0.1))
    board.on_optimization(nc.Record('X', 0, 0, 0.1, 0.2, network_after=Totals(10, 20, 0, 40)))
    board.on_evaluation(Evaluation('after', 0, 0, 0.2, 'X', 0.1, 0.0))
    board.close()
    assert curve(tmp_path, 'recovery/metric') == [(0, 0.1), (0, 0.2)]
    assert curve(tmp_path, 'size/parameters') == [(0, 10), (0, 10)]


def test_two_optimizations_at_one_epoch(tmp_path):
    board = nc.TensorBoard(tmp_path)
    board.on_start(Run())
    board.on_evaluation(Evaluation('epoch', 100, 1, 0.1))
    board.on_evaluation(Evaluation('before', 100, 1, 0.1))
    board.on_evaluation(Evaluation('after', 100, 1, 0.3, 'A', 0.2, 0.0))
    board.on_evaluation(Evaluation('after', 100, 1, 0.4, 'B', 0.1, 0.0))
    board.close()
    steps = [step for step, _ in curve(tmp_path, 'recovery/metric')]
    assert steps == sorted(steps) == [100, 100, 100, 100]


def test_a_run_without_metric_or_held_out_data_writes_the_loss_alone(tmp_path):
    board = nc.TensorBoard(tmp_path, every=1)
    board.on_start(Run())
    board.on_minibatch(10, 0.5, None)
    board.on_optimization(nc.Record('X', 1, 10))
    board.on_end(nc.Result())
    assert read(tmp_path).Tags()['scalars'] == ['train/loss', 'train/samples_per_second']


def test_a_resumed_run_hides_what_is_trained_again_and_keeps_the_rest(tmp_path):
    killed = nc.TensorBoard(tmp_path, every=1)
    killed.on_start(Run())
    for samples in (100, 200, 300):
        killed.on_minibatch(samples, samples / 1000.0, None)
        killed.on_evaluation(Evaluation('epoch', samples, samples // 100, samples / 1000.0))
    killed.close()
    resumed = nc.TensorBoard(tmp_path, every=1)
    resumed.on_start(Run(samples=200))
    resumed.on_evaluation(Evaluation('start', 200, 2, 0.2))
    resumed.on_minibatch(300, 0.75, None)
    resumed.on_evaluation(Evaluation('epoch', 300, 3, 0.7))
    resumed.on_end(nc.Result())
    assert curve(tmp_path, 'train/loss') == [(100, 0.1), (200, 0.2), (300, 0.75)]
    assert curve(tmp_path, 'recovery/metric') == [(100, 0.1), (200, 0.2), (300, 0.7)]


def test_a_point_told_again_by_a_resumed_run_is_not_doubled(tmp_path):
    """Killed at the swap after the checkpoint of its very step, and once more at the end."""
    counted = dict(parameters=6610, macs=6500, binary_macs=0, bytes=26440)
    after = dict(parameters=1522, macs=1412, binary_macs=0, bytes=6088)

    def swap(board, last):
        told = [
            lambda: board.on_evaluation(Evaluation('before', 200, 2, 0.1)),
            lambda: board.on_optimization(factored()),
            lambda: board.on_evaluation(Evaluation('after', 200, 2, 0.5, 'FactorDense', 0.4, 0.0)),
        ]
        for tell_it in told[:last]:
            tell_it()

    never = nc.TensorBoard(tmp_path / 'never', every=1)
    runs = [nc.TensorBoard(tmp_path / 'killed', every=1) for _ in range(3)]
    for board in (never, runs[0]):
        board.on_start(Run(**counted))
        board.on_minibatch(200, 1.0, None)
        swap(board, 3 if board is never else 2)
    runs[0]._file.close()
    tensorboard._OPEN.clear()
    runs[1].on_start(Run(samples=200, **counted))
    swap(runs[1], 3)
    for board in (never, runs[1]):
        board.on_minibatch(400, 0.5, None)
        board.on_evaluation(Evaluation('end', 400, 4, 0.125, 'FactorDense', 0.4, 0.9375))
    runs[1]._file.close()
    tensorboard._OPEN.clear()
    runs[2].on_start(Run(samples=400, **after))
    runs[2].on_evaluation(Evaluation('end', 400, 4, 0.125, 'FactorDense', 0.4, 0.9375))
    never.close()
    runs[2].close()
    for tag in set(read(tmp_path / 'never').Tags()['scalars']) - {'train/samples_per_second'}:
        assert curve(tmp_path / 'killed', tag) == curve(tmp_path / 'never', tag), tag
    assert len(read(tmp_path / 'killed').Tensors('netopt/FactorDense/text_summary')) == 1


def test_a_resumed_run_in_a_new_folder_measures_where_it_starts(tmp_path):
    board = nc.TensorBoard(tmp_path)
    board.on_start(Run(samples=200))
    board.on_evaluation(Evaluation('start', 200, 2, 0.2))
    board.close()
    assert curve(tmp_path, 'recovery/metric') == [(200, 0.2)]


def test_a_run_from_the_start_hides_an_earlier_one(tmp_path):
    for value in (0.9, 0.5):
        board = nc.TensorBoard(tmp_path)
        board.on_start(Run())
        board.on_evaluation(Evaluation('start', 0, 0, value))
        board.on_evaluation(Evaluation('epoch', int(value * 1000), 1, value))
        board.close()
    assert curve(tmp_path, 'recovery/metric') == [(0, 0.5), (500, 0.5)]
    assert len(os.listdir(str(tmp_path))) == 2


def test_what_was_told_is_on_disk_before_the_run_ends(tmp_path):
    board = nc.TensorBoard(tmp_path, every=1)
    board.on_start(Run())
    board.on_minibatch(7, 0.5, None)
    assert curve(tmp_path, 'train/loss') == [(7, 0.5)]
    board.close()


def test_two_observers_on_one_folder(tmp_path):
    first, second = nc.TensorBoard(tmp_path), nc.TensorBoard(str(tmp_path) + '/../' + tmp_path.name)
    first.on_start(Run())
    with pytest.raises(RuntimeError, match=f'another observer.*{tmp_path.name}'):
        second.on_start(Run())
    second.on_end(nc.Result())
    first.on_end(nc.Result())
    second.on_start(Run())
    second.on_end(nc.Result())


def test_a_relative_folder_is_the_one_of_the_start_of_the_script(tmp_path, monkeypatch):
    (tmp_path / 'other').mkdir()
    monkeypatch.chdir(tmp_path)
    for folder in ('runs', '.'):
        first, second = nc.TensorBoard(folder), nc.TensorBoard(folder)
        for board in (first, second):
            monkeypatch.chdir(tmp_path / 'other')
            board.on_start(Run())
            board.on_minibatch(7, 0.5, None)
            monkeypatch.chdir(tmp_path)
            board.on_end(nc.Result())
        assert curve(tmp_path / folder, 'train/loss') == [(7, 0.5)]
    assert not list((tmp_path / 'other').iterdir())


def test_a_link_that_is_set_anew_during_a_run_leaves_no_folder_taken(tmp_path):
    (tmp_path / 'first').mkdir()
    (tmp_path / 'second').mkdir()
    (tmp_path / 'latest').symlink_to('first')
    linked, direct = nc.TensorBoard(tmp_path / 'latest'), nc.TensorBoard(tmp_path / 'first')
    linked.on_start(Run())
    (tmp_path / 'latest').unlink()
    (tmp_path / 'latest').symlink_to('second')
    linked.on_end(nc.Result())
    direct.on_start(Run())
    direct.on_end(nc.Result())


@pytest.mark.parametrize(
    'logdir, error, message',
    [
        (7, TypeError, 'folder'),
        ('', ValueError, 'folder'),
        ('s3://bucket/runs', ValueError, 'this machine'),
        ('runs/\0', ValueError, 'this machine'),
    ],
)
def test_no_folder(logdir, error, message):
    with pytest.raises(error, match=message):
        nc.TensorBoard(logdir)


@pytest.mark.parametrize(
    'every, error', [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_every_is_a_number_of_minibatches(tmp_path, every, error):
    with pytest.raises(error, match='every'):
        nc.TensorBoard(tmp_path, every=every)


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / 'file').write_text('x')
    with pytest.raises(
        RuntimeError, match='cannot write to the folder.*: it is a file; give a folder'
    ):
        nc.TensorBoard(tmp_path / 'file')
    with pytest.raises(
        RuntimeError, match='cannot write to the folder.*inside: .*file is a file; '
    ):
        nc.TensorBoard(tmp_path / 'file' / 'inside')


# Both, as progress writers of plain CNTK.


def criterion():
    x, y = C.input_variable(3), C.input_variable(2)
    z = C.layers.Dense(2)(x)
    return x, y, z, (C.cross_entropy_with_softmax(z, y), C.classification_error(z, y))


DATA = (
    np.random.RandomState(0).rand(50, 3).astype('f'),
    np.eye(2, dtype='f')[np.random.RandomState(1).randint(0, 2, 50)],
)


def test_in_a_plain_trainer(tmp_path):
    out = io.StringIO()
    board, bar = nc.TensorBoard(tmp_path, every=2), nc.ProgressBar(out)
    x, y, z, functions = criterion()
    trainer = C.Trainer(z, functions, [C.sgd(z.parameters, 0.1)], [board, bar])
    losses, counts = [], [20, 20, 10]
    for start, count in zip((0, 20, 40), counts):
        rows = slice(start, start + count)
        trainer.train_minibatch({x: DATA[0][rows], y: DATA[1][rows]})
        losses.append(trainer.previous_minibatch_loss_average)
    trainer.test_minibatch({x: DATA[0], y: DATA[1]})
    trainer.summarize_test_progress()
    trainer.summarize_training_progress()
    board.close()
    bar.close()
    expected = [(40, np.dot(losses[:2], counts[:2]) / 40), (50, losses[2])]
    found = curve(tmp_path, 'train/loss')
    assert [step for step, _ in found] == [40, 50]
    # CNTK sums losses in float32.
    np.testing.assert_allclose([v for _, v in found], [v for _, v in expected], rtol=1e-5)
    assert [step for step, _ in curve(tmp_path, 'test/metric')] == [50]
    assert out.getvalue().startswith('test: metric ') and '50 samples: loss ' in out.getvalue()


def test_in_function_train(tmp_path):
    board, out = nc.TensorBoard(tmp_path, every=1), io.StringIO()
    x, y, z, functions = criterion()
    C.combine(functions).train(
        DATA,
        minibatch_size=10,
        max_epochs=2,
        callbacks=[board, nc.ProgressBar(out)],
        parameter_learners=[C.sgd(z.parameters, 0.1)],
    )
    board.close()
    assert [step for step, _ in curve(tmp_path, 'train/loss')] == list(range(10, 101, 10))
    assert '50 samples: loss' in out.getvalue() and '100 samples: loss' in out.getvalue()


def test_average_weighs_samples():
    average = Average(samples=5)
    assert average.loss is None and average.metric is None
    average.add(6, 1.0, None)
    average.add(9, 2.0, 0.5)
    assert (average.samples, average.minibatches) == (9, 2)
    assert (average.loss, average.metric) == ((1 + 3 * 2.0) / 4, 0.5)
    average.restart()
    assert average.loss is None and average.samples == 9
