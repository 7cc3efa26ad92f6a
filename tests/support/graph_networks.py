"""Networks the graph tests share: each builds one thing a graph may hold, with data to evaluate
it on."""
import warnings

import cntk as C
import numpy as np
from cntk.layers import (
    Convolution2D,
    Dense,
    Embedding,
    Fold,
    LSTM,
    Recurrence,
    Sequential,
    default_options,
)

from netopt_callbacks import graph

_RANDOM = np.random.RandomState(11)


def images(batch=4, shape=(1, 6, 6), dtype='f'):
    return _RANDOM.uniform(-1, 1, (batch,) + shape).astype(dtype)


def sequences(width=4):
    return [_RANDOM.uniform(-1, 1, (steps, width)).astype('f') for steps in (3, 5, 1)]


def sequential():
    x = C.input_variable((1, 6, 6), name='x')
    return Sequential(
        [
            Convolution2D((3, 3), 4, pad=True, activation=C.relu, name='conv'),
            Dense(8, activation=C.tanh, name='hidden'),
            Dense(3, name='classify'),
        ]
    )(x), {x: images()}


def every_dense():
    """Tensor output, map_rank, input_rank, no bias, an activation with a Parameter."""
    x = C.input_variable((2, 3, 4), name='x')
    slope = C.parameter((), init=0.2, name='slope')
    return Sequential(
        [
            Dense((5, 3), name='tensor'),
            Dense(4, map_rank=1, bias=False, name='mapped'),
            Dense(6, input_rank=1, activation=lambda v: C.param_relu(slope, v), name='prelu'),
            Dense(2, activation=C.softmax, name='out'),
        ]
    )(x), {x: images(shape=(2, 3, 4))}


def float64():
    with default_options(dtype=np.float64):
        x = C.input_variable(6, dtype=np.float64, name='x')
        return (
            Sequential([Dense(8, activation=C.relu, name='a'), Dense(3, name='b')])(x),
            {x: images(shape=(6,), dtype='d')},
        )


def bare():
    """CNTK 102's first model, and a convolution without a block."""
    x = C.input_variable((1, 6, 6), name='x')
    kernel = C.parameter((2, 1, 3, 3), init=C.glorot_uniform(), name='kernel')
    shift = C.parameter((2, 1, 1), init=0.1, name='shift')
    maps = C.relu(C.convolution(kernel, x, auto_padding=[False, True, True], name='maps') + shift)
    weights = C.parameter((2, 6, 6, 5), init=C.glorot_uniform(), name='weights')
    bias = C.parameter((5,), init=0.2, name='bias')
    hidden = C.plus(C.times(maps, weights), bias, name='hidden')
    last = C.parameter((5, 2), init=C.glorot_uniform(), name='last')
    return C.times(C.tanh(hidden), last, name='out'), {x: images()}


def convolutions():
    """No depth axis, one spatial axis, groups, strides, a bias in front."""
    x = C.input_variable((6, 8), name='x')
    planes = Convolution2D((3, 3), 4, reduction_rank=0, pad=True, activation=C.relu, name='planes')(
        x
    )
    kernel = C.parameter((6, 2, 3, 2), init=C.glorot_uniform(), name='kernel')
    shift = C.parameter((6, 1, 1), init=0.1, name='shift')
    grouped = shift + C.convolution(
        kernel,
        planes,
        strides=(2, 1, 2),
        groups=2,
        name='grouped',
        auto_padding=[False, True, False],
    )
    rows = C.reshape(grouped, (36, 4))
    return C.layers.Convolution1D(3, 5, pad=True, name='line')(rows), {x: images(shape=(6, 8))}


def sequential_convolution():
    x = C.sequence.input_variable((3, 5), name='x')
    return (
        C.layers.SequentialConvolution((3, 2), 4, pad=True, activation=C.tanh, name='steps')(x),
        {x: [_RANDOM.uniform(-1, 1, (steps, 3, 5)).astype('f') for steps in (4, 6)]},
    )


def skip_links():
    """A residual block, and a layer that two read."""
    x = C.input_variable(8, name='x')
    first = Dense(8, activation=C.relu, name='first')(x)
    second = Dense(8, name='second')(first)
    both = C.plus(second, first, name='sum')
    return C.splice(Dense(3, name='left')(both), Dense(2, name='right')(both) - 1), {
        x: images(shape=(8,))
    }


def several_outputs():
    """Outputs that are a layer, an inner node, one layer on another, and the input's neighbour."""
    x = C.input_variable(6, name='x')
    a = Dense(5, name='a')(x)
    b = Dense(4, name='b')(a)
    return C.combine([b, a, C.relu(b, name='relu'), C.square(x, name='square')]), {
        x: images(shape=(6,))
    }


def criterion():
    """CNTK 103D: the criterion holds a clone of the model, which shares its Parameters."""
    x = C.input_variable(6, name='x')
    y = C.input_variable(3, name='y')
    model = Sequential([Dense(5, activation=C.relu, name='a'), Dense(3, name='b')])
    z = model(x)
    scaled = z(x / 255)
    loss = C.cross_entropy_with_softmax(scaled, y)
    return (
        C.combine([z, loss, C.classification_error(scaled, y)]),
        {x: images(shape=(6,)), y: np.eye(3, dtype='f')[[0, 2, 1, 0]]},
    )


def nested():
    """A block of two arguments in a block, applied twice, with layers in both."""
    inner_layer, outer_layer = Dense(4, name='inner'), Dense(4, activation=C.tanh, name='outer')

    @C.BlockFunction('Mixed', 'mixed')
    def mixed(a, b):
        return inner_layer(a) + C.sigmoid(b)

    @C.BlockFunction('Tower', 'tower')
    def tower(a):
        return mixed(outer_layer(a), a) * 2

    x = C.input_variable(4, name='x')
    return Dense(3, name='top')(tower(tower(x))), {x: images(shape=(4,))}


def recurrent():
    """Layers in the bodies of Recurrence and Fold, an LSTM and an Embedding that hold none."""
    step, fold = Dense(5, name='step'), Dense(5, name='fold')
    x = C.sequence.input_variable(4, name='x')
    return Sequential(
        [
            Embedding(6, name='embedding'),
            Recurrence(LSTM(5, name='lstm')),
            Recurrence(lambda h, v: C.tanh(step(h) + v)),
            Fold(lambda h, v: C.relu(fold(h)) + v),
            Dense(2, name='out'),
        ]
    )(x), {x: sequences()}


def recurrent_block():
    """A loop inside a block, in which a product with a Parameter stands without a block."""
    weights = C.parameter((4, 4), init=C.glorot_uniform(), name='R')

    @C.BlockFunction('Loop', 'loop')
    def loop(v):
        state = C.layers.ForwardDeclaration('state')
        after = C.tanh(C.times(C.sequence.past_value(state), weights) + v)
        state.resolve_to(after)
        return after

    x = C.sequence.input_variable(4, name='x')
    return Dense(2, name='out')(loop(x)), {x: sequences()}


def sparse():
    x = C.input_variable(12, is_sparse=True, name='x')
    rows = C.Value.one_hot([3, 0, 11, 7], 12)
    return Sequential([Dense(5, activation=C.relu, name='a'), Dense(2, name='b')])(x), {x: rows}


def batch_normalized():
    x = C.input_variable((2, 4, 4), name='x')
    return Sequential(
        [
            Convolution2D((3, 3), 3, pad=True, bias=False, name='conv'),
            C.layers.BatchNormalization(map_rank=1),
            C.relu,
            C.layers.MaxPooling((2, 2), strides=2),
            Dense(4, name='out'),
        ]
    )(x), {x: images(shape=(2, 4, 4))}


WITH_DENSE = [
    sequential,
    every_dense,
    float64,
    bare,
    skip_links,
    several_outputs,
    criterion,
    nested,
    recurrent,
    recurrent_block,
    sparse,
    batch_normalized,
]
ALL = WITH_DENSE + [convolutions, sequential_convolution]


def values(model, data):
    """Returns what every output of `model` evaluates to, as one flat array per output."""
    arguments = {argument: data[argument] for argument in model.arguments}
    result = C.combine(model.outputs).eval(arguments)
    in_order = [result[output] for output in model.outputs] if len(model.outputs) > 1 else [result]
    return [np.concatenate([np.ravel(sample) for sample in rows]) for rows in in_order]


def full(W):
    return min(W.shape)


def quietly(function, *arguments, **options):
    """Calls what warns that the rank saves nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        return function(*arguments, **options)


def factored_blocks(model):
    return [function for function in graph.walk(model) if function.op_name == 'DenseFactored']


def parameters_of(block):
    return {parameter.name: parameter for parameter in block.parameters}


def wide(activation=C.relu, **options):
    x = C.input_variable(20, name='x')
    return Sequential(
        [Dense(30, activation=activation, name='h', **options), Dense(2, name='out')]
    )(x)
