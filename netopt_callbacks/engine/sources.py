"""Where a minibatch source stands: whether it can go back, whether it has come to its end."""
from cntk.io import UserMinibatchSource


def has_position(source):
    """Whether reading a source can be undone; what a UserMinibatchSource inherits does nothing."""
    return not isinstance(source, UserMinibatchSource) \
        or type(source).restore_from_checkpoint is not UserMinibatchSource.restore_from_checkpoint


def refuse_half_position(source):
    """Refuses a source that tells its position and cannot be put there, as every change has to.

    Raises:
        ValueError: names the source and what it lacks.
    """
    if not has_position(source) and source.get_checkpoint_state():
        raise ValueError('the minibatch source %s must be able to go to the position it tells, which an optimization '
                         'needs, and got no restore_from_checkpoint(state) of its own: override that too, or '
                         'leave get_checkpoint_state() out' % type(source).__name__)


def at_end(source, size, workers=1):
    """Returns whether a minibatch source has nothing left.

    One sample is looked at, and the source put back to where it was. A source of the user's own
    without checkpoint state cannot be put back: its next minibatch is read, and kept for the
    next call of `next_minibatch`.

    Args:
        source (cntk.io.MinibatchSource or cntk.io.UserMinibatchSource): of the training.
        size (int): what the next call will ask for.
        workers (int): how many share the source; with several, a source without state counts
            as not at its end.
    """
    own = isinstance(source, UserMinibatchSource)
    state = source.get_checkpoint_state()
    if own and not (state and has_position(source)):
        return workers == 1 and _read_ahead(source, size)
    ahead = source.next_minibatch(1, 1, 0) if own else source.next_minibatch(1)
    source.restore_from_checkpoint(state)
    return not ahead


def _read_ahead(source, size):
    """Returns whether there is no next minibatch; keeps it for the next call where there is."""
    read = source.next_minibatch
    ahead = read(size, 1, 0)

    def once(*arguments, **options):
        source.next_minibatch = read
        return ahead

    if ahead:
        source.next_minibatch = once
    return not ahead
