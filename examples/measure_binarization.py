"""Measures how well binarization recovers on MNIST, for every combination of its options.

    python examples/measure_binarization.py --data DIR

DIR holds the four original files (train-images-idx3-ubyte.gz ...). For each network and each seed a
float network is trained; from there, for each combination, it is binarized and trained on.
'strided' and 'pooled' are those of the CNTK 103D tutorial, of which the second convolution is
binarized; 'perceptron' is that of CNTK 103C, of which both hidden Dense layers are, 'inner' the
same, of which the second is, and 'tail' is 'strided' with a hidden Dense, which alone is. The table
shows test errors in percent: right after the swap (on 2000 images), and after retraining (mean over
the seeds, and their range). A second table compares the values of each option with all else equal.
Raw results go to --output, one JSON object a line; a run that was broken off goes on from there.
"""
import argparse
import gzip
import itertools
import json
import os
import sys

import cntk as C
import numpy as np

import netopt_callbacks as nc

MINIBATCH = 64
HELD_OUT = 1000
DIVERGED = 50  # percent: a network that learned anything is far below, one that did not is near 90
# What is binarized of each network, and by which optimization.
NETWORKS = {
    'strided': (nc.BinarizeConvolution, ('second_conv',)),
    'pooled': (nc.BinarizeConvolution, ('second_conv',)),
    'perceptron': (nc.BinarizeDense, ('first_hidden', 'hidden')),
    'inner': (nc.BinarizeDense, ('hidden',)),
    'tail': (nc.BinarizeDense, ('hidden',)),
}
NAMES = ('weight_scale', 'input_scale', 'input_shift', 'output_scale', 'clip')


def main():
    options = arguments()
    (images, labels), test = mnist(options.data, 'train'), mnist(options.data, 't10k')
    train = images[: options.samples], labels[: options.samples]
    held_out = images[-HELD_OUT:]
    results = load(options.output)
    for part in (core(),) if options.core else (core(), combinations()):
        for seed in range(options.seeds):
            for network in options.networks:
                wanted = [
                    combination
                    for combination in part
                    if (network, seed, name_of(combination)) not in results
                    and (not options.only or name_of(combination) in options.only)
                ]
                if wanted:
                    measure(network, seed, wanted, train, held_out, test, options, results)
    print(table(results) + '\n\n' + effects(results))


def measure(network, seed, wanted, train, held_out, test, options, results):
    """Trains one float network, then binarizes and retrains it for each combination."""
    C.cntk_py.set_fixed_random_seed(seed + 1)
    features = C.input_variable((1, 28, 28), name='features')
    model = build(network)(features)
    fit(model, train, options.epochs_before, seed)
    trained = {parameter.uid: parameter.value for parameter in model.parameters}
    for combination in wanted:
        for parameter in model.parameters:
            parameter.value = trained[parameter.uid]
        new_model = binarized(network, model, combination, held_out)
        after = error(new_model, tuple(part[:2000] for part in test))
        fit(new_model, train, options.epochs_after, seed + 1000)
        result = {
            'network': network,
            'seed': seed,
            'combination': name_of(combination),
            'after': after,
            'end': error(new_model, test),
        }
        results[network, seed, name_of(combination)] = result
        with open(options.output, 'a') as file:
            file.write(json.dumps(result, sort_keys=True) + '\n')
        print(
            '%(network)s, seed %(seed)d, %(combination)s: %(after).2f %% after the swap, '
            '%(end).2f %% at the end' % result,
            file=sys.stderr,
            flush=True,
        )


def build(network):
    """Returns one of NETWORKS, not applied."""
    strides = (1, 1) if network == 'pooled' else (2, 2)
    pool = (
        (lambda side: [])
        if network != 'pooled'
        else (lambda side: [C.layers.MaxPooling((side, side), strides=(side, side))])
    )
    with C.layers.default_options(init=C.glorot_uniform(), activation=C.relu):
        if network in ('perceptron', 'inner'):
            return C.layers.Sequential(
                [
                    C.layers.Dense(200, name='first_hidden'),
                    C.layers.Dense(200, name='hidden'),
                    C.layers.Dense(10, activation=None, name='classify'),
                ]
            )
        return C.layers.Sequential(
            [C.layers.Convolution2D((5, 5), 8, strides=strides, pad=True, name='first_conv')]
            + pool(2)
            + [C.layers.Convolution2D((5, 5), 16, strides=strides, pad=True, name='second_conv')]
            + pool(3)
            + ([C.layers.Dense(64, name='hidden')] if network == 'tail' else [])
            + [C.layers.Dense(10, activation=None, name='classify')]
        )


def binarized(network, model, combination, held_out):
    """Returns the model with the layers binarized that NETWORKS names; a combination of None
    leaves it float."""
    if combination is None:
        return model
    binarize, names = NETWORKS[network]
    optimization = binarize(
        filter_function=lambda layer: layer.name in names,
        learner=lambda parameters: None,
        **combination,
    )
    optimization.prepare(model, [{model.arguments[0]: held_out}])
    return optimization.transform(model).model


def fit(model, data, epochs, seed):
    """Trains with SGD, the last third at a quarter of the rate; the order depends on the seed
    alone."""
    images, labels = data
    target = C.input_variable(10)
    criterion = C.cross_entropy_with_softmax(model, target), C.classification_error(model, target)
    rates = C.learning_parameter_schedule([0.2, 0.2, 0.05], epoch_size=len(images) * epochs // 3)
    learner = C.sgd(model.parameters, rates)
    trainer = C.Trainer(model, criterion, [learner])
    random = np.random.RandomState(seed)
    for _ in range(epochs):
        order = random.permutation(len(images))
        for start in range(0, len(order), MINIBATCH):
            rows = order[start : start + MINIBATCH]
            trainer.train_minibatch({model.arguments[0]: images[rows], target: labels[rows]})


def error(model, data):
    """Returns the test error in percent."""
    images, labels = data
    wrong = 0
    for start in range(0, len(images), 500):
        predicted = model.eval(images[start : start + 500]).argmax(axis=1)
        wrong += int(np.sum(predicted != labels[start : start + 500].argmax(axis=1)))
    return 100.0 * wrong / len(images)


def combinations(
    weight_scales=('channel', 'layer', None),
    shifts=(None, 'calibrate', 'learn'),
    clips=(None, 'calibrate'),
):
    """Returns the keyword arguments of BinarizeConvolution to try; None stands for the float
    network."""
    every = itertools.product(weight_scales, ('sample', None), shifts, ('calibrate', None), clips)
    return [None] + [dict(zip(NAMES, values)) for values in every]


def core():
    """Returns the defaults, what differs from them in one option, and two baselines: measured
    first."""
    defaults = dict(zip(NAMES, ('channel', 'sample', 'calibrate', 'calibrate', None)))
    changes = [
        {},
        dict(weight_scale='layer'),
        dict(weight_scale=None),
        dict(input_scale=None),
        dict(input_shift='learn'),
        dict(clip='calibrate'),
        dict(input_scale=None, input_shift=None),
        dict(input_shift=None, output_scale=None),
        dict(input_scale=None, input_shift=None, output_scale=None),
    ]
    return [None] + [dict(defaults, **change) for change in changes]


def name_of(combination):
    if combination is None:
        return 'float'
    return ', '.join(str(combination[name]) for name in NAMES)


def table(results):
    """Returns the results as a Markdown table, best first (mean over networks and seeds)."""
    networks = [network for network in NETWORKS if any(key[0] == network for key in results)]
    by_name = {}
    for (network, _, name), result in results.items():
        by_name.setdefault(name, {}).setdefault(network, []).append(result)
    complete = [
        name for name, found in by_name.items() if all(network in found for network in networks)
    ]
    complete.sort(
        key=lambda name: np.mean(
            [np.mean([r['end'] for r in by_name[name][network]]) for network in networks]
        )
    )
    lines = [
        '| %s | ' % ', '.join(NAMES)
        + ' | '.join(f'{n}: after swap | {n}: retrained (range, seeds)' for n in networks)
        + ' |',
        '|---' * (1 + 2 * len(networks)) + '|',
    ]
    for name in complete:
        cells = []
        for network in networks:
            found = by_name[name][network]
            ends = [result['end'] for result in found]
            cells += [
                '%.1f' % np.mean([result['after'] for result in found]),
                f'**{np.mean(ends):.2f}** ({min(ends):.2f}-{max(ends):.2f}, {len(ends)})',
            ]
        lines.append('| {} | {} |'.format(name, ' | '.join(cells)))
    return '\n'.join(lines)


def effects(results):
    """Returns as a Markdown table what one value of an option does against another, all else equal.

    The mean difference of the final errors, plus or minus its standard error, over all pairs of
    runs (in brackets) that differ in that option alone; apart for runs with a calibrated output and
    without. Pairs with a run that DIVERGED are left out.
    """
    lines = ['| network | option | with output_scale | without |', '|---|---|---|---|']
    for network in NETWORKS:
        for index, option in enumerate(NAMES):
            values = sorted({name.split(', ')[index] for _, _, name in results if name != 'float'})
            for one, other in itertools.combinations(values, 2):
                cells = [
                    _difference(results, network, index, one, other, output)
                    for output in ((None,) if option == 'output_scale' else ('calibrate', 'None'))
                ]
                if any(cells):
                    lines.append(
                        '| %s | %s: %s instead of %s | %s |'
                        % (network, option, other, one, ' | '.join(cells + [''] * (2 - len(cells))))
                    )
    return '\n'.join(lines)


def _difference(results, network, index, one, other, output):
    differences = []
    for (where, seed, name), result in results.items():
        values = name.split(', ')
        if (
            where != network
            or name == 'float'
            or values[index] != one
            or output not in (None, values[3])
        ):
            continue
        twin = results.get(
            (network, seed, ', '.join(values[:index] + [other] + values[index + 1 :]))
        )
        if twin is not None and max(result['end'], twin['end']) < DIVERGED:
            differences.append(twin['end'] - result['end'])
    if len(differences) < 2:
        return ''
    error = np.std(differences, ddof=1) / len(differences) ** 0.5
    return '%+.2f ± %.2f (%d)' % (np.mean(differences), error, len(differences))


def load(path):
    """Returns the results of an earlier run by (network, seed, combination)."""
    if not os.path.exists(path):
        return {}
    with open(path) as file:
        results = [json.loads(line) for line in file]
    return {(each['network'], each['seed'], each['combination']): each for each in results}


def mnist(folder, part):
    """Returns images, float32 [samples, 1, 28, 28] in [0, 1], and labels, one-hot [samples, 10]."""

    def read(kind, header):
        with gzip.open(os.path.join(folder, f'{part}-{kind}-ubyte.gz')) as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)

    images = read('images-idx3', 16).reshape(-1, 1, 28, 28).astype(np.float32) / 255
    return images, np.eye(10, dtype=np.float32)[read('labels-idx1', 8)]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--data', required=True, help='folder with the four MNIST files')
    parser.add_argument('--output', default='binarization.jsonl', help='raw results, appended to')
    parser.add_argument('--networks', nargs='+', default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument(
        '--samples', type=int, default=60000 - HELD_OUT, help='training samples to use'
    )
    parser.add_argument('--epochs-before', type=int, default=4)
    parser.add_argument('--epochs-after', type=int, default=4)
    parser.add_argument(
        '--core', action='store_true', help='only the defaults and combinations near them'
    )
    parser.add_argument(
        '--only', nargs='+', help="only these: 'float', 'channel, None, None, None, None' ..."
    )
    return parser.parse_args()


if __name__ == '__main__':
    main()
