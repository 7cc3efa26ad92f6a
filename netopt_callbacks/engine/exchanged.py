"""The user's trainer once its inside has been exchanged: what the new C++ trainer does not know.

C++ keeps the last minibatch and the open progress windows in the trainer, and a new one raises
where it is asked for them. Until it has trained, the trainer that trained last answers. And a
checkpoint of an optimized network needs what belongs beside it, also after the run.
"""
import contextlib

from cntk import cntk_py

from . import remember


def trained_samples(trainer):
    """Returns the samples of the minibatch C++ trained last: 0 for an empty one, or a new trainer."""
    return cntk_py.Trainer.previous_minibatch_sample_count(trainer)


def trained_averages(trainer, has_metric):
    """Returns loss and metric (None without one) of the minibatch C++ has just trained."""
    native = cntk_py.Trainer
    return (native.previous_minibatch_loss_average(trainer),
            native.previous_minibatch_evaluation_average(trainer) if has_metric else None)


def class_of(trainer):
    """Returns the class of a trainer whose inside is exchanged: its own, and `Exchanged`."""
    base = type(trainer)
    return base if issubclass(base, Exchanged) else subclass(Exchanged, base)


def subclass(mixin, base):
    """Returns a subclass of `base` that `mixin` comes first in, under the name of `base`."""
    return type(base.__name__, (mixin, base), {'__doc__': base.__doc__, '__module__': base.__module__,
                                               '__qualname__': base.__qualname__})


def last_trained(trainer, before):
    """Returns (C++ trainer, samples seen) that answers once this one is exchanged, or None.

    Args:
        before: as this function returned it at the exchange before.
    """
    if trained_samples(trainer):
        return trainer.this, trainer.total_number_of_samples_seen
    return before if _answers(trainer, before) else None


def _answers(trainer, last):
    # C++ may have trained since without our eyes: an empty minibatch last, it has 0 samples too.
    return last is not None and not trained_samples(trainer) \
        and trainer.total_number_of_samples_seen == last[1]


@contextlib.contextmanager
def _as_last_trained(trainer):
    last = remember.handed(trainer).last
    if not _answers(trainer, last):
        remember.handed(trainer).last = None
        yield
        return
    now, trainer.this = trainer.this, last[0]
    try:
        yield
    finally:
        trainer.this = now


class Exchanged(object):
    """What is put before the class of a trainer when its inside is exchanged first."""

    @property
    def previous_minibatch_loss_average(self):
        with _as_last_trained(self):
            return super(Exchanged, self).previous_minibatch_loss_average

    @property
    def previous_minibatch_evaluation_average(self):
        with _as_last_trained(self):
            return super(Exchanged, self).previous_minibatch_evaluation_average

    @property
    def previous_minibatch_sample_count(self):
        with _as_last_trained(self):
            return super(Exchanged, self).previous_minibatch_sample_count

    def summarize_training_progress(self):
        with _as_last_trained(self):
            super(Exchanged, self).summarize_training_progress()

    def train_minibatch(self, *arguments, **options):
        trained = super(Exchanged, self).train_minibatch(*arguments, **options)
        if trained_samples(self):
            remember.handed(self).last = None       # it holds the memory of the network before
        return trained

    def save_checkpoint(self, filename, *rest, **options):
        run = remember.handed(self).run
        if run is not None:
            run.before_save(filename)
        super(Exchanged, self).save_checkpoint(filename, *rest, **options)

    def restore_from_checkpoint(self, filename):
        run = remember.handed(self).run
        restore = super(Exchanged, self).restore_from_checkpoint
        return restore(filename) if run is None else run.restore_file(filename, restore)
