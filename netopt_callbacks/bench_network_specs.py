"""The networks of `bench --networks`: ops and random weights, written down once for CNTK and for
its peers; NumPy only.

An op is a dict of numbers and names, ready for JSON: `op`, `input` (names of values), `output`, and
what it needs. The input is 'x', the output the last op's.
"""
from collections import OrderedDict

import numpy as np


class Network:
    """A network.

    Attributes:
        name (str): of the network.
        shape (tuple of int): [channels, height, width] of an image.
        ops (list of dict): in order.
        weights (dict of str to array): float32.
        float_layers (tuple of str): names of the convolutions and Dense that stay float; the others
            are made binary.
        shapes (dict of str to tuple): of every value.
    """

    def __init__(self, name, shape, float_layers, seed=0):
        self.name = name
        self.shape = shape
        self.ops = []
        self.weights = OrderedDict()
        self.float_layers = float_layers
        self.shapes = {'x': shape}
        self._random = np.random.RandomState(seed)
        self._last = 'x'

    def add(self, op, *inputs, **keys):
        """Adds an op that reads the last value, or `inputs`; returns the name of what it
        computes."""
        inputs = inputs or (self._last,)
        output = f'v{len(self.ops)}'
        described, shape = getattr(self, '_' + op)(
            self.shapes[inputs[0]], f'w{len(self.ops)}', **keys
        )
        self.ops.append(dict(described, op=op, input=list(inputs), output=output))
        self.shapes[output] = shape
        self._last = output
        return output

    def _convolution(self, shape, key, name, filters, kernel, stride=1, bias=False):
        fan_in = shape[0] * kernel * kernel
        self.weights[key] = self._normal((filters, shape[0], kernel, kernel), fan_in**-0.5)
        if bias:
            self.weights[key + 'b'] = self._normal((filters,), 0.1)
        padding, sizes = _automatic(shape, kernel, stride)
        return (
            dict(name=name, weights=key, bias=bias, kernel=kernel, stride=stride, padding=padding),
            (filters,) + sizes,
        )

    def _dense(self, shape, key, name, outputs):
        self.weights[key] = self._normal((int(np.prod(shape)), outputs), np.prod(shape) ** -0.5)
        self.weights[key + 'b'] = self._normal((outputs,), 0.1)
        return dict(name=name, weights=key, bias=True), (outputs,)

    def _normalize(self, shape, key):
        """BatchNormalization per channel, epsilon 1e-5."""
        self.weights[key + 'scale'] = 1 + self._normal(shape[:1], 0.1)
        self.weights[key + 'bias'] = self._normal(shape[:1], 0.1)
        self.weights[key + 'aggregate_mean'] = self._normal(shape[:1], 0.1)
        self.weights[key + 'aggregate_variance'] = 1 + np.abs(self._normal(shape[:1], 0.1))
        return dict(weights=key), shape

    def _max_pool(self, shape, key, kernel, stride, pad=False):
        if pad:
            padding, sizes = _automatic(shape, kernel, stride)
        else:
            padding, sizes = [[0, 0], [0, 0]], tuple(
                (side - kernel) // stride + 1 for side in shape[1:]
            )
        return dict(kernel=kernel, stride=stride, pad=pad, padding=padding), shape[:1] + sizes

    def _relu(self, shape, key):
        return {}, shape

    def _add(self, shape, key):
        return {}, shape

    def _global_average(self, shape, key):
        return {}, shape[:1] + (1, 1)

    def _normal(self, shape, scale):
        return (self._random.standard_normal(shape) * scale).astype(np.float32)


def _automatic(shape, kernel, stride):
    """CNTK's automatic padding and the sizes that come of it (see `convolution_geometry`)."""
    padding, sizes = [], []
    for side in shape[1:]:
        outputs = (side - 1) // stride + 1
        lower = (kernel - 1) // 2 - (side - 1 - (outputs - 1) * stride) // 2
        padding.append([lower, (outputs - 1) * stride + kernel - side - lower])
        sizes.append(outputs)
    return padding, tuple(sizes)


def binary_net(shape=(3, 32, 32), filters=128):
    """BinaryNet for CIFAR (arXiv:1602.02830): first convolution and last Dense float."""
    network = Network('BinaryNet-CIFAR', shape, ('first', 'last'))
    for name, factor, pool in (
        ('first', 1, False),
        ('second', 1, True),
        ('third', 2, False),
        ('fourth', 2, True),
        ('fifth', 4, False),
        ('sixth', 4, True),
    ):
        network.add('convolution', name=name, filters=factor * filters, kernel=3)
        network.add('normalize')
        network.add('relu')
        if pool:
            network.add('max_pool', kernel=2, stride=2)
    for name in ('seventh', 'eighth'):
        network.add('dense', name=name, outputs=8 * filters)
        network.add('normalize')
        network.add('relu')
    network.add('dense', name='last', outputs=10)
    return network


def resnet18(shape=(3, 224, 224), filters=64, classes=1000):
    """Shaped like ResNet-18 (arXiv:1512.03385): first convolution, the three 1x1 `down`
    convolutions and the Dense float."""
    network = Network('ResNet-18 shaped', shape, ('first', 'down', 'last'))
    network.add('convolution', name='first', filters=filters, kernel=7, stride=2)
    network.add('normalize')
    network.add('relu')
    value = network.add('max_pool', kernel=3, stride=2, pad=True)
    for stage in range(4):
        for block in range(2):
            value = _residual(network, value, filters << stage, 2 if stage and not block else 1)
    network.add('global_average')
    network.add('dense', name='last', outputs=classes)
    return network


def _residual(network, skip, filters, stride):
    network.add('convolution', skip, name='block', filters=filters, kernel=3, stride=stride)
    network.add('normalize')
    network.add('relu')
    network.add('convolution', name='block', filters=filters, kernel=3)
    value = network.add('normalize')
    if stride > 1:
        network.add('convolution', skip, name='down', filters=filters, kernel=1, stride=stride)
        skip = network.add('normalize')
    network.add('add', value, skip)
    return network.add('relu')


def cntk_103d(shape=(1, 28, 28)):
    """The network with pooling of the CNTK 103D tutorial, for MNIST: the second convolution
    binary, the others float."""
    network = Network('CNTK 103D', shape, ('first', 'last'))
    network.add('convolution', name='first', filters=8, kernel=5, bias=True)
    network.add('relu')
    network.add('max_pool', kernel=2, stride=2)
    network.add('convolution', name='second', filters=16, kernel=5, bias=True)
    network.add('relu')
    network.add('max_pool', kernel=3, stride=3)
    network.add('dense', name='last', outputs=10)
    return network


NETWORKS = OrderedDict([('binarynet', binary_net), ('resnet18', resnet18), ('103d', cntk_103d)])
