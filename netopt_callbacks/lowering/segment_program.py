"""The program of a segment: ops in the order of its nodes, thresholds and factors as CNTK has
them."""
import numpy as np

from ..native_program import MOST_STEPS, Program
from ..optimizations.binary_kinds import DENSE
from . import layer_ops, read_off
from .nodes import FUNCTIONS, Unsupported

# What an op does after its sum.
_ENDING = ('values', 'bits', 'steps', 'threshold', 'decreasing', 'low', 'high', 'flip')
_WITH_BITS = ('convolution', 'dense', 'float_convolution', 'float_dense', 'map')


class Floats:
    """A float value: of an op that may not be in the program yet, as steps can still be added to
    it.

    Attributes:
        op (dict): what computes it; None for what the segment reads.
        name (str): in the program, of what the segment reads.
        emitted (bool): whether the op is in the program.
    """

    def __init__(self, op=None, name=None):
        self.op = op
        self.name = name
        self.emitted = op is None


class Bits:
    """A value of bits.

    Attributes:
        name (str): in the program.
        shape (tuple of int): [channels, height, width] or [channels].
        inverted (array): bool [channels], whose bits are the opposites of the signs; None for none.
    """

    def __init__(self, name, shape, inverted=None):
        self.name = name
        self.shape = shape
        self.inverted = inverted if inverted is not None and inverted.any() else None


class SegmentProgram:
    """Writes the program of a segment.

    Args:
        segment (Segment): of a trained graph.

    Attributes:
        ops (list of dict), inputs (dict), outputs (list of str): as `nc.native.Program` takes them,
            for the segment's entries and exits, in order.
        sums (dict of str to dict): by the uid of a layer's integers an op that computes them as
            values, for the parity gate.
        bits (dict of str to Bits): by the same, which bits that layer reads.
        products (list of (Node, dict)): float layers of which native code does not give CNTK's
            bits, each with the op that computes it and what follows it.
        same_floats (list of Node): the other float layers.
        decisions (list of (str, str)): per sign, what it is the sign of: 'integers', 'values' or
            'steps'.

    Raises:
        Unsupported: names the node that no program can do exactly.
    """

    def __init__(self, segment):
        self.segment = segment
        self.inputs = {f'x{number}': value.image for number, value in enumerate(segment.entries)}
        self.ops = []
        self.sums = {}
        self.bits = {}
        self.products = []
        self.same_floats = []
        self.decisions = []
        self._names = 0
        self._known = {
            id(value): Floats(name=name) for name, value in zip(self.inputs, segment.entries)
        }
        self._entries = set(self._known)
        self._paths = {id(node): self._path(node) for node in segment.nodes if node.kind == 'sign'}
        absorbed = {id(node) for path, _ in self._paths.values() for node in path}
        for node in segment.nodes:
            if id(node) not in absorbed:
                self._add(node)
        self.outputs = [self._handed_on(value) for value in segment.exits]

    def program(self, implementation=None):
        """Returns the Program."""
        return Program(self.ops, self.inputs, self.outputs, implementation)

    def program_with_sums(self):
        """Returns a Program of which the outputs are the integers of the segment's layers, in
        order."""
        names, ops = self._sums()
        return Program(self.ops + ops, self.inputs, names)

    def _sums(self):
        uids = [node.output.uid for node in self.segment.nodes if node.kind == 'product']
        names = [f'sums {number}' for number in range(len(uids))]
        return names, [dict(self.sums[uid], values=name) for uid, name in zip(uids, names)]

    # For the gate, where float layers have other bits than CNTK's

    def program_with_products(self):
        """Returns a Program that reads the entries and, in order, the sums of `products`: all else
        is exact.

        Its outputs are those of the segment and the integers of its layers.
        """
        inputs, fed = dict(self.inputs), {}
        for number, (node, op) in enumerate(self.products):
            name = f'product {number}'
            inputs[name] = node.output.image
            fed[id(op)] = dict({key: op[key] for key in _ENDING if key in op}, op='map', input=name)
        names, ops = self._sums()
        return Program([fed.get(id(op), op) for op in self.ops] + ops, inputs, self.outputs + names)

    def program_of_product(self, number):
        """Returns a Program of one float layer alone, without what follows it."""
        node, op = self.products[number]
        bare = {key: value for key, value in op.items() if key not in _ENDING}
        return Program(
            [dict(bare, input='x', values='y', steps=[])], {'x': node.inputs[0].image}, ['y']
        )

    def program_with_bits(self):
        """Returns a Program of which the outputs are +1 and -1 as the segment's layers read
        them, in order."""
        known = [
            self.bits[node.output.uid] for node in self.segment.nodes if node.kind == 'product'
        ]
        ops = []
        for number, bits in enumerate(known):
            ops.append(dict(op='unpack', input=bits.name, values=f'read {number}'))
            turned = (
                np.ones(bits.shape[0], np.float32)
                if bits.inverted is None
                else np.where(bits.inverted, -1, 1)
            )
            ops.append(
                dict(
                    op='map',
                    input=f'read {number}',
                    values=f'signs {number}',
                    steps=[('multiply', turned.astype(np.float32))],
                )
            )
        return Program(
            self.ops + ops, self.inputs, [f'signs {number}' for number in range(len(known))]
        )

    # What is computed before a sign

    def _path(self, sign):
        """Returns (nodes, Value): the chain that only this sign reads, and what the chain reads."""
        path, value = [], sign.inputs[0]
        while self._inside(value) and len(value.readers) == 1:
            node = value.producer
            if node.kind not in ('map', 'identity', 'max_pool') or len(node.inputs) != 1:
                break
            path.insert(0, node)
            value = node.inputs[0]
        if not self._is_lone_product(value):
            # Of floats no pooling is done on bits: all there are cannot be tried.
            pools = [place for place, node in enumerate(path) if node.kind == 'max_pool']
            if pools:
                value = path[pools[-1]].output
                path = path[pools[-1] + 1 :]
        return path, value

    def _inside(self, value):
        return id(value) not in self._entries

    def _is_lone_product(self, value):
        return self._inside(value) and value.producer.kind == 'product' and len(value.readers) == 1

    # Nodes

    def _add(self, node):
        self._known[id(node.output)] = getattr(self, '_' + node.kind)(node)

    def _identity(self, node):
        value = node.inputs[0]
        known = self._known[id(value)]
        if isinstance(known, Floats) and len(value.readers) > 1:
            self._stored(known)  # so that no steps behind this node become part of it
        return known

    def _map(self, node):
        steps = read_off.steps_of(node)
        return self._with_steps(node.inputs[0], steps)

    def _join(self, node):
        one, other = node.inputs
        if self._floats(one).emitted and not self._floats(other).emitted:
            one, other = other, one
        if one.shape != node.output.shape:
            one, other = other, one
        if one.shape != node.output.shape or other.shape not in (
            one.shape,
            (one.channels, 1, 1),
            (),
        ):
            raise Unsupported(
                node,
                f'{node.op_name} of shapes {one.shape} and {other.shape} is not one of programs',
            )
        name = self._stored(self._floats(other))
        return self._with_steps(
            one, [('add_value' if node.op_name == 'Plus' else 'multiply_value', name)]
        )

    def _magnitude(self, node):
        if node.output in self.segment.exits or any(
            reader.kind != 'mean_abs' for reader in node.output.readers
        ):
            raise Unsupported(node, 'Abs is supported in programs only if its mean is taken')
        return self._known[id(node.inputs[0])]

    def _mean_abs(self, node):
        if not self._inside(node.inputs[0]):
            raise Unsupported(node, 'the magnitudes that it is the mean of are outside')
        value = node.inputs[0].producer.inputs[0]
        layer_ops.refuse_any_size(node, value)
        if not read_off.is_mean_of_magnitudes(node, value):
            raise Unsupported(node, 'native code does not give the bits of its ReduceElements')
        return self._emitted(dict(op='mean_abs', input=self._stored(self._floats(value))))

    def _max_pool(self, node):
        return self._pool(node)

    def _average_pool(self, node):
        layer_ops.refuse_any_size(node, node.inputs[0])
        return self._pool(node)

    def _pool(self, node):
        source = self._stored(self._floats(node.inputs[0]))
        return self._emitted(dict(op=node.kind, input=source, **layer_ops.pooling(node)))

    def _reshape(self, node):
        read, shape = node.inputs[0], node.output.shape
        layer_ops.refuse_any_size(node, read)
        if len(shape) not in (1, 3):
            raise Unsupported(
                node, f'a reshape of {read.shape} to {shape} is not supported in programs'
            )
        known = self._known[id(read)]
        if isinstance(known, Bits) and len(shape) == 1:
            return Bits(known.name, known.shape, known.inverted)
        return self._emitted(
            dict(op='reshape', input=self._stored(self._floats(read)), shape=shape)
        )

    def _splice(self, node):
        first, *others = [self._stored(self._floats(value)) for value in node.inputs]
        return self._emitted(dict(op='splice', input=first, others=others))

    def _sign(self, node):
        path, value = self._paths[id(node)]
        try:
            return self._bits_by_thresholds(node, path, value)
        except Unsupported:
            if not path or any(step.op_name in FUNCTIONS for step in path):
                raise
        for step in path:
            self._add(step)
        self.decisions.append((node.output.uid, 'steps'))
        return self._bits(node.inputs[0], dict(threshold=0.0))

    def _bits_by_thresholds(self, node, path, value):
        if not self._is_lone_product(value):
            keys = read_off.float_thresholds(path, node, value) if path else dict(threshold=0.0)
            self.decisions.append((node.output.uid, 'values'))
            return self._bits(value, keys)
        threshold, decreasing, inverted = read_off.integer_thresholds(
            path, node, value, layer_ops.terms(value.producer.unit.layer)
        )
        op = dict(self._known[id(value)].op)
        del op['steps']
        name = self._name('b')
        op.update(bits=name, sum_threshold=threshold, sum_decreasing=decreasing)
        pools = [
            dict(op='or_pool', **layer_ops.pooling(step))
            for step in path
            if step.kind == 'max_pool'
        ]
        self.ops.append(op)
        for pool in pools:
            pool.update(input=name, bits=self._name('b'))
            name = pool['bits']
            self.ops.append(pool)
        self.decisions.append((node.output.uid, 'integers'))
        return Bits(name, node.output.shape, inverted)

    def _product(self, node):
        bits = self._known[id(node.inputs[0])]
        if not isinstance(bits, Bits):
            raise Unsupported(node, 'it reads no sign')
        layer = node.unit.layer
        op = (layer_ops.dense if layer.kind is DENSE else layer_ops.convolution)(node, layer, bits)
        op['steps'] = []
        self.sums[node.output.uid] = dict(op)
        self.bits[node.output.uid] = bits
        return Floats(op)

    def _float_product(self, node):
        if node.same_bits:
            self.same_floats.append(node)
        else:
            layer_ops.check_can_be_compared(node)
        source = self._floats(node.inputs[0])
        op = (
            layer_ops.float_dense
            if node.op_name == DENSE.core_op_name
            else layer_ops.float_convolution
        )(node)
        op.update(node.sums, input=self._stored(source), steps=[])
        if not node.same_bits:
            self.products.append((node, op))
        return Floats(op)

    # Values

    def _name(self, letter):
        self._names += 1
        return f'{letter}{self._names}'

    def _floats(self, value):
        """Returns the Floats of a Value; of bits +1 and -1."""
        known = self._known[id(value)]
        if isinstance(known, Floats):
            return known
        floats = self._emitted(dict(op='unpack', input=known.name))
        if known.inverted is not None:
            floats = Floats(
                dict(
                    op='map',
                    input=floats.op['values'],
                    steps=[('multiply', np.where(known.inverted, -1, 1).astype(np.float32))],
                )
            )
        self._known[id(value)] = floats
        return floats

    def _emitted(self, op):
        op['values'] = self._name('v')
        floats = Floats(op)
        floats.emitted = True
        self.ops.append(op)
        return floats

    def _handed_on(self, value):
        """Returns the name of an output of the program: never that of an input."""
        floats = self._floats(value)
        if floats.op is None:
            floats = self._emitted(dict(op='map', input=floats.name, steps=[]))
        return self._stored(floats)

    def _stored(self, floats):
        """Returns the name of a float value, which is in the program from now on."""
        if floats.op is None:
            return floats.name
        if not floats.emitted:
            self._emit(floats)
        if 'values' not in floats.op:
            floats.op['values'] = 'v of %s' % floats.op['bits']
        return floats.op['values']

    def _emit(self, floats):
        floats.op.setdefault('values', self._name('v'))
        self.ops.append(floats.op)
        floats.emitted = True

    def _with_steps(self, value, steps):
        floats = self._floats(value)
        if not floats.emitted and len(value.readers) == 1:
            together = floats.op['steps'] + steps
            if len(together) <= MOST_STEPS:
                floats.op['steps'] = together
                return floats
        return Floats(dict(op='map', input=self._stored(floats), steps=steps))

    def _bits(self, value, keys):
        """Returns the bits that a comparison of a float value gives."""
        floats, name = self._floats(value), self._name('b')
        if floats.op is not None and floats.op['op'] in _WITH_BITS and 'bits' not in floats.op:
            floats.op.update(keys, bits=name)
            if not floats.emitted:
                self.ops.append(floats.op)
                floats.emitted = True
        else:
            self.ops.append(dict(keys, op='pack', input=self._stored(floats), bits=name))
        return Bits(name, value.shape)
