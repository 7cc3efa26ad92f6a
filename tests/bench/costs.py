"""What attaching costs: idle callbacks per minibatch, and the swap of a deep network.

`python -m tests.bench.costs [repetitions]`, from the root of the checkout. Idle is a run with an
optimization that is not due yet, an observer and held-out data.

The Python calls that this adds to a minibatch are counted in whole runs, with and without
callbacks: exact, no time in it. The time is that of what CNTK calls of ours after a minibatch, in a
loop that trains nothing; C++'s own ways into Python (about 1 us each) are not in it. It is set
against the fastest minibatch of 64 of CNTK 103D's network. A swap is the `train_minibatch` in which
it happens, less the fastest ordinary one; CNTK compiles a network when it first runs, so the first
minibatch of the user's own trainer is printed beside it. All times: median (least to greatest).
"""
import sys
import time
from unittest import mock

import netopt_callbacks as nc
import cntk as C
import numpy as np
from cntk.train.training_session import TrainingSession

from examples.mnist import create_network
from netopt_callbacks.readers import readers
from netopt_callbacks.trainers import state

MINIBATCH = 64
LAYERS = 100
TIMES = 200  # calls of a round


class Identity(nc.Optimization):
    """Changes nothing; the engine exchanges trainer and graph all the same."""

    def transform(self, model):
        return model


class Silent(nc.Observer):
    """Overrides one event, and does nothing there."""

    def on_minibatch(self, samples, loss, metric):
        pass


def trainer_of(network, shape, classes):
    """Returns a new trainer of a network, and a minibatch of random data for it."""
    random = np.random.RandomState(1)
    x, label = C.input_variable(shape), C.input_variable(classes)
    model = network(x)
    trainer = C.Trainer(
        model,
        (C.cross_entropy_with_softmax(model, label), C.classification_error(model, label)),
        [C.momentum_sgd(model.parameters, C.learning_parameter_schedule(0.01), 0.9)],
    )
    images = random.rand(MINIBATCH, *shape).astype(np.float32)
    return trainer, (
        images,
        np.eye(classes, dtype=np.float32)[random.randint(0, classes, MINIBATCH)],
    )


def tiny(x):
    return C.layers.Dense(2)(x)


def times_of(function, repetitions):
    """Returns the seconds of some calls, sorted."""

    def once():
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return sorted(once() for _ in range(repetitions))


# Idle callbacks: each loop returns a function that trains so many minibatches.


def in_a_session(minibatches, callbacks):
    trainer, data = trainer_of(tiny, (2,), 2)
    samples = minibatches * MINIBATCH
    arguments = dict(
        trainer=trainer,
        mb_source=data,
        mb_size=MINIBATCH,
        model_inputs_to_streams=None,
        max_samples=samples,
    )
    if not callbacks:
        return C.training_session(**arguments).train
    return nc.training_session(
        callbacks=[Identity(epoch=1), Silent()], epoch_size=samples, data=data, **arguments
    ).train


def in_a_hand_loop(minibatches, callbacks):
    trainer, data = trainer_of(tiny, (2,), 2)
    feed = dict(zip(trainer.loss_function.arguments, data))

    def loop():
        for _ in range(minibatches):
            trainer.train_minibatch(feed)

    def attached():
        with nc.attach(
            trainer, [Identity(epoch=1), Silent()], data=data, epoch_size=minibatches * MINIBATCH
        ):
            loop()

    return attached if callbacks else loop


def calls(function):
    """Returns how many Python functions a call enters."""
    count = [0]

    def profile(frame, event, argument):
        count[0] += event == 'call'

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count[0]


def added_calls(loop):
    """Returns the Python calls idle callbacks add to a minibatch; start and end cancel out."""
    few, many = (
        [calls(loop(minibatches, callbacks)) for callbacks in (False, True)]
        for minibatches in (100, 300)
    )
    return ((many[1] - many[0]) - (few[1] - few[0])) / 200


class Measured(Exception):
    """Leaves a run whose callbacks have been timed; its optimization never comes due."""


def session_seconds(repetitions):
    """Returns the times of what C++ calls of a session with idle callbacks after a minibatch,
    sorted."""
    trainer, data = trainer_of(tiny, (2,), 2)
    feed = dict(zip(trainer.loss_function.arguments, data))
    construct, writers, found = C.Trainer.__init__, [], []

    def constructor(self, model, criterion, learners, progress_writers=None):
        construct(self, model, criterion, learners, progress_writers)
        writers[:] = progress_writers or []

    def train(session, device):
        """In the place of C++'s loop: one minibatch, then only the calls after it."""
        trainer.train_minibatch(feed)

        def after():
            for _ in range(TIMES):
                for writer in writers:
                    writer.on_write_training_update((0, MINIBATCH), (0, 1), (0.0, 1.0), (0.0, 1.0))
                    writer.on_training_update_end()
                session.on_minibatch_end()

        found.extend(times_of(after, repetitions))
        raise Measured

    with mock.patch.object(C.Trainer, '__init__', constructor), mock.patch.object(
        TrainingSession, 'train', train
    ):
        session = nc.training_session(
            trainer,
            data,
            MINIBATCH,
            None,
            max_samples=sys.maxsize,
            data=data,
            epoch_size=2**40,
            callbacks=[Identity(epoch=1), Silent()],
        )
        try:
            session.train()
        except Measured:
            return [seconds / TIMES for seconds in found]


class Idle(C.Trainer):
    """A trainer that trains its first minibatch only."""

    def train_minibatch(self, *arguments, **options):
        if not self.total_number_of_samples_seen:
            super().train_minibatch(*arguments, **options)
        return True


def hand_loop_seconds(repetitions):
    """Returns the times that `nc.attach` adds to a `train_minibatch`, sorted."""
    trainer, data = trainer_of(tiny, (2,), 2)
    trainer.__class__ = Idle
    feed = dict(zip(trainer.loss_function.arguments, data))

    def after():
        for _ in range(TIMES):
            trainer.train_minibatch(feed)

    try:
        with nc.attach(trainer, [Identity(epoch=1), Silent()], data=data, epoch_size=2**40):
            trainer.train_minibatch(feed)
            attached = times_of(after, repetitions)
            raise Measured
    except Measured:
        bare = times_of(after, repetitions)
    return [(seconds - median(bare)) / TIMES for seconds in attached]


def idle(repetitions):
    """Prints what idle callbacks add in each loop; returns {loop: (calls, share)}."""
    trainer, data = trainer_of(create_network, (1, 28, 28), 10)
    feed = dict(zip(trainer.loss_function.arguments, data))
    minibatch = times_of(lambda: trainer.train_minibatch(feed), 10 * repetitions)
    print(f'a minibatch of CNTK 103D: {said(minibatch)}')
    found = {}
    for name, loop, timed in (
        ('session', in_a_session, session_seconds),
        ('hand-written loop', in_a_hand_loop, hand_loop_seconds),
    ):
        extra = timed(10 * repetitions)
        found[name] = added_calls(loop), median(extra) / minibatch[0]
        print(
            'idle, {}: {:.2f} Python calls and {} added, {:.2f} % of the fastest minibatch'.format(
                name, found[name][0], said(extra), 100 * found[name][1]
            )
        )
    return found


# Swaps.


def dense_network(x):
    return C.layers.Sequential(
        [C.layers.Dense(64, activation=C.tanh) for _ in range(LAYERS)]
        + [C.layers.Dense(10, name='last')]
    )(x)


def convolutional_network(x):
    return C.layers.Sequential(
        [C.layers.Convolution2D((3, 3), 8, pad=True, activation=C.relu) for _ in range(LAYERS)]
        + [C.layers.Dense(10, name='last')]
    )(x)


SWAPS = [
    ('identity, 101 Dense', dense_network, (64,), lambda: Identity(epoch=3)),
    (
        'FactorDense(rank=8), 100 of 101 Dense',
        dense_network,
        (64,),
        lambda: nc.FactorDense(epoch=3, rank=8, filter_function=lambda layer: layer.name != 'last'),
    ),
    ('identity, 100 Convolution', convolutional_network, (3, 8, 8), lambda: Identity(epoch=3)),
    (
        'BinarizeConvolution, 98 of 100',
        convolutional_network,
        (3, 8, 8),
        lambda: nc.BinarizeConvolution(epoch=3),
    ),
]


def swap(network, shape, optimization):
    """Returns the times of the first minibatch of a plain trainer, and of a swap."""
    trainer, data = trainer_of(network, shape, 10)
    feed = dict(zip(trainer.loss_function.arguments, data))
    (first,) = times_of(lambda: trainer.train_minibatch(feed), 1)
    with nc.attach(trainer, [optimization], epoch_size=MINIBATCH):
        times = [times_of(lambda: trainer.train_minibatch(feed), 1)[0] for _ in range(7)]
    return first - min(times), times[3] - min(times)


def swaps(repetitions):
    """Prints the times of each swap; returns {name: median}."""
    found = {}
    for name, network, shape, make in SWAPS:
        first, swapped = (
            sorted(times)
            for times in zip(*(swap(network, shape, make()) for _ in range(repetitions)))
        )
        found[name] = median(swapped)
        print(
            'swap, {}: {} (the first minibatch of a plain trainer: {})'.format(
                name, said(swapped), said(first)
            )
        )
    return found


# A factored training step against the same step over factors that the script made itself.

SIDE, RANK = 1024, 128


def wide(x):
    return C.layers.Dense(10, name='last')(C.layers.Dense(SIDE, activation=C.tanh, name='wide')(x))


def explicit(x):
    left, right = C.parameter((SIDE, RANK), init=C.glorot_uniform()), C.parameter(
        (RANK, SIDE), init=C.glorot_uniform()
    )
    hidden = C.tanh(C.times(C.times(x, left), right) + C.parameter(SIDE))
    return C.layers.Dense(10, name='last')(hidden)


def factored_step(repetitions):
    """Prints and returns how much longer a factored step takes than one over explicit factors,
    as a ratio."""
    (factored, data), (plain, _) = trainer_of(wide, (SIDE,), 10), trainer_of(explicit, (SIDE,), 10)
    feeds = [dict(zip(trainer.loss_function.arguments, data)) for trainer in (factored, plain)]
    with nc.attach(
        factored,
        [nc.FactorDense(epoch=0, rank=RANK, filter_function=lambda layer: layer.name == 'wide')],
        epoch_size=MINIBATCH,
    ):
        steps = [
            lambda: factored.train_minibatch(feeds[0]),
            lambda: plain.train_minibatch(feeds[1]),
        ]
        for step in steps:
            times_of(step, 20)
        rounds = [
            [median(sorted(times_of(step, 50))) for step in steps]
            for _ in range(max(3, repetitions))
        ]
    ratios = sorted(ours / theirs for ours, theirs in rounds)
    print(
        f'factored training step, {SIDE}x{SIDE}, rank {RANK}, minibatch {MINIBATCH}: '
        f'{median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}) of the step over explicit '
        'factors'
    )
    return median(ratios)


# Finding what reads a network, which each swap does.


def finding_readers(repetitions):
    """Prints and returns the time to find the readers of 100 layers among a million live
    objects."""
    x = C.input_variable(64)
    held = [x]
    for number in range(LAYERS):
        held.append(C.layers.Dense(64, activation=C.tanh)(held[-1]))
    label = C.input_variable(64)
    trainer = C.Trainer(
        held[-1],
        (C.squared_error(held[-1], label), None),
        [C.sgd(held[-1].parameters, C.learning_parameter_schedule(0.01))],
    )
    others = [[number] for number in range(1000000)]
    whole = state.current(trainer).whole
    times = sorted(times_of(lambda: readers.Readers(trainer, whole), repetitions))
    print(f'finding the readers of {LAYERS} layers among {len(others)} objects more: {said(times)}')
    return median(times)


def median(times):
    return times[len(times) // 2]


def said(times):
    """Returns median, least and greatest of sorted times, in the unit that fits."""
    scale, unit = next(
        (scale, unit)
        for scale, unit in ((1, 's'), (1e3, 'ms'), (1e6, 'us'))
        if median(times) * scale >= 1 or unit == 'us'
    )
    return '{:.3g} {} ({:.3g} to {:.3g})'.format(
        median(times) * scale, unit, times[0] * scale, times[-1] * scale
    )


def main(repetitions=7):
    """Prints what attaching costs on this machine."""
    print(
        '%s, %s, CNTK %s, minibatch %d, %d repetitions'
        % (nc.native.cpu_name(), time.strftime('%Y-%m-%d'), C.__version__, MINIBATCH, repetitions)
    )
    return (
        idle(repetitions),
        swaps(repetitions),
        factored_step(repetitions),
        finding_readers(repetitions),
    )


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
