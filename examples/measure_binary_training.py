"""Times one training step of a float network, of netopt's binary network and of ours, bare and
calibrated.

    python examples/measure_binary_training.py

The networks read 28x28 images: three 3x3 convolutions of 64 filters with ReLU, and a Dense; the
second and third convolution are binarized. Steps of the networks are
interleaved; the table shows the median and the quartiles in milliseconds, and the median of the
processor time, which other processes of the machine disturb less.
"""
import argparse
import time

import cntk as C
import cntk.contrib.netopt.quantization as netopt
import numpy as np

import netopt_callbacks as nc
import netopt_callbacks.quantization as ours


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--steps', type=int, default=30)
    parser.add_argument('--minibatch', type=int, default=64)
    options = parser.parse_args()
    conversions = {
        'float': lambda model: model,
        'cntk.contrib.netopt': lambda model: netopt.convert_to_binary_convolution(model, not_first),
        'netopt_callbacks': lambda model: ours.convert_to_binary_convolution(model, not_first),
        'the same, calibrated': calibrated,
    }
    steps = {
        name: training_step(convert, options.minibatch) for name, convert in conversions.items()
    }
    milliseconds = {name: [] for name in steps}
    for index in range(options.steps + 3):
        for name, step in steps.items():
            start = np.array([time.perf_counter(), time.process_time()])
            step()
            if index >= 3:  # the first steps compile and allocate
                milliseconds[name].append(
                    1000 * (np.array([time.perf_counter(), time.process_time()]) - start)
                )
    for name, measured in milliseconds.items():
        (low, middle, high), processor = (
            np.percentile(measured, [25, 50, 75], axis=0).T[0],
            np.median(measured, 0)[1],
        )
        print(
            f'{name:<22} {middle:6.1f} ms ({low:.1f} to {high:.1f}), processor {processor:6.1f} ms'
        )


def not_first(block):
    return block.name != 'first'


def calibrated(model):
    """Returns the network as `nc.BinarizeConvolution` makes it by default: with shift, gain and
    offset."""
    optimization = nc.BinarizeConvolution(filter_function=not_first)
    optimization.prepare(
        model,
        [{model.arguments[0]: np.random.RandomState(1).rand(64, 1, 28, 28).astype(np.float32)}],
    )
    return optimization.transform(model).model


def training_step(convert, minibatch):
    """Returns a function that trains one minibatch of a converted network."""
    features, target = C.input_variable((1, 28, 28)), C.input_variable(10)
    model = convert(
        C.layers.Sequential(
            [
                C.layers.Convolution2D((3, 3), 64, pad=True, activation=C.relu, name=name)
                for name in ('first', 'second', 'third')
            ]
            + [C.layers.Dense(10)]
        )(features)
    )
    learner = C.sgd(model.parameters, C.learning_parameter_schedule(0.01))
    trainer = C.Trainer(model, C.cross_entropy_with_softmax(model, target), [learner])
    random = np.random.RandomState(0)
    data = {
        features: random.rand(minibatch, 1, 28, 28).astype(np.float32),
        target: np.eye(10, dtype=np.float32)[random.randint(0, 10, minibatch)],
    }
    return lambda: trainer.train_minibatch(data)


if __name__ == '__main__':
    main()
