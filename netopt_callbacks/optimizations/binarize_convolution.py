"""1-bit convolutions: sign(W) and sign(x) take the place of W and x, with a straight-through gradient."""
import cntk as C
import numpy as np

from .. import graph
from . import binary
from .base import LayerNote, Optimization, Replaced, Transformed
from .binary_block import Recipe, build, core_of, data_of, latent_error
from .binary_calibration import LEFT_OUTSIDE, samples, weight_histogram
from .binary_choice import Choice

OPERANDS = ('both', 'inputs')

# Above this fraction outside |v| <= 1 a layer's note says that the gradient is starved. On MNIST 12 to 22 %
# of the inputs were outside and clipping did not help (docs/binarization.md), so the note starts above that.
STARVED = 0.25


class BinarizeConvolution(Optimization):
    """Turns the weights and the input of convolutions into 1 bit each, and lets training go on.

    A layer y = W (*) x + b becomes y = gain * mean|W| * mean|u| * (sign(W) (*) sign(u)) + offset + b
    with u = x - shift (see `optimizations.binary` for the formulas and their sources). The latent weights
    are the trained weights, the same Parameters, so the learner that trained them goes on
    training them; bias, activation and name stay. `Lower` then puts the native bit convolution in
    their place. What is to be calibrated and finds no held-out data is left out, and the layer's note says
    so. How the defaults were chosen: see `docs/binarization.md`.

    Args:
        epoch (int): completed epochs after which it happens.
        filter_function (callable): `nc.graph.Layer -> bool`; decides alone. None takes every
            convolution but the first and the last of the network, which matter most.
        weight_scale (str): 'channel' (mean |W| per filter), 'layer' (mean |W|) or None.
        input_scale (str): 'sample' (mean |u|, one number per sample) or None.
        input_shift (str): 'calibrate' (for each channel the threshold of the best quantizer to two
            levels on held-out data, a Constant), 'learn' (a Parameter that starts there; takes
            `learner`) or None.
        output_scale (str): 'calibrate' fits a gain and an offset per filter, both Constants, to what
            the float layer computes on held-out data; None leaves them out.
        clip (str): 'calibrate' scales inputs and weights by a power of two into the window
            |v| <= 1 of the straight-through gradient, signs unchanged; None leaves them, and
            the layer's note says so where that starves the gradient.
        operands (str): 'both', or 'inputs': a first stage after which the weights are still
            float; a later BinarizeConvolution of the same layer makes them binary.
        learner, learner_state: see `nc.Optimization`; only a learned shift is a new Parameter.

    Raises:
        TypeError, ValueError: an argument is not one of these, or `input_shift='learn'`
            comes without a learner.
    """

    def __init__(self, epoch=0, filter_function=None, weight_scale='channel', input_scale='sample',
                 input_shift='calibrate', clip=None, operands='both', learner=None,
                 learner_state='reset', output_scale='calibrate'):
        super(BinarizeConvolution, self).__init__(epoch, filter_function, learner, learner_state)
        self._options = Options(weight_scale, input_scale, input_shift, clip, operands, output_scale)
        if input_shift == 'learn' and learner is None:
            raise ValueError("BinarizeConvolution: input_shift='learn' adds a Parameter, which must have a "
                             'learner, and got none; give learner=lambda parameters: C.sgd(parameters, '
                             "schedule), or take input_shift='calibrate'")
        self._forget()

    def check(self, model):
        return _binarized(model, self._chosen(model), self._options, {})

    def prepare(self, model, minibatches):
        self._choice = self._chosen(model)
        self._samples = samples(model, self._choice.keys, minibatches)

    def transform(self, model):
        transformed = _binarized(model, self._chosen(model), self._options, self._samples)
        self._forget()
        return transformed

    def _chosen(self, model):
        """Returns the choice `prepare` made of this very model, or a new one."""
        if self._choice is not None and self._choice.model is model:
            return self._choice
        return Choice(model, self.filter_function, self._options.operands)

    def _forget(self):
        self._choice, self._samples = None, {}      # 16 MB a layer

    def lower(self, model):
        from ..lowering.replace import lower_binary_convolutions
        return lower_binary_convolutions(model)


def binarize_convolution(model, filter_function=None, weight_scale='channel', input_scale='sample',
                         input_shift='calibrate', clip=None, operands='both', output_scale='calibrate',
                         minibatches=()):
    """Returns `model` with binary convolutions; arguments as for `BinarizeConvolution`.

    Args:
        model (cntk.Function): left as it is; every Parameter is shared.
        minibatches: dicts of the model's arguments to data, for what is calibrated; may be empty.

    Returns:
        Transformed: the new model, and a note for each convolution of the old one.

    Raises:
        ValueError, NotImplementedError: see `optimizations.binary_choice.Choice`.
    """
    options = Options(weight_scale, input_scale, input_shift, clip, operands, output_scale)
    choice = Choice(model, filter_function, operands)
    return _binarized(model, choice, options, samples(model, choice.keys, minibatches))


class Options(object):
    """The choices of `BinarizeConvolution`, each known to be one of its values.

    Raises:
        ValueError: one is not.
    """

    def __init__(self, weight_scale, input_scale, input_shift, clip, operands, output_scale):
        for name, value, allowed in (('weight_scale', weight_scale, binary.WEIGHT_SCALES),
                                     ('input_scale', input_scale, binary.INPUT_SCALES),
                                     ('input_shift', input_shift, binary.INPUT_SHIFTS),
                                     ('output_scale', output_scale, binary.OUTPUT_SCALES),
                                     ('clip', clip, binary.CLIPS), ('operands', operands, OPERANDS)):
            if value not in allowed:
                raise ValueError('BinarizeConvolution: %s must be one of %s, got %r; leave it out for the default'
                                 % (name, ', '.join(repr(one) for one in allowed), value))
            setattr(self, name, value)


def _binarized(model, choice, options, held_out):
    """Returns the Transformed model; `held_out` are Samples by uid of W, and may be missing."""
    new_functions, notes, replaced, recipes = {}, {}, [], {}
    for layer in choice.layers:
        key = layer.W.uid
        if layer in choice.skipped:
            notes.setdefault(key, _note(layer, skipped=choice.skipped[layer]))
            continue
        if key not in recipes:
            staged = layer in choice.staged
            recipes[key] = _recipe(layer, options, held_out.get(key), staged)
            notes[key] = _taken_note(layer, options, recipes[key], held_out.get(key))
            if options.input_shift == 'learn' and recipes[key].shift is not None:
                replaced.append(Replaced(layer.name, added=(recipes[key].shift,)))
        new_functions[layer] = build(layer, recipes[key])
    return Transformed(graph.replace(model, new_functions), list(notes.values()), replaced)


def _recipe(layer, options, sample, staged):
    """Returns how a layer is binarized; `sample` is a Sample of what its convolution reads, or None."""
    recipe = Recipe(options.weight_scale, options.input_scale,
                    operands='weights' if staged else options.operands)
    if not staged:
        recipe.shift = _shift(layer, options, sample)
    if options.clip is not None:
        recipe.weight_clip = weight_histogram(layer.W).clip_factor(LEFT_OUTSIDE)
        if sample is not None and not staged:
            recipe.input_clip = sample.histogram(_value(recipe.shift)).clip_factor(LEFT_OUTSIDE)
    if options.output_scale is not None and sample is not None:
        float_core = C.as_composite(layer.core).clone(
            C.CloneMethod.share, {data_of(layer.core): C.placeholder(data_of(layer.core).shape)})
        recipe.gain, recipe.offset = sample.fitted(float_core, core_of(layer, recipe))
    return recipe


def _shift(layer, options, sample):
    """Returns the Constant or Parameter to be taken from the input, or None."""
    threshold = None if sample is None else sample.threshold()
    if options.input_shift == 'learn':
        shape = (data_of(layer.core).shape[0], 1, 1)
        return C.parameter(shape, init=0 if threshold is None else threshold, dtype=np.float32,
                           name='input_shift')
    if options.input_shift is None or threshold is None:
        return None
    return C.constant(threshold, name='input_shift')


def _note(layer, **what):
    """Returns the note of a layer that stays as it is, but for `what`."""
    size = _size(layer.W) + _size(layer.b)
    return LayerNote(layer.name, layer.W.shape, parameters_before=size, parameters_after=size,
                     macs_before=layer.macs, macs_after=layer.macs, **what)


def _taken_note(layer, options, recipe, sample):
    """Returns the note of a layer that is binarized."""
    note = _note(layer, message=_message(layer, options, recipe, sample) or None)
    note.parameters_after += _size(recipe.shift) + (0 if recipe.offset is None else len(recipe.offset))
    if recipe.operands != 'inputs':
        note.parameters_after += layer.core.shape[0] if recipe.gain is not None else \
            {'channel': layer.core.shape[0], 'layer': 1, None: 0}[recipe.weight_scale]
        note.error = latent_error(layer, recipe.weight_scale)
        note.binary_macs_after = layer.macs
        note.bits_after = 1
    return note


def _message(layer, options, recipe, sample):
    """Returns what the user should know: a stage, a fallback, or a starved gradient."""
    said = []
    staged = recipe.operands == 'weights'
    if staged:
        said.append('its input was binary already, now its weights are')
    elif recipe.operands == 'inputs':
        said.append('only its input is 1-bit so far, so it is not lowered')
    names = {'input_shift': 'input_shift', 'output_scale': 'output_scale', 'clip': 'the clip of its input'}
    calibrated = [names[name] for name in ('input_shift', 'output_scale', 'clip')
                  if getattr(options, name) is not None and not (staged and name != 'output_scale')]
    if sample is None and calibrated:
        said.append('no held-out data to calibrate %s on, so it does without' % ' and '.join(calibrated))
    if options.clip is None:
        outside = {'weights': weight_histogram(layer.W).outside()}
        if sample is not None and not staged:
            outside['inputs'] = sample.histogram(_value(recipe.shift)).outside()
        said += ["%.0f %% of its %s lie outside the straight-through window |v| <= 1 and pass no "
                 "gradient; clip='calibrate' scales them into it" % (100 * fraction, what)
                 for what, fraction in sorted(outside.items()) if fraction > STARVED]
    return '; '.join(said)


def _value(leaf):
    return None if leaf is None else leaf.value


def _size(leaf):
    return 0 if leaf is None else int(np.prod(leaf.shape))
