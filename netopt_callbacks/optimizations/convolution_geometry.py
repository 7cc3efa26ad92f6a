"""Where CNTK's convolution puts its filters: padding and output size, from a layer's attributes.

With automatic padding CNTK centers the filter on every stride-th pixel and divides what is left
over at both ends; so the padding depends on the input's size, and may be negative: then the
outermost pixels are not read. `k` is the extent of the filter with its dilation, (side - 1) *
dilation + 1::

    outputs = (size - 1) // stride + 1
    spare   = size - 1 - (outputs - 1) * stride          pixels before and after the centers
    lower   = (k - 1) // 2 - spare // 2

(CNTK's `ConvolutionEngine::GetLowerPad`; found equal to its results on every size up to 11, side up
to 7 and stride up to 4.)
"""


class Axis:
    """One spatial axis of a convolution.

    Args:
        side (int): of the filter, in taps.
        stride, dilation (int): at least 1.
        automatic (bool): CNTK's automatic padding.
        lower, upper (int): explicit padding, used where it is not automatic.
    """

    def __init__(self, side, stride=1, dilation=1, automatic=False, lower=0, upper=0):
        self.side = side
        self.stride = stride
        self.dilation = dilation
        self.automatic = automatic
        self.lower = lower
        self.upper = upper

    @property
    def extent(self):
        """Pixels from the first to the last tap, both included."""
        return (self.side - 1) * self.dilation + 1

    def outputs(self, size):
        """Returns the number of outputs for an input of `size` pixels."""
        if self.automatic:
            return (size - 1) // self.stride + 1
        return (size + self.lower + self.upper - self.extent) // self.stride + 1

    def padding(self, size):
        """Returns (lower, upper) in pixels, negative where pixels are left out."""
        outputs = self.outputs(size)
        lower = self.lower
        if self.automatic:
            spare = size - 1 - (outputs - 1) * self.stride
            lower = (self.extent - 1) // 2 - spare // 2
        return lower, (outputs - 1) * self.stride + self.extent - size - lower

    def read(self, size):
        """Returns (first, end) of the pixels of `size` between which filters lie: not all where
        the padding is negative. On a crop to these, no padding is the same as the automatic one,
        which is never negative at one end and positive at the other.
        """
        lower, upper = self.padding(size)
        return max(-lower, 0), size - max(-upper, 0)

    def padding_of_any_size(self):
        """Returns (lower, upper) in pixels where they are the same for every size, else None."""
        if not self.automatic:
            return self.lower, self.upper
        return self.padding(self.extent) if self.stride == 1 else None

    def is_left_to_fallback(self, size):
        """Whether CNTK's CPU cannot pad an input of `size` pixels for its fast engine, which pads
        both ends alike.

        With automatic padding one pixel less after than before is no obstacle: it pads one more
        there, which no filter reads (`ConvolveGeometry::GetUpperPad`). That is how an odd filter
        comes out uneven; an even one comes out the other way round.
        """
        if not self.automatic:
            return self.lower != self.upper
        lower, upper = self.padding(size)
        return lower < upper

    def may_be_left_to_fallback(self):
        """Whether there is a size of which `is_left_to_fallback` holds; the sizes repeat after
        one stride."""
        return any(
            self.is_left_to_fallback(self.extent + self.stride + size)
            for size in range(self.stride)
        )

    def state(self):
        """Returns the arguments as a list of int."""
        return [self.side, self.stride, self.dilation, int(self.automatic), self.lower, self.upper]

    @classmethod
    def from_state(cls, state):
        """Inverse of `state`.

        Raises:
            ValueError: these are not the numbers of an axis.
        """
        numbers = [int(number) for number in state]
        if len(numbers) != 6 or min(numbers[:3]) < 1 or numbers[3] not in (0, 1):
            raise ValueError(
                'an axis must be [side, stride, dilation, automatic, lower, upper], the first '
                f'three at least 1 and automatic 0 or 1, got {list(state)}'
            )
        side, stride, dilation, automatic, lower, upper = numbers
        return cls(side, stride, dilation, bool(automatic), lower, upper)


def axes_of(core):
    """Returns height and width of a convolution primitive as two `Axis`."""
    attributes = core.attributes
    names = ('strides', 'dilation', 'autoPadding', 'lowerPad', 'upperPad')
    return [
        Axis(side, *settings)
        for side, settings in zip(
            core.inputs[0].shape[-2:], zip(*(attributes[name][-2:] for name in names))
        )
    ]


def is_computed_wrongly(core):
    """Whether CNTK's CPU computes a convolution primitive wrongly: its fallback engine ignores
    groups.

    With a free axis, whether it does so for some size.
    """
    if core.attributes['groups'] == 1:
        return False
    return any(
        axis.is_left_to_fallback(size) if size > 0 else axis.may_be_left_to_fallback()
        for axis, size in zip(axes_of(core), core.inputs[1].shape[1:])
    )
