"""Trains CNTK 103D's convolutional network on MNIST, and optimizes it while it trains.

    python examples/mnist.py --data DIR

DIR holds the four original files (train-images-idx3-ubyte, ..., as they are or with .gz), from any
mirror of MNIST. Of the 60,000 training images the last 5,000 are held out; the test images are
looked at once, at the end.
"""
import argparse
import gzip
import os

import netopt_callbacks as nc  # before cntk: it keeps CNTK from warning of newer systems
import cntk as C
import numpy as np

MINIBATCH = 64
HELD_OUT = 5000


def main():
    options = arguments()
    images, labels = read(options.data, 'train')
    samples = len(images) - HELD_OUT

    features = C.input_variable((1, 28, 28), name='features')
    label = C.input_variable(10, name='label')
    network = create_network(features / 255)
    criterion = (
        C.cross_entropy_with_softmax(network, label),
        C.classification_error(network, label),
    )
    rate = C.learning_parameter_schedule(
        [(options.epochs // 2, 0.1), (1, 0.02)], minibatch_size=MINIBATCH, epoch_size=samples
    )
    trainer = C.Trainer(network, criterion, [C.momentum_sgd(network.parameters, rate, 0.9)])

    def source(images, labels, **limits):
        made = C.io.MinibatchSourceFromData({'features': images, 'labels': labels}, **limits)
        return made, {features: made.streams.features, label: made.streams.labels}

    train_source, train_streams = source(images[:samples], labels[:samples])
    held_out, held_out_streams = source(images[samples:], labels[samples:], max_samples=HELD_OUT)
    test_images, test_labels = read(options.data, 't10k')
    test, test_streams = source(test_images, test_labels, max_samples=len(test_images))

    session = nc.training_session(
        trainer=trainer,
        mb_source=train_source,
        mb_size=MINIBATCH,
        model_inputs_to_streams=train_streams,
        max_samples=options.epochs * samples,
        cv_config=C.CrossValidationConfig(held_out, model_inputs_to_streams=held_out_streams),
        test_config=C.TestConfig(test, model_inputs_to_streams=test_streams),
        epoch_size=samples,
        callbacks=[
            nc.FactorDense(epoch=options.epochs // 5, rank=nc.energy(0.9)),
            nc.BinarizeConvolution(
                epoch=2 * options.epochs // 5,
                filter_function=lambda layer: layer.name != 'first_conv',
            ),
            nc.Lower(),
            nc.TensorBoard(options.logdir),
            nc.ProgressBar(),
        ],
    )
    session.train()

    print('\n' + session.result.summary())
    session.result.model.save(os.path.join(options.logdir, 'optimized.model'))
    session.result.lowered.save(os.path.join(options.logdir, 'lowered.model'))


def create_network(features):
    with C.layers.default_options(activation=C.relu):
        return C.layers.Sequential(
            [
                C.layers.Convolution2D((5, 5), 8, strides=(2, 2), pad=True, name='first_conv'),
                C.layers.Convolution2D((5, 5), 16, strides=(2, 2), pad=True, name='second_conv'),
                C.layers.Dense(10, activation=None, name='classify'),
            ]
        )(features)


def read(folder, part):
    """Returns images, float32 [samples, 1, 28, 28] from 0 to 255, and labels, one-hot [samples,
    10]."""
    images = read_idx(folder, part + '-images-idx3-ubyte', 0x803)
    labels = read_idx(folder, part + '-labels-idx1-ubyte', 0x801)
    return images[:, np.newaxis].astype(np.float32), np.eye(10, dtype=np.float32)[labels]


def read_idx(folder, name, magic):
    """Returns an IDX file of bytes as an array: a magic number, the sizes, the values,
    big-endian."""
    plain = os.path.join(folder, name)
    opened = open(plain, 'rb') if os.path.exists(plain) else gzip.open(plain + '.gz')
    with opened as file:
        content = file.read()
    if int.from_bytes(content[:4], 'big') != magic:
        raise ValueError(f'{plain} is no IDX file of MNIST: it begins with {content[:4]!r}')
    rank = magic & 0xFF
    shape = np.frombuffer(content, '>i4', count=rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--data', required=True, help='folder with the four MNIST files')
    parser.add_argument('--epochs', type=int, default=10, help='at least 5')
    parser.add_argument(
        '--logdir', default='runs/mnist', help='for TensorBoard and the saved models'
    )
    options = parser.parse_args()
    if options.epochs < 5:
        parser.error(
            '--epochs must be at least 5, for the optimizations come after 1/5 and 2/5 of them'
        )
    return options


if __name__ == '__main__':
    main()
