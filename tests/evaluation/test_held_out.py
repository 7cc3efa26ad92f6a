"""The held-out metric against CNTK's own evaluator, and what it does to its source."""
import math

import cntk as C
import numpy as np
import pytest
from cntk import cntk_py
from cntk.io import MinibatchData, UserMinibatchSource

import netopt_callbacks as nc
from netopt_callbacks.evaluation.held_out import Measure, held_out_data
from user_script import Script, factor

ROWS = np.random.RandomState(1).standard_normal((600, 4)).astype(np.float32)


def test_criterion_that_is_no_scalar_is_summed_as_cntk_does():
    x = C.input_variable(4)
    metric = C.square(x)
    ours = Measure(metric)(held_out_data(ROWS, [x]))
    evaluator = C.eval.Evaluator(metric)
    theirs = np.mean(
        [evaluator.test_minibatch({x: ROWS[start : start + 200]}) for start in range(0, 600, 200)]
    )
    # Sums of up to 2400 float32 terms.
    assert ours == pytest.approx(theirs, rel=2400 * 2.0**-24)


def test_error_is_that_of_the_mean():
    x = C.input_variable(4)
    measure = Measure(C.square(x))
    assert measure.error is None
    measure(held_out_data(ROWS, [x]))
    each = np.sum(np.square(ROWS, dtype=np.float64), axis=1)
    assert measure.error == pytest.approx(each.std() / math.sqrt(600), rel=1e-4)
    constant = Measure(C.reduce_sum(0 * x) + 3)  # float32 sums of 9 are exact
    assert constant(held_out_data(ROWS, [x])) == 3 and constant.error == 0
    huge = Measure(C.reduce_sum(1e20 * x))  # its squares are beyond float32
    assert huge(held_out_data(ROWS, [x])) and huge.error is None
    once = Measure(C.reduce_mean(C.square(x), C.Axis.all_axes()))
    once(held_out_data(ROWS, [x]))
    assert once.error is None  # one number for a minibatch


class Seen(nc.Observer):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_evaluation(self, evaluation):
        self.seen.append(evaluation)


def test_record_has_the_error_of_a_share_of_wrong_samples():
    """Of 120, the standard error of a share p is the root of p (1 - p) / 120."""
    script, seen = Script(sweeps=3, test=False, cross_validation=None), Seen()
    script.run([factor(epoch=1, rank=2), seen], data=script.held_out)
    (record,) = script.session.result.records
    p = record.metric_after
    assert 0 < p < 1
    assert record.error_after == pytest.approx(math.sqrt(p * (1 - p) / 120), rel=1e-5)
    # And observers are told what the record says.
    after = [each for each in seen.seen if each.optimization]
    assert [each.recovered for each in after] == [
        record.recovered_at(metric) for _, metric in record.curve
    ]


class Rows(UserMinibatchSource):
    """Gives 600 rows once; forgets its position as the base class does."""

    def __init__(self):
        self.info = C.io.StreamInformation('x', 0, 'dense', np.float32, (4,))
        self.at = 0
        super().__init__()

    def stream_infos(self):
        return [self.info]

    def is_infinite(self):
        return False

    def next_minibatch(self, num_samples, number_of_workers=1, worker_rank=0, device=None):
        rows = ROWS[self.at : self.at + num_samples]
        self.at += len(rows)
        return (
            {self.info: MinibatchData(C.Value(rows), len(rows), len(rows), self.at == len(ROWS))}
            if len(rows)
            else {}
        )


class RowsWithPosition(Rows):
    """Remembers it."""

    def get_checkpoint_state(self):
        return {'at': self.at}

    def restore_from_checkpoint(self, state):
        self.at = int(state['at'])


class Manual(RowsWithPosition):
    """Takes its arguments as in CNTK's manual."""

    def next_minibatch(self, num_samples, number_of_workers, worker_rank, device):
        assert isinstance(device, cntk_py.DeviceDescriptor)
        return super().next_minibatch(num_samples)


class WithoutDevice(RowsWithPosition):
    """Can be read by a loop in Python alone."""

    def next_minibatch(self, num_samples, number_of_workers=1, worker_rank=0):
        return super().next_minibatch(num_samples)


@pytest.mark.parametrize('form', [RowsWithPosition, Manual, WithoutDevice])
def test_source_is_left_where_it_was(form):
    x = C.input_variable(4, name='x')
    source = form()
    data, measure = held_out_data(source, [x]), Measure(C.reduce_sum(C.square(x)))
    first = measure(data)
    assert source.at == 0 and measure(data) == first
    assert first == pytest.approx(np.sum(np.square(ROWS, dtype=np.float64)) / 600, rel=1e-5)


def test_source_without_a_position_is_refused():
    x = C.input_variable(4, name='x')
    with pytest.raises(ValueError, match='Rows has no position.*restore_from_checkpoint'):
        held_out_data(Rows(), [x])


def test_cross_validation_source_without_a_position_is_left_to_cntk():
    class Once(Rows):
        pass

    source = Once()
    with pytest.warns(UserWarning, match='Once has no position'):
        assert held_out_data(None, [], None, {'source': source, 'streams': {}}) is None
    assert source.at == 0
