"""Describes the TensorBoard tags and sets the order in which TensorBoard draws them."""
from tensorboardX import summary

_DESCRIPTIONS = {
    'train/loss': 'Loss in training, the average over all samples since the point before.',
    'train/metric': '{metric} in training, the average over all samples since the point before.',
    'train/learning_rate': 'Learning rate of the first learner, as CNTK tells it.',
    'train/samples_per_second': 'Training speed since the point before. Held-out measurements, '
    'cross-validations and optimizations are not in it.',
    'recovery/metric': '{metric} on the held-out data ({better} is better): one curve through the '
    'whole run, with the value before and after each optimization. Set Smoothing to 0.',
    'recovery/baseline': '{metric} of a run without optimizations after as many samples: '
    '{baseline}.',
    'recovery/worst': 'The worst held-out {metric} since the latest optimization.',
    'recovery/drop': 'What the latest optimization cost: {metric} right after it less that before '
    'it, turned so that more than 0 is worse.',
    'recovery/recovered': 'How much of that drop has been made up for: 0 right after, 1 as good as '
    'before. Above 1 the network is better than before the optimization. Where training was still '
    'improving, it would be so without it too: compare with recovery/baseline. Of a drop '
    'within the standard error of the metric it may be any number.',
    'recovery/epochs': 'Epochs since the latest optimization, up to the first at which {metric} is '
    'as good again as before it; flat from there on.',
    'size/parameters': 'Weights of the whole network; a 1-bit weight counts as one.',
    'size/bytes': 'Bytes of the weights of the whole network once lowered: 1-bit weights are bits.',
    'size/float_multiply_adds': 'Multiply-adds per sample of the whole network that are not 1-bit.',
    'size/binary_multiply_adds': 'Multiply-adds per sample of the whole network that are 1-bit.',
    'test/metric': '{metric} on the test data, measured by CNTK.',
    'test/cross_validation': '{metric} on the cross-validation data, measured by CNTK.',
    'netopt/plan': 'What the run is going to do: callbacks with their options, network, machine.',
    'netopt/result': 'What the run did, and what is left of the network.',
}
_OF_A_LAYER = {
    'flip_ratio': 'Share of the 1-bit weights of this layer whose sign is another than at the '
    'point before: one epoch, or less right after an optimization.',
    'outside_window': 'Share of the latent weights of this layer outside the straight-through '
    'window |w| <= 1, through which alone they get a gradient.',
    'latent': 'Latent weights of this 1-bit layer; their signs are the weights.',
}
_SINGULAR = (
    'Singular values of this layer at the factoring, as shares of the largest. Dark: kept. Light: '
    'left out. The red line marks the rank.'
)
_CARD = 'What the optimization did to each layer.'

# In this layout, tags are regular expressions.
_LAYOUT = (
    (
        'recovery',
        (
            ('held-out metric', ('recovery/metric', 'recovery/baseline', 'recovery/worst')),
            ('recovered share of the drop', ('recovery/recovered',)),
            ('drop', ('recovery/drop',)),
            ('epochs to recover', ('recovery/epochs',)),
        ),
    ),
    (
        'training',
        (
            ('loss', ('train/loss',)),
            ('metric', ('train/metric', 'test/')),
            ('learning rate', ('train/learning_rate',)),
            ('samples per second', ('train/samples_per_second',)),
        ),
    ),
    (
        'size of the network',
        (
            ('bytes', ('size/bytes',)),
            ('parameters', ('size/parameters',)),
            ('multiply-adds', ('size/float_multiply_adds', 'size/binary_multiply_adds')),
        ),
    ),
    (
        'latent weights of 1-bit layers',
        (
            ('flip ratio', ('weights/.*/flip_ratio',)),
            ('share outside the straight-through window', ('weights/.*/outside_window',)),
        ),
    ),
)


class Descriptions:
    """Describes tags with the names that a run uses.

    Args:
        run (Run): None in a plain trainer, which reports no run.
    """

    def __init__(self, run=None):
        self._words = {'metric': 'the metric', 'better': 'smaller', 'baseline': 'not given'}
        if run is not None:
            self._words['metric'] = run.metric_name
            self._words['better'] = 'larger' if run.larger_is_better else 'smaller'
            if run.baseline is not None:
                self._words['baseline'] = run.baseline.source

    def __call__(self, tag):
        """Returns the description of a tag; '' if the tag is unknown."""
        if tag.startswith('train/learning_rate/'):
            return 'Learning rate of another learner, as CNTK tells it.'
        if tag.startswith('singular_values/'):
            return _SINGULAR
        known = _OF_A_LAYER if tag.startswith('weights/') else _DESCRIPTIONS
        place = tag.rpartition('/')[2] if tag.startswith('weights/') else tag
        found = known.get(place, _CARD if tag.startswith('netopt/') else '')
        for name, word in self._words.items():
            found = found.replace('{' + name + '}', word)
        return found[:1].upper() + found[1:]


def layout():
    """Returns the summary that defines the layout of the Custom Scalars tab, recovery first."""
    return summary.custom_scalars(
        {
            category: {title: ['Multiline', list(tags)] for title, tags in charts}
            for category, charts in _LAYOUT
        }
    )


def hparams(run):
    """Returns the summaries for the HParams tab: options of the callbacks, and how the run ended.

    Returns:
        (tuple, Summary): those to write before the first point, and the one to write after the
            last.
    """
    options = {'epoch_size': run.epoch_size, 'max_samples': run.max_samples}
    taken = {}
    for name, given in run.callbacks:
        taken[name] = taken.get(name, 0) + 1
        prefix = name if taken[name] == 1 else f'{name}_{taken[name]}'
        options.update((f'{prefix}.{option}', _number(value)) for option, value in given.items())
    metrics = ('recovery/metric', 'recovery/recovered', 'size/bytes', 'size/parameters')
    experiment, start, end = summary.hparams(options, dict.fromkeys(metrics, 0))
    return (experiment, start), end


def _number(text):
    """Returns an option as a number if it is one, else unchanged."""
    try:
        return float(text)
    except ValueError:
        return text
