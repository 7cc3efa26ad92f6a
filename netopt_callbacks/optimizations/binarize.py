"""What the binarizing optimizations share: sign(W) and sign(x) take the place of W and x, with a
straight-through gradient.

Which product they do it to, a convolution or a Dense, says a `Kind`; see `binary_kinds`.
"""
from typing import Any, Optional

import cntk as C
import numpy as np

from .._types import Epoch, Filter, MakeLearner, Minibatches
from .. import graph
from ..lowering.replace import lower_binary_layers
from . import binary
from .base import LayerNote, Optimization, Replaced, Transformed
from .binary_block import Recipe, build, core_of, latent_error
from .binary_calibration import LEFT_OUTSIDE, samples, weight_histogram
from .binary_choice import Choice
from .binary_kinds import kind_of_layer
from .products import notes_of_frozen

OPERANDS = ('both', 'inputs')

# Above this fraction outside |v| <= 1 a layer's note says that the gradient is starved. On MNIST 12
# to 22 % of the inputs were outside and clipping did not help (docs/binarization.md), so the note
# starts above that.
STARVED = 0.25


class Binarize(Optimization):
    """Turns the weights and the input of one kind of layer into 1 bit each; a subclass names the
    kind.

    Attributes:
        options (Options): what it was made with.

    Raises:
        TypeError, ValueError: see `BinarizeConvolution`.
    """

    kind: Any

    def __init__(
        self,
        epoch: Epoch = 0,
        filter_function: Optional[Filter] = None,
        weight_scale: Optional[str] = 'channel',
        input_scale: Optional[str] = 'sample',
        input_shift: Optional[str] = 'calibrate',
        clip: Optional[float] = None,
        operands: str = 'both',
        learner: Optional[MakeLearner] = None,
        learner_state: str = 'reset',
        output_scale: Optional[str] = 'calibrate',
    ) -> None:
        super().__init__(epoch, filter_function, learner, learner_state)
        self.options = Options(
            self.kind, weight_scale, input_scale, input_shift, clip, operands, output_scale
        )
        if input_shift == 'learn' and learner is None:
            raise ValueError(
                f"{self.kind.optimization}: input_shift='learn' adds a Parameter, which must have "
                "a learner, and got none; give learner=lambda parameters: C.sgd(parameters, "
                "schedule), or take input_shift='calibrate'"
            )
        self._forget()

    def check(self, model: C.Function) -> Transformed:
        return _binarized(model, self._chosen(model), self.options, {})

    def prepare(self, model: C.Function, minibatches: Minibatches) -> None:
        self._choice = self._chosen(model)
        self._samples = samples(model, self._choice, minibatches)

    def transform(self, model: C.Function) -> Transformed:
        transformed = _binarized(model, self._chosen(model), self.options, self._samples)
        self._forget()
        return transformed

    def _chosen(self, model):
        """Returns the choice `prepare` made of this very model, or a new one."""
        if self._choice is not None and self._choice.model is model:
            return self._choice
        return Choice(model, self.kind, self.filter_function, self.options.operands)

    def _forget(self):
        self._choice, self._samples = None, {}  # 16 MB a layer

    def lower(self, model: C.Function) -> C.Function:
        return lower_binary_layers(model)


def binarized(model, kind, filter_function, minibatches, **options):
    """Returns `model` with its layers of one kind binarized.

    Args:
        model (cntk.Function): left as it is; every Parameter is shared.
        kind (Kind): of the layers.
        filter_function (callable): see `BinarizeConvolution`.
        minibatches: dicts of the model's arguments to data, for what is calibrated; may be empty.
        options: those of `Options`.

    Returns:
        Transformed: the new model, and a note for each layer of that kind of the old one.

    Raises:
        ValueError, NotImplementedError: see `optimizations.binary_choice.Choice`.
    """
    checked = Options(kind, **options)
    choice = Choice(model, kind, filter_function, checked.operands)
    return _binarized(model, choice, checked, samples(model, choice, minibatches))


class Options:
    """The choices of a `Binarize`, each known to be one of its values.

    Raises:
        ValueError: one is not.
    """

    def __init__(
        self,
        kind,
        weight_scale='channel',
        input_scale='sample',
        input_shift='calibrate',
        clip=None,
        operands='both',
        output_scale='calibrate',
    ):
        for name, value, allowed in (
            ('weight_scale', weight_scale, binary.WEIGHT_SCALES),
            ('input_scale', input_scale, binary.INPUT_SCALES),
            ('input_shift', input_shift, binary.INPUT_SHIFTS),
            ('output_scale', output_scale, binary.OUTPUT_SCALES),
            ('clip', clip, binary.CLIPS),
            ('operands', operands, OPERANDS),
        ):
            if value not in allowed:
                raise ValueError(
                    '%s: %s must be one of %s, got %r; leave it out for the default'
                    % (kind.optimization, name, ', '.join(repr(one) for one in allowed), value)
                )
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
    return Transformed(
        graph.replace(model, new_functions),
        list(notes.values())
        + notes_of_frozen(model, choice.kind.layer_op_name)
        + choice.kind.notes_of_others(model),
        replaced,
    )


def _recipe(layer, options, sample, staged):
    """Returns how a layer is binarized; `sample` is a Sample of what its product reads, or None."""
    recipe = Recipe(
        options.weight_scale,
        options.input_scale,
        operands='weights' if staged else options.operands,
    )
    if not staged:
        recipe.shift = _shift(layer, options, sample)
    if options.clip is not None:
        recipe.weight_clip = weight_histogram(layer.W).clip_factor(LEFT_OUTSIDE)
        if sample is not None and not staged:
            recipe.input_clip = sample.histogram(_value(recipe.shift)).clip_factor(LEFT_OUTSIDE)
    if options.output_scale is not None and sample is not None:
        data = kind_of_layer(layer).data_of(layer.core)
        float_core = C.as_composite(layer.core).clone(
            C.CloneMethod.share, {data: C.placeholder(data.shape)}
        )
        recipe.gain, recipe.offset = sample.fitted(float_core, core_of(layer, recipe))
    return recipe


def _shift(layer, options, sample):
    """Returns the Constant or Parameter to be taken from the input, or None."""
    threshold = None if sample is None else sample.threshold()
    if options.input_shift == 'learn':
        return C.parameter(
            kind_of_layer(layer).channel_shape(layer.core),
            init=0 if threshold is None else threshold,
            dtype=np.float32,
            name='input_shift',
        )
    if options.input_shift is None or threshold is None:
        return None
    return C.constant(threshold, name='input_shift')


def _note(layer, **what):
    """Returns the note of a layer that stays as it is, but for `what`."""
    size = _size(layer.W) + _size(layer.b)
    return LayerNote(
        layer.name,
        layer.W.shape,
        parameters_before=size,
        parameters_after=size,
        macs_before=layer.macs,
        macs_after=layer.macs,
        float_bytes=layer.W.dtype().itemsize,
        **what,
    )


def _taken_note(layer, options, recipe, sample):
    """Returns the note of a layer that is binarized."""
    note = _note(layer, message=_message(layer, options, recipe, sample) or None)
    note.parameters_after += _size(recipe.shift) + (
        0 if recipe.offset is None else len(recipe.offset)
    )
    if recipe.operands != 'inputs':
        outputs = kind_of_layer(layer).outputs(layer.core)
        note.parameters_after += (
            outputs
            if recipe.gain is not None
            else {'channel': outputs, 'layer': 1, None: 0}[recipe.weight_scale]
        )
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
    names = {
        'input_shift': 'input_shift',
        'output_scale': 'output_scale',
        'clip': 'the clip of its input',
    }
    calibrated = [
        names[name]
        for name in ('input_shift', 'output_scale', 'clip')
        if getattr(options, name) is not None and not (staged and name != 'output_scale')
    ]
    if sample is None and calibrated:
        said.append(
            'no held-out data to calibrate %s on, so it does without' % ' and '.join(calibrated)
        )
    if options.clip is None:
        outside = {'weights': weight_histogram(layer.W).outside()}
        if sample is not None and not staged:
            outside['inputs'] = sample.histogram(_value(recipe.shift)).outside()
        said += [
            f"{100 * fraction:.0f} % of its {what} lie outside the straight-through window |v| <= "
            "1 and pass no gradient; clip='calibrate' scales them into it"
            for what, fraction in sorted(outside.items())
            if fraction > STARVED
        ]
    return '; '.join(said)


def _value(leaf):
    return None if leaf is None else leaf.value


def _size(leaf):
    return 0 if leaf is None else int(np.prod(leaf.shape))
