"""CNTK's part of `bench --networks`, in a process of its own: its threads are those of
OMP_NUM_THREADS, set before it starts.

Answers as `bench_network_peers` does. A lowered network is compared with the trained one before
anything is timed.
"""
import contextlib
import json
import os
import sys
import time

import numpy as np

from netopt_callbacks.bench_network_peers import answer_on_stdout, warm_seconds
from netopt_callbacks.bench_network_specs import NETWORKS

PACKING = ('pack', 'conversion')
BINARY = ('convolution', 'or_pool')
FLOAT, LOWERED, NATIVE, PROGRAM = (
    'CNTK float',
    'lowered, inside CNTK',
    'lowered, float layers native',
    'program, without CNTK',
)


def in_cntk(network):
    """Returns the float network as a CNTK Function of one argument."""
    import cntk as C

    values = {'x': C.input_variable(network.shape)}
    for op in network.ops:
        values[op['output']] = _layer(op, network.weights)(*[values[name] for name in op['input']])
    return values[network.ops[-1]['output']]


def _layer(op, weights):
    import cntk as C

    def with_values(layer, **found):
        def apply(x):
            result = layer(x)
            for leaf in list(layer.parameters) + list(layer.constants):
                if leaf.name in found:
                    leaf.value = found[leaf.name].reshape(leaf.shape)
            return result

        return apply

    if op['op'] == 'convolution':
        layer = C.layers.Convolution2D(
            (op['kernel'],) * 2,
            weights[op['weights']].shape[0],
            pad=True,
            strides=op['stride'],
            bias=op['bias'],
            name=op['name'],
        )
    elif op['op'] == 'dense':
        layer = C.layers.Dense(weights[op['weights']].shape[1], name=op['name'])
    elif op['op'] == 'normalize':
        key, names = op['weights'], ('scale', 'bias', 'aggregate_mean', 'aggregate_variance')

        def normalize(x):
            return with_values(
                C.layers.BatchNormalization(map_rank=1 if len(x.shape) == 3 else None),
                **{name: weights[key + name] for name in names},
            )(x)

        return normalize
    elif op['op'] == 'max_pool':
        return C.layers.MaxPooling((op['kernel'],) * 2, (op['stride'],) * 2, pad=op['pad'])
    else:
        return {
            'relu': C.relu,
            'add': lambda a, b: a + b,
            'global_average': C.layers.GlobalAveragePooling(),
        }[op['op']]
    return with_values(
        layer,
        W=weights[op['weights']],
        **({'b': weights[op['weights'] + 'b']} if op['bias'] else {}),
    )


class Made:
    """A network in all forms.

    Attributes:
        functions (dict of str to cntk.Function): FLOAT, LOWERED and NATIVE.
        program (nc.native.Program): the whole network, None where it is no single segment.
        lowerings (dict of str to Lowering): LOWERED and NATIVE.
    """

    def __init__(self, network):
        import netopt_callbacks as nc
        from netopt_callbacks.lowering import lower_binary_layers, lower_segments

        self.network = network
        model = in_cntk(network)
        self.trained = model
        for kind in (nc.BinarizeConvolution, nc.BinarizeDense):
            if any(
                layer.op_name == kind.__name__[len('Binarize') :]
                and layer.name not in network.float_layers
                for layer in nc.graph.layers(self.trained)
            ):
                optimization = kind(
                    filter_function=lambda layer: layer.name not in network.float_layers,
                    input_scale=None,
                )
                self.trained = optimization.transform(self.trained).model
        self.lowerings = {
            LOWERED: lower_segments(self.trained),
            NATIVE: lower_segments(self.trained, 'native'),
        }
        self.functions = {FLOAT: model}
        for name, lowering in self.lowerings.items():
            self.functions[name] = lower_binary_layers(lowering.model)
        parts = self.lowerings[NATIVE].segments
        whole = len(parts) == 1 and [
            value.variable.uid for value in parts[0].segment.entries + parts[0].segment.exits
        ] == [self.trained.arguments[0].uid, self.lowerings[NATIVE].reference.outputs[0].uid]
        self.program = parts[0].program.program() if whole else None

    def checked(self, x, tolerance=1e-4):
        """Compares with the trained network by the gate; returns how many bits tied.

        Raises:
            RuntimeError: a lowered network computes something else.
        """
        from netopt_callbacks.lowering import compare

        ties = {}
        for name, lowering in self.lowerings.items():
            parity = compare(
                self.trained,
                self.functions[name],
                [{self.trained.arguments[0]: x}],
                tolerance,
                lowering=lowering,
            )
            if not parity.passed:
                raise RuntimeError(f'{self.network.name}, {name}: nothing was timed. {parity}')
            ties[name] = sum(layer.ties for layer in parity.layers)
        return ties


class Contestants:
    """All forms of a network for one batch."""

    def __init__(self, threads):
        import netopt_callbacks as nc

        nc.native.set_num_threads(threads)
        self._made = self._calls = self._data = None

    def prepare(self, name, batch, folder, sizes=None):
        """Sets up the calls, and writes weights, input and CNTK's float output to `name`.npz in
        `folder`."""
        if self._made is None or self._made[0] != (name, sizes):
            self._made = (name, sizes), Made(
                NETWORKS[name](**{key: _tuple(value) for key, value in (sizes or {}).items()})
            )
        made = self._made[1]
        x = (
            np.random.RandomState(batch)
            .standard_normal((batch,) + made.network.shape)
            .astype(np.float32)
        )
        ties = made.checked(x)
        self._calls = {name: _call(function, x) for name, function in made.functions.items()}
        expected = self._calls[FLOAT]()
        if made.program is not None:
            out = made.program(x)
            self._calls[PROGRAM] = lambda: made.program(x, out=out)
        self._data = x
        np.savez(
            os.path.join(folder, name + '.npz'), x=x, expected=expected, **made.network.weights
        )
        return dict(
            title=made.network.name,
            ops=made.network.ops,
            shape=list(made.network.shape),
            ties=ties,
            segments={
                form: [[part.name, len(part.segment.layers)] for part in lowering.segments]
                for form, lowering in made.lowerings.items()
            },
            alone={
                form: [list(reason) for reason in lowering.reasons]
                for form, lowering in made.lowerings.items()
            },
            implementation=(made.lowerings[LOWERED].segments[0].program.program().implementation),
        )

    def round(self):
        return {name: warm_seconds(call) for name, call in self._calls.items()}

    def breakdown(self, rounds):
        """Returns {form: {part: seconds}} of the lowered networks, medians over the rounds."""
        made = self._made[1]
        return {
            name: _breakdown(self._calls[name], lowering, self._data, rounds)
            for name, lowering in made.lowerings.items()
        }


def _tuple(value):
    return tuple(value) if isinstance(value, list) else value


def _call(function, x):
    data = {function.arguments[0]: x}
    return lambda: function.eval(data)


def _breakdown(call, lowering, x, rounds):
    """Where a call's time goes: what the programs take, as their own ops share it; the Python
    around them; CNTK for all else.

    Returns:
        dict of str to float: seconds of `packing`, `binary`, `float`, `crossing` and `cntk`,
        medians over the rounds.
    """
    from netopt_callbacks.lowering.binary_segment import BinarySegmentOp
    from netopt_callbacks.native_program import Program

    spent, found = {}, []
    with _timed(BinarySegmentOp, '_forward', spent), _timed(Program, 'run_at', spent):
        for _ in range(rounds):
            warm_seconds(call)
            spent.update(_forward=0.0, run_at=0.0)
            start = time.perf_counter()
            call()
            found.append((time.perf_counter() - start, spent['_forward'], spent['run_at']))
    total, forward, native = np.median(found, axis=0)
    ops = _seconds_of_ops(lowering, x, rounds)
    share = native / sum(ops.values())
    parts = {name: seconds * share for name, seconds in ops.items()}
    return dict(parts, crossing=forward - native, cntk=total - forward)


def _seconds_of_ops(lowering, x, rounds):
    """Returns the seconds of packing, binary and float ops in all programs of a lowered network."""
    from netopt_callbacks import graph

    sums = dict.fromkeys(('packing', 'binary', 'float'), 0.0)
    for part in lowering.segments:
        entries = graph.evaluate(
            [value.variable for value in part.segment.entries],
            {lowering.reference.arguments[0]: x},
        )
        program = part.program.program()
        entries = [np.ascontiguousarray(entry, np.float32) for entry in entries]
        program.profile(*entries)
        profiles = [program.profile(*entries) for _ in range(rounds)]
        for index, (op, _) in enumerate(profiles[0]):
            group = 'packing' if op in PACKING else 'binary' if op in BINARY else 'float'
            sums[group] += float(np.median([profile[index][1] for profile in profiles]))
    return sums


@contextlib.contextmanager
def _timed(owner, name, spent):
    """Adds the seconds of every call of a method to spent[name]."""
    method = getattr(owner, name)

    def timed(self, *arguments, **keys):
        start = time.perf_counter()
        try:
            return method(self, *arguments, **keys)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, method)


def answer(lines, write):
    """Writes CNTK's version, then answers questions until there are no more."""
    import cntk

    cntk.try_set_default_device(cntk.cpu())
    write({'CNTK': f'{cntk.__version__}, CPython {sys.version.split()[0]}'})
    contestants = Contestants(int(os.environ['OMP_NUM_THREADS']))
    for line in lines:
        question = json.loads(line)
        if 'prepare' in question:
            write(contestants.prepare(**question['prepare']))
        else:
            write(
                contestants.round()
                if 'round' in question
                else contestants.breakdown(question['breakdown'])
            )


if __name__ == '__main__':
    answer_on_stdout(answer)
