"""Two optimizations of one class: errors and summary say which."""
import pytest

import netopt_callbacks as nc
from netopt_callbacks.optimizations.of_a_run import told_apart
from netopt_callbacks.records import Record
from user_script import Script


def factor(epoch, *names, rank=2):
    return nc.FactorDense(epoch, rank, filter_function=lambda layer: layer.name in names)


def refused(callbacks):
    """Returns what is said before training."""
    with pytest.raises(ValueError) as caught:
        Script().run(callbacks)
    return str(caught.value)


def test_the_later_one_of_two_is_named_and_who_came_before():
    message = refused([factor(2, 'hidden'), factor(1, 'hidden')])
    assert message.startswith('FactorDense(epoch=2): expected a Dense layer to change')
    assert "'hidden' was changed by FactorDense(epoch=1): leave it out" in message


def test_of_a_single_one_the_class_is_enough():
    message = refused(
        [
            factor(1, 'hidden'),
            nc.BinarizeDense(epoch=2, filter_function=lambda layer: layer.name == 'hidden'),
        ]
    )
    assert message.startswith('BinarizeDense: expected')
    assert "'hidden' was changed by FactorDense(epoch=1): leave it out" in message


class Fails(nc.Optimization):
    def transform(self, model):
        raise TypeError("Dense 'hidden': no")


def test_an_error_in_training_says_which_too():
    with pytest.raises(TypeError) as caught:
        Script().run([Fails(epoch=1), Fails(epoch=2)])
    assert str(caught.value) == "Fails(epoch=1): Dense 'hidden': no"


@pytest.mark.parametrize(
    'error', [ValueError(), ValueError('a', 2), KeyError('a'), RuntimeError('Fails: a')], ids=repr
)
def test_other_errors_stay_as_they_are(error):
    before, ones = error.args, [Fails(epoch=1), Fails(epoch=2)]
    with pytest.raises(type(error)) as caught:
        with told_apart(ones[1], ones):
            raise error
    assert caught.value is error and error.args == before


def test_the_sentences_of_a_summary_say_which():
    record = Record('X', 2, 640, metric_before=0.5, metric_after=0.52, error_after=0.1)
    assert 'The drop of X(epoch=2) (0.02) is within' in record._repr_html_()
    record = Record('X', 2, 640, 0.5, 0.9, curve_before=[(0, 0.9), (640, 0.5)])
    assert 'improving before X(epoch=2) (held-out' in record._repr_html_()
