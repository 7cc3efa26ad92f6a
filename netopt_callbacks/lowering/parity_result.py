"""What the gate found out about a lowered network: per layer, per segment and end to end; see
`parity.compare` for what is admitted."""
from ..table import in_html


class LayerParity:
    """How one lowered layer compares with the trained one.

    Attributes:
        name (str): of the layer.
        integers (int): accumulators compared, given the same input.
        different_integers (int): how many of them differ.
        different_outputs (int): outputs of the layer that differ in any bit, given the same input.
        ties (int): input bits that differ end to end, and tie.
        strays (int): input bits that differ end to end for no reason that is admitted.
    """

    FIELDS = ('name', 'integers', 'different_integers', 'different_outputs', 'ties', 'strays')

    def __init__(
        self, name, integers=0, different_integers=0, different_outputs=0, ties=0, strays=0
    ):
        self.name = name
        self.integers = integers
        self.different_integers = different_integers
        self.different_outputs = different_outputs
        self.ties = ties
        self.strays = strays

    @property
    def passed(self):
        return not (self.different_integers or self.different_outputs or self.strays)

    def to_dict(self):
        """Returns the JSON-ready fields."""
        return {field: getattr(self, field) for field in self.FIELDS}

    def __str__(self):
        if not self.integers:
            return f"'{self.name}': nothing compared"
        said = '%s integers ==' % format(self.integers, ',')
        if self.different_integers:
            said = '{} of {} integers differ'.format(
                format(self.different_integers, ','), format(self.integers, ',')
            )
        for count, what in (
            (self.different_outputs, 'outputs differ given the same input'),
            (self.ties, 'input bits tie'),
            (self.strays, 'input bits differ and do not tie'),
        ):
            if count:
                said += ', {} {}'.format(format(count, ','), what)
        return f"'{self.name}': {said}"


class FloatParity:
    """How a float layer that a segment took in compares with CNTK's, given the same input.

    Attributes:
        name (str): of the layer.
        values (int): sums compared.
        error (float): largest difference, as a share of the sample's scale (see `OutputParity`).
        different_not_finite (int): sums that are NaN or infinite in one of the two alone, or
            otherwise so.
        tolerance (float): admitted `error`.
        winograd (bool): whether it is done in fewer multiplications, by tiles of Winograd.
    """

    FIELDS = ('name', 'values', 'error', 'different_not_finite', 'tolerance', 'winograd')

    def __init__(self, name, tolerance, winograd=False):
        self.name = name
        self.tolerance = tolerance
        self.winograd = winograd
        self.values = self.different_not_finite = 0
        self.error = 0.0

    @property
    def passed(self):
        return not self.different_not_finite and self.error <= self.tolerance

    def to_dict(self):
        """Returns the JSON-ready fields."""
        return {field: getattr(self, field) for field in self.FIELDS}

    def __str__(self):
        said = (
            "float layer '{}', taken in{}: {} sums within {:.3g} of CNTK's (tolerance {:g})".format(
                self.name,
                " by tiles of Winograd" if self.winograd else '',
                format(self.values, ','),
                self.error,
                self.tolerance,
            )
        )
        if self.different_not_finite:
            said += ', %s NaN or infinite in one alone' % format(self.different_not_finite, ',')
        return said


class SegmentParity:
    """How a segment compares with the trained one, given the same input.

    Attributes:
        name (str): of its block.
        layers (list of LayerParity): the binary layers in it, inputs first; also among those of
            `Parity`.
        floats (list of FloatParity): the float layers in it that are summed in another order than
            CNTK's.
        same_floats (list of str): names of the others, which have its bits.
        values (int): outputs compared; where there are `floats`, computed from CNTK's sums in
            their place.
        different_values (int): how many of them differ in any bit.
    """

    def __init__(self, name, layers, floats=(), same_floats=()):
        self.name = name
        self.layers = list(layers)
        self.floats = list(floats)
        self.same_floats = list(same_floats)
        self.values = self.different_values = 0

    @property
    def passed(self):
        return not self.different_values and all(
            layer.passed for layer in self.layers + self.floats
        )

    @property
    def first_difference(self):
        """Where it first differs, as words; None where it does not."""
        if self.passed:
            return None
        layer = next((layer for layer in self.floats + self.layers if not layer.passed), None)
        return "segment '{}', {}".format(
            self.name,
            f"behind its last layer '{self.layers[-1].name}'"
            if layer is None
            else f"layer '{layer.name}'",
        )

    def to_dict(self):
        """Returns the JSON-ready fields."""
        return {
            'name': self.name,
            'layers': [layer.name for layer in self.layers],
            'values': self.values,
            'different_values': self.different_values,
            'floats': [layer.to_dict() for layer in self.floats],
            'same_floats': self.same_floats,
        }

    def __str__(self):
        said = '%s outputs ==' % format(self.values, ',')
        if self.different_values:
            said = '{} of {} outputs differ given the same input, first in {}'.format(
                format(self.different_values, ','), format(self.values, ','), self.first_difference
            )
        return '\n    '.join(
            [f"segment '{self.name}' of {len(self.layers)} layers: {said}"]
            + [
                f"float layer '{name}', taken in: summed in CNTK's order"
                for name in self.same_floats
            ]
            + [str(layer) for layer in self.floats]
        )


def _by_reason(reasons):
    """Returns (reason, names) of (name, reason), in their order."""
    names_of = {}
    for name, why in reasons:
        names_of.setdefault(why, []).append(name)
    return names_of.items()


class Parity:
    """How a lowered network compares with the trained one; see `parity.compare` for what is
    admitted.

    Attributes:
        layers (list of LayerParity): the binary layers that were lowered; [] where there are none.
        segments (list of SegmentParity): those that are lowered together.
        alone (list of (str, str)): of each binary layer that is in no segment its name and why.
        stayed (list of (str, str)): of each float layer that stayed in CNTK its name and why; []
            with `float_layers='apart'`, and where `left_apart` says why.
        lowered_by (list of str): class names of the optimizations whose own `lower` gave another
            network; what it changed is compared end to end only.
        samples (int): samples compared end to end (of a sequence output, its steps).
        data (str): what they are: 'held-out' or 'seeded random input'.
        largest_difference (float): between finite outputs, over all samples.
        largest_output (float): largest finite magnitude of a trained output.
        unexplained_difference (float): as `largest_difference`, over the samples in which no bit
            ties.
        unexplained_error (float): as a share of the sample's scale, see `OutputParity`.
        not_finite (int): trained outputs that are NaN or infinite.
        different_not_finite (int): how many outputs are so in one network alone, or otherwise so,
            among the samples in which no bit ties.
        values (int): outputs compared.
        predictions (int): argmax compared; 0 where no output is a vector.
        different_predictions (int): how many differ, among the samples in which no bit ties.
        tolerance (float): admitted `unexplained_error`.
        speed (Speed): what a call of either takes; None where it was not asked for, or no binary
            layer was lowered.
        float_layers (str): as of `Lower`, what the segments were made with.
        left_tiles (str): where the network first differed with float layers by tiles of Winograd,
            which are done by taps therefore; None where they did not differ.
        left_apart (str): where the network first differed with float layers in its segments, which
            are left to CNTK therefore; None where they did not differ.
    """

    FIELDS = (
        'samples',
        'data',
        'values',
        'largest_difference',
        'largest_output',
        'unexplained_difference',
        'unexplained_error',
        'not_finite',
        'different_not_finite',
        'predictions',
        'different_predictions',
        'tolerance',
    )

    def __init__(self, tolerance, data='held-out'):
        self.layers = []
        self.segments = []
        self.alone = []
        self.stayed = []
        self.lowered_by = []
        self.samples = 0
        self.data = data
        self.values = 0
        self.largest_difference = 0.0
        self.largest_output = 0.0
        self.unexplained_difference = 0.0
        self.unexplained_error = 0.0
        self.not_finite = 0
        self.different_not_finite = 0
        self.predictions = 0
        self.different_predictions = 0
        self.tolerance = tolerance
        self.speed = None
        self.float_layers = 'cntk'
        self.left_tiles = self.left_apart = None

    @property
    def same_floats(self):
        """Names of the float layers in segments that have CNTK's bits."""
        return [name for segment in self.segments for name in segment.same_floats]

    @property
    def with_winograd(self):
        """Whether a float layer is done by tiles of Winograd."""
        return any(layer.winograd for segment in self.segments for layer in segment.floats)

    @property
    def same_predictions(self):
        """Whether all predictions compared are the same."""
        return self.different_predictions == 0

    @property
    def first_difference(self):
        """The first segment or layer that differs given the same input, as words; None where
        none does."""
        parts = [segment.first_difference for segment in self.segments]
        parts += [f"layer '{layer.name}'" for layer in self.layers if not layer.passed]
        return next((part for part in parts if part), None)

    @property
    def passed(self):
        """Whether the lowered network may be handed over; not where no finite output was
        compared."""
        return (
            self.samples > 0
            and self.values > self.not_finite
            and self.same_predictions
            and not self.different_not_finite
            and all(part.passed for part in self.layers + self.segments)
            and self.unexplained_error <= self.tolerance
        )

    def to_dict(self):
        """Returns the JSON-ready fields, `layers` as a list of dicts; not `speed`, as two equal
        runs give equal dicts."""
        fields = {field: getattr(self, field) for field in self.FIELDS}
        fields.update(
            layers=[layer.to_dict() for layer in self.layers],
            passed=self.passed,
            segments=[segment.to_dict() for segment in self.segments],
            alone=[list(each) for each in self.alone],
            stayed=[list(each) for each in self.stayed],
            lowered_by=list(self.lowered_by),
            float_layers=self.float_layers,
            left_tiles=self.left_tiles,
            left_apart=self.left_apart,
        )
        return fields

    def __repr__(self):
        return '<Parity: {}, {} samples, {} layers lowered, largest difference {:.3g}>'.format(
            'passed' if self.passed else 'REFUSED',
            format(self.samples, ','),
            len(self.layers),
            self.largest_difference,
        )

    def _repr_html_(self):
        return in_html(str(self))

    def __str__(self):
        lines = [
            'Lowered against trained, %s samples (%s): largest difference %.3g of outputs up to '
            '%.3g'
            % (format(self.samples, ','), self.data, self.largest_difference, self.largest_output)
        ]
        if self.predictions:
            lines[0] += ', predictions %s' % (
                'the same' if self.same_predictions else f'differ in {self.different_predictions}'
            )
        if self.not_finite or self.different_not_finite:
            lines.append(
                '  {} of {} outputs are NaN or infinite: {}'.format(
                    format(self.not_finite, ','),
                    format(self.values, ','),
                    '%s differ' % format(self.different_not_finite, ',')
                    if self.different_not_finite
                    else 'the same'
                    if self.values > self.not_finite
                    else 'nothing could be compared',
                )
            )
        if not self.layers and not self.lowered_by:
            lines.append(
                '  nothing to lower: no layer is 1-bit (or it is native already), so `lowered` is '
                'the trained network'
            )
        lines += [f'  {part}' for part in self.segments + self.layers]
        lines += ["  '%s' is lowered alone: %s" % each for each in self.alone]
        lines += [
            '  %s %s not lowered: %s'
            % (', '.join(map(repr, names)), 'is' if len(names) == 1 else 'are', why)
            for why, names in _by_reason(self.stayed)
        ]
        lines += [
            f'  {name} has a lower of its own: what it gave is compared end to end only'
            for name in self.lowered_by
        ]
        if self.left_tiles is not None:
            lines.append(
                '  float layers are done by taps: by tiles of Winograd the network differs in '
                f'{self.left_tiles}'
            )
        if self.left_apart is not None:
            lines.append(
                '  float layers stay in CNTK: with them in native code the network differs in '
                f'{self.left_apart}'
            )
        if not self.passed:
            lines.append(f'  REFUSED (tolerance {self.tolerance:g})')
        if self.speed is not None:
            lines.append(str(self.speed))
        return '\n'.join(lines)
