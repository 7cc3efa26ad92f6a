"""What a run leaves behind: one `Record` per applied optimization, one `Result` in all."""
from .count import Totals
from .optimizations.base import LayerNote


class Record:
    """What one optimization did, and how the network recovered from it.

    Attributes:
        optimization (str): class name.
        epoch (int): completed epochs when it was applied.
        samples (int): samples trained when it was applied.
        metric_before, metric_after (float): held-out metric just before and right after,
            per sample; None where the run has no held-out data.
        curve (list of (int, float)): (samples, held-out metric) from `metric_after` on, up
            to the next optimization or the end.
        network_before, network_after (count.Totals): what the whole network counted just before and
            right after; None in a record that does not know.
        layers (list of LayerNote): what happened to each layer.
        notes (list of str): what the engine had to say (learner state, calibration ...).
    """

    def __init__(
        self,
        optimization,
        epoch,
        samples,
        metric_before=None,
        metric_after=None,
        curve=(),
        layers=(),
        notes=(),
        larger_is_better=False,
        network_before=None,
        network_after=None,
    ):
        self.optimization = optimization
        self.epoch = epoch
        self.samples = samples
        self.metric_before = metric_before
        self.metric_after = metric_after
        self.curve = [(int(at), float(metric)) for at, metric in curve]
        self.layers = list(layers)
        self.notes = list(notes)
        self.larger_is_better = larger_is_better
        self.network_before = network_before
        self.network_after = network_after

    @property
    def metric_now(self):
        """The last metric on the curve, or None."""
        return self.curve[-1][1] if self.curve else self.metric_after

    @property
    def drop(self):
        """after - before, so that a loss of quality is positive; None without a metric."""
        if self.metric_before is None or self.metric_after is None:
            return None
        drop = self.metric_after - self.metric_before
        return -drop if self.larger_is_better else drop

    def recovered_at(self, metric):
        """(after - metric) / (after - before); 1 where nothing was lost.

        Args:
            metric (float): the held-out metric at the time asked about.

        Returns:
            float, or None without a metric: 0 right after, 1 when the loss is made up for,
            above 1 when the network is better than before.
        """
        if self.drop is None or metric is None:
            return None
        if self.drop <= 0:
            return 1.0
        return (self.metric_after - metric) / (self.metric_after - self.metric_before)

    @property
    def recovered(self):
        """The recovered fraction at the end of the curve."""
        return self.recovered_at(self.metric_now)

    def to_dict(self):
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
        }

    @classmethod
    def from_dict(cls, fields):
        """Rebuilds a record from `to_dict`."""
        fields = dict(fields)
        fields['layers'] = [LayerNote.from_dict(layer) for layer in fields['layers']]
        for name in ('network_before', 'network_after'):  # not in records of older checkpoints
            fields[name] = None if fields.get(name) is None else Totals(**fields[name])
        return cls(**fields)


def _fields(totals):
    return None if totals is None else dict(totals._asdict())


class Result:
    """What a run gives back.

    Attributes:
        model (cntk.Function): the optimized model with Parameters of its own, trainable and
            savable; None while training has not started.
        criterion (cntk.Function): loss and metric over the optimized model, with Parameters of its
            own.
        lowered (cntk.Function): the model on native ops, evaluation only; None without
            `nc.Lower`.
        parity (nc.lowering.Parity): how `lowered` compares with `model`; None without `nc.Lower`.
        records (list of Record): in the order applied.
        complete (bool): False when training was interrupted or ended by an error.
    """

    def __init__(self):
        self.model = None
        self.criterion = None
        self.lowered = None
        self.parity = None
        self.records = []
        self.complete = False
        self._held_out = None

    def export(self, path, data=None):
        """Writes the network as one ONNX file that runs without CNTK; see `nc.deploy.export`.

        The file holds the records, and the last metric of them, as metadata.

        Args:
            path (str): of the file.
            data: as of `nc.deploy.export`; by default the run's held-out data, else seeded random
                numbers.

        Returns:
            Exported: what was written and how it compares.

        Raises:
            RuntimeError: training has not begun, so there is no network.
            What `nc.deploy.export` raises.
        """
        from .exporting.export import export

        if self.model is None:
            raise RuntimeError('there is no network to export: training has not begun')
        held_out = self._held_out if data is None and self._held_out else data
        return export(
            self.model,
            path,
            held_out,
            self.records,
            self.records[-1].metric_now if self.records else None,
        )

    def summary(self):
        """Returns the run as text: a table of the optimizations and one of the layers."""
        from .summary import of_result

        return of_result(self)
