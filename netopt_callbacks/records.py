"""Holds the results of a run: one `Record` per applied optimization, one `Result` in all."""
import json
from typing import Any, Dict, Iterable, List, Optional, Tuple

from ._types import Path, Points
from .baseline import Baseline
from .count import Totals
from .exporting import exporter
from .optimizations.base import LayerNote
from .summary import of_record, of_result
from .table import in_html


class Record:
    """What one optimization did, and how the network recovered from it.

    Attributes:
        optimization (str): class name.
        epoch (int): completed epochs when it was applied.
        samples (int): samples trained when it was applied.
        metric_before, metric_after (float): held-out metric just before and right after, per
            sample; None if the run has no held-out data.
        curve (list of (int, float)): (samples, held-out metric) from `metric_after` up to the next
            optimization or the end.
        epochs (list of int): completed epochs at each point of `curve`.
        curve_before (list of (int, float)): the same from the previous optimization, or the start
            of the run, up to `metric_before`.
        options (dict): the options of the optimization but for `epoch`: numbers, texts, bools, None
            and lists as they are, else {'text': ...}; None if unknown.
        error_after (float): standard error of `metric_after`, for the number of held-out samples;
            None if unknown. A drop within it may be chance.
        network_before, network_after (count.Totals): totals of the whole network just before and
            right after; None if unknown.
        layers (list of LayerNote): what happened to each layer.
        notes (list of str): notes of the engine (learner state, calibration ...).
    """

    def __init__(
        self,
        optimization: str,
        epoch: int,
        samples: int,
        metric_before: Optional[float] = None,
        metric_after: Optional[float] = None,
        curve: Points = (),
        layers: Iterable[LayerNote] = (),
        notes: Iterable[str] = (),
        larger_is_better: bool = False,
        network_before: Any = None,
        network_after: Any = None,
        epochs: Iterable[int] = (),
        curve_before: Points = (),
        error_after: Optional[float] = None,
        options: Optional[Dict[str, Any]] = None,
    ) -> None:
        self.optimization = optimization
        self.epoch = epoch
        self.samples = samples
        self.metric_before = metric_before
        self.metric_after = metric_after
        self.curve = [(int(at), float(metric)) for at, metric in curve]
        self.epochs = [int(epoch) for epoch in epochs]
        self.curve_before = [(int(at), float(metric)) for at, metric in curve_before]
        self.layers = list(layers)
        self.notes = list(notes)
        self.larger_is_better = larger_is_better
        self.network_before = network_before
        self.network_after = network_after
        self.error_after = error_after
        self.options = options

    @property
    def metric_now(self) -> Optional[float]:
        """The last metric on the curve, or None."""
        return self.curve[-1][1] if self.curve else self.metric_after

    @property
    def drop(self) -> Optional[float]:
        """after - before, so that a loss of quality is positive; None without a metric."""
        if self.metric_before is None or self.metric_after is None:
            return None
        drop = self.metric_after - self.metric_before
        return -drop if self.larger_is_better else drop

    @property
    def drop_may_be_chance(self) -> bool:
        """Whether there is a drop, and it is within the standard error of the metric."""
        return self.drop is not None and 0 < self.drop <= (self.error_after or 0.0)

    def recovered_at(self, metric: Optional[float]) -> Optional[float]:
        """(after - metric) / (after - before); 1 if nothing was lost.

        Args:
            metric (float): the held-out metric at the time in question.

        Returns:
            float, or None without a metric: 0 right after, 1 when the loss is made up for, above 1
                when the network is better than before. Of a drop that may be chance, a number of
                any size.
        """
        before, after = self.metric_before, self.metric_after
        if before is None or after is None or self.drop is None or metric is None:
            return None
        if self.drop <= 0:
            return 1.0
        return (after - metric) / (after - before)

    @property
    def recovered(self) -> Optional[float]:
        """The recovered fraction at the end of the curve."""
        return self.recovered_at(self.metric_now)

    @property
    def worst(self) -> Optional[Tuple[int, float]]:
        """The worst point of the curve, (samples, metric), the first of equals; or None."""
        worst = max if not self.larger_is_better else min
        return worst(self.curve, key=lambda point: point[1]) if self.curve else None

    @property
    def epochs_to_recover(self) -> Optional[int]:
        """Epochs from the optimization to the first measurement as good as `metric_before`.

        It counts completed epochs. None if no measurement is as good yet, or if the epochs are not
        known.
        """
        if self.metric_before is None:
            return None
        for (_, metric), epoch in zip(self.curve, self.epochs):
            if not self._is_better(self.metric_before, metric):
                return epoch - self.epoch
        return None

    @property
    def was_improving(self) -> Optional[bool]:
        """Whether training alone would have improved the metric further; None if that is not known.

        True if `metric_before` is better than every earlier measurement since the previous
        optimization.
        """
        earlier = [metric for at, metric in self.curve_before if at < self.samples]
        if self.metric_before is None or not earlier:
            return None
        return all(self._is_better(self.metric_before, metric) for metric in earlier)

    def _is_better(self, metric: float, other: float) -> bool:
        return metric > other if self.larger_is_better else metric < other

    def measured(self, samples: int, metric: float, epoch: int) -> None:
        """Appends a measurement to the curve; replaces one at the same number of samples."""
        if self.curve and self.curve[-1][0] == samples:
            self.cut(samples - 1)
        self.curve.append((samples, metric))
        self.epochs.append(epoch)

    def cut(self, samples: int) -> None:
        """Removes the measurements made after `samples` samples."""
        self.curve = [point for point in self.curve if point[0] <= samples]
        del self.epochs[len(self.curve) :]

    def to_dict(self) -> Dict[str, Any]:
        """Returns the JSON-ready fields."""
        return {
            'optimization': self.optimization,
            'epoch': self.epoch,
            'samples': self.samples,
            'metric_before': self.metric_before,
            'metric_after': self.metric_after,
            'curve': [list(point) for point in self.curve],
            'layers': [layer.to_dict() for layer in self.layers],
            'notes': list(self.notes),
            'larger_is_better': self.larger_is_better,
            'network_before': _fields(self.network_before),
            'network_after': _fields(self.network_after),
            'epochs': list(self.epochs),
            'curve_before': [list(point) for point in self.curve_before],
            'error_after': self.error_after,
            'options': self.options,
        }

    def to_json(self) -> str:
        """Returns the fields as JSON text, which `from_dict(json.loads(text))` reads."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, fields: Dict[str, Any]) -> 'Record':
        """Rebuilds a record from `to_dict`."""
        fields = dict(fields)
        fields['layers'] = [LayerNote.from_dict(layer) for layer in fields['layers']]
        for name in ('network_before', 'network_after'):  # not in records of older checkpoints
            fields[name] = None if fields.get(name) is None else Totals(**fields[name])
        return cls(**fields)

    def __repr__(self) -> str:
        said = [f'{self.optimization}, epoch {self.epoch}']
        changed = sum(layer.skipped is None for layer in self.layers)
        said.append(f'{changed} of {len(self.layers)} layers changed')
        if self.drop is not None:
            said.append(
                f'metric {self.metric_before:.4g} -> {self.metric_after:.4g} -> '
                f'{self.metric_now:.4g}'
            )
        return '<Record: {}>'.format(', '.join(said))

    def _repr_html_(self) -> str:
        return in_html(of_record(self))


def _fields(totals: Any) -> Any:
    return None if totals is None else dict(totals._asdict())


class Result:
    """The result of a run.

    Attributes:
        model (cntk.Function): the optimized model with Parameters of its own, trainable and
            savable; None until the run has ended.
        criterion (cntk.Function): loss and metric over the optimized model, with Parameters of its
            own.
        lowered (cntk.Function): the model on native ops, evaluation only; None without `nc.Lower`.
        parity (nc.lowering.Parity): how `lowered` compares with `model`; None without `nc.Lower`.
        records (list of Record): in the order applied.
        complete (bool): False until the run has ended, and if it was interrupted or ended by an
            error.
        awaits (str): why the run has not ended yet, as 'finish() was not called'; None once it has
            ended, in whatever way.
        baseline (nc.Baseline): the held-out metric of a run without optimizations, as given to this
            run; None without.
        metric_name (str): name of the held-out metric; None until training has started.
        held_out: the held-out data of the run, as minibatches for the model's arguments; None until
            the run has ended, false if it has none.
        seconds (dict): time that this process spent in this package and not in training, by
            activity: 'held-out metric', 'optimizations', 'export and lowering', 'observers'.
    """

    def __init__(self) -> None:
        self.model: Any = None
        self.criterion: Any = None
        self.lowered: Any = None
        self.parity: Any = None
        self.records: List[Record] = []
        self.complete = False
        self.awaits: Optional[str] = None
        self.baseline: Optional[Baseline] = None
        self.metric_name: Optional[str] = None
        self.seconds: Dict[str, float] = {}
        self.held_out: Any = None

    def export(self, path: Path, data: Any = None) -> Any:
        """Writes the network as one ONNX file that runs without CNTK; see `nc.deploy.export`.

        The metadata of the file holds the records and their last metric. Float layers are done as
        with `nc.Lower(float_layers='native')`, if the run had that; else they keep CNTK's bits.

        Args:
            path (str): where to write the file.
            data: as in `nc.deploy.export`; by default the run's held-out data, else seeded random
                numbers.

        Returns:
            Exported: what was written and how it compares.

        Raises:
            RuntimeError: the run has not ended, so there is no `model` yet.
            Whatever `nc.deploy.export` raises.
        """
        if self.model is None:
            raise RuntimeError(
                'result.export writes result.model, which is None until the run has ended: after '
                'train(), finish() or the with block. Before that, export what you train, as '
                'nc.deploy.export(network, path)'
            )
        held_out = self.held_out if data is None and self.held_out else data
        float_layers = self.parity.float_layers if self.parity else 'cntk'
        if float_layers == 'apart':  # those with CNTK's bits are taken in all the same
            float_layers = 'cntk'
        return exporter()(
            self.model,
            path,
            held_out,
            float_layers,
            self.records,
            self.records[-1].metric_now if self.records else None,
        )

    def summary(self) -> str:
        """Returns the run as text of at most 100 columns.

        The parts are: the optimizations and their effect on the metric, their layers, the whole
        network, the lowered network, and the ratios.
        """
        return of_result(self)

    def to_frame(self) -> Any:
        """Returns a pandas DataFrame with a row for each optimization.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                'result.to_frame() needs pandas, which is not installed: pip install pandas, or '
                'take [record.to_dict() for record in result.records]'
            ) from error
        rows = [self._row(record) for record in self.records]
        return pandas.DataFrame(rows, columns=_COLUMNS)

    def _row(self, record: Record) -> Dict[str, Any]:
        row = {name: getattr(record, name, None) for name in _COLUMNS}
        worst, now = record.worst, record.curve[-1][0] if record.curve else record.samples
        row['worst_metric'] = worst and worst[1]
        row['baseline'] = self.baseline and self.baseline.at(now)
        for when in ('before', 'after'):
            totals = getattr(record, 'network_' + when)
            row['parameters_' + when] = totals and totals.parameters
            row['bytes_' + when] = totals and totals.bytes
        return row

    def __repr__(self) -> str:
        said = ['complete' if self.complete else 'not complete']
        said.append(', '.join(record.optimization for record in self.records) or 'no optimization')
        if self.records and self.records[-1].metric_now is not None:
            said.append(f'{self.metric_name or "metric"} {self.records[-1].metric_now:.4g}')
        if self.lowered is not None:
            said.append('lowered')
        return '<Result: {}>'.format('; '.join(said))

    def _repr_html_(self) -> str:
        return in_html(self.summary())


_COLUMNS = (
    'optimization',
    'epoch',
    'samples',
    'metric_before',
    'metric_after',
    'worst_metric',
    'metric_now',
    'baseline',
    'drop',
    'recovered',
    'epochs_to_recover',
    'was_improving',
    'parameters_before',
    'parameters_after',
    'bytes_before',
    'bytes_after',
)
