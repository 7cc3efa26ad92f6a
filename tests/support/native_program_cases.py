"""Random ops and programs for the tests of nc.native.Program: one row of ROWS per op, in this
one table."""
import numpy as np

F = np.float32
INFINITY, TINY = F(np.inf), F(1.4e-45)
CHANNELS = (1, 3, 31, 63, 64, 65, 17, 130)


def special(random, shape, share=0.05):
    """float32 with zeros of both signs, subnormals, infinities and NaN among them."""
    x = (random.randn(*shape) * 10.0 ** random.uniform(-1, 1)).astype(F)
    values = np.array(
        [0, -0.0, TINY, -TINY, 1e-40, -1e-40, np.inf, -np.inf, np.nan, 3.4e38, -3.4e38], F
    )
    chosen = random.rand(*shape) < share
    x[chosen] = values[random.randint(len(values), size=int(chosen.sum()))]
    return x


def vector(random, channels, scale=1.0):
    """Per channel or one for all; negative ones and zeros among them."""
    if random.rand() < 0.1:
        return float(F(random.randn() * scale))
    values = (random.randn(channels) * scale).astype(F)
    values[random.rand(channels) < 0.1] = random.choice([0, -0.0, TINY, 1e-39])
    return values


def bits_keys(random, channels, scale=1.0):
    """How bits are compared: thresholds with directions, or ranges with infinite and empty ones."""
    if random.rand() < 0.5:
        keys = dict(threshold=vector(random, channels, scale))
        if random.rand() < 0.7:
            keys['decreasing'] = random.rand(channels) < 0.5
        return keys
    low = np.where(random.rand(channels) < 0.4, -INFINITY, random.randn(channels) * scale).astype(F)
    high = np.where(
        random.rand(channels) < 0.4, INFINITY, low + np.abs(random.randn(channels) * scale)
    ).astype(F)
    high[np.isneginf(low) & np.isnan(high)] = INFINITY
    high[random.rand(channels) < 0.1] = -INFINITY
    low, high = np.where(np.isnan(low), F(0), low), np.where(np.isnan(high), F(0), high)
    keys = dict(low=low, high=high)
    if random.rand() < 0.5:
        keys['flip'] = random.rand(channels) < 0.5
    return keys


class Builder:
    """A program under construction: ops, and the kind and shape of every value."""

    def __init__(self, random, shape, other=None):
        self.random, self.ops = random, []
        self.shapes = {'x': shape}  # float values: (channels, height, width)
        self.bits = {}
        if other is not None:
            self.shapes['other'] = other
        self.inputs = dict(self.shapes)

    def name(self, letter):
        return f'{letter}{len(self.ops)}'

    def any_of(self, shapes):
        return sorted(shapes)[self.random.randint(len(shapes))]

    def add(self, op, shape):
        for key, shapes in (('values', self.shapes), ('bits', self.bits)):
            if op.get(key):
                shapes[op[key]] = shape
        self.ops.append(op)

    def random_bits(self):
        if not self.bits or self.random.rand() < 0.15:
            ROWS['pack'](self)
        return self.any_of(self.bits)

    def ending(self, shape, scale):
        """Keys of an ending for values of this shape."""
        random, channels = self.random, shape[0]
        steps = []
        for _ in range(random.randint(0, 6)):
            name = random.choice(
                [
                    'multiply',
                    'add',
                    'normalize',
                    'normalize_apart',
                    'relu',
                    'relu_halves',
                    'relu_fused',
                    'leaky',
                    'clip',
                    'add_value',
                    'multiply_value',
                ]
            )
            if name in ('add_value', 'multiply_value'):
                fitting = [
                    other
                    for other, s in self.shapes.items()
                    if s[0] in (1, channels) and (s[1:] == shape[1:] or s[1:] == (1, 1))
                ]
                if fitting:
                    steps.append((name, sorted(fitting)[random.randint(len(fitting))]))
            elif name.startswith('normalize'):
                steps.append(
                    (
                        name,
                        vector(random, channels, scale),
                        vector(random, channels),
                        vector(random, channels),
                    )
                )
            elif name == 'clip':
                steps.append((name, -abs(float(F(random.randn()))), abs(vector(random, channels))))
            elif name in ('relu', 'relu_halves', 'relu_fused'):
                steps.append((name,))
            else:
                steps.append((name, vector(random, channels, 0.3 if name != 'add' else scale)))
        keys = dict(steps=steps)
        kind = random.randint(3)
        if kind != 0:
            keys.update(bits=self.name('b'), **bits_keys(random, channels, scale))
        if kind != 1:
            keys['values'] = self.name('v')
        return keys

    def sums_or_ending(self, shape, length):
        random = self.random
        if random.rand() < 0.5:
            return self.ending(shape, max(1.0, length**0.5))
        threshold = (random.randn(shape[0]) * max(1.0, length**0.5)).astype(np.int64)
        threshold[random.rand(shape[0]) < 0.1] = random.choice(
            [-(2**31), 2**31 - 1, -length - 1, length, 0]
        )
        keys = dict(sum_threshold=threshold, bits=self.name('b'))
        if random.rand() < 0.7:
            keys['sum_decreasing'] = random.rand(shape[0]) < 0.5
        return keys


def pack(b):
    name = b.any_of(b.shapes)
    shape = b.shapes[name]
    b.add(dict(op='pack', input=name, bits=b.name('b'), **bits_keys(b.random, shape[0])), shape)


def map_(b):
    name = b.any_of(b.shapes)
    shape = b.shapes[name]
    b.add(dict(op='map', input=name, **b.ending(shape, 1.0)), shape)


def geometry(random, channels, height, width):
    """groups, filters, kernel and the keys of a convolution's geometry, and the size of its
    result."""
    groups = [g for g in (1, 1, 1, 2, 3, 5, channels) if channels % g == 0]
    groups = groups[random.randint(len(groups))]
    filters = groups * int(
        random.choice([1, 2, 7] if groups > 5 else [1, 5, 16, 17, 31, 32, 33, 64, 70])
    )
    strides, dilation = tuple(random.randint(1, 3, 2)), tuple(random.randint(1, 3, 2))
    padding = tuple(tuple(random.randint(0, 3, 2)) for _ in range(2))
    kernel = [int(random.randint(1, 4)) for _ in range(2)]
    sizes = []
    for axis, size in enumerate((height, width)):
        while (kernel[axis] - 1) * dilation[axis] + 1 > size + sum(padding[axis]):
            kernel[axis] -= 1
        sizes.append(
            int(
                (size + sum(padding[axis]) - (kernel[axis] - 1) * dilation[axis] - 1)
                // strides[axis]
                + 1
            )
        )
    return (
        groups,
        filters,
        kernel,
        dict(strides=strides, dilation=dilation, padding=padding, groups=groups),
        tuple(sizes),
    )


def convolution(b):
    random, name = b.random, b.random_bits()
    channels = b.bits[name][0]
    groups, filters, kernel, keys, sizes = geometry(random, *b.bits[name])
    weights = random.randn(filters, channels // groups, *kernel).astype(F)
    weights[random.rand(*weights.shape) < 0.05] = 0
    shape = (filters,) + sizes
    b.add(
        dict(
            op='convolution',
            input=name,
            weights=weights,
            **dict(keys, **b.sums_or_ending(shape, channels // groups * kernel[0] * kernel[1])),
        ),
        shape,
    )


def dense(b):
    name = b.random_bits()
    image = b.bits[name]
    length, filters = int(np.prod(image)), int(b.random.choice([1, 10, 33, 64, 150]))
    weights = b.random.randn(length, filters).astype(F)
    b.add(
        dict(
            op='dense',
            input=name,
            weights=weights,
            image=image,
            **b.sums_or_ending((filters, 1, 1), length),
        ),
        (filters, 1, 1),
    )


def small_values(b):
    """The oracle adds one product after another: float values of at most 500 elements, averaged
    where there are none."""
    small = {name: shape for name, shape in b.shapes.items() if np.prod(shape) <= 500}
    if not small:
        b.add(
            dict(op='average_pool', input='x', values=b.name('v'), kernel=(0, 0)),
            (b.shapes['x'][0], 1, 1),
        )
        return b.ops[-1]['values']
    return b.any_of(small)


def float_convolution(b):
    random, name = b.random, small_values(b)
    channels = b.shapes[name][0]
    groups, filters, kernel, keys, sizes = geometry(random, *b.shapes[name])
    weights = special(random, (filters, channels // groups) + tuple(kernel), 0.02)
    weights[~np.isfinite(weights)] = 0  # a padded tap is 0 times the weight
    shape = (filters,) + sizes
    b.add(
        dict(
            op='float_convolution',
            input=name,
            weights=weights,
            **dict(keys, **order(random, weights, keys), **b.ending(shape, 1.0)),
        ),
        shape,
    )


def order(random, weights, keys):
    """In which order the sums of a float convolution are taken."""
    sides = {-(-size // stride) for size, stride in zip(weights.shape[2:], keys['strides'])}
    by_tiles = sides in ({3}, {4}, {5}) and keys['groups'] == 1 and keys['dilation'] == (1, 1)
    if by_tiles and random.rand() < 0.5:
        return dict(order='winograd')
    chosen = str(random.choice(['', 'taps', 'channels', 'rest_first']))
    if not chosen:
        return {}
    most = weights.shape[1] if chosen == 'taps' else int(np.prod(weights.shape[1:]))
    block = int(random.choice([0, 1, most // 2, min(16, most), most]))
    return dict(order=chosen, block=block, rounded=bool(random.rand() < 0.5))


def float_dense(b):
    name = small_values(b)
    image = b.shapes[name]
    filters = int(b.random.choice([1, 10, 33, 64, 150]))
    b.add(
        dict(
            op='float_dense',
            input=name,
            weights=special(b.random, (int(np.prod(image)), filters), 0.02),
            image=image,
            **b.ending((filters, 1, 1), 1.0),
        ),
        (filters, 1, 1),
    )


def window(random, shape):
    """kernel, strides and padding of a pooling, and the shape of its result."""
    if random.rand() < 0.2:
        return dict(kernel=(0, 0)), (shape[0], 1, 1)
    kernel = [int(random.randint(1, 1 + min(3, size))) for size in shape[1:]]
    padding = [tuple(int(p) for p in random.randint(0, k, 2)) for k in kernel]
    strides = tuple(int(s) for s in random.randint(1, 4, 2))
    sizes = []
    for axis in range(2):

        def outputs():
            return (shape[1 + axis] + sum(padding[axis]) - kernel[axis]) // strides[axis] + 1

        if (outputs() - 1) * strides[axis] - padding[axis][0] >= shape[
            1 + axis
        ]:  # a window that reads nothing
            padding[axis] = (padding[axis][0], 0)
        sizes.append(outputs())
    return dict(kernel=tuple(kernel), strides=strides, padding=tuple(padding)), (shape[0],) + tuple(
        sizes
    )


def or_pool(b):
    name = b.random_bits()
    keys, shape = window(b.random, b.bits[name])
    b.add(dict(op='or_pool', input=name, bits=b.name('b'), **keys), shape)


def pool(op):
    def row(b):
        name = b.any_of(b.shapes)
        keys, shape = window(b.random, b.shapes[name])
        b.add(dict(op=op, input=name, values=b.name('v'), **keys), shape)

    return row


def mean_abs(b):
    name = b.any_of(b.shapes)
    b.add(dict(op='mean_abs', input=name, values=b.name('v')), (1, 1, 1))


def reshape(b):
    name = b.any_of(b.shapes)
    channels, height, width = b.shapes[name]
    shape = [(-1,), (height, width, channels), (-1, channels, 1), (channels * height, 1, width)][
        b.random.randint(4)
    ]
    size = channels * height * width
    known = int(np.prod([length for length in shape if length > 0]))
    full = tuple(size // known if length < 0 else length for length in shape)
    b.add(
        dict(op='reshape', input=name, values=b.name('v'), shape=shape),
        full + (1, 1) if len(full) == 1 else full,
    )


def splice(b):
    names = [b.any_of(b.shapes)]
    alike = [name for name in b.shapes if b.shapes[name][1:] == b.shapes[names[0]][1:]]
    names += [str(b.random.choice(alike)) for _ in range(b.random.randint(4))]
    b.add(
        dict(op='splice', input=names[0], others=names[1:], values=b.name('v')),
        (sum(b.shapes[name][0] for name in names),) + b.shapes[names[0]][1:],
    )


def unpack(b):
    name = b.random_bits()
    b.add(dict(op='unpack', input=name, values=b.name('v')), b.bits[name])


ROWS = dict(
    pack=pack,
    map=map_,
    convolution=convolution,
    dense=dense,
    float_convolution=float_convolution,
    float_dense=float_dense,
    or_pool=or_pool,
    max_pool=pool('max_pool'),
    average_pool=pool('average_pool'),
    mean_abs=mean_abs,
    reshape=reshape,
    splice=splice,
    unpack=unpack,
)


def random_program(random, ops, size=None, first=None):
    """A Builder with about `ops` random ops, `first` first; every value is reached from the
    inputs."""
    channels = int(random.choice(CHANNELS))
    shape = (channels,) + (size or tuple(int(s) for s in random.randint(1, 10, 2)))
    other = [None, (channels, 1, 1), (1,) + shape[1:], shape][random.randint(4)]
    builder = Builder(random, shape, other)
    if first:
        ROWS[first](builder)
    while len(builder.ops) < ops:
        ROWS[sorted(ROWS)[random.randint(len(ROWS))]](builder)
    return builder
