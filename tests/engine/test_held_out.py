"""The held-out metric against CNTK's own evaluator, and what it does to its source."""
import cntk as C
import numpy as np
import pytest
from cntk.io import MinibatchData, UserMinibatchSource

from netopt_callbacks.engine.held_out import Measure, held_out_data

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


def test_source_is_left_where_it_was():
    x = C.input_variable(4, name='x')
    source = RowsWithPosition()
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
