"""Replacing every convolution of a residual network: `graph.replace` against `cntk.misc.convert`; a
deep network.

`python -m tests.bench.graph [repetitions]`, from the root of the checkout. Both replace each
convolution by the same new block; times are medians with the spread of the repetitions, in
seconds, in one process. In a deep network two Dense layers are replaced, and all are found and
counted: the time goes up with the number of layers, not with its square.
"""
import sys
import time

import cntk as C
import cntk.misc
import numpy as np

from netopt_callbacks import count, graph, native

SIZES = (10, 30, 100)
DEEP = (100, 400, 1500)


def residual_network(convolutions):
    """Returns a network of pairs of 3x3 convolutions with skip links, and its input."""
    x = C.input_variable((4, 6, 6), name='x')
    h = x
    for index in range(convolutions // 2):
        inner = convolution(f'a{index}', C.relu)(h)
        h = C.relu(convolution(f'b{index}', None)(inner) + h)
    return h


def convolution(name, activation):
    return C.layers.Convolution2D((3, 3), 4, pad=True, activation=activation, name=name)


def new_block(W, b, activated):
    """Returns an unapplied block that computes what a convolution of the network does."""
    data = C.placeholder()
    result = C.convolution(W, data, auto_padding=[False, True, True]) + b
    outer = C.placeholder()
    return C.as_block(C.relu(result) if activated else result, [(data, outer)], 'New', '')


def with_replace(model):
    return graph.replace(
        model,
        {
            layer: new_block(layer.W, layer.b, layer.name.startswith('a'))
            for layer in graph.layers(model, op_name='Convolution')
        },
    )


def with_convert(model):
    return cntk.misc.convert(
        model,
        lambda f: type(f) == C.Function and f.is_block and f.op_name == 'Convolution',
        lambda f: new_block(f.W, f.b, f.name.startswith('a'))(f.inputs[-1]),
    )


def deep_network(layers):
    """Returns a chain of Dense layers, without and with a block in turns."""
    h = C.input_variable(8)
    for index in range(layers):
        name = f'layer{index}'
        h = (
            C.layers.Dense(8, activation=C.relu, name=name)(h)
            if index % 2
            else C.relu(
                C.plus(
                    C.times(h, C.parameter((8, 8), init=C.glorot_uniform())),
                    C.parameter(8),
                    name=name,
                )
            )
        )
    return h


def two_replaced(model):
    """Replaces two layers of a deep network by new ones."""
    taken = graph.layers(model, lambda layer: layer.name in ('layer2', 'layer3'))
    return graph.replace(model, {layer: C.layers.Dense(8) for layer in taken})


def seconds(function, model, repetitions):
    """Returns the times of some calls, fastest first."""
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function(model)
        times.append(time.perf_counter() - start)
    return sorted(times)


def agrees(model, new):
    """Tells whether `new` computes what `model` does, with every convolution replaced."""
    data = np.random.RandomState(0).randn(2, 4, 6, 6).astype('f')
    replaced = sum(function.op_name == 'New' for function in graph.walk(new))
    return np.array_equal(model.eval(data), new.eval(data)) and replaced == len(
        graph.layers(model, op_name='Convolution')
    )


def main(repetitions=5, sizes=SIZES, deep=DEEP):
    """Prints one row per size and function; returns {(size, name): median seconds}."""
    medians = {}
    print('{}, {}, CNTK {}'.format(native.cpu_name(), time.strftime('%Y-%m-%d'), C.__version__))
    print(
        '%-12s %-18s %9s %9s %9s %9s'
        % ('convolutions', 'function', 'median', 'fastest', 'slowest', 'correct')
    )
    for size in sizes:
        model = residual_network(size)
        for name, function in (
            ('graph.replace', with_replace),
            ('cntk.misc.convert', with_convert),
        ):
            correct = agrees(model, function(model))
            times = seconds(function, model, repetitions)
            medians[size, name] = times[len(times) // 2]
            print(
                '%-12d %-18s %9.3f %9.3f %9.3f %9s'
                % (size, name, medians[size, name], times[0], times[-1], correct)
            )
    print('%-12s %-18s %9s %9s %9s' % ('layers', 'function', 'median', 'fastest', 'slowest'))
    for size in deep:
        model = deep_network(size)
        for name, function in (
            ('graph.layers', graph.layers),
            ('two replaced', two_replaced),
            ('count.whole', count.whole),
        ):
            times = seconds(function, model, repetitions)
            medians[size, name] = times[len(times) // 2]
            print(
                '%-12d %-18s %9.3f %9.3f %9.3f'
                % (size, name, medians[size, name], times[0], times[-1])
            )
    return medians


if __name__ == '__main__':
    main(*[int(argument) for argument in sys.argv[1:]])
