"""The factorization part of CNTK's manual of network optimizations, run as printed.

Only the import is changed. What the manual leaves undefined is supplied here: `get_rank`, which it
uses in its second example, and the tutorial CNTK 102 it builds on, which trains `z`.
"""
import inspect
import os
import re
import runpy
import warnings

import cntk as C
import cntk.contrib.netopt as released
import numpy as np
import pytest

from paths import CLONE

FACTOR_EVERY_LAYER = '''
# import netopt module
import netopt_callbacks.factorization as nc
# example function determining the rank of the factorization.
def get_reduced_rank(W):
    # The rank of a matrix is at most the length of its smallest side.
    # We require the factored version to have a fraction of this original rank.
    return int(min(W.shape) * 0.6)
# newz will have all its Dense layers with their factored variants.
newz = nc.factor_dense(z, projection_function=get_reduced_rank)
'''

FACTOR_SQUARE_LAYERS = '''
# A function to select the layers to apply the optimization. Here we require that the layer
# has a square weight matrix, thus selecting for the second dense layer in our model.
def dense_filter(block):
    d1, d2 = block.W.value.shape
    return d1 == d2
# newz will have its second dense layer replaced with optimized dense layer.
newz = nc.factor_dense(z, projection_function=get_rank, filter_function=dense_filter)
'''

EVALUATE = '''
out = C.softmax(newz)
predicted_label_probs = out.eval({input : features}) #evaluate the new model
print("Label :", [np.argmax(label) for label in labels]) #original labels
print("Predicted:", [np.argmax(row) for row in predicted_label_probs])
'''

# CNTK's own file of tests for netopt, and where it takes what it tests from.
NETOPT_TESTS = 'test/factorization_test.py'
NETOPT_IMPORT = 'import cntk.contrib.netopt.factorization as nc'


def samples(random, count):
    """CNTK 102's simulated data: two classes of two features."""
    Y = random.randint(size=(count, 1), low=0, high=2)
    X = (random.randn(count, 2) + 3) * (Y + 1)
    return X.astype('f'), np.hstack([Y == 0, Y == 1]).astype('f')


@pytest.fixture(scope='module')
def tutorial():
    """CNTK 102, trained: the names its snippets use."""
    random = np.random.RandomState(0)
    features, label = C.input_variable(2), C.input_variable(2)
    with C.layers.default_options(init=C.glorot_uniform(seed=1), activation=C.sigmoid):
        z = C.layers.Sequential(
            [C.layers.Dense(50), C.layers.Dense(50), C.layers.Dense(2, activation=None)]
        )(features)
    learner = C.sgd(z.parameters, C.learning_parameter_schedule(0.5))
    trainer = C.Trainer(
        z, (C.cross_entropy_with_softmax(z, label), C.classification_error(z, label)), [learner]
    )
    for _ in range(400):
        X, Y = samples(random, 25)
        trainer.train_minibatch({features: X, label: Y})
    X, Y = samples(random, 1000)
    return {'C': C, 'np': np, 'z': z, 'input': features, 'features': X, 'labels': Y}


def accuracy(model, names):
    predicted = model.eval({names['input']: names['features']}).argmax(axis=1)
    return (predicted == names['labels'].argmax(axis=1)).mean()


def run(names, *snippets):
    """Runs snippets of the manual one after the other; returns the names they leave."""
    names = dict(names)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        for snippet in snippets:
            exec(snippet, names)
    return names


def test_every_dense_layer_is_factored_and_the_network_still_classifies(tutorial, capsys):
    names = run(tutorial, FACTOR_EVERY_LAYER, EVALUATE)
    original = accuracy(tutorial['z'], tutorial)
    assert original > 0.85
    # Rank 60 % of these layers loses nothing that matters: netopt's own 50.6 % was the activation
    # it dropped.
    assert abs(accuracy(names['newz'], tutorial) - original) <= 0.01
    said = capsys.readouterr().out
    assert said.startswith('Label : [') and 'Predicted: [' in said


@pytest.mark.parametrize('fraction', [0.8, 1.0])
def test_higher_ranks_keep_the_accuracy(tutorial, fraction):
    import netopt_callbacks.factorization as nc

    names = run(
        dict(tutorial, nc=nc, fraction=fraction),
        'newz = nc.factor_dense(z, projection_function=lambda W: int(min(W.shape) * fraction))',
    )
    assert abs(accuracy(names['newz'], tutorial) - accuracy(tutorial['z'], tutorial)) <= 0.002


def test_the_square_layer_alone_is_factored(tutorial):
    names = run(
        dict(tutorial, get_rank=lambda W: int(min(W.shape) * 0.4)),
        FACTOR_EVERY_LAYER,
        FACTOR_SQUARE_LAYERS,
        EVALUATE,
    )
    new = names['newz']
    shapes = sorted((parameter.name, parameter.shape) for parameter in new.parameters)
    assert shapes == [
        ('W', (2, 50)),
        ('W', (50, 2)),
        ('W1', (50, 20)),
        ('W2', (20, 50)),
        ('b', (2,)),
        ('b', (50,)),
        ('b', (50,)),
    ]
    assert abs(accuracy(new, tutorial) - accuracy(tutorial['z'], tutorial)) <= 0.01


@pytest.mark.parametrize(
    'name',
    [
        'test_svd_factorization',
        'test_factor_dense',
        pytest.param('test_factor_dense_for_prediction', marks=pytest.mark.slow),
    ],
)
def test_netopts_own_tests_pass(name):
    folder = inspect.getfile(released).rsplit('__init__', 1)[0]
    with open(folder + NETOPT_TESTS) as file:
        source = file.read()
    assert source.count(NETOPT_IMPORT) == 1
    source = source.replace(NETOPT_IMPORT, 'import netopt_callbacks.factorization as nc')
    assert re.findall(r'def (test_\w+)', source) == [
        'test_svd_factorization',
        'test_factor_dense',
        'test_factor_dense_for_prediction',
    ]
    names = {'__name__': 'netopt_tests'}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        exec(source, names)
        names[name]()


def test_the_example_the_manual_names(capsys):
    folder = os.path.join(CLONE, 'examples')
    example = runpy.run_path(os.path.join(folder, 'dense_factorization.py'))[
        'dense_factorization_example'
    ]
    z, newz = example()
    trained, factored = capsys.readouterr().out.splitlines()
    counts = [sum(int(np.prod(p.shape)) for p in model.parameters) for model in (z, newz)]
    assert counts[0] == 2802 > counts[1]
    wrong = []
    for name, line, count in (('trained', trained, counts[0]), ('factored', factored, counts[1])):
        said = re.match(r'%s +(\d+) parameters, +([\d.]+) %% of 1000 samples wrong$' % name, line)
        assert int(said.group(1)) == count
        wrong.append(float(said.group(2)))
    # A guess is wrong in 50 of 100; factoring loses nothing that 1000 samples show.
    assert wrong[0] < 20 and abs(wrong[1] - wrong[0]) <= 1
    assert [layer.op_name for layer in (newz.first, newz.second, newz.classify)] == [
        'Dense',
        'DenseFactored',
        'Dense',
    ]


def test_the_names_and_their_arguments_are_netopts():
    import netopt_callbacks.factorization as ours
    from cntk.contrib.netopt import factorization as theirs

    for name in ('factor_dense', 'dense_factored', 'svd_subprojection'):
        assert list(inspect.signature(getattr(ours, name)).parameters) == list(
            inspect.signature(getattr(theirs, name)).parameters
        )
