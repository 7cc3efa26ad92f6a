"""Reads the held-out metric of a run without optimizations, to draw it beside another run."""
import bisect
import math
import os
from numbers import Real
from typing import Any, List, Optional

from ._types import Points

_HINT = (
    'give a folder that nc.TensorBoard wrote of a run without optimizations, or a list of '
    '(samples, metric)'
)


class Baseline:
    """A curve of the held-out metric, which can be evaluated at a number of samples.

    Args:
        points (list of (int, float)): (samples, metric), sorted by samples.
        source (str): where the curve comes from, for reports.
    """

    def __init__(self, points: Points, source: str = 'given as a list') -> None:
        self.points = [(int(samples), float(metric)) for samples, metric in points]
        self.source = source

    def at(self, samples: int) -> Optional[float]:
        """Returns the metric after `samples` samples.

        Between two measurements the metric is interpolated linearly. It is None before the first
        measurement and after the last.
        """
        place = bisect.bisect_left(self.points, (samples, -math.inf))
        if place == len(self.points):
            return None
        right, after = self.points[place]
        if right == samples:
            return after
        if place == 0:
            return None
        left, before = self.points[place - 1]
        return before + (after - before) * (samples - left) / (right - left)

    def __repr__(self) -> str:
        return f'<Baseline: {len(self.points)} measurements, {self.source}>'


def checked_baseline(baseline: Any, has_held_out: bool) -> Optional[Baseline]:
    """Returns the `Baseline` for an argument `baseline=`; None for None.

    Args:
        baseline (str, os.PathLike or list of (int, float)): see `nc.training_session`.
        has_held_out (bool): whether the run measures a metric to compare with.

    Raises:
        TypeError, ValueError: the argument is neither a folder nor a list, holds no curve, or the
            run has no metric to compare with.
    """
    if baseline is None:
        return None
    if not has_held_out:
        raise ValueError(
            'baseline= is drawn beside the held-out metric, and this run has no held-out data: '
            'give data=(inputs, labels) or a cross-validation source'
        )
    if isinstance(baseline, (str, os.PathLike)):
        return _of_folder(os.path.expanduser(os.fspath(baseline)))
    try:
        points = [tuple(point) for point in baseline]
    except TypeError:
        raise TypeError(f'baseline must be a folder or a list, got {baseline!r}; {_HINT}') from None
    return Baseline(_checked(points))


def _checked(points: List[Any]) -> Points:
    if not points:
        raise ValueError(f'baseline must hold at least one measurement, got none; {_HINT}')
    before: Any = -1
    for point in points:
        if (
            len(point) != 2
            or any(isinstance(part, bool) for part in point)
            or not all(isinstance(part, Real) for part in point)
            or point[0] != point[0] // 1  # an array of pairs holds the samples as floats
        ):
            raise TypeError(f'baseline must hold pairs (samples, metric), got {point!r}; {_HINT}')
        if point[0] <= before or not math.isfinite(point[1]):
            raise ValueError(
                'baseline must hold finite metrics, each at more samples than the one before, got '
                f'{point!r} after {before} samples; {_HINT}'
            )
        before = point[0]
    return points


def _of_folder(folder: str) -> Baseline:
    from .observers.event_file import shown_scalars

    if not os.path.isdir(folder):
        raise ValueError(f'baseline: there is no folder {folder}; {_HINT}')
    metric, drop = shown_scalars(folder, ('recovery/metric', 'recovery/drop'))
    if drop:
        raise ValueError(
            f'baseline: the run in {folder} applied an optimization after {min(drop)} samples, and '
            f'a baseline is a run without one; {_HINT}'
        )
    points = sorted((at, value) for at, value in metric.items() if math.isfinite(value))
    if not points:
        raise ValueError(
            f'baseline: the folder {folder} holds no curve recovery/metric, which a run with '
            f'held-out data (data= or cv_config=) writes; {_HINT}'
        )
    return Baseline(points, folder)
