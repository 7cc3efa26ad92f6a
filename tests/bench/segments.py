"""What lowering in segments buys: a network shaped like BinaryNet for CIFAR, and four modules of
GoogLeNet, whose branches are spliced; batch 1 and 8, one thread.

`python -m tests.bench.segments [rounds]`, from the root of the checkout. In each round every way
runs once, in turn; the fastest of the rounds counts, and what is told is the ratio to CNTK's float
network in the same run. The first convolution and the last Dense stay float.

| column | what it is |
|---|---|
| float | CNTK, the network before it was binarized |
| alone | each binary layer a native op of its own (`convert_to_native_binary_convolution`) |
| segments | what `nc.Lower` gives |
| program | the `nc.native.Program` of the segment, without CNTK and what stays in CNTK |
"""
import os
import sys
import time
from collections import OrderedDict

for variable in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
    os.environ[variable] = '1'

import cntk as C
import numpy as np

import netopt_callbacks as nc
from netopt_callbacks.lowering import lower_binary_layers, lower_segments

BATCHES = (1, 8)


def binary_net(filters):
    """Returns the float network over an input of 3 x 32 x 32."""

    def convolution(factor, name, pool=False):
        layers = [
            C.layers.Convolution2D((3, 3), filters * factor, pad=True, bias=False, name=name),
            C.layers.BatchNormalization(map_rank=1),
            C.relu,
        ]
        return layers + [C.layers.MaxPooling((2, 2), (2, 2))] * pool

    def dense(name):
        return [C.layers.Dense(8 * filters, name=name), C.layers.BatchNormalization(), C.relu]

    x = C.input_variable((3, 32, 32))
    return C.layers.Sequential(
        convolution(1, 'first')
        + convolution(1, 'second', True)
        + convolution(2, 'third')
        + convolution(2, 'fourth', True)
        + convolution(4, 'fifth')
        + convolution(4, 'sixth', True)
        + dense('seventh')
        + dense('eighth')
        + [C.layers.Dense(10, name='last')]
    )(x)


def inception():
    """Returns the float network over an input of 3 x 32 x 32: modules 3a to 4b of GoogLeNet."""

    def layer(y, side, filters):
        y = C.layers.Convolution2D((side, side), filters, pad=True, bias=False)(y)
        return C.relu(C.layers.BatchNormalization(map_rank=1)(y))

    def module(y, one, reduce3, three, reduce5, five, pooled):
        return C.splice(
            layer(y, 1, one),
            layer(layer(y, 1, reduce3), 3, three),
            layer(layer(y, 1, reduce5), 5, five),
            layer(C.layers.MaxPooling((3, 3), 1, pad=True)(y), 1, pooled),
            axis=0,
        )

    x = C.input_variable((3, 32, 32))
    y = C.layers.Convolution2D((3, 3), 64, pad=True, bias=False, name='first')(x)
    y = C.relu(C.layers.BatchNormalization(map_rank=1)(y))
    y = module(module(y, 64, 96, 128, 16, 32, 32), 128, 128, 192, 32, 96, 64)
    y = C.layers.MaxPooling((3, 3), 2, pad=True)(y)
    y = module(module(y, 192, 96, 208, 16, 48, 64), 160, 112, 224, 24, 64, 64)
    return C.layers.Dense(10, name='last')(C.layers.GlobalAveragePooling()(y))


NETWORKS = OrderedDict([('BinaryNet', lambda: binary_net(128)), ('Inception', inception)])


def binarized(model, kept=('first', 'last')):
    """Returns the model with all convolutions and Dense binary but those of these names."""
    for kind in (nc.BinarizeConvolution, nc.BinarizeDense):
        if any(
            layer.op_name == kind.__name__[len('Binarize') :] and layer.name not in kept
            for layer in nc.graph.layers(model)
        ):
            optimization = kind(
                filter_function=lambda layer: layer.name not in kept, input_scale=None
            )
            model = optimization.transform(model).model
    return model


def fastest(ways, rounds):
    """Returns the least seconds of each way, which take turns."""
    least = [float('inf')] * len(ways)
    for _ in range(rounds):
        for index, way in enumerate(ways):
            start = time.perf_counter()
            way()
            least[index] = min(least[index], time.perf_counter() - start)
    return least


def main(rounds=50):
    """Prints a table for each network."""
    nc.native.set_num_threads(1)
    for name, network in NETWORKS.items():
        time_network(name, network(), rounds)


def time_network(name, model, rounds):
    """Prints the table."""
    binary = binarized(model)
    alone, lowering = lower_binary_layers(binary), lower_segments(binary)
    (part,) = lowering.segments
    program = part.program.program()
    random = np.random.RandomState(0)
    print(f'{name}, {program.implementation}, one thread, fastest of {rounds} rounds')
    print(
        '%5s %9s %9s %9s %9s   %s'
        % ('batch', 'float ms', 'alone', 'segments', 'program', 'times float')
    )
    for batch in BATCHES:
        images = random.standard_normal((batch, 3, 32, 32)).astype(np.float32)
        entry = random.standard_normal((batch,) + part.segment.entries[0].shape).astype(np.float32)
        out = program(entry)
        networks = [
            (network, {network.arguments[0]: images}) for network in (model, alone, lowering.model)
        ]
        assert np.allclose(
            networks[1][0].eval(networks[1][1]),
            networks[2][0].eval(networks[2][1]),
            rtol=1e-5,
            atol=1e-5,
        )
        ways = [lambda network=network, data=data: network.eval(data) for network, data in networks]
        times = fastest(ways + [lambda: program(entry, out=out)], rounds)
        print(
            '%5d %9.3f %9.3f %9.3f %9.3f   %s'
            % (
                (batch,)
                + tuple(1e3 * seconds for seconds in times)
                + (' '.join('%.1f' % (times[0] / seconds) for seconds in times[1:]),)
            )
        )


if __name__ == '__main__':
    main(*[int(argument) for argument in sys.argv[1:]])
