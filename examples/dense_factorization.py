"""Factors the Dense layers of a trained network, without training it again.

    python examples/dense_factorization.py

This is the example that CNTK's manual of network optimizations names `dense_factorization_example`:
the network and the simulated data of the tutorial CNTK 102, and `factor_dense` on what came out of
training.
"""
import netopt_callbacks as nc  # before cntk: it keeps CNTK from warning of newer systems
import cntk as C
import numpy as np
from netopt_callbacks.factorization import factor_dense

MINIBATCH = 25


def dense_factorization_example():
    """Trains the network, factors its square layer, and prints what that saves and costs.

    Returns:
        (cntk.Function, cntk.Function): the trained network and the factored one.
    """
    random = np.random.RandomState(0)
    features, label = C.input_variable(2, name='features'), C.input_variable(2, name='label')
    z = create_model(features)
    train(z, features, label, random)
    # The tutorial's hidden layers are 2x50 and 50x50. Factors of rank k hold k * (inputs + outputs)
    # weights, so only the square one has fewer of them than W; 0.9 of its squared singular values
    # are kept.
    newz = factor_dense(
        z,
        projection_function=nc.energy(0.9),
        filter_function=lambda layer: layer.W.shape[0] == layer.W.shape[1],
    )
    X, Y = simulated_data(random, 1000)
    for name, model in (('trained', z), ('factored', newz)):
        predicted = model.eval({features: X}).argmax(axis=1)
        print(
            '%-8s %5d parameters, %4.1f %% of 1000 samples wrong'
            % (
                name,
                sum(np.prod(parameter.shape, dtype=int) for parameter in model.parameters),
                100 * np.mean(predicted != Y.argmax(axis=1)),
            )
        )
    return z, newz


def create_model(features):
    with C.layers.default_options(init=C.glorot_uniform(seed=1), activation=C.sigmoid):
        return C.layers.Sequential(
            [
                C.layers.Dense(50, name='first'),
                C.layers.Dense(50, name='second'),
                C.layers.Dense(2, activation=None, name='classify'),
            ]
        )(features)


def train(z, features, label, random):
    criterion = C.cross_entropy_with_softmax(z, label), C.classification_error(z, label)
    trainer = C.Trainer(z, criterion, [C.sgd(z.parameters, C.learning_parameter_schedule(0.5))])
    for _ in range(400):
        X, Y = simulated_data(random, MINIBATCH)
        trainer.train_minibatch({features: X, label: Y})


def simulated_data(random, count):
    """Returns two classes of two features, as CNTK 102 simulates them, and their one-hot labels."""
    labels = random.randint(0, 2, (count, 1))
    X = (random.randn(count, 2) + 3) * (labels + 1)
    return X.astype(np.float32), np.hstack([labels == 0, labels == 1]).astype(np.float32)


if __name__ == '__main__':
    dense_factorization_example()
