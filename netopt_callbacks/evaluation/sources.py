"""Tells whether a minibatch source can go back to its position, and whether data is left."""
import math

from cntk.device import use_default_device
from cntk.io import INFINITELY_REPEAT, MinibatchSourceFromData, UserMinibatchSource

from ..signatures import takes
from ..trainers import remember


def has_position(source):
    """Whether reading a source can be undone; UserMinibatchSource's own method does nothing."""
    return (
        not isinstance(source, UserMinibatchSource)
        or type(source).restore_from_checkpoint is not UserMinibatchSource.restore_from_checkpoint
    )


def refuse_half_position(source):
    """Refuses a source that reports its position but cannot restore it, which every change needs.

    Raises:
        ValueError: names the source and what it lacks.
    """
    if not has_position(source) and source.get_checkpoint_state():
        raise ValueError(
            f'the minibatch source {type(source).__name__} must be able to go to the position it '
            'tells, which an optimization needs, and got no restore_from_checkpoint(state) of its '
            'own: override that too, or leave get_checkpoint_state() out'
        )


def length(source, anew=False):
    """Returns the maximum (samples, sweeps) that a source gives, each None if not known.

    Args:
        source (cntk.io.MinibatchSource or cntk.io.UserMinibatchSource): of the training.
        anew (bool): whether to count from its beginning instead of its current position.
    """
    if type(source) is MinibatchSourceFromData:
        if source._max_samples >= INFINITELY_REPEAT:
            return None, None
        left = source._max_samples - (0 if anew else source._total_num_samples)
        return left, int(math.ceil(left / float(sweep_of(source))))
    return remember.length(source)


def sweep_of(source):
    """Returns the samples of one sweep; None if not known."""
    if type(source) is not MinibatchSourceFromData:
        return None
    length_of = MinibatchSourceFromData._get_len
    sequences = [source._data[name] for name in source._data if source._is_sequence[name]]
    if not sequences:
        return source._num_samples
    return sum(
        max(length_of(data[row]) for data in sequences) for row in range(source._num_samples)
    )


def reports_sweeps_to_all_workers(source):
    """Whether every worker learns where a sweep ends, even a worker without data there."""
    return isinstance(source, MinibatchSourceFromData)


class Ahead:
    """Reads one worker's share of the next minibatch ahead, as C++ will read it.

    The position of the source is then restored. A user's source without checkpoint state cannot be
    restored, so its minibatch is kept for the next call of `next_minibatch`.

    Args:
        source (cntk.io.MinibatchSource or cntk.io.UserMinibatchSource): of the training.
        size (int): what the next call will ask for, since a source may have nothing for another
            size; 0 reads nothing.
        share ((int, int)): number of workers, and rank, by which the data is partitioned.

    Attributes:
        has_more (bool): whether there is any data for this worker.
    """

    def __init__(self, source, size, share):
        self._source, self._read = source, None
        if not size:
            self.has_more = False
            return
        state = source.get_checkpoint_state()
        ahead = next_minibatch(source, size, *share)
        self.has_more = bool(ahead)
        if isinstance(source, UserMinibatchSource) and not (state and has_position(source)):
            self._read = ahead
        else:
            source.restore_from_checkpoint(state)

    def at_end(self, workers):
        """Returns whether no worker has more data; all workers call this together.

        A worker may have no data left, or none in this minibatch, while others still have some, so
        it cannot tell alone.

        Args:
            workers (distributed.Workers): those of the run.
        """
        ended = not workers.any(self.has_more)
        if not ended and self._read is not None:
            _give_next(self._source, self._read)
        return ended


def next_minibatch(source, size, count=1, rank=0):
    """Returns one worker's share of the next minibatch, empty at the end.

    A user's source is given the device too, as C++ does. One that only Python code reads may be
    without that argument.

    Returns:
        dict: StreamInformation to MinibatchData.
    """
    if isinstance(source, UserMinibatchSource):
        given = size, count, rank, use_default_device()
        return source.next_minibatch(*given[: 4 if takes(source.next_minibatch, 4) else 3])
    return source.next_minibatch(size, num_data_partitions=count, partition_index=rank)


def _give_next(source, minibatch):
    """Makes the next call of `next_minibatch` return what was already read."""
    read = source.next_minibatch

    def once(*arguments, **options):
        source.next_minibatch = read
        return minibatch

    source.next_minibatch = once
