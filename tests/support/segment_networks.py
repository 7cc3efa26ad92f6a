"""Random small binarized networks of the layers that segments are made of, for the tests."""
import cntk as C
import numpy as np

import netopt_callbacks as nc
from binary_networks import images

SPECIAL = np.array([0, -0.0, 1.4e-45, -1e-40, np.inf, -np.inf, np.nan, 3e38, -3e38], np.float32)


def unsettle(model, random, odd=0.2):
    """Gives scale, bias and statistics values as trained ones have, and worse: negative and
    zero scales, no variance."""
    for leaf in list(model.parameters) + list(model.constants):
        if leaf.name in ('scale', 'bias', 'aggregate_mean', 'aggregate_variance', 'b'):
            values = random.standard_normal(leaf.shape) * {'aggregate_mean': 3}.get(leaf.name, 1.5)
            if leaf.name == 'aggregate_variance':
                values = np.abs(values) * 20
            if leaf.name in ('scale', 'aggregate_variance', 'bias'):
                values = np.where(random.random_sample(leaf.shape) < odd, 0, values)
            leaf.value = values.astype(np.float32)


def binarized(model, data=None, keep=('float',), **options):
    """Returns the model with all convolutions and Dense binary but those named in `keep`."""
    for kind in (nc.BinarizeConvolution, nc.BinarizeDense):
        if any(
            layer.op_name == kind.__name__[len('Binarize') :] and layer.name not in keep
            for layer in nc.graph.layers(model)
        ):
            optimization = kind(filter_function=lambda layer: layer.name not in keep, **options)
            optimization.prepare(model, [] if data is None else [{model.arguments[0]: data}])
            model = optimization.transform(model).model
    return model


def activation(random):
    """Returns a random function of a feature map or vector, per channel; with what it computes
    in words."""

    def per_channel(x, scale):
        values = random.standard_normal(x.shape[0]) * scale
        return C.constant(values.astype(np.float32).reshape((-1,) + (1,) * (len(x.shape) - 1)))

    return [
        lambda x: C.layers.BatchNormalization(map_rank=1)(x),
        lambda x: C.relu(x),
        lambda x: x * per_channel(x, 2),
        lambda x: x + per_channel(x, 5),
        lambda x: per_channel(x, 5) - x,
        lambda x: C.leaky_relu(x),
        lambda x: C.param_relu(
            C.constant(
                np.abs(random.standard_normal((x.shape[0],) + (1,) * (len(x.shape) - 1))).astype(
                    np.float32
                )
            ),
            x,
        ),
        lambda x: C.clip(x, -1.5, 2),
        lambda x: C.layers.Dropout(0.3)(x),
    ][random.randint(9)]


def pooling(random, x):
    """Returns a random pooling of a feature map."""
    side = int(random.randint(1, 4))
    if min(x.shape[1:]) < side:
        return x
    make = C.layers.MaxPooling if random.random_sample() < 0.8 else C.layers.AveragePooling
    return make((side, side), int(random.randint(1, 3)), pad=bool(random.randint(2)))(x)


def random_network(seed, layers=4, make_input=C.input_variable):
    """Returns (input, model): binary layers with what may stand between them; the last Dense is
    float."""
    random = np.random.RandomState(seed)
    channels = [1, 3, 31, 64, 65][seed % 5]
    x = make_input((channels,) + tuple(int(side) for side in random.randint(3, 9, 2)))
    y = x
    for number in range(layers):
        skip = y
        if len(y.shape) == 3 and (number < layers - 1 or random.randint(2)):
            filters = int(random.choice([1, 3, 16, 33, 64, y.shape[0]]))
            side = min(int(random.choice([1, 3, 3, 5, 2])), *y.shape[1:])
            y = C.layers.Convolution2D(
                (side, side),
                filters,
                pad=True,
                strides=int(random.choice([1, 1, 2])),
                bias=bool(random.randint(2)),
                name=f'layer{number}',
            )(y)
        else:
            y = C.layers.Dense(
                int(random.choice([1, 5, 33, 64])),
                bias=bool(random.randint(2)),
                name=f'layer{number}',
            )(y)
        for _ in range(random.randint(4)):
            y = activation(random)(y)
        if len(y.shape) == 3 and random.randint(2):
            y = pooling(random, y)
        for _ in range(random.randint(3)):
            y = activation(random)(y)
        if skip.shape == y.shape and random.randint(2):
            y = activation(random)(skip) + y
        elif len(y.shape) == 3 and skip.shape[1:] == y.shape[1:] and random.randint(2):
            y = C.splice(activation(random)(skip), y, y, axis=0)
    model = C.layers.Dense(3, name='float')(y)
    unsettle(model, random)
    return x, model


def random_graph(seed, steps=9, make_input=C.input_variable):
    """Returns (inputs, model): feature maps of one size, each computed from one or two that are
    there already, some by what no program does; the outputs are those that nothing reads, and one
    more."""
    random = np.random.RandomState(seed)
    size = tuple(int(side) for side in random.randint(3, 7, 2))
    inputs = [
        make_input((channels,) + size, name=f'input{number}')
        for number, channels in enumerate([[3, 5], [31], [4, 64], [65]][seed % 4])
    ]
    maps, unread = list(inputs), list(inputs)
    for number in range(steps):
        y = maps[random.randint(max(0, len(maps) - 4), len(maps))]
        read = [y]
        chosen = random.random_sample()
        if chosen < 0.45:
            filters, side = int(random.choice([1, 16, 33])), int(random.choice([1, 3]))
            z = C.layers.Convolution2D((side, side), filters, pad=True, name=f'layer{number}')(y)
        elif chosen < 0.6:
            z = activation(random)(y)
        elif chosen < 0.75:
            z = [C.sin, C.abs][random.randint(2)](y)
        else:
            other = maps[random.randint(len(maps))]
            read.append(other)
            if other.shape == y.shape and other.uid != y.uid:
                z = y + other
            else:
                z = C.splice(y, other, axis=0)
        maps.append(z)
        unread = [each for each in unread if all(each.uid != one.uid for one in read)] + [z]
    y = C.layers.Convolution2D((3, 3), 8, pad=True, name='last')(maps[-1])
    outputs = [each for each in unread[:-1] if each.is_output or each in maps[len(inputs) :]]
    model = C.combine([y] + outputs + [maps[random.randint(len(inputs), len(maps))]])
    unsettle(model, random)
    return inputs, model


def values_of(variable, samples, random, special=0.02):
    """Returns float32 [samples, ...shape], NaN, infinities and subnormals among them."""
    values = (random.standard_normal((samples,) + variable.shape) * 3).astype(np.float32)
    chosen = random.random_sample(values.shape) < special
    values[chosen] = SPECIAL[random.randint(len(SPECIAL), size=int(chosen.sum()))]
    return values


def residual_network(channels, filters):
    """Returns (input, trained): two residual blocks, 'block', around float layers: the first
    convolution and the last Dense, 'float', and a 1x1 shortcut with stride, 'down'."""
    x = C.input_variable((channels, 8, 8))

    def block(y, filters, stride):
        z = C.layers.Convolution2D(
            (3, 3), filters, pad=True, strides=stride, bias=False, name='block'
        )(y)
        z = C.layers.BatchNormalization(map_rank=1)(z)
        if stride > 1:
            y = C.layers.Convolution2D((1, 1), filters, strides=stride, bias=False, name='down')(y)
        return C.relu(z + y)

    y = C.layers.Convolution2D((3, 3), filters, pad=True, name='float')(x)
    model = C.layers.Dense(3, name='float')(
        C.layers.GlobalAveragePooling()(block(block(y, filters, 1), 2 * filters, 2))
    )
    unsettle(model, np.random.RandomState(1))
    return x, binarized(model, images(x.shape, 20), keep=('float', 'down'))
