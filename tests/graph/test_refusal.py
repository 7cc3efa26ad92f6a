"""What the error of an optimization that finds nothing to do says about its filter."""
import re

import cntk as C
import pytest

import netopt_callbacks as nc
from netopt_callbacks import graph


def network():
    """A convolution 'conv' and two Dense layers, 'hidden' and 'out'."""
    return C.layers.Sequential(
        [
            C.layers.Convolution2D((3, 3), 4, pad=True, name='conv'),
            C.layers.Dense(12, name='hidden'),
            C.layers.Dense(3, name='out'),
        ]
    )(C.input_variable((2, 6, 6)))


def factored(*names):
    return nc.FactorDense(rank=1, filter_function=lambda layer: layer.name in names)


def without_return(layer):
    layer.name == 'hidden'


def said(optimization, model):
    with pytest.raises(ValueError, match='expected a .* layer to change, got none') as caught:
        optimization.transform(model)
    return str(caught.value)


def test_a_filter_without_a_return_is_asked_about_it():
    hint = "filter_function returned None for Dense 'hidden' .*, Dense 'out' .*: is a `return`"
    for made in (nc.FactorDense(rank=1, filter_function=without_return), binarized(without_return)):
        with pytest.raises(ValueError, match=hint):
            made.transform(network())
    message = said(factored('nobody'), network())
    assert 'return' not in message and message.endswith('Check filter_function')


def binarized(filter_function):
    return nc.BinarizeDense(filter_function=filter_function)


def test_a_filter_that_finds_a_match_object_or_none_is_a_filter():
    done = nc.FactorDense(rank=1, filter_function=lambda layer: re.match('hid', layer.name))
    assert [note.name for note in done.transform(network()).layers] == ['hidden']


def test_a_layer_that_was_changed_before_is_named_with_who_changed_it():
    once = factored('hidden').transform(network()).model
    hint = "'hidden' was changed by FactorDense: leave it out there with its filter_function"
    for later in (factored('hidden'), binarized(lambda layer: layer.name == 'hidden')):
        message = said(later, once)
        assert hint in message and 'Check filter_function' not in message
    assert 'changed by' not in said(factored('conv'), once)
    twice = nc.BinarizeDense(filter_function=lambda layer: layer.name == 'out').transform(once)
    message = said(factored('hidden', 'out'), twice.model)
    assert hint in message
    assert "; 'out' was changed by BinarizeDense: leave it out there" in message
    both = factored('hidden', 'out').transform(network()).model
    message = said(nc.FactorDense(rank=1), both)
    assert "'hidden' and 'out' were changed by FactorDense: leave them out there" in message


def test_a_filter_that_cannot_be_asked_of_a_changed_layer_is_not():
    once = factored('hidden', 'out').transform(network()).model
    by_shape = nc.FactorDense(rank=1, filter_function=lambda layer: layer.W.shape[0] > 5)
    assert 'Check filter_function' in said(by_shape, once)


def test_a_filter_of_factor_dense_that_takes_a_convolution_is_told_so():
    message = said(factored('conv'), network())
    assert message.endswith(
        "Convolution 'conv' (W of 4x2x3x3) is taken, and FactorDense changes Dense layers only"
    )
    assert 'only' not in said(factored('nobody'), network())


def test_an_error_for_both_kinds_names_no_kind():
    once = factored('hidden').transform(network()).model
    error = graph.no_layers_error(once, 'Mine', filter_function=lambda layer: 'hid' in layer.name)
    assert "Mine: expected a Dense or Convolution layer" in str(error)
    assert "'hidden' was changed by FactorDense:" in str(error)
