"""What lowering buys: seconds of a lowered network against those of the network with float layers
in their place.

Two numbers of one process, measured in turns; no other part of the package depends on them.
"""
import time

import cntk as C
import numpy as np

from .. import graph, native
from ..optimizations import binary_block

SECONDS = 0.1  # of rounds, for each number of samples
ROUNDS = 40
LEAST_ROUNDS, MOST_SECONDS = 7, 2.0  # fewer than these rounds only where they take so long
VARIED = 1.5
MOST_SAMPLES = 32
_SCALES = ('ElementTimes', 'Plus')


class Timing:
    """Seconds of one call.

    Attributes:
        samples (int): that the call evaluates; of sequences, how many of them.
        float_seconds (float): of the network with float layers in place of binary ones, the fastest
            of the rounds: whatever else the machine does makes a call slower, never faster.
        lowered_seconds (float): the same of the lowered network.
        in_cntk_seconds (float): the same of the network lowered with fewer float layers in its
            segments; None where `lowered_seconds` is that.
        beside (str): the `float_layers` of that: 'cntk' or 'apart'.
        varied (float): the median round of a network, times its fastest; of all of them the most.
    """

    FIELDS = ('samples', 'float_seconds', 'lowered_seconds', 'in_cntk_seconds', 'varied')

    def __init__(
        self,
        samples,
        float_seconds,
        lowered_seconds,
        in_cntk_seconds=None,
        varied=1.0,
        beside='cntk',
    ):
        self.samples = samples
        self.float_seconds = float_seconds
        self.lowered_seconds = lowered_seconds
        self.in_cntk_seconds = in_cntk_seconds
        self.varied = varied
        self.beside = beside

    @classmethod
    def of_rounds(cls, samples, rounds, beside='cntk'):
        """Returns the Timing of the networks' seconds, round by round, in the order of FIELDS."""
        fastest = [float(min(each)) for each in rounds]
        slower = [float(np.median(each)) / least for each, least in zip(rounds, fastest)]
        return cls(samples, *fastest, varied=max(slower), beside=beside)

    @property
    def pays(self):
        """Whether the lowered network is not slower, to two digits after the point."""
        return round(self.lowered_seconds / self.float_seconds, 2) <= 1

    def to_dict(self):
        """Returns the JSON-ready fields."""
        return {field: getattr(self, field) for field in self.FIELDS}

    def __str__(self):
        said = '{} sample{}: {:.3g} ms with float layers, {:.3g} ms lowered, '.format(
            format(self.samples, ','),
            's' if self.samples > 1 else '',
            1e3 * self.float_seconds,
            1e3 * self.lowered_seconds,
        )
        if self.pays:
            said += '%.1f x as fast' % (self.float_seconds / self.lowered_seconds)
        else:
            said += 'SLOWER, by a factor of %.2f: lowering does not pay here' % (
                self.lowered_seconds / self.float_seconds
            )
        if self.in_cntk_seconds is not None:
            buys = self.in_cntk_seconds / self.lowered_seconds
            what = {
                'cntk': "float_layers='native' makes it {} ({:.3g} ms without)",
                'apart': "native code for its float layers makes it {} ({:.3g} ms with "
                "float_layers='apart')",
            }
            said += '; ' + what[self.beside].format(
                f'{buys:.2f} x as fast'
                if buys >= 1
                else 'SLOWER, by a factor of %.2f' % (1 / buys),
                1e3 * self.in_cntk_seconds,
            )
        if self.varied > VARIED:
            said += (
                '. The times varied: half of the rounds took %.1f x the fastest or longer, so '
                'other work on this machine is in these numbers' % self.varied
            )
        return said


class Speed:
    """What lowering buys, on the machine where the run ended.

    Attributes:
        timings (list of Timing): of one sample, and of as many as a minibatch has, at most
            MOST_SAMPLES; [] where nothing could be timed.
        reason (str): why nothing could be timed, else None.
        threads (int): of native code.
    """

    def __init__(self, timings=(), reason=None, threads=1):
        self.timings = list(timings)
        self.reason = reason
        self.threads = threads

    def to_dict(self):
        """Returns the JSON-ready fields."""
        return dict(
            timings=[timing.to_dict() for timing in self.timings],
            reason=self.reason,
            threads=self.threads,
        )

    def __str__(self):
        if self.reason is not None:
            return f'Time of a call: not measured, {self.reason}'
        lines = [
            'Time of a call, the fastest of several, %d thread%s:'
            % (self.threads, 's' if self.threads > 1 else '')
        ]
        return '\n'.join(lines + [f'  {timing}' for timing in self.timings])


def measured(model, lowered, minibatch, in_cntk=None, beside='cntk'):
    """Times a lowered network against the trained one with float layers in place of binary ones.

    Args:
        model (cntk.Function): the trained network, left as it is.
        lowered (cntk.Function): what was made of it.
        minibatch (dict of cntk.Variable to data): for the model's arguments.
        in_cntk (cntk.Function): where `lowered` has float layers in segments, the network lowered
            with fewer of them there.
        beside (str): as of `Timing`.

    Returns:
        Speed: with a reason in place of times where CNTK cannot evaluate the float network
            (dilation on a CPU).
    """
    reference = with_float_layers(model)
    timings = []
    for samples in sizes(minibatch):
        ways = [
            _call(network, minibatch, samples)
            for network in (reference, lowered, in_cntk)
            if network is not None
        ]
        try:
            rounds = in_turns(ways)
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or ['no reason given'])[0]
            return Speed(reason=f'CNTK cannot evaluate it with float layers: {reason}')
        timings.append(Timing.of_rounds(samples, rounds, beside))
    if not timings:
        return Speed(reason='its data cannot be cut into samples')
    return Speed(timings, threads=native.num_threads())


def with_float_layers(model):
    """Returns `model` with a float convolution or Dense in place of each binary one.

    It computes something else: it is what a call would cost without binarizing. Latent weights,
    bias and activation are those of the layer; scales, shifts and signs are gone.

    Args:
        model (cntk.Function): left as it is.

    Returns:
        cntk.Function: the same outputs and arguments; `model` itself where it holds no binary
            layer.
    """
    layers = [binary_block.BinaryLayer(block) for block in binary_block.binary_blocks(model)]
    return graph.replace(model, {layer: _in_float(layer) for layer in layers}) if layers else model


def _in_float(layer):
    """Returns the float layer that a BinaryLayer was made of: a block, unapplied, with one
    placeholder."""
    W = layer.W if layer.W is not None else C.constant(layer.signs())
    weights, data = layer.kind.weights_of(layer.core), layer.kind.data_of(layer.core)
    inlet = layer.content.placeholders[0]
    product = C.as_composite(layer.core).clone(
        C.CloneMethod.share, {weights: _shaped(W, weights), data: _shaped(inlet, data)}
    )
    last = _behind_scales(layer)
    content = graph.substitute(layer.content, {last: product.outputs[0]})
    return binary_block.as_block(content, layer.kind.layer_op_name, layer.name)


def _shaped(variable, like):
    """Returns a Variable, or a Function of it, in the shape of another: with `reduction_rank=0` a
    convolution gives what it reads an axis of channels."""
    if variable.shape == like.shape or C.FreeDimension in like.shape:
        return variable
    return C.reshape(variable, like.shape)


def _behind_scales(layer):
    """Returns what the layer's own bias or activation reads: scales and the offset follow the
    integers, and what else is added is a bias."""
    functions = graph.functions(layer.content.outputs)
    current = layer.core.outputs[0]
    while True:
        readers = [
            function
            for function in functions
            if any(read.uid == current.uid for read in function.inputs)
        ]
        if len(readers) != 1 or readers[0].op_name not in _SCALES:
            return current
        other = [read for read in readers[0].inputs if read.uid != current.uid]
        if len(other) != 1 or other[0].is_parameter:
            return current
        # A frozen bias is a Constant, as the offset is.
        if readers[0].op_name == 'Plus' and other[0].name != 'offset':
            return current
        current = readers[0].outputs[0]


def in_turns(ways):
    """Calls each way in turn, after a call of each that does not count.

    Rounds go on for SECONDS, at most ROUNDS of them. There are LEAST_ROUNDS, unless they would take
    more than MOST_SECONDS, and one at least.

    Args:
        ways (sequence of callable): no arguments.

    Returns:
        list of list of float: for each way the seconds of every round.
    """
    for way in ways:
        way()
    times = [[] for _ in ways]
    begin = time.perf_counter()

    def another():
        done, spent = len(times[0]), time.perf_counter() - begin
        return done == 0 or spent < (MOST_SECONDS if done < LEAST_ROUNDS else SECONDS)

    while len(times[0]) < ROUNDS and another():
        for each, way in zip(times, ways):
            start = time.perf_counter()
            way()
            each.append(time.perf_counter() - start)
    return times


def sizes(minibatch):
    """Returns the numbers of samples to time, least first; [] where the data are no arrays or
    lists, which can be cut."""
    if not minibatch or not all(
        isinstance(data, (np.ndarray, list)) and len(data) for data in minibatch.values()
    ):
        return []
    return sorted({1, min(MOST_SAMPLES, min(len(data) for data in minibatch.values()))})


def _call(network, minibatch, samples):
    given = {argument.uid: data for argument, data in minibatch.items()}
    data = {argument: given[argument.uid][:samples] for argument in network.arguments}
    return lambda: network.eval(data)
