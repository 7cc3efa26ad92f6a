"""Measures how factored Dense layers recover, for each rank rule, and when they are faster.

    python examples/measure_factorization.py --data DIR    # test errors
    python examples/measure_factorization.py --times       # milliseconds, by size of a layer

DIR holds the four original MNIST files (train-images-idx3-ubyte.gz ...). Two networks are measured:
'mnist' is that of CNTK 103C with two hidden Dense layers of 200; 'simulated' is that of CNTK 102.
For each seed a network is trained; from there, for each case, its layers are factored and it is
trained on at the same rate. The tables show test errors in percent, means over the seeds and their
ranges. Raw results go to --output, one JSON object a line; a run that was broken off goes on from
there.
"""
import argparse
import gzip
import json
import os
import sys
import time

import netopt_callbacks as nc  # before cntk: it keeps CNTK from warning of newer systems
import cntk as C
import numpy as np

BEFORE, AFTER = 2, (1, 2, 4)  # epochs of training before the swap, and after it
TOTAL = BEFORE + AFTER[-1]
TIMED_ROUNDS, BATCHES, SIZES = 30, (1, 64), (50, 100, 200, 400, 800, 1600, 3200)


class Network:
    """A network of Dense layers: which are factored by a rank rule, and how it is trained."""

    def __init__(self, hidden, activation, factored, rate, minibatch):
        self.hidden, self.activation, self.factored = hidden, activation, factored
        self.rate, self.minibatch = rate, minibatch

    def build(self, inputs, outputs):
        """Returns the network, applied to an input of so many elements."""
        with C.layers.default_options(init=C.glorot_uniform(), activation=self.activation):
            layers = [C.layers.Dense(width, name=name) for name, width in self.hidden]
            layers.append(C.layers.Dense(outputs, activation=None, name='classify'))
            return C.layers.Sequential(layers)(C.input_variable(inputs, name='features'))


NETWORKS = {
    'mnist': Network((('first', 200), ('second', 200)), C.relu, ('first', 'second'), 0.1, 64),
    'simulated': Network((('first', 50), ('second', 50)), C.sigmoid, ('second',), 0.1, 25),
}
RULES = {
    'mnist': [
        16,
        0.1,
        nc.energy(0.5),
        nc.energy(0.8),
        nc.energy(0.95),
        nc.stable_rank(),
        nc.speedup(2),
        nc.speedup(8),
        nc.parameters(0.25),
    ],
    'simulated': [
        5,
        0.25,
        0.6,
        nc.energy(0.5),
        nc.energy(0.8),
        nc.energy(0.95),
        nc.stable_rank(),
        nc.speedup(2),
        nc.parameters(0.25),
    ],
}
LAYERS = [('first',), ('second',), ('classify',), ('first', 'second', 'classify')]
WHEN = (0, 1, 3, 5)  # completed epochs of TOTAL; 2 is what the rules have


def main():
    options = arguments()
    if options.times:
        print(times(options))
        return
    results = load(options.output)
    for name in options.networks:
        for seed in range(options.seeds):
            train, test = data(name, options, seed)
            for case in cases(name):
                if (name, seed, case['case']) not in results:
                    result = dict(measured(name, case, seed, train, test), network=name, seed=seed)
                    results[name, seed, case['case']] = result
                    with open(options.output, 'a') as file:
                        file.write(json.dumps(result) + '\n')
                    print(
                        '%(network)s, seed %(seed)d, %(case)s: %(errors)s' % result, file=sys.stderr
                    )
    print(table(results))


def cases(name):
    """Returns what to measure of a network: name of the case, epoch of the swap, layers, rank."""
    rank = nc.parameters(0.25)
    found = [dict(case='not factored', epoch=BEFORE, layers=(), rank=None)]
    for rule in RULES[name]:
        found.append(
            dict(case=f'rank={rule!r}', epoch=BEFORE, layers=NETWORKS[name].factored, rank=rule)
        )
    if name == 'mnist':
        for layers in LAYERS:
            found.append(
                dict(case='layers ' + ', '.join(layers), epoch=BEFORE, layers=layers, rank=rank)
            )
        for epoch in WHEN:
            found.append(
                dict(
                    case=f'after {epoch} epochs',
                    epoch=epoch,
                    layers=NETWORKS[name].factored,
                    rank=rank,
                )
            )
    return found


def measured(name, case, seed, train, test):
    """Trains a network, factors it by the way, and returns what came of it."""
    C.cntk_py.set_fixed_random_seed(seed + 1)
    network = NETWORKS[name]
    model = network.build(train[0].shape[1], train[1].shape[1])
    before = parameters_of(model)
    (features,), label = model.arguments, C.input_variable(train[1].shape[1], name='label')
    criterion = C.cross_entropy_with_softmax(model, label), C.classification_error(model, label)
    rate = C.learning_parameter_schedule(network.rate)
    trainer = C.Trainer(model, criterion, [C.sgd(model.parameters, rate)])
    callbacks = []
    if case['layers']:
        callbacks.append(
            nc.FactorDense(
                epoch=case['epoch'],
                rank=asked_at_the_swap(case['rank']),
                filter_function=lambda layer: layer.name in case['layers'],
            )
        )
    if case['case'].startswith('after'):
        at = {'end': TOTAL}
    else:
        at = {str(epochs): case['epoch'] + epochs for epochs in AFTER}
    errors = {}
    random = np.random.RandomState(seed)
    with nc.attach(trainer, callbacks, epoch_size=len(train[0]), data=test) as run:
        for epoch in range(1, max(at.values()) + 1):
            order = random.permutation(len(train[0]))
            for start in range(0, len(order), network.minibatch):
                rows = order[start : start + network.minibatch]
                trainer.train_minibatch({features: train[0][rows], label: train[1][rows]})
            for moment, when in at.items():
                if when == epoch:
                    errors[moment] = error(model, test)
            if epoch == case['epoch'] and not case['layers']:
                errors['before'] = errors['after'] = error(model, test)
    ranks = {}
    for record in run.result.records:
        errors['before'], errors['after'] = 100 * record.metric_before, 100 * record.metric_after
        ranks = {note.name: note.rank for note in record.layers}
    return dict(
        case=case['case'],
        ranks=ranks,
        parameters_before=before,
        parameters=parameters_of(run.result.model),
        errors={moment: round(percent, 2) for moment, percent in errors.items()},
    )


def parameters_of(model):
    return sum(int(np.prod(parameter.shape)) for parameter in model.parameters)


def error(model, test):
    """Returns the test error in percent."""
    features, labels = test
    return 100 * float(np.mean(model.eval(features).argmax(1) != labels.argmax(1)))


def table(results):
    """Returns the results as Markdown tables, one for each network."""
    lines = []
    for name in NETWORKS:
        found = {}
        for (network, _, case), result in sorted(results.items()):
            if network == name:
                found.setdefault(case, []).append(result)
        if found:
            lines += [
                f'\n{name}\n',
                '| case | ranks | parameters | before | after | 1 epoch | 2 | 4 | end |',
                '|---' * 9 + '|',
            ]
        for case in [case['case'] for case in cases(name) if case['case'] in found]:
            runs = found[case]
            ranks = [
                '/'.join(str(rank or 'left') for rank in run['ranks'].values()) for run in runs
            ]
            cells = [
                case,
                '; '.join(sorted(set(ranks))),
                numbers([run['parameters'] for run in runs]),
            ]
            for moment in ('before', 'after', '1', '2', '4', 'end'):
                errors = [run['errors'][moment] for run in runs if moment in run['errors']]
                cells.append(
                    '%.2f (%.2f-%.2f)' % (np.mean(errors), min(errors), max(errors))
                    if errors
                    else ''
                )
            lines.append('| %s |' % ' | '.join(cells))
    return '\n'.join(lines)


def numbers(values):
    """Returns the range of integers as text."""
    low, high = min(values), max(values)
    return f'{low:,}' if low == high else f'{low:,} to {high:,}'


def times(options):
    """Times a Dense of n x n and its factors, in turns; returns a Markdown table of medians."""
    lines = [
        '| n | batch | Dense, ms | '
        + ' | '.join(f'rank n/{share}, ms (times as fast)' for share in (2, 4, 8, 16))
        + ' |',
        '|---' * 7 + '|',
    ]
    for size in SIZES:
        x = C.input_variable(size)
        networks = {1: C.layers.Dense(size)(x)}
        for share in (2, 4, 8, 16):
            networks[share] = factored(networks[1], size // share)
        for batch in BATCHES:
            sample = np.random.RandomState(0).randn(batch, size).astype(np.float32)
            rounds = {share: [] for share in networks}
            for _ in range(TIMED_ROUNDS + 1):
                for share, network in networks.items():
                    started = time.perf_counter()
                    for _ in range(5):
                        network.eval(sample)
                    rounds[share].append((time.perf_counter() - started) / 5)
            median = {share: np.median(seconds[1:]) for share, seconds in rounds.items()}
            cells = [
                '%.3f (%.2f)' % (1e3 * median[share], median[1] / median[share])
                for share in (2, 4, 8, 16)
            ]
            lines.append(
                '| %d | %d | %.3f | %s |' % (size, batch, 1e3 * median[1], ' | '.join(cells))
            )
    lines.append(
        '\n(%d rounds of 5 calls, in turns; %s; %s)'
        % (TIMED_ROUNDS, nc.native.cpu_name(), time.strftime('%Y-%m-%d'))
    )
    return '\n'.join(lines)


def asked_at_the_swap(rank):
    """Returns a rank as a function of W: a number that saves nothing would be refused before
    training, and here it is measured as what it is, a layer that is left."""
    if callable(rank):
        return rank
    return lambda W: rank if rank >= 1 else max(1, int(rank * min(W.shape)))


def factored(model, rank):
    """Returns the model with its Dense on factors of this rank, also where that saves nothing."""
    (layer,) = nc.graph.layers(model)
    rows, columns = layer.W.shape
    product = C.layers.Sequential([C.layers.Dense(rank, bias=False), C.layers.Dense(columns)])
    return nc.graph.replace(model, {layer: product})


def data(name, options, seed):
    """Returns ((features, one-hot labels) to train on, and to test on)."""
    if name == 'mnist':
        train, test = mnist(options.data, 'train'), mnist(options.data, 't10k')
        return tuple(part[: options.samples] for part in train), test
    random = np.random.RandomState(seed)
    return simulated(random, 10000), simulated(random, 10000)


def simulated(random, count):
    """Returns two classes of two features, as CNTK 102 simulates them."""
    labels = random.randint(0, 2, (count, 1))
    features = (random.randn(count, 2) + 3) * (labels + 1)
    return features.astype(np.float32), np.hstack([labels == 0, labels == 1]).astype(np.float32)


def mnist(folder, part):
    """Returns images, float32 [samples, 784] in [0, 1], and one-hot labels [samples, 10]."""

    def read(kind, header):
        with gzip.open(os.path.join(folder, f'{part}-{kind}-ubyte.gz')) as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)

    images = read('images-idx3', 16).reshape(-1, 784).astype(np.float32) / 255
    return images, np.eye(10, dtype=np.float32)[read('labels-idx1', 8)]


def load(path):
    """Returns the results of an earlier run by (network, seed, case)."""
    if not os.path.exists(path):
        return {}
    with open(path) as file:
        results = [json.loads(line) for line in file]
    return {(each['network'], each['seed'], each['case']): each for each in results}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--data', help="folder with the four MNIST files, for 'mnist'")
    parser.add_argument('--networks', nargs='+', default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--samples', type=int, default=60000, help='training images to use')
    parser.add_argument('--output', default='factorization.jsonl', help='raw results, appended to')
    parser.add_argument('--times', action='store_true', help='time layers instead')
    options = parser.parse_args()
    if not options.times and 'mnist' in options.networks and not options.data:
        parser.error("'mnist' needs --data: the folder with the four files")
    return options


if __name__ == '__main__':
    main()
