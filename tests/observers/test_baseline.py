"""A run without optimizations beside one with: where it is read from, what is refused, and what a
record knows of a recovery."""
import json
import pickle

import numpy as np
import pytest

import netopt_callbacks as nc
from netopt_callbacks import recovery_text
from netopt_callbacks.baseline import checked_baseline
from netopt_callbacks.observers.base import Evaluation, Run
from test_observers import curve, read


def test_the_value_at_a_sample():
    curve = checked_baseline([(100, 0.4), (200, 0.2)], True)
    assert [curve.at(samples) for samples in (100, 150, 200)] == [0.4, pytest.approx(0.3), 0.2]
    assert curve.at(99) is None and curve.at(201) is None


def test_an_array_holds_the_samples_as_floats():
    for kind in (float, np.float32, int):
        points = checked_baseline(np.array([[100, 4], [200, 2]], kind), True).points
        assert points == [(100, 4.0), (200, 2.0)] and type(points[0][0]) is int


def test_a_folder_that_tensorboard_wrote(tmp_path):
    for shift in (0.5, 0.0):  # the second run hides the first
        board = nc.TensorBoard(tmp_path)
        board.on_start(Run())
        for samples in (0, 100, 200):
            board.on_evaluation(Evaluation('epoch', samples, 0, 0.25 + shift))
        board.on_end(nc.Result())
    assert checked_baseline(tmp_path, True).points == [(0, 0.25), (100, 0.25), (200, 0.25)]


@pytest.mark.parametrize(
    'baseline, error, said',
    [
        ([], ValueError, 'at least one'),
        ([(1, 0.5), (1, 0.4)], ValueError, 'more samples'),
        ([(1, float('nan'))], ValueError, 'finite'),
        ([(0.5, 0.5)], TypeError, 'pairs'),
        ([(float('nan'), 0.5)], TypeError, 'pairs'),
        ([(float('inf'), 0.5)], TypeError, 'pairs'),
        ([(1, '0.5')], TypeError, 'pairs'),
        (['12'], TypeError, 'pairs'),
        (7, TypeError, 'a folder or a list'),
        ('/nowhere', ValueError, 'no folder'),
    ],
)
def test_what_is_no_baseline(baseline, error, said):
    with pytest.raises(error, match=said):
        checked_baseline(baseline, True)


def test_folders_that_are_no_baseline(tmp_path):
    with pytest.raises(ValueError, match='no curve recovery/metric'):
        checked_baseline(tmp_path, True)
    board = nc.TensorBoard(tmp_path)
    board.on_start(Run())
    board.on_evaluation(Evaluation('after', 100, 1, 0.5, 'X', 0.25, 0.0))
    board.on_end(nc.Result())
    with pytest.raises(ValueError, match='applied an optimization after 100 samples'):
        checked_baseline(tmp_path, True)
    with pytest.raises(ValueError, match='no held-out data'):
        checked_baseline([(0, 1.0)], False)


def record(**fields):
    return nc.Record(
        'X',
        2,
        200,
        0.1,
        0.5,
        [(200, 0.5), (300, 0.6), (400, 0.1), (500, 0.2)],
        epochs=[2, 3, 4, 5],
        **fields,
    )


def test_worst_point_and_epochs_to_recover():
    made = record()
    assert made.worst == (300, 0.6) and made.epochs_to_recover == 2
    made.cut(300)
    assert made.epochs_to_recover is None and made.epochs == [2, 3]
    made.larger_is_better = True
    assert made.worst == (200, 0.5) and made.epochs_to_recover == 0


@pytest.mark.parametrize(
    'before, improving',
    [
        ([(0, 0.9), (100, 0.4), (200, 0.1)], True),
        ([(0, 0.9), (100, 0.1), (200, 0.1)], False),
        ([(200, 0.1)], None),
    ],
)
def test_whether_training_was_still_improving(before, improving):
    made = record(curve_before=before)
    assert made.was_improving is improving
    result = nc.Result()
    result.records = [made]
    assert ('still improving before X' in result.summary()) == bool(improving)
    result.baseline = nc.Baseline([(0, 0.9), (500, 0.15)])
    said = ' '.join(result.summary().split())
    assert 'baseline 0.15, this run 0.2, both at 500 samples' in said
    assert max(map(len, result.summary().splitlines())) <= 100


@pytest.mark.parametrize('after, lost', [(0.1, False), (0.05, False), (0.11, True)])
def test_what_recovered_counts_is_said_only_where_something_was_lost(after, lost):
    made = nc.Record('X', 2, 200, 0.1, after, curve_before=[(0, 0.9), (100, 0.4), (200, 0.1)])
    assert made.was_improving
    assert (recovery_text.improving_before(made) is not None) == lost


@pytest.mark.parametrize(
    'after, now, shown',
    [
        (0.5, 0.4, '50 %'),
        (0.5, 0.2, '>100 %'),
        (0.5, 0.6, 'worse'),
        (0.25, 0.6, 'no drop'),
        (0.3, 0.3, 'no drop'),
    ],
)
def test_recovery_in_words(after, now, shown):
    made = nc.Record('X', 2, 200, 0.3, after, [(200, after), (300, now)], epochs=[2, 3])
    assert recovery_text.share(made) == shown


def of_accuracy(fields):
    """The same record of a metric of which larger is better."""
    turned = {name: 1 - fields[name] for name in ('metric_before', 'metric_after')}
    curve = [(at, 1 - metric) for at, metric in fields['curve']]
    return dict(fields, larger_is_better=True, curve=curve, **turned)


@pytest.mark.parametrize('turn', [dict, of_accuracy], ids=['error', 'accuracy'])
@pytest.mark.parametrize('end, said', [(0.03, '0.01 worse than'), (0.01, '0.01 better than')])
def test_a_drop_that_may_be_chance_is_said_to_be(end, said, turn, tmp_path):
    """2 % of 10,000 samples are wrong, one more after the swap, and then 100 more or less: a share of
    -99 or 101."""
    fields = dict(metric_before=0.02, metric_after=0.0201, curve=[(200, 0.0201), (300, end)])
    made = nc.Record('X', 2, 200, **turn(fields), error_after=0.0014, epochs=[2, 3])
    for again in (made, nc.Record.from_dict(json.loads(made.to_json()))):
        assert again.drop_may_be_chance and again.recovered == made.recovered
        assert recovery_text.share(again) == 'chance'
    result = nc.Result()
    result.records = [made]
    text = ' '.join(result.summary().split())
    assert (
        f'may be chance, and so may the share that is recovered. The metric is now {said}' in text
    )
    board = nc.TensorBoard(tmp_path)
    board.on_start(Run())
    board.on_optimization(made)
    board.on_evaluation(
        Evaluation('end', 300, 3, end, 'X', made.drop, made.recovered, made.worst[1], 1)
    )
    board.on_end(result)
    assert curve(tmp_path, 'recovery/drop') == [(300, 0.0001)]
    share = pytest.approx(-99 if end == 0.03 else 101, rel=1e-3)
    assert curve(tmp_path, 'recovery/recovered') == [(300, share)]
    for tag in ('netopt/X/text_summary', 'netopt/result/text_summary'):
        ((text,),) = [event.tensor_proto.string_val for event in read(tmp_path).Tensors(tag)]
        assert 'may be chance' in text.decode('utf-8')


@pytest.mark.parametrize('error', [None, 0.00005, 0.0])
def test_a_drop_beyond_the_error_has_its_share_however_large(error):
    made = nc.Record('X', 2, 200, 0.02, 0.0201, [(200, 0.0201), (300, 0.03)], error_after=error)
    assert not made.drop_may_be_chance and made.recovered == pytest.approx(-99)
    assert recovery_text.share(made) == 'worse' and 'chance' not in made._repr_html_()


def test_records_pickle_go_to_json_and_are_shown():
    made = record(curve_before=[(0, 0.9)])
    for again in (
        pickle.loads(pickle.dumps(made)),
        nc.Record.from_dict(json.loads(made.to_json())),
    ):
        assert again.to_dict() == made.to_dict()
    assert repr(made).startswith('<Record: X, epoch 2') and '<pre' in made._repr_html_()
    assert repr(nc.Result()) == '<Result: not complete; no optimization>'
    assert '<pre' in nc.Result()._repr_html_()
