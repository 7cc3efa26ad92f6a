"""What a caller can do wrong, as one table: which error, and that it says all four things it has
to.

Every message names the layer or the argument, what was expected, what came, and what to do; and
every row is told in its own words: no two share the place they are raised at, or the literal part
of the message.
"""
import functools
import os
import re
import traceback
from typing import Callable, NamedTuple

import cntk as C
import numpy as np
import pytest
import scipy.sparse
from cntk.train.training_session import DataUnit

import netopt_callbacks as nc
from netopt_callbacks import factorization, graph, quantization
from netopt_callbacks.optimizations import low_rank
from netopt_callbacks.optimizations.binarize_convolution import binarize_convolution

import graph_networks as networks
from binary_networks import convolutions
from user_script import SAMPLES, Identity, Script


class Row(NamedTuple):
    id: str
    do: Callable
    error: type
    about: str
    expected: str
    got: str
    remedy: str


def every(layer):
    return True


def named(name):
    return lambda layer: layer.name == name


# Models.


def dense(name='hidden', inputs=20, outputs=30, **options):
    return C.layers.Dense(outputs, name=name, **options)(C.input_variable(inputs))


def dense_with(value):
    model = dense()
    model.hidden.W.value = value
    return model


def sparse_dense():
    view = C.NDArrayView.from_csr(scipy.sparse.csr_matrix(np.eye(4, 3, dtype='f')))
    return C.times(C.input_variable(4), C.cntk_py.Parameter(view, 'W'), name='sparse')


def wrong_side():
    return C.times_transpose(C.input_variable(4), C.parameter((3, 4)), name='turned')


def tied():
    W = C.parameter((4, 4), init=1)
    return C.times(C.times(C.input_variable(4), W, name='left'), W, name='right')


def bare_convolution(W, shape, dtype=np.float32, **options):
    return C.convolution(
        C.parameter(W, dtype=dtype, init=1),
        C.input_variable(shape, dtype=dtype),
        name='conv',
        **options,
    )


def foreign_block():
    layer = C.layers.Convolution2D((3, 3), 4)

    @C.BlockFunction('BinaryConvolution', 'foreign')
    def block(x):
        return layer(x)

    return block(C.input_variable((2, 9, 9)))


def twice_the_inputs():
    """Two stages that exclude each other on one layer."""
    model = convolutions()[1]
    for _ in range(2):
        model = binarize_convolution(model, named('second'), operands='inputs').model


def some_applications():
    features, model = convolutions()
    answers = iter([False, True, False, False, False, False])
    binarize_convolution(C.combine([model, model(features * 2)]), lambda layer: next(answers))


def replaced(function):
    model = networks.sequential()[0]
    graph.replace(model, {graph.layers(model, named('classify'))[0]: function})


def replaced_in_a_clone():
    model = networks.sequential()[0]
    graph.replace(model, {graph.layers(graph.clone_shared(model))[2]: C.layers.Dense(3)})


def circular():
    x = C.input_variable(3)
    first, second = C.square(x, name='first'), C.exp(x, name='second')
    graph.substitute(first + second, {first.output: second.output, second.output: first.output})


def reshaped_output():
    model = dense()
    graph.substitute(model, {model.output: C.parameter(4)})


def factored_by(returned):
    nc.FactorDense(factor_function=lambda W, k: returned).transform(dense())


def filled(value, shape=(20, 2)):
    left = np.ones(shape)
    left[3, 1] = value
    return left, np.ones((2, 30))


# Runs.


class Transforming(nc.Optimization):
    """An optimization whose transform is given."""

    def __init__(self, transform, **options):
        super().__init__(**options)
        self.transform = transform


class Checking(nc.Optimization):
    """Has a check that does not return what it should."""

    def check(self, model):
        return 'z'

    def transform(self, model):
        return model


class WithoutData(nc.Optimization):
    """Has a method without one of its arguments."""

    def transform(self, model):
        return model

    def prepare(self, model):
        """Looks at no data."""


class Silent(nc.Optimization):
    """Forgot its transform."""


def run(*callbacks, learner='momentum_sgd', **options):
    run_of(Script(learner=learner), *callbacks, **options)


def run_of(script, *callbacks, **options):
    script.run(callbacks, **options)


def factor(**options):
    return nc.FactorDense(rank=3, filter_function=named('hidden'), **options)


def adds(shape):
    """A transform that adds one Parameter and retires none."""

    def transform(model):
        (layer,) = graph.layers(model, named('classify'))
        more = C.parameter(shape, name='more')
        product = C.times(C.placeholder(), layer.W) + C.reduce_sum(more)
        return graph.replace(model, {layer: layer.rebuilt(product, 'More')})

    return transform


def new_argument(model):
    old = next(argument for argument in model.arguments if argument.name == 'x')
    return graph.substitute(model, {old: C.input_variable(old.shape, name='other')})


def loss_of_nothing(model):
    label = next(argument for argument in model.arguments if argument.name == 'label')
    loss = C.cross_entropy_with_softmax(C.constant(np.ones(5, 'f')), label)
    return C.combine([model.outputs[0], loss, model.outputs[2]])


def other_shape(model):
    return C.combine([C.splice(model.outputs[0], model.outputs[0])] + list(model.outputs[1:]))


def source_without(names):
    script = Script()
    script.run(
        data=C.io.MinibatchSourceFromData({name: script.images for name in names}, max_samples=100)
    )


class Forgetful(C.io.UserMinibatchSource):
    """A source that keeps no position."""

    def stream_infos(self):
        return [
            C.io.StreamInformation(name, index, 'dense', np.float32, shape)
            for index, (name, shape) in enumerate([('x', (1, 6, 6)), ('label', (5,))])
        ]

    def next_minibatch(self, num_samples, number_of_workers=1, worker_rank=0, device=None):
        return {}


class HalfPlaced(Forgetful):
    """A source that tells its position and cannot go there."""

    def get_checkpoint_state(self):
        return {'cursor': 3}


def half_placed_source():
    script = Script()
    script.source = HalfPlaced()
    script.arguments.update(
        mb_source=script.source,
        max_samples=100,
        model_inputs_to_streams=script._streams(script.source, 'data'),
    )
    script.run([Identity()], data=None)


def endless_source():
    script = Script()
    script.run(data=C.io.MinibatchSourceFromData({'x': script.images, 'label': script.labels}))


def endless_cross_validation():
    script = Script()
    source = C.io.MinibatchSourceFromData({'x': script.images, 'label': script.labels})
    script.arguments['cv_config'] = C.CrossValidationConfig(source, minibatch_size=64)
    script.run([nc.Observer()])


def lower_as_a_writer():
    script = Script()
    C.Trainer(script.z, (script.loss, script.metric), script.learners, [nc.Lower()])


class Unknown(C.io.MinibatchSourceFromData):
    """A source of the user's own, that does not tell how much it gives."""


def epoch_behind_an_unknown_end():
    script = Script()
    source = Unknown(
        dict(
            x=(script.images, C.layers.typing.Tensor[1, 6, 6]),
            label=(script.labels, C.layers.typing.Tensor[5]),
        ),
        max_samples=4 * SAMPLES,
    )
    script.run(
        [Identity(epoch=9)],
        mb_source=source,
        model_inputs_to_streams=script._streams(source, 'data'),
    )


def trained_twice():
    script = Script(sweeps=1)
    script.run()
    script.session.train()


def old_trainer():
    script = Script()
    del script.trainer.__dict__['_netopt_callbacks']
    script.run([Identity(epoch=1)])


def attached_twice():
    script = Script()
    with nc.attach(script.trainer, [Identity()], epoch_size=10):
        nc.attach(script.trainer, [Identity()], epoch_size=10)


def arrays_without_an_epoch():
    script = Script()
    with nc.attach(script.trainer, [Identity()]):
        script.trainer.train_minibatch(
            {script.x: script.images[:8], script.label: script.labels[:8]}
        )


def writer_that_observes():
    script, observer = Script(), nc.Observer()
    trainer = C.Trainer(script.z, (script.loss, script.metric), script.learners, [observer])
    script.run([observer], trainer=trainer)


def trained(**arguments):
    script = Script()
    nc.train(
        C.combine([script.loss, script.metric]),
        (script.images, script.labels),
        parameter_learners=script.learners,
        **arguments,
    )


TABLE = [
    # Epochs and common options of optimizations.
    Row(
        'epoch that is no whole number',
        lambda: nc.FactorDense(epoch=1.5, rank=2),
        TypeError,
        'FactorDense: epoch',
        'a whole number of completed epochs',
        'got 1.5',
        'make epoch_size smaller',
    ),
    Row(
        'epoch as text',
        lambda: nc.FactorDense(epoch='2', rank=2),
        TypeError,
        'FactorDense: epoch',
        'a whole number of completed epochs, an int',
        "got '2'",
        'give for example epoch=2',
    ),
    Row(
        'two epochs of one optimization',
        lambda: nc.FactorDense(epoch=(2, 4), rank=2),
        ValueError,
        'FactorDense: epoch',
        'one number of completed epochs',
        'got (2, 4)',
        'for two epochs make two FactorDense',
    ),
    Row(
        'epoch before the first',
        lambda: nc.BinarizeConvolution(epoch=-1),
        ValueError,
        'BinarizeConvolution: epoch',
        '0 or more',
        'got -1',
        '0 is before the first minibatch',
    ),
    Row(
        'epoch in samples',
        lambda: nc.FactorDense(epoch=(100, DataUnit.sample), rank=2),
        ValueError,
        'FactorDense: epoch',
        '(number, cntk.train.DataUnit.sweep)',
        'DataUnit.sample',
        'epoch_size',
    ),
    Row(
        'epoch past the end',
        lambda: run(Identity(epoch=5), max_samples=4 * SAMPLES),
        ValueError,
        'Identity(epoch=5)',
        '4 is the last epoch',
        'this run 2800 samples',
        'train longer',
    ),
    Row(
        'epoch past the source',
        lambda: run(Identity(epoch=9)),
        ValueError,
        'Identity(epoch=9)',
        '4 is the last epoch',
        'gives 2800 samples',
        'let the source give more',
    ),
    Row(
        'sweeps of a UserLearner',
        lambda: run(Identity(epoch=2), learner='user', epoch_size=None),
        ValueError,
        'Identity(epoch=2)',
        'would never be applied',
        'counts no sweeps',
        'give epoch_size in samples',
    ),
    Row(
        'epoch that never came',
        epoch_behind_an_unknown_end,
        ValueError,
        'Identity(epoch=9)',
        'before Identity',
        'after 2800 samples (4 epochs)',
        'give an earlier epoch',
    ),
    Row(
        'epoch size of a float',
        lambda: run(epoch_size=1.5),
        TypeError,
        'epoch_size',
        'a number of samples',
        'got 1.5',
        'the number of training samples',
    ),
    Row(
        'epoch size of nothing',
        lambda: run(epoch_size=0),
        ValueError,
        'epoch_size',
        '1 or more',
        'got 0',
        'None is one sweep',
    ),
    Row(
        'filter that is a name',
        lambda: nc.FactorDense(rank=2, filter_function='hidden'),
        TypeError,
        'FactorDense: filter_function',
        'a function of one argument, or None',
        "got 'hidden'",
        'lambda layer: layer.name',
    ),
    Row(
        'unknown learner_state',
        lambda: nc.FactorDense(rank=2, learner_state='keep'),
        ValueError,
        'FactorDense: learner_state',
        "'reset' or 'project'",
        "got 'keep'",
        'leave it out',
    ),
    Row(
        'optimization without transform',
        lambda: nc.optimize(dense(), Silent()),
        NotImplementedError,
        'Silent',
        'must define transform(model)',
        'got none',
        'docs/writing_an_optimization.md',
    ),
    # Ranks.
    Row(
        'rank that is text',
        lambda: nc.FactorDense(rank='3'),
        TypeError,
        'FactorDense: rank',
        'an int, a fraction in (0, 1)',
        "got '3'",
        'give 8, 0.25 or nc.energy(0.95)',
    ),
    Row(
        'rank of zero',
        lambda: nc.FactorDense(rank=0),
        ValueError,
        'FactorDense: rank',
        'at least 1',
        'got 0',
        'use filter_function',
    ),
    Row(
        'rank as a large float',
        lambda: nc.FactorDense(rank=2.5),
        ValueError,
        'FactorDense: rank',
        'in (0, 1) of the smaller side',
        'got 2.5',
        'a rank of its own is an int',
    ),
    Row(
        'two ranks',
        lambda: nc.FactorDense(rank=2, projection_function=len),
        ValueError,
        'FactorDense: one of rank and projection_function',
        'must choose the rank',
        'got rank=2',
        'leave one out',
    ),
    Row(
        'no rank',
        lambda: factorization.factor_dense(dense()),
        ValueError,
        'factor_dense',
        'something must choose the rank',
        'got no rank',
        'give rank: an int',
    ),
    Row(
        'projection that is a number',
        lambda: factorization.factor_dense(dense(), 3),
        TypeError,
        'factor_dense: projection_function',
        'a function of W',
        'got 3',
        'goes into rank',
    ),
    Row(
        'rank function that returns a float',
        lambda: nc.FactorDense(rank=lambda W: 2.0).transform(dense()),
        TypeError,
        "Dense 'hidden' (W of 20x30)",
        'must return an int',
        'got 2.0 (float)',
        'round it',
    ),
    Row(
        'rank above every layer',
        lambda: run(nc.FactorDense(epoch=1, rank=999)),
        ValueError,
        'FactorDense: rank',
        'at most the smaller side of some layer',
        'got 999',
        'give a smaller rank',
    ),
    Row(
        'rank above the smaller side',
        lambda: factorization.factor_dense(dense(), lambda W: 999),
        ValueError,
        "Dense 'hidden' (W of 20x30)",
        '1 to 20, the smaller side',
        'got 999',
        'use filter_function',
    ),
    Row(
        'energy above all',
        lambda: nc.energy(1.1),
        ValueError,
        'energy: fraction',
        'in (0, 1]',
        'got 1.1',
        '0.95 keeps 95 %',
    ),
    Row(
        'speedup of one',
        lambda: nc.speedup(1),
        ValueError,
        'speedup: factor',
        'above 1',
        'got 1',
        '2 halves the multiply-adds',
    ),
    Row(
        'all parameters',
        lambda: nc.parameters(1),
        ValueError,
        'parameters: fraction',
        'in (0, 1)',
        'got 1',
        '0.5 leaves half',
    ),
    # Factor functions.
    Row(
        'factors that are no pair',
        lambda: factored_by(None),
        ValueError,
        "Dense 'hidden'",
        'must return two arrays W1 and W2',
        'it returned NoneType',
        'return W1, W2',
    ),
    Row(
        'factors that do not fit',
        lambda: factored_by((np.ones((20, 2)), np.ones((3, 30)))),
        ValueError,
        "Dense 'hidden'",
        'W1 of shape (20, k) and W2 of shape (k, 30)',
        '(20, 2) and (3, 30)',
        'it gets W as [inputs',
    ),
    Row(
        'factors with NaN',
        lambda: factored_by(filled(np.nan)),
        ValueError,
        "Dense 'hidden'",
        'must return finite factors',
        'its W1 holds 1 NaN or infinite of 40',
        'mend it',
    ),
    Row(
        'svd of a rank above the matrix',
        lambda: factorization.svd_subprojection(np.ones((3, 5)), 4),
        ValueError,
        'rank',
        '1 to 3',
        'got 4',
        'take min(k, 3)',
    ),
    Row(
        'svd of a rank that is a float',
        lambda: factorization.svd_subprojection(np.ones((3, 5)), 2.0),
        TypeError,
        'rank of a decomposition',
        'an int',
        'got 2.0',
        'round it',
    ),
    Row(
        'factor function of one argument',
        lambda: nc.FactorDense(rank=2, factor_function=lambda W: (W, W)),
        TypeError,
        'FactorDense: factor_function',
        'two arguments, W and the rank k',
        'got <lambda>(W)',
        'lambda W, k',
    ),
    Row(
        'rank function of no argument',
        lambda: nc.FactorDense(rank=lambda: 4),
        TypeError,
        'FactorDense: rank',
        'one argument, W as [inputs, outputs]',
        'got <lambda>()',
        'write lambda W',
    ),
    Row(
        'filter that returns an array',
        lambda: graph.layers(dense(), lambda layer: np.array([True, False])),
        TypeError,
        "Dense 'hidden' (W of 20x30)",
        'filter_function must return True or False',
        'got an array of shape (2,) and dtype bool;',
        'use .any(), .all() or .size',
    ),
    Row(
        'filter of nc.graph that is a name',
        lambda: graph.layers(dense(), 'hidden'),
        TypeError,
        'filter_function of layers',
        'callable with a Layer',
        "got 'hidden'",
        'lambda layer',
    ),
    Row(
        'svd of a vector',
        lambda: factorization.svd_subprojection(np.ones(3), 1),
        ValueError,
        'matrix',
        '2 axes',
        'shape (3,)',
        'reshape it',
    ),
    Row(
        'svd of NaN',
        lambda: factorization.svd_subprojection(np.full((2, 2), np.nan), 1),
        ValueError,
        'matrix',
        'finite',
        'got 4 NaN or infinite of 4',
        'check how it was trained',
    ),
    Row(
        'optimize: transform changes the output',
        lambda: nc.optimize(dense(), Transforming(lambda model: dense(outputs=7))),
        ValueError,
        'optimize: transform(model) of Transforming',
        'of shapes [(30,)]',
        'got [(7,)]',
        'nc.graph',
    ),
    Row(
        'optimize: train_function returns something else',
        lambda: nc.optimize(dense(), Transforming(lambda model: model), lambda model: (model, 1)),
        TypeError,
        'train_function',
        'cntk.Function',
        'got (',
        'in place',
    ),
    Row(
        'unknown split',
        lambda: low_rank.factors(np.eye(2), 1, 'left'),
        ValueError,
        'split',
        'even, right',
        "got 'left'",
        "take 'even'",
    ),
    Row(
        'shapes of dense_factored',
        lambda: factorization.dense_factored(10),
        ValueError,
        'dense_factored: shapes',
        '(inner size, output shape)',
        'got 10',
        'shapes=(8, 100)',
    ),
    Row(
        'both ranks of dense_factored',
        lambda: factorization.dense_factored((2, 3), input_rank=1, map_rank=1),
        ValueError,
        'input_rank and map_rank',
        'only one of',
        'got 1 and 1',
        'leave one out',
    ),
    Row(
        'weights of dense_factored',
        lambda: factorization.dense_factored((2, 3), init={'W1': None, 'W2': np.ones((3, 3))}),
        ValueError,
        "init['W2']",
        'must have shape (2,) + (3,)',
        'got (3, 3)',
        'make it fit',
    ),
    # Dense layers.
    Row(
        'filter that takes none',
        lambda: nc.FactorDense(rank=1, filter_function=named('no')).transform(dense()),
        ValueError,
        "Dense 'hidden' (W of 20x30)",
        'expected a Dense layer',
        'got none',
        'Check filter_function',
    ),
    Row(
        'weights that are not there',
        lambda: nc.FactorDense(rank=1).transform(C.layers.Dense(3, name='loose')),
        ValueError,
        "Dense 'loose'",
        'must have weights',
        'not known yet',
        'apply the model',
    ),
    Row(
        'sparse weights',
        lambda: nc.FactorDense(rank=1).transform(sparse_dense()),
        ValueError,
        "Dense 'sparse' (W of 4x3)",
        'must be a dense matrix',
        'got a sparse one',
        'NumPy array',
    ),
    Row(
        'weights that diverged',
        lambda: nc.FactorDense(rank=1).transform(dense_with(np.full((20, 30), np.nan, 'f'))),
        ValueError,
        "Dense 'hidden'",
        'must be finite',
        'got 600 NaN or infinite of 600',
        'lower the learning rate',
    ),
    Row(
        'filter that parts tied weights',
        lambda: nc.FactorDense(rank=1, filter_function=named('left')).transform(tied()),
        ValueError,
        "'left'",
        'must change together',
        'takes only the first',
        'both or neither',
    ),
    # Convolutions.
    Row(
        'no convolution',
        lambda: binarize_convolution(convolutions(('only',))[1]),
        ValueError,
        "Convolution 'only'",
        'expected a Convolution layer',
        'left out unless',
        'Check filter_function',
    ),
    Row(
        'unknown option',
        lambda: nc.BinarizeConvolution(weight_scale='filter'),
        ValueError,
        'BinarizeConvolution: weight_scale',
        "one of 'channel', 'layer', None",
        "got 'filter'",
        'leave it out',
    ),
    Row(
        'learned shift that nothing trains',
        lambda: nc.BinarizeConvolution(input_shift='learn'),
        ValueError,
        "input_shift='learn'",
        'must have a learner',
        'got none',
        'give learner=',
    ),
    Row(
        'placeholders unresolved',
        lambda: quantization.convert_to_binary_convolution(
            C.layers.Convolution2D((3, 3), 4, name='loose')
        ),
        ValueError,
        "Convolution 'loose'",
        'must know its input',
        'got a placeholder',
        'input_variable',
    ),
    Row(
        '1-D convolution',
        lambda: binarize_convolution(
            C.layers.Convolution1D(3, 4, name='line')(C.input_variable((2, 9))), every
        ),
        NotImplementedError,
        "Convolution 'line'",
        'only 2-D convolutions',
        '(4, 2, 3)',
        'Leave it out',
    ),
    Row(
        'filters along the channels',
        lambda: binarize_convolution(bare_convolution((4, 2, 3, 3), (2, 9, 9)), every),
        NotImplementedError,
        "Convolution 'conv'",
        'over all channels',
        'auto_padding [True, True, True]',
        'auto_padding=[False, ...]',
    ),
    Row(
        'float64 convolution',
        lambda: binarize_convolution(
            bare_convolution((4, 2, 3, 3), (2, 9, 9), np.float64, auto_padding=[False, True, True]),
            every,
        ),
        NotImplementedError,
        "Convolution 'conv'",
        'must be float32',
        'got float64',
        'build the network in float32',
    ),
    Row(
        'groups padded unevenly',
        lambda: binarize_convolution(
            bare_convolution((4, 1, 2, 3), (2, 9, 9), groups=2, auto_padding=[False, True, True]),
            every,
        ),
        NotImplementedError,
        "Convolution 'conv'",
        'no axis may be padded more after than before',
        'with 2 groups',
        'filters of odd sides',
    ),
    Row(
        'two stages that exclude each other',
        twice_the_inputs,
        ValueError,
        "Convolution 'second'",
        'its input must be float',
        'has made it binary',
        "take operands='both'",
    ),
    Row(
        'filter that parts applications',
        some_applications,
        ValueError,
        "Convolution 'second'",
        'binary in both or in neither',
        'takes only one of them',
        'go by the name',
    ),
    Row(
        'foreign binary block',
        lambda: quantization.convert_to_native_binary_convolution(foreign_block()),
        ValueError,
        "'foreign'",
        'one convolution of two signs',
        'got 0',
        'another op name',
    ),
    Row(
        '1-D binary_convolution',
        lambda: quantization.binary_convolution((3,), 4, 3),
        ValueError,
        'filter_shape',
        'for height and width',
        'got (3,)',
        'filter_shape=(3, 3)',
    ),
    Row(
        'no training function',
        lambda: quantization.binarize_convolution(convolutions()[1], None),
        TypeError,
        'train_function',
        'a function of the binarized model',
        'got None',
        'convert_to_binary_convolution',
    ),
    # The functional form, and lowering.
    Row(
        'model that is none',
        lambda: nc.optimize('z', nc.FactorDense(rank=1)),
        TypeError,
        'optimize: model',
        'a cntk.Function',
        "got 'z'",
        'give the network itself',
    ),
    Row(
        'model that is a Trainer',
        lambda: nc.optimize(Script().trainer, nc.FactorDense(rank=1)),
        TypeError,
        'optimize: model',
        'a cntk.Function',
        'got a Trainer',
        'trainer.model',
    ),
    Row(
        'model and optimization the other way round',
        lambda: nc.optimize(nc.FactorDense(rank=1), dense()),
        TypeError,
        'optimize: model',
        'a cntk.Function',
        'got the optimization FactorDense',
        'the model comes first: optimize(model, optimization)',
    ),
    Row(
        'several optimizations at once',
        lambda: nc.optimize(dense(), [nc.BinarizeDense(), nc.FactorDense(rank=1)]),
        TypeError,
        'optimize: optimization',
        'one nc.Optimization',
        'got a list of 2',
        'call optimize once for each',
    ),
    Row(
        'optimization that is a class',
        lambda: nc.optimize(dense(), nc.FactorDense),
        TypeError,
        'optimize: optimization',
        'an nc.Optimization',
        'got <class',
        'such as nc.BinarizeConvolution()',
    ),
    Row(
        'training function that is none',
        lambda: nc.optimize(dense(), nc.FactorDense(rank=1), 3),
        TypeError,
        'optimize: train_function',
        'a function of the transformed model',
        'got 3',
        'leave it out',
    ),
    Row(
        'model that is not applied',
        lambda: nc.optimize(
            C.times(C.placeholder(name='open'), C.parameter((4, 3))), nc.FactorDense(rank=1)
        ),
        ValueError,
        'optimize: model',
        'must be applied',
        'the placeholders open',
        'apply it first',
    ),
    Row(
        'tolerance that is text',
        lambda: nc.Lower(tolerance='small'),
        TypeError,
        'Lower: tolerance',
        'a number',
        "got 'small'",
        'leave it out',
    ),
    Row(
        'tolerance below zero',
        lambda: nc.Lower(tolerance=-1),
        ValueError,
        'Lower: tolerance',
        'at least 0',
        'got -1',
        '0 asks for equality',
    ),
    Row(
        'float layers elsewhere',
        lambda: nc.Lower(float_layers='gpu'),
        ValueError,
        'Lower: float_layers',
        "must be 'cntk', 'native' or 'taps'",
        "got 'gpu'",
        'leave it out',
    ),
    Row(
        'lowering without data',
        lambda: run(nc.Lower(), cv_config=None),
        ValueError,
        'Lower()',
        'on held-out data',
        'this run has none',
        'give data=',
    ),
    # Graphs.
    Row(
        'kind of layer',
        lambda: graph.layers(dense(), op_name='LSTM'),
        ValueError,
        'op_name',
        "'Dense', 'Convolution', None, or one that an optimization has declared",
        "got 'LSTM'",
        'nc.graph.walk',
    ),
    Row(
        'op name of a block that is none',
        lambda: nc.Block(3),
        TypeError,
        'Block: op_name',
        'must be a word',
        'got 3',
        "nc.Block('DensePruned')",
    ),
    Row(
        'op name of a block that is a layer of CNTK',
        lambda: nc.Block('LSTM'),
        ValueError,
        'Block: op_name',
        'a name of your own',
        "got 'LSTM'",
        'layer.rebuilt',
    ),
    Row(
        'layer of a block that is none',
        lambda: nc.Block('Mine', layer='LSTM'),
        ValueError,
        "Block 'Mine'",
        "'Dense', 'Convolution' or None",
        "got 'LSTM'",
        'leave it out',
    ),
    Row(
        'what a block was that is no layer',
        lambda: nc.Block('Mine', was='LSTM'),
        ValueError,
        "Block 'Mine': was",
        "'Dense' or 'Convolution'",
        "got 'LSTM'",
        "was='Dense'",
    ),
    Row(
        'count of a block that is a number',
        lambda: nc.Block('Mine', count=3),
        TypeError,
        "Block 'Mine': count",
        'a function',
        'got 3',
        'leave it out',
    ),
    Row(
        'blocks that are names',
        lambda: graph.blocks.declare(Identity, ['Mine']),
        TypeError,
        'Identity: blocks',
        'nc.Block',
        "got 'Mine'",
        "blocks = [nc.Block('DensePruned')]",
    ),
    Row(
        'op name of another class',
        lambda: graph.blocks.declare(Identity, [nc.Block('DenseFactored')]),
        ValueError,
        'Identity',
        'its own',
        "got 'DenseFactored'",
        'another op name',
    ),
    Row(
        'layer without one weight',
        lambda: graph.layers(
            nc.FactorDense(rank=2).transform(dense()).model, op_name='DenseFactored'
        )[0].rebuilt(C.placeholder() * 1, 'X'),
        ValueError,
        "DenseFactored 'hidden'",
        'one Parameter',
        'it does not',
        'nc.graph.replace',
    ),
    Row(
        'replacement that is applied',
        lambda: replaced(C.square(C.input_variable(3))),
        ValueError,
        "Dense 'classify'",
        'one placeholder',
        'got outputs',
        'cntk.placeholder()',
    ),
    Row(
        'replacement of another shape',
        lambda: replaced(C.layers.Dense(4)),
        ValueError,
        "Dense 'classify'",
        'expected (3,)',
        'got (4,)',
        'give it the output shape',
    ),
    Row(
        'replacement that is a number',
        lambda: replaced(3),
        TypeError,
        'nc.graph.replace: new_functions',
        'a dict of Layers to Functions',
        "got 3 for <Layer Dense 'classify'",
        'write for example {layer:',
    ),
    Row(
        'layer of a clone',
        replaced_in_a_clone,
        ValueError,
        "Dense 'classify'",
        'must be in the model',
        'which is not',
        'not from a clone',
    ),
    Row(
        'circular substitution',
        circular,
        ValueError,
        'first',
        'must read something else',
        'reads only itself',
        'name the new Variables',
    ),
    Row(
        'output of another shape',
        reshaped_output,
        ValueError,
        'hidden',
        'must keep the shape',
        'got (4,)',
        'the shape of what is replaced',
    ),
    # What a third-party transform returns.
    Row(
        'note with half a rank',
        lambda: nc.LayerNote('hidden', rank=2.7),
        TypeError,
        'LayerNote: rank',
        'whole numbers',
        'got 2.7',
        'count them as ints',
    ),
    Row(
        'retired that is a name',
        lambda: nc.Replaced('hidden', ['W']),
        TypeError,
        'Replaced: retired',
        'cntk.Parameters',
        "got 'W'",
        'retired=(layer.W,)',
    ),
    Row(
        'projection that is no function',
        lambda: nc.Replaced('hidden', projection=3),
        TypeError,
        'Replaced: projection',
        'or None',
        'got 3',
        'lambda gradient',
    ),
    Row(
        'a note among what is replaced',
        lambda: nc.Transformed(dense(), [], [nc.LayerNote('hidden')]),
        TypeError,
        'Transformed: replaced',
        'nc.Replaced',
        "name='hidden'",
        'nc.Transformed(model',
    ),
    Row(
        'check that returns text',
        lambda: run(Checking()),
        TypeError,
        'Checking: check(model)',
        'return a cntk.Function',
        "got 'z'",
        'None means that',
    ),
    Row(
        'transform that returns text',
        lambda: run(Transforming(lambda model: 'z')),
        TypeError,
        'Transforming: transform(model)',
        'return a cntk.Function',
        "got 'z'",
        'return new_model',
    ),
    Row(
        'transform that loses an output',
        lambda: run(Transforming(lambda model: C.combine(model.outputs[:-1]))),
        ValueError,
        'transform(model)',
        'expected 3',
        'got 2',
        'combine all of model.outputs',
    ),
    Row(
        'transform that reshapes an output',
        lambda: run(Transforming(other_shape)),
        ValueError,
        'Transforming: transform(model)',
        'was of shape (5,)',
        'got shape (10,)',
        'the same output shape',
    ),
    Row(
        'transform that exchanges an argument',
        lambda: run(Transforming(new_argument)),
        ValueError,
        'Transforming: transform(model)',
        'must keep the arguments',
        'other is new',
        'use nc.graph',
    ),
    Row(
        'transform that cuts the loss off',
        lambda: run(Transforming(loss_of_nothing)),
        ValueError,
        'Transforming',
        'must depend on each Parameter',
        'does not on W',
        'keep it in the graph',
    ),
    Row(
        'new Parameters and several learners',
        lambda: run(Transforming(adds((9, 9))), learner='several'),
        ValueError,
        'Transforming',
        'more of shape (9, 9)',
        'which of 2 learners (momentum_sgd, adam)',
        'learner=lambda',
    ),
    Row(
        'learner that cannot be rebuilt',
        lambda: run(factor(), learner='user'),
        ValueError,
        'layer hidden',
        'its learner (Halves)',
        'a method rebuilt(parameters)',
        'learner=lambda',
    ),
    Row(
        'learner without a state to project',
        lambda: run(factor(learner_state='project'), learner='adam'),
        ValueError,
        "FactorDense: learner_state='project'",
        'no learner it is defined for',
        'it has adam',
        "Use learner_state='reset'",
    ),
    Row(
        'learner that forgets a Parameter',
        lambda: run(
            factor(
                learner=lambda parameters: C.sgd(parameters[:1], C.learning_parameter_schedule(0.1))
            )
        ),
        ValueError,
        'FactorDense',
        'must train all new Parameters',
        'got one without W',
        'the whole list',
    ),
    Row(
        'learner function that returns no learner',
        lambda: run(factor(learner=lambda parameters: None)),
        TypeError,
        'FactorDense: learner=',
        'must return one cntk.learners.Learner',
        'got None',
        'cntk.sgd(parameters, schedule)',
    ),
    # The run.
    Row(
        'method without one of its arguments',
        lambda: run(WithoutData()),
        TypeError,
        'WithoutData: prepare',
        'must take model and minibatches',
        'got prepare(model)',
        'write def prepare(self, model, minibatches)',
    ),
    Row(
        'model that is an output',
        lambda: run(model=Script().z.output),
        TypeError,
        'model=',
        'a cntk.Function',
        "got Output('classify'",
        'as model=z',
    ),
    Row(
        'model of another trainer',
        lambda: run(model=Script().z),
        ValueError,
        'model=',
        'the network that the trainer trains',
        "got the Function 'classify', which reads no Parameter of its learners",
        'give the Function that the criterion is built over',
    ),
    Row(
        'criterion that is a tuple',
        lambda: nc.train(tuple(dense().outputs), ()),
        TypeError,
        'criterion',
        'a cntk.Function',
        "got (Output('hidden'",
        'give cntk.combine([loss, metric])',
    ),
    Row(
        'callback that is a class',
        lambda: run(Identity),
        TypeError,
        'callbacks',
        'nc.Optimization or nc.Observer objects',
        'Identity',
        'Identity(...)',
    ),
    Row(
        'callback twice',
        lambda: run(*2 * (Identity(epoch=1),)),
        ValueError,
        'callbacks',
        'different objects',
        'got the same Identity twice',
        'make another one',
    ),
    Row(
        'lowered twice',
        lambda: run(nc.Lower(), nc.Lower()),
        ValueError,
        'callbacks',
        'at most one Lower()',
        'got 2',
        'leave one',
    ),
    Row(
        'observer that is a writer too',
        writer_that_observes,
        ValueError,
        'Observer',
        'name it once',
        'already a progress writer',
        'in callbacks',
    ),
    Row(
        'callback of Function.train',
        lambda: trained(callbacks=['log']),
        TypeError,
        'callbacks',
        'progress writers',
        "got 'log'",
        'leave it out',
    ),
    Row(
        'direction that is a word',
        lambda: run(larger_is_better='smaller'),
        TypeError,
        'larger_is_better',
        'True or False',
        "got 'smaller'",
        'leave it out',
    ),
    Row(
        'checkpoint_config that is a name',
        lambda: run(checkpoint_config='model'),
        TypeError,
        'checkpoint_config',
        'a cntk.CheckpointConfig',
        "got 'model'",
        'write checkpoint_config=cntk.CheckpointConfig(',
    ),
    Row(
        'held-out data that is a number',
        lambda: run(data=(1, 2)),
        TypeError,
        'data',
        'NumPy arrays',
        'got (1, 2)',
        'data=(images, labels)',
    ),
    Row(
        'held-out data without labels',
        lambda: run(data=np.ones((3, 1, 6, 6), 'f')),
        ValueError,
        'data',
        'x, label',
        'got 1',
        'in a tuple',
    ),
    Row(
        'held-out data of more than the arguments',
        lambda: run(data=(np.ones((3, 1, 6, 6), 'f'), np.ones((3, 5), 'f'), np.ones((3, 5), 'f'))),
        ValueError,
        'data',
        'no more arrays than the network has arguments, 2 (x, label)',
        'got 3',
        'data=(x, label,)',
    ),
    Row(
        'held-out data that is the name of a file',
        lambda: run(data='test.txt'),
        TypeError,
        'data',
        'arrays or a minibatch source',
        "got the str 'test.txt'",
        'open a file with a MinibatchSource',
    ),
    Row(
        'held-out data of two lengths',
        lambda: run(data=(np.ones((3, 1, 6, 6), 'f'), np.ones((2, 5), 'f'))),
        ValueError,
        'data',
        'the same number of samples',
        'x: 3, label: 2',
        'cut the arrays alike',
    ),
    Row(
        'held-out data of another shape',
        lambda: run(data=(np.ones((3, 1, 6, 6), 'f'), np.ones((3, 4), 'f'))),
        ValueError,
        'data for argument label',
        '[samples, 5]',
        'got [3, 4]',
        'those of the input_variable',
    ),
    Row(
        'held-out data that CNTK cannot read',
        lambda: run(data=(np.ones((3, 1, 6, 6), 'i'), np.ones((3, 5), 'f'))),
        ValueError,
        'data for argument x',
        'what CNTK can read',
        'int32',
        'in the order x, label',
    ),
    Row(
        'held-out source without the stream',
        lambda: source_without(['x']),
        ValueError,
        'argument label',
        'must have a stream',
        'the streams x',
        'alike',
    ),
    Row(
        'held-out source for an input without a name',
        lambda: nc.optimize(
            dense(),
            nc.FactorDense(rank=1),
            data=C.io.MinibatchSourceFromData({'features': np.ones((3, 20), 'f')}, max_samples=3),
        ),
        ValueError,
        'the argument Input',
        'read by names',
        'has no name',
        "input_variable(20, name='features')",
    ),
    Row(
        'held-out source without an end',
        endless_source,
        ValueError,
        'data',
        'must end',
        'repeats for ever',
        'max_sweeps=1',
    ),
    Row(
        'cross-validation source without an end',
        endless_cross_validation,
        ValueError,
        'cross-validation source',
        'must end',
        'repeats for ever',
        'max_samples=',
    ),
    Row(
        'held-out dict without one of the arguments',
        lambda: Script().run(data={'x': np.zeros((3, 1, 6, 6), np.float32)}),
        ValueError,
        'data as a dict',
        'one array for each argument of the network, x (Input',
        "got 'x'",
        'add what is missing',
    ),
    Row(
        'held-out data that is text',
        lambda: Script().run(data=('x', 'y')),
        ValueError,
        'data for argument x',
        'what CNTK can read as Input',
        'got str',
        'give a NumPy array',
    ),
    Row(
        'held-out data of rows that are text',
        lambda: Script().run(data=(['ab'], ['cd'])),
        ValueError,
        'data for argument x',
        'what CNTK can read as Input',
        "got a list that holds 'ab'",
        'data is in the order x, label',
    ),
    Row(
        'held-out data of one number each',
        lambda: Script().run(data=(np.float32(3), np.float32(3))),
        ValueError,
        'data for argument x',
        'what CNTK can read as Input',
        'got one number',
        'samples are the first axis',
    ),
    Row(
        'Lower among the progress writers of a Trainer',
        lower_as_a_writer,
        TypeError,
        'progress_writers',
        'of a Trainer takes no',
        'Lower',
        'callbacks=[...]',
    ),
    Row(
        'filter that asks a Layer for what it does not have',
        lambda: graph.layers(networks.sequential()[0], lambda layer: layer.nmae == 'hidden'),
        AttributeError,
        'filter_function',
        "'nmae'",
        'a Layer has',
        'name',
    ),
    Row(
        'held-out source that cannot go back',
        lambda: run(data=Forgetful()),
        ValueError,
        'held-out minibatch source Forgetful',
        'a measurement',
        'has no position to go back to',
        'get_checkpoint_state()',
    ),
    Row(
        'source that tells a position it cannot go to',
        half_placed_source,
        ValueError,
        'minibatch source HalfPlaced',
        'must be able to go to the position',
        'got no restore_from_checkpoint(state)',
        'override that too',
    ),
    Row(
        'trainer that is none',
        lambda: nc.attach('trainer', [Identity()]),
        TypeError,
        'trainer',
        'a cntk.Trainer',
        "got 'trainer'",
        'cntk.Trainer(model',
    ),
    Row(
        'trainer built before the import',
        old_trainer,
        ValueError,
        'this Trainer',
        'Import netopt_callbacks first',
        'was built before',
        'progress_writers=',
    ),
    Row(
        'session trained twice',
        trained_twice,
        RuntimeError,
        'this session',
        'trains once',
        'has been trained',
        'make a new one',
    ),
    Row(
        'trainer attached twice',
        attached_twice,
        RuntimeError,
        'this trainer',
        'first',
        'is attached already',
        'call finish()',
    ),
    Row(
        'hand loop without an epoch',
        arrays_without_an_epoch,
        ValueError,
        'minibatches of NumPy arrays',
        'where an epoch ends',
        'do not tell',
        'epoch_size=',
    ),
]

PACKAGE = os.path.dirname(nc.__file__) + os.sep

# What takes a model. Each names itself, or nc.graph, in one message, and so has no row of its own.
TAKE_A_MODEL = [
    lambda model: factorization.factor_dense(model, len),
    quantization.convert_to_binary_convolution,
    quantization.convert_to_native_binary_convolution,
    lambda model: quantization.binarize_convolution(model, print),
    lambda model: nc.optimize(model, nc.FactorDense(rank=1)),
    nc.FactorDense(rank=1).transform,
    nc.BinarizeConvolution().transform,
    nc.BinarizeDense().transform,
    graph.layers,
    graph.other_products,
    graph.frozen_layers,
    lambda model: graph.no_layers_error(model, 'FactorDense'),
    graph.clone_shared,
    lambda model: graph.replace(model, {}),
    lambda model: graph.substitute(model, {}),
    graph.primitives,
    lambda model: list(graph.walk(model)),
    lambda model: graph.opened(model, every),
    graph.trained_part,
]
NO_REPLACEMENTS = [
    (graph.replace, lambda layer: None, 'None'),
    (graph.replace, lambda layer: [(layer, C.layers.Dense(30))], 'got \\['),
    (graph.replace, lambda layer: {'hidden': C.layers.Dense(30)}, "the key 'hidden'"),
    (graph.replace, lambda layer: {layer.W: C.layers.Dense(30)}, 'the key Parameter'),
    (graph.replace, lambda layer: {layer: C.layers.Dense}, 'for <Layer'),
    (graph.replace, lambda layer: {layer: layer.output}, 'for <Layer'),
    (graph.substitute, lambda layer: layer.W, 'got Parameter'),
    (graph.substitute, lambda layer: {layer: layer.W}, 'the key <Layer'),
    (graph.substitute, lambda layer: {'W': layer.W}, "the key 'W'"),
    (graph.substitute, lambda layer: {layer.W: layer.W.value}, 'for Parameter'),
]


class Raised(NamedTuple):
    error: Exception
    message: str
    place: str
    template: str


@functools.lru_cache(None)
def raised(index):
    """Returns what a row raises; its template is the message without what is particular to the
    row."""
    row = TABLE[index]
    with pytest.raises(Exception) as caught:
        row.do()
    message = str(caught.value)
    places = [
        (frame.filename, frame.lineno)
        for frame in traceback.extract_tb(caught.tb)
        if frame.filename.startswith(PACKAGE)
    ]
    literal = re.sub(r"'[^']*'|<[^>]*>|\([^)]*\)|\[[^]]*\]|[-\d.x]*\d", '*', message)
    literal = literal.replace(row.about.split(':')[0], '*')
    return Raised(caught.type, message, places[-1], literal)


@pytest.mark.parametrize('index', range(len(TABLE)), ids=[row.id for row in TABLE])
def test_every_error_names_what_was_expected_what_came_and_what_to_do(index):
    row, found = TABLE[index], raised(index)
    assert found.error is row.error, found.message
    for part in (row.about, row.expected, row.got, row.remedy):
        assert part in found.message, found.message


@pytest.mark.parametrize('what', ['place', 'template'])
def test_no_two_rows_share_a_message(what):
    rows = {}
    for index, row in enumerate(TABLE):
        rows.setdefault(getattr(raised(index), what), []).append(row.id)
    assert [shared for shared in rows.values() if len(shared) > 1] == []
    assert len(rows) == len(TABLE) >= 40


@pytest.mark.parametrize('call', TAKE_A_MODEL)
def test_what_is_no_model_is_refused(call):
    model = dense()
    for wrong in (None, 'z', [model], model.output, model.arguments[0], C.layers.Dense):
        with pytest.raises(TypeError, match='model must be a cntk.Function, got .*; give the netw'):
            call(wrong)


@pytest.mark.parametrize('replace, given, got', NO_REPLACEMENTS)
def test_what_is_no_dict_of_replacements_is_refused(replace, given, got):
    model = dense()
    (layer,) = graph.layers(model)
    with pytest.raises(TypeError, match=f'(?s)must be a dict of .*{got}.*write for example'):
        replace(model, given(layer))


@pytest.mark.parametrize(
    'sizes',
    [
        dict(filter_shape=3),
        dict(filter_shape=None),
        dict(filter_shape='33'),
        dict(filter_shape=(3, 0)),
        dict(filter_shape=(3, 2.5)),
        dict(num_filters=0),  # CNTK's division by it ends the process
        dict(num_filters=-1),
        dict(num_filters='x'),
        dict(num_filters=True),
        dict(num_filters=(4, 4)),
        dict(channels=0),
        dict(channels=None),
        dict(strides=(1, 2, 1)),
        dict(strides=0),
        dict(strides='2'),
    ],
    ids=str,
)
def test_sizes_of_a_binary_convolution_are_checked(sizes):
    (argument,) = sizes
    arguments = {**dict(filter_shape=(3, 3), num_filters=4, channels=3), **sizes}
    with pytest.raises(
        (TypeError, ValueError), match=f'{argument} must be .*whole number.*give for example'
    ):
        quantization.binary_convolution(**arguments)


@pytest.mark.parametrize(
    'argument, wrong, kind',
    [
        ('checkpoint_config', '', 'CheckpointConfig'),
        ('checkpoint_config', C.TestConfig(None), 'CheckpointConfig'),
        ('cv_config', 'x', 'CrossValidationConfig'),
        ('cv_config', np.ones((3, 4), 'f'), 'CrossValidationConfig'),
        ('test_config', (np.ones((3, 4), 'f'),), 'TestConfig'),
        ('test_config', 0, 'TestConfig'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_configs_of_a_session_are_checked(argument, wrong, kind):
    with pytest.raises(TypeError, match=f'(?s){argument} must be a cntk.{kind}, got .*; write'):
        run(**{argument: wrong})


@pytest.mark.parametrize('unit', list(DataUnit))
def test_a_unit_is_no_number(unit):
    """Though it is an int to Python, DataUnit.sweep 0."""
    for epoch_size in (unit, (unit, unit)):
        with pytest.raises(TypeError, match='epoch_size must be a number of samples, a tuple'):
            run(epoch_size=epoch_size)
    for epoch in (unit, (unit, DataUnit.sweep)):
        with pytest.raises(TypeError, match='epoch must be a whole number of completed epochs'):
            Identity(epoch=epoch)


@pytest.mark.parametrize('wrong', [None, 1, 0, 'larger', np.array(True), [True]], ids=repr)
def test_the_direction_of_a_metric_is_a_truth(wrong):
    with pytest.raises(TypeError, match='larger_is_better must be True or False'):
        nc.attach(Script().trainer, [Identity()], epoch_size=10, larger_is_better=wrong)
    options = dict(epoch_size=10, larger_is_better=np.bool_(True))
    nc.attach(Script().trainer, [nc.Observer()], **options).finish()
