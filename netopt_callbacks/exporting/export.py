"""The whole way out: cut, written by CNTK, mended, put together, run, and only then put under
its name."""
import json
import os
import tempfile

import numpy as np

from .. import __version__, _cntk
from ..deploy import ExportError, file_path
from ..evaluation.held_out import held_out_data
from ..lowering.lower import check_applied, check_float_layers, random_minibatch
from ..onnx_file import METADATA
from . import refuse
from .assemble import Names, assembled
from .check import compare
from .cut import CutNetwork
from .mend import exported
from .ready import make_ready

FORMAT = 1  # of the metadata


class Exported:
    """What was written.

    Attributes:
        path (str), bytes (int): of the file.
        inputs, outputs (list of str): names, in the network's order.
        segments (list of str): names of the segments, in order.
        float_layers (str): as of `nc.Lower`, with which it is written.
        comparison (Comparison): how the file compares with the network.
    """

    def __init__(self, path, size, float_layers, names, cut, comparison):
        self.path, self.bytes, self.float_layers = path, size, float_layers
        self.inputs, self.outputs = names.inputs, names.outputs
        self.segments = [segment.name for segment in cut.segments]
        self.comparison = comparison

    def __str__(self):
        return '%s: %s bytes with the graph of standard operators, %d segment%s; %s' % (
            self.path,
            format(self.bytes, ','),
            len(self.segments),
            '' if len(self.segments) == 1 else 's',
            self.comparison,
        )


def export(model, path, data=None, float_layers='cntk', records=(), metric=None):
    """Does what `nc.deploy.export` says; `records` (list of Record) and `metric` (float) go
    into the metadata."""
    check_applied('deploy.export', model)
    check_float_layers('deploy.export', float_layers)
    path = file_path('deploy.export', path)
    folder = _folder_of(path)
    refuse.refuse_ends(model)
    minibatch = _minibatch(model, data)
    while True:
        cut = CutNetwork(model, float_layers)
        try:
            written, exported_as = _written(model, cut, minibatch, records, metric)
            break
        except (ExportError, NotImplementedError):
            fewer = cut.fewer_float_layers  # those in segments may be the reason
            if fewer in (None, float_layers):
                raise
            float_layers = fewer
    _put(written, path, folder)
    return Exported(path, len(written), float_layers, *exported_as)


def _written(model, cut, minibatch, records, metric):
    """Returns the bytes of the file, and (names, cut, comparison)."""
    refuse.refuse_loops(cut)
    refuse.refuse(cut.model)
    names = Names(model)
    mended = exported(make_ready(cut.model))
    try:
        file = assembled(mended, cut, names)
        _describe(file, cut, records, metric)
        written = file.SerializeToString()
        comparison = compare(written, mended, cut, names, minibatch)
    except ExportError as error:
        reason = refuse.of_one_batch(cut.whole, error)
        if reason is None:
            raise
        raise NotImplementedError(f'deploy.export: {reason}') from error
    return written, (names, cut, comparison)


def _minibatch(model, data):
    """Returns the first minibatch of held-out data, of the arguments of `model`."""
    if data is None:
        return random_minibatch(model)
    if (
        hasattr(data, '__iter__')
        and hasattr(data, '__bool__')
        and not isinstance(data, (np.ndarray, tuple, list))
    ):
        minibatches = iter(data)  # of a run: held_out.Minibatches
    else:
        minibatches = held_out_data(data, model.arguments).read(list(model.arguments))
    try:
        minibatch = next(minibatches)
    except StopIteration:
        raise ValueError(
            'deploy.export: data is empty; leave it out to compare on random numbers'
        ) from None
    finally:
        getattr(minibatches, 'close', lambda: None)()
    by_uid = {argument.uid: value for argument, value in minibatch.items()}
    return {argument: by_uid[argument.uid] for argument in model.arguments}


def _describe(file, cut, records, metric):
    """Writes what is known of the network as metadata."""
    machines = sorted({segment.machine for segment in cut.segments if segment.machine})
    values = {
        'format': FORMAT,
        'version': __version__,
        'cntk': _cntk.require().__version__,
        'segments': [segment.name for segment in cut.segments],
        'thresholds_read_on': machines,
        'records': [record.to_dict() for record in records],
        'metric': metric,
    }
    file.producer_name, file.producer_version = 'netopt_callbacks', __version__
    for name in sorted(values):
        entry = file.metadata_props.add()
        entry.key, entry.value = METADATA + name, json.dumps(values[name])


def _folder_of(path):
    """Returns the folder of a file that is to be written.

    Raises:
        FileNotFoundError, PermissionError: it is not there, or nothing can be written into it.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f'{path} cannot be written: there is no folder {folder}; make it, or give another path'
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(
            f'{path} cannot be written: nothing may be written into {folder}; give another path'
        )
    return folder


def _put(data, path, folder):
    """Writes a file whole or not at all; `folder` is its own."""
    handle, temporary = tempfile.mkstemp(dir=folder, prefix='.netopt_')
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
