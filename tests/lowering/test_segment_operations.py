"""Operations in segments: splices, functions of which a sign is read, and identities."""
import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from binary_networks import images
from netopt_callbacks.lowering import Lower, lower_segments
from netopt_callbacks.native_program import MOST_STEPS, Program
from segment_networks import binarized, unsettle, values_of
from test_segments import of_segments, same_bits


def spliced_network(shape=(4, 6, 6)):
    """Returns (input, trained): modules of branches that are spliced, one of them of two layers."""

    def layer(y, side, filters, name):
        y = C.layers.Convolution2D((side, side), filters, pad=True, bias=False, name=name)(y)
        return C.relu(C.layers.BatchNormalization(map_rank=1)(y))

    def module(y, name):
        return C.splice(
            layer(y, 1, 5, name + '_1'),
            layer(layer(y, 1, 33, name + '_reduce'), 3, 7, name + '_3'),
            C.layers.MaxPooling((3, 3), 1, pad=True)(y),
            axis=0,
        )

    x = C.input_variable(shape)
    y = module(module(C.layers.Convolution2D((3, 3), 16, pad=True, name='float')(x), 'a'), 'b')
    y = C.layers.GlobalAveragePooling()(y)
    z = C.layers.Dense(9, name='dense')(y)
    z = C.layers.Dense(4, name='behind')(C.splice(z, C.relu(z), z))
    model = C.layers.Dense(3, name='float')(z)
    unsettle(model, np.random.RandomState(1))
    return x, binarized(model, images(shape, 20))


def test_branches_that_are_spliced_are_inside():
    x, trained = spliced_network()
    (part,) = lower_segments(trained).segments
    splices = [op for op in part.program.ops if op['op'] == 'splice']
    assert [len(op['others']) for op in splices] == [2, 2, 2] and len(part.segment.layers) == 8
    lowered, found = Lower(tolerance=0).run(
        trained,
        [nc.BinarizeConvolution(), nc.BinarizeDense()],
        [{x: images(x.shape, 9, seed=3)}],
    )
    assert found.largest_difference == 0 and len(of_segments(lowered)) == 1
    for samples in (1, 2, 17):
        values = values_of(x, samples, np.random.RandomState(samples))
        assert same_bits(lowered.eval(values), trained.eval(values))


@pytest.mark.parametrize('axis', [1, 2])
def test_a_splice_along_another_axis_stays_in_cntk(axis):
    x = C.input_variable((4, 6, 6))
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='one')(x)
    y = C.layers.Convolution2D((3, 3), 8, name='two')(C.splice(y, C.relu(y), axis=axis))
    lowered, found = Lower(tolerance=0).run(
        binarized(y, input_scale=None), [nc.BinarizeConvolution()]
    )
    assert sorted(of_segments(lowered)) == ['one', 'two'] and found.passed


def test_a_splice_with_a_constant_stays_in_cntk():
    x = C.input_variable((4, 6, 6))
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='one')(x)
    y = C.splice(y, C.constant(np.ones((2, 6, 6), np.float32)), axis=0)
    y = C.layers.Convolution2D((3, 3), 8, name='two')(y)
    lowered, _ = Lower(tolerance=0).run(binarized(y, input_scale=None), [nc.BinarizeConvolution()])
    assert sorted(of_segments(lowered)) == ['one', 'two']


def test_an_operation_that_a_user_did_not_write_is_named_with_its_block():
    @C.BlockFunction('Wave', 'wave')
    def wave(x):
        return C.relu(C.sin(x))

    x = C.input_variable((4, 6, 6))
    y = C.layers.Convolution2D((3, 3), 8, activation=wave, name='one')(x)
    _, found = Lower().run(binarized(y, input_scale=None), [nc.BinarizeConvolution()])
    assert found.alone == [('one', "Sin (in the block 'Wave') is not an operation of programs")]


OF_INTEGERS_ONLY = ' may be in programs only between the integers of a binary layer and a sign'
FUNCTIONS = [
    C.tanh,
    C.sigmoid,
    lambda x: C.hard_sigmoid(x, 0.2, 0.5),
    C.elu,
    C.selu,
    C.softplus,
    C.softsign,
    C.atan,
    lambda x: C.sinh(0.001 * x) + 0.5,
    lambda x: C.exp(0.001 * x) - 1,
    lambda x: C.log(1 + C.relu(x)) - 1,
    lambda x: C.sqrt(C.relu(x)),
    lambda x: C.floor(x / 3),
]


@pytest.mark.parametrize('number', range(len(FUNCTIONS)))
def test_functions_of_which_only_the_sign_is_read(number):
    function = FUNCTIONS[number]
    x = C.input_variable((4, 7, 6), name='features')

    def layer(y, filters, name):
        y = C.layers.Convolution2D((3, 3), filters, pad=True, bias=False, name=name)(y)
        return function(C.layers.BatchNormalization(map_rank=1)(y))

    # Calibrated thresholds are inside of what the function gives.
    y = C.layers.MaxPooling((2, 2))(layer(layer(x, 33, 'one'), 20, 'two'))
    y = function(C.layers.Dense(40, name='dense')(y))
    model = C.layers.Dense(3, name='float')(C.layers.Dense(9, name='last')(y))
    unsettle(model, np.random.RandomState(5))
    trained = binarized(model, images(x.shape, 20), input_scale=None)
    (part,) = lower_segments(trained).segments
    assert [op['op'] for op in part.program.ops] == [
        'pack',
        'convolution',
        'convolution',
        'or_pool',
        'dense',
        'dense',
    ]
    lowered, found = Lower(tolerance=0).run(
        trained,
        [nc.BinarizeConvolution(), nc.BinarizeDense()],
        [{x: images(x.shape, 30, seed=3)}],
    )
    assert found.largest_difference == 0 and of_segments(lowered) == ['one_to_last']
    for samples in (1, 2, 17):
        values = images(x.shape, samples, seed=samples)
        assert same_bits(lowered.eval(values), trained.eval(values))


@pytest.mark.parametrize('function, taken', [(C.softplus, False), (C.tanh, False), (C.sqrt, True)])
def test_functions_of_floats_must_be_monotone(function, taken):
    # CNTK's Softplus is not, within some thousand numbers around a threshold near 0.
    x = C.input_variable((20,))
    y = C.layers.Dense(9, bias=False, name='one')(function(x) - C.softplus(1e-4).eval().item())
    trained = binarized(y, input_scale=None)
    (part,) = lower_segments(trained).segments
    assert (part.segment.entries[0].variable.uid == x.uid) == taken
    lowered, found = Lower(tolerance=0).run(trained, [nc.BinarizeDense()])
    values = np.linspace(0.99e-4, 1.01e-4, 20000).astype(np.float32).reshape(-1, 20)
    assert same_bits(lowered.eval(values), trained.eval(values))


def test_a_block_that_only_has_the_name_of_one_of_cntk_is_looked_into():
    @C.BlockFunction('ELU', 'own')
    def own(x):
        return x - 0.5 * C.reduce_max(x, axis=0)

    x = C.input_variable((4, 6, 6))
    y = C.layers.Convolution2D((3, 3), 8, pad=True, activation=own, name='one')(x)
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='two')(y)
    found = lower_segments(binarized(y, input_scale=None))
    ((name, reason),) = found.reasons
    assert name == 'one' and reason.endswith("(in the block 'ELU') is not an operation of programs")


@pytest.mark.parametrize(
    'join',
    [
        lambda y, other: C.splice(other, y, axis=0),
        lambda y, other: C.splice(y, other, y, axis=0),
        lambda y, other: other * -0.5 + y,
        lambda y, other: y + other,
    ],
)
@pytest.mark.parametrize('identity', [lambda y: C.dropout(y, 0.5), C.stop_gradient, C.alias])
def test_a_value_that_is_read_directly_and_through_an_identity(identity, join):
    x = C.input_variable((4, 6, 6))
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='one')(x)
    y = join(y * 2, C.relu(identity(y * 2)))
    z = y * 2
    y = C.splice(join(z, C.relu(identity(z))), y, axis=0)
    y = C.layers.Convolution2D((3, 3), 5, pad=True, name='two')(y)
    trained = binarized(y, images(x.shape, 20))
    lowering = lower_segments(trained)
    assert len(lowering.segments) == 1
    values = images(x.shape, 9, seed=3)
    assert same_bits(lowering.model.eval(values), trained.eval(values))


def test_a_function_that_something_else_reads_stays_in_cntk():
    x = C.input_variable((4, 6, 6))
    y = C.layers.Convolution2D((3, 3), 8, pad=True, activation=C.tanh, name='one')(x)
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='two')(y) + y
    lowered, found = Lower(tolerance=0).run(
        binarized(y, input_scale=None), [nc.BinarizeConvolution()]
    )
    assert found.alone == [('one', 'Tanh' + OF_INTEGERS_ONLY)]
    assert of_segments(lowered) == ['two'] and of_segments(lowered, 'BinaryConvolveOp') == ['one']


# More steps behind a layer than one op takes


def sum_of_layers(count=MOST_STEPS + 2):
    inputs = [C.input_variable(4, name=f'i{number}') for number in range(count)]
    layers = [C.layers.Dense(4, name=f'd{number}')(x) for number, x in enumerate(inputs)]
    total = layers[0]
    for each in layers[1:]:
        total = total + each
    return C.relu(total)


def chain(steps=2 * MOST_STEPS + 5):
    """A layer, steps, and a layer that reads the sign of what they give; CNTK reads that, too."""
    x = C.input_variable((4, 6, 6), name='x')
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='first')(x)
    for number in range(steps):
        y = C.relu(y) if number % 7 == 6 else y * (1 + number / 1000) + 0.1
    return C.combine([C.layers.Convolution2D((1, 1), 8, name='behind')(y), C.sin(y)])


@pytest.mark.parametrize('make, keep', [(sum_of_layers, ()), (chain, ('first',)), (chain, ())])
def test_steps_beyond_those_of_one_op_go_into_the_next(make, keep):
    model = make()
    trained = binarized(model, keep=keep, input_scale=None)
    layers = len(nc.graph.layers(model)) - len(keep)
    lowering = lower_segments(trained)
    (part,) = lowering.segments
    assert len(part.segment.layers) == layers and not lowering.reasons
    counts = [len(op.get('steps', ())) for op in part.program.ops]
    assert max(counts) <= MOST_STEPS < sum(counts)
    random = np.random.RandomState(2)
    data = [{x: values_of(x, samples, random) for x in trained.arguments} for samples in (1, 17)]
    for each in data:
        for one, other in zip(
            nc.graph.evaluate(lowering.model.outputs, each),
            nc.graph.evaluate(trained.outputs, each),
        ):
            assert same_bits(one, other)
    Lower(tolerance=0).run(trained, [nc.BinarizeConvolution(), nc.BinarizeDense()], data)


def test_one_op_takes_that_many_steps_and_no_more():
    def program(count):
        ops = [dict(op='map', input='x', values='y', steps=[('add', 1)] * count)]
        return Program(ops, {'x': (1,)}, ['y'])

    assert program(MOST_STEPS)(np.zeros((1, 1), np.float32)) == MOST_STEPS
    with pytest.raises(ValueError, match=f'expected at most {MOST_STEPS}'):
        program(MOST_STEPS + 1)
