"""The gate between the trained and the lowered network, and `nc.optimize`, which ends in it."""
import warnings

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from binary_networks import binarized, blocks, convolutions, images, same_bits
from netopt_callbacks.lowering import Lower, LoweringError, compare, parity
from netopt_callbacks.lowering.replace import lower_binary_layers
from user_script import Script, binarize, factor


class Identity(nc.Optimization):
    def transform(self, model):
        return model


class Wrong(Identity):
    """Lowers to a network that computes something slightly else."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def lower(self, model):
        return C.element_times(model, np.float32(self.factor))


def test_with_nothing_to_lower_the_export_is_the_lowered_network():
    features, model = convolutions()
    lowered, found = Lower().run(model, [Identity()], [{features: images(features.shape)}])
    assert lowered is model
    assert found.layers == [] and found.passed and 'nothing to lower' in str(found)
    assert 'so `lowered` is the trained network' in str(found)


@pytest.mark.parametrize('by_hand', [False, True], ids=['session', 'attach'])
@pytest.mark.parametrize(
    'callbacks, certain',
    [
        (lambda: [Lower()], True),
        (lambda: [factor(), Lower(float_layers='native')], True),
        (lambda: [factor()], False),
        (lambda: [Identity(), Lower()], False),  # what a class of one's own does is not known
        (lambda: [binarize(epoch=1), Lower()], False),
    ],
    ids=['alone', 'factored', 'no Lower', 'own', 'binarized'],
)
def test_a_run_that_will_find_nothing_to_lower_is_told_before_training(callbacks, certain, by_hand):
    script = Script(sweeps=1)
    data = script.images, script.labels
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        if by_hand:
            with pytest.raises(KeyboardInterrupt):
                with nc.attach(script.trainer, callbacks(), epoch_size=320, data=data):
                    raise KeyboardInterrupt
        else:
            nc.training_session(callbacks=callbacks(), data=data, **script.arguments)
    assert script.trainer.total_number_of_samples_seen == 0
    assert certain == any('find nothing to lower' in str(each.message) for each in told)


def test_a_binary_network_is_not_told_that_there_is_nothing_to_lower(recwarn):
    features, model = convolutions()
    model, label = binarized(model), C.input_variable(3)
    criterion = C.cross_entropy_with_softmax(model, label)
    learner = C.sgd(model.parameters, C.learning_parameter_schedule(0.1))
    values = images(features.shape), np.eye(3, dtype=np.float32)[[0] * 7]
    with nc.attach(C.Trainer(None, criterion, [learner]), [Lower()], 7, values) as run:
        pass
    assert [layer.name for layer in run.result.parity.layers] == ['second', 'third']
    assert not any('nothing to lower' in str(each.message) for each in recwarn)


def test_a_network_that_differs_is_refused_and_the_error_says_in_what():
    features, model = convolutions()
    data = [{features: images(features.shape)}]
    with pytest.raises(LoweringError, match='does not compute what was trained') as caught:
        Lower().run(model, [Wrong(1.001)], data)
    assert caught.value.parity.unexplained_difference > 0
    assert str(caught.value.parity) in str(caught.value)
    _, found = Lower(tolerance=0.01).run(model, [Wrong(1.001)], data)
    assert found.passed and found.largest_difference > 0
    with pytest.raises(LoweringError, match='predictions differ in'):
        Lower(tolerance=10).run(model, [Wrong(-1)], data)


@pytest.mark.parametrize('in_segments', [True, False])
def test_what_an_optimization_lowers_itself_is_named(in_segments):
    features, model = convolutions()
    data = [{features: images(features.shape)}]
    for network, layers in ((model, []), (binarized(model), ['second', 'third'])):
        optimizations = [nc.BinarizeConvolution(), Wrong(1), Identity(), Wrong(1)]
        lowered, found = Lower().run(network, optimizations, data, in_segments)
        assert lowered is not network and found.passed
        assert [layer.name for layer in found.layers] == layers
        assert found.lowered_by == found.to_dict()['lowered_by'] == ['Wrong']
        assert 'Wrong has a lower of its own: what it gave is compared end to end' in str(found)
        assert 'nothing to lower' not in str(found)
        with pytest.raises(LoweringError, match=r'result\.model\. Look at lower\(\) of Wrong: '):
            Lower().run(network, [nc.BinarizeConvolution(), Wrong(1.001)], data, in_segments)
    _, found = Lower().run(binarized(model), [nc.BinarizeConvolution()], data, in_segments)
    assert found.lowered_by == [] and 'of its own' not in str(found)


def test_an_optimization_that_changes_what_a_binary_layer_reads_is_named():
    class Before(Identity):
        def lower(self, model):
            first = nc.graph.layers(model, lambda layer: layer.name == 'first')[0]
            shifted = first.rebuilt(
                C.convolution(
                    first.W, C.placeholder() + np.float32(1), auto_padding=[False, True, True]
                ),
                'Shifted',
            )
            return nc.graph.replace(model, {first: shifted})

    features, model = convolutions()
    with pytest.raises(
        LoweringError, match=r"first differs in .*'second'\. Look also at lower\(\) of Before: "
    ):
        Lower().run(binarized(model), [Before()], [{features: images(features.shape)}])


def test_an_optimization_that_lowers_binary_layers_otherwise_is_told_to_leave_them():
    _, model = convolutions()

    class Drops(Identity):
        def lower(self, _):
            return model

    for in_segments in (True, False):
        with pytest.raises(ValueError, match=r'a lower\(\) of your own must leave them'):
            Lower().run(binarized(model), [Drops()], segments=in_segments)


def test_a_nan_is_refused():
    features, model = convolutions()
    with pytest.raises(LoweringError):
        Lower().run(model, [Wrong(np.nan)], [{features: images(features.shape)}])


def test_nothing_compared_does_not_pass():
    _, model = convolutions()
    assert not compare(model, model, [], tolerance=1).passed


@pytest.mark.parametrize('distance, tied', [(1e-8, True), (1e-3, False)])
def test_a_bit_that_differs_is_admitted_only_where_it_ties(distance, tied):
    x = C.input_variable((2, 6, 7))
    convolution = C.layers.Convolution2D((3, 3), 4, pad=True, name='layer')
    values = np.abs(images((2, 6, 7))) + 0.5
    values[2, 1, 3, 4] = distance
    trained, other = (
        nc.quantization.convert_to_binary_convolution(convolution(x - np.float32(moved)))
        for moved in (0, 1.5 * distance)
    )
    # As if CNTK had rounded the float layer before it differently in the lowered network.
    found = compare(trained, lower_binary_layers(other), [{x: values}], tolerance=1e-5)
    (layer,) = found.layers
    assert (layer.ties, layer.strays) == ((1, 0) if tied else (0, 1))
    assert found.largest_difference > 0.1
    assert found.passed == tied


def test_parity_reads_well_and_is_json_ready():
    features, model = convolutions()
    _, found = Lower().run(
        binarized(model), [nc.BinarizeConvolution()], [{features: images(features.shape)}]
    )
    assert (
        str(found)
        .splitlines()[0]
        .startswith(
            'Lowered against trained, 7 samples (held-out): largest '
            'difference 0 of outputs up to '
        )
    )
    assert "'second': 2,268 integers ==" in str(found)
    fields = found.to_dict()
    assert fields['passed'] and fields['layers'][0]['integers'] == 2268
    assert parity.LayerParity('idle').passed and 'nothing compared' in str(
        parity.LayerParity('idle')
    )


@pytest.mark.parametrize(
    'tolerance, error',
    [('1', TypeError), (True, TypeError), (-1, ValueError), (float('nan'), ValueError)],
)
def test_tolerance_is_checked(tolerance, error):
    with pytest.raises(error, match='tolerance'):
        Lower(tolerance)


# nc.optimize


def test_optimize_transforms_trains_lowers():
    features, model = convolutions()
    seen = []

    def train(new_model):
        seen.append(new_model)
        for parameter in new_model.parameters:
            parameter.value = parameter.value * np.float32(0.5)

    optimization = nc.BinarizeConvolution(filter_function=lambda layer: layer.name == 'second')
    lowered = nc.optimize(model, optimization, train, data=images(features.shape, 20))
    values = images(features.shape, seed=2)
    assert same_bits(lowered.eval(values), seen[0].eval(values))
    assert [block.name for block in blocks(lowered, 'BinarySegmentOp')] == ['second']


def test_optimize_takes_the_model_that_training_returns():
    features, model = convolutions()
    other = binarized(convolutions()[1])
    lowered = nc.optimize(model, nc.BinarizeConvolution(), lambda new_model: other)
    values = images(features.shape)
    assert same_bits(
        lowered.eval({lowered.arguments[0]: values}), other.eval({other.arguments[0]: values})
    )


def test_optimize_serves_third_party_optimizations():
    features, model = convolutions()
    assert nc.optimize(model, Identity()) is model
    with pytest.raises(LoweringError):
        nc.optimize(model, Wrong(2.0), data=images(features.shape))


@pytest.mark.parametrize(
    'arguments, message',
    [
        ((None, Identity()), 'model must be'),
        ((Identity(), Identity()), 'model must be'),
        (('model', Identity), 'optimization must be'),
        (('model', Identity(), 5), 'train_function must be'),
    ],
)
def test_optimize_checks_its_arguments(arguments, message):
    _, model = convolutions()
    arguments = [model if argument == 'model' else argument for argument in arguments]
    with pytest.raises(TypeError, match=message):
        nc.optimize(*arguments)


def warned(recwarn):
    return [str(each.message) for each in recwarn if 'optimize: ' in str(each.message)]


@pytest.mark.parametrize('epoch', [3, (2, C.train.DataUnit.sweep)], ids=['epochs', 'sweeps'])
def test_optimize_says_that_it_counts_no_epochs(epoch, recwarn):
    _, model = convolutions()
    nc.optimize(model, nc.FactorDense(epoch=epoch, rank=1))
    (message,) = warned(recwarn)
    assert f'FactorDense(epoch={epoch!r}) is applied at once' in message


@pytest.mark.parametrize('epoch', [0, (0, C.train.DataUnit.sweep)], ids=['epochs', 'sweeps'])
def test_optimize_takes_the_first_moment_for_at_once(epoch, recwarn):
    _, model = convolutions()
    nc.optimize(model, nc.FactorDense(epoch=epoch, rank=1))
    assert warned(recwarn) == []


def test_optimize_says_that_nothing_is_calibrated_if_something_would_be(recwarn):
    features, model = convolutions()
    nc.optimize(model, nc.BinarizeConvolution(), data=images(features.shape))
    nc.optimize(model, nc.BinarizeConvolution(input_shift=None, output_scale=None))
    nc.optimize(model, Identity())
    assert warned(recwarn) == []
    nc.optimize(model, nc.BinarizeConvolution(input_shift=None))
    (message,) = warned(recwarn)
    assert 'no held-out data to calibrate BinarizeConvolution on' in message
    assert 'data=(features,)' in message
