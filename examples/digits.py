"""Trains a small convolutional network on handwritten digits, and optimizes it while it trains.

    make demo                       (or: .venv/bin/python examples/digits.py)
    tensorboard --logdir runs       to look at the recovery, during the run or after it

The network is that of the CNTK 103D tutorial, scaled to scikit-learn's 8x8 scans. The same script
trains it twice: without optimizations, only watched, which trains as CNTK alone does; and with
them, beside the first as its baseline. Every number of the report is measured in that run.
"""
import time

import netopt_callbacks as nc  # before cntk: it keeps CNTK from warning of newer systems
import cntk as C
import numpy as np
from netopt_callbacks.table import Table
from sklearn.datasets import load_digits

EPOCHS = 11
MINIBATCH = 32
TRAIN, HELD_OUT, TEST = slice(0, 1197), slice(1197, 1397), slice(1397, 1797)
TIMED_IMAGES, TIMED_ROUNDS = 100, 30


def main():
    images, labels = digits()
    samples = TRAIN.stop - TRAIN.start

    watched = dict(epoch_size=samples, data=(images[HELD_OUT], labels[HELD_OUT]))

    plain, _ = train(
        nc.training_session, images, labels, callbacks=[nc.TensorBoard('runs/plain')], **watched
    )

    optimized, session = train(
        nc.training_session,
        images,
        labels,
        baseline='runs/plain',
        callbacks=[
            nc.FactorDense(
                epoch=2, rank=0.25, filter_function=lambda layer: layer.name != 'classify'
            ),
            nc.BinarizeConvolution(
                epoch=4, filter_function=lambda layer: layer.name == 'second_conv', clip='calibrate'
            ),
            nc.Lower(),
            nc.TensorBoard('runs/digits'),
            nc.ProgressBar(),
        ],
        **watched,
    )
    result = session.result

    print(f'\n{result.summary()}\n')
    print_accuracy(
        {
            'plain script': plain,
            'optimized, in the trainer': optimized,
            'optimized, exported': result.model,
            'lowered': result.lowered,
        },
        images,
        labels,
    )
    print_speed(plain, result, images)
    print('The curves of both runs are in runs/: python -m tensorboard.main --logdir runs')


def digits():
    """Returns (images [1797, 1, 8, 8] in [0, 1], one-hot labels [1797, 10]), shuffled once for
    all."""
    data = load_digits()
    order = np.random.RandomState(0).permutation(len(data.target))
    images = (data.images[order, np.newaxis] / 16).astype(np.float32)
    return images, np.eye(10, dtype=np.float32)[data.target[order]]


def create_network(features):
    with C.layers.default_options(activation=C.relu, pad=True):
        return C.layers.Sequential(
            [
                C.layers.Convolution2D((3, 3), 32, name='first_conv'),
                C.layers.BatchNormalization(map_rank=1),
                C.layers.Convolution2D((3, 3), 128, strides=(2, 2), name='second_conv'),
                C.layers.BatchNormalization(map_rank=1),
                C.layers.Dense(128, name='hidden'),
                C.layers.Dense(10, activation=None, name='classify'),
            ]
        )(features)


def train(training_session, images, labels, **callbacks):
    """Trains a new network; returns it, and the session. This is an ordinary CNTK script."""
    C.cntk_py.set_fixed_random_seed(1)
    features = C.input_variable((1, 8, 8), name='features')
    label = C.input_variable(10, name='label')
    network = create_network(features)
    criterion = (
        C.cross_entropy_with_softmax(network, label),
        C.classification_error(network, label),
    )

    rate = C.learning_parameter_schedule(
        [(EPOCHS - 4, 0.1), (1, 0.02)], minibatch_size=MINIBATCH, epoch_size=TRAIN.stop
    )
    learner = C.momentum_sgd(network.parameters, rate, C.momentum_schedule(0.9))
    trainer = C.Trainer(network, criterion, [learner])
    source = C.io.MinibatchSourceFromData({'features': images[TRAIN], 'labels': labels[TRAIN]})

    session = training_session(
        trainer=trainer,
        mb_source=source,
        mb_size=MINIBATCH,
        model_inputs_to_streams={features: source.streams.features, label: source.streams.labels},
        max_samples=EPOCHS * TRAIN.stop,
        **callbacks,
    )
    session.train()
    return network, session


def print_accuracy(networks, images, labels):
    table = Table('network', 'test accuracy')
    for name, network in networks.items():
        right = np.argmax(network.eval(images[TEST]), axis=1) == np.argmax(labels[TEST], axis=1)
        table.row(name, '%.2f %%' % (100 * np.mean(right)))
    print(f'{table}\n({len(images[TEST])} images the training has not seen)\n')


def print_speed(plain, result, images):
    """Times both networks, and the binarized layer alone, on the same images, in turns."""
    threads = C.cntk_py.get_max_num_cputhreads()
    nc.native.set_num_threads(threads)
    batch = images[:TIMED_IMAGES]
    (second_conv,) = nc.graph.layers(plain, lambda layer: layer.name == 'second_conv')
    binary_weights = np.where(result.model.second_conv.W.value > 0, 1, -1).astype(np.float32)
    maps = C.combine([second_conv.input]).eval(batch)

    operand = C.input_variable(second_conv.input.shape)
    float_op = C.convolution(
        C.constant(binary_weights), operand, strides=(2, 2), auto_padding=[False, True, True]
    )
    # With stride 2 on 8 pixels CNTK's automatic padding is one before and none after.
    native_op = nc.native.BinaryConvolution(
        binary_weights, strides=(2, 2), padding=((1, 0), (1, 0))
    )
    signs = np.where(maps > 0, 1, -1).astype(np.float32)
    if not np.array_equal(float_op.eval(signs), native_op(maps)):
        raise RuntimeError(
            'the native op does not compute the convolution that it is timed against'
        )

    seconds = timed(
        {
            'float network': lambda: plain.eval(batch),
            'lowered network': lambda: result.lowered.eval(batch),
            'second_conv alone: CNTK float': lambda: float_op.eval(maps),
            'second_conv alone: native, 1 bit': lambda: native_op(maps),
        }
    )
    table = Table('microseconds per image', 'median', 'quartiles')
    for name, rounds in seconds.items():
        low, median, high = np.percentile(rounds, [25, 50, 75]) * 1e6 / TIMED_IMAGES
        table.row(name, f'{median:.2f}', f'{low:.2f} to {high:.2f}')
    print(
        '%s\n(%d rounds of %d images, in turns; %s, %d threads; native implementation: %s; %s)'
        % (
            table,
            TIMED_ROUNDS,
            TIMED_IMAGES,
            nc.native.cpu_name(),
            threads,
            nc.native.implementation(),
            time.strftime('%Y-%m-%d'),
        )
    )
    one = timed(
        {'float': lambda: plain.eval(batch[:1]), 'lowered': lambda: result.lowered.eval(batch[:1])}
    )
    print(
        '\nThe whole network: {}; {}'.format(
            compared(TIMED_IMAGES, seconds['float network'], seconds['lowered network']),
            compared(1, one['float'], one['lowered']),
        )
    )


def compared(images, float_seconds, lowered_seconds):
    """Returns in words how a call of the lowered network compares with one of the float network."""
    before, after = (np.median(seconds) * 1e3 for seconds in (float_seconds, lowered_seconds))
    return '%d at once %.2f ms float, %.2f ms lowered, %s' % (
        images,
        before,
        after,
        '%.1f x as fast' % (before / after)
        if round(after / before, 2) <= 1
        else 'SLOWER by a factor of %.2f' % (after / before),
    )


def timed(functions):
    """Returns {name: seconds of each round}, after one round of each that does not count."""
    seconds = {name: [] for name in functions}
    for _ in range(TIMED_ROUNDS + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - started)
    return {name: rounds[1:] for name, rounds in seconds.items()}


if __name__ == '__main__':
    main()
