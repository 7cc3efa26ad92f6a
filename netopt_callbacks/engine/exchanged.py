"""Answers, in the user's trainer, what a new C++ trainer inside it does not know.

C++ keeps the last minibatch and the open progress windows in the trainer, and a new trainer raises
if it is asked for them. Until the new one has trained, the one that trained last answers. Outputs
that the script kept from before a change are those of the new network. A checkpoint of an optimized
network also needs its files in the folder, even after the run.
"""
import contextlib

from cntk import cntk_py
from cntk.train.trainer import Trainer

from ..checkpoints import saved_graph
from ..checkpoints.put_back import or_as_it_was
from ..readers import asked
from ..trainers import function_restores, remember


def trained_samples(trainer):
    """Returns the samples of C++'s last minibatch: 0 if it was empty or the trainer is new."""
    return cntk_py.Trainer.previous_minibatch_sample_count(trainer)


def trained_averages(trainer, has_metric):
    """Returns loss and metric (None without one) of the minibatch C++ has just trained."""
    native = cntk_py.Trainer
    return (
        native.previous_minibatch_loss_average(trainer),
        native.previous_minibatch_evaluation_average(trainer) if has_metric else None,
    )


def class_of(trainer):
    """Returns the class for a trainer whose C++ trainer was replaced: its own plus `Exchanged`."""
    base = type(trainer)
    return base if issubclass(base, Exchanged) else subclass(Exchanged, base)


def subclass(mixin, base):
    """Returns a subclass of `mixin` and `base`, in this order, under the name of `base`."""
    return type(
        base.__name__,
        (mixin, base),
        {'__doc__': base.__doc__, '__module__': base.__module__, '__qualname__': base.__qualname__},
    )


@contextlib.contextmanager
def _as_last_trained(trainer):
    last = remember.facts(trainer).last
    if last is None or trained_samples(trainer):
        yield
        return
    now, trainer.this = trainer.this, last
    try:
        yield
    finally:
        trainer.this = now


def _of_the_last_minibatch(name):
    def value(self):
        with _as_last_trained(self):
            return getattr(super(Exchanged, self), name)

    return property(value, doc=getattr(Trainer, name).__doc__)


class Exchanged:
    """Mixin placed before a trainer's class when its C++ trainer is first replaced.

    The user's own class may take fewer or more arguments than CNTK's, so all arguments are passed
    on.
    """

    previous_minibatch_loss_average = _of_the_last_minibatch('previous_minibatch_loss_average')
    previous_minibatch_evaluation_average = _of_the_last_minibatch(
        'previous_minibatch_evaluation_average'
    )
    previous_minibatch_sample_count = _of_the_last_minibatch('previous_minibatch_sample_count')

    @property
    def model(self):
        """As in `cntk.Trainer`: the model, without the output that carries the label (`mark`)."""
        facts = remember.facts(self)
        if facts.label is None:
            return super().model
        # The user's own object follows every change. CNTK reads this in each minibatch, where
        # building a new object would be slow.
        return facts.model if isinstance(facts.model, cntk_py.Function) else facts.state.model

    def train_minibatch(self, arguments, *rest, **options):
        return asked.of_the_new_network(super().train_minibatch, arguments, rest, options)

    def summarize_training_progress(self):
        with _as_last_trained(self):
            super().summarize_training_progress()

    def summarize_test_progress(self):
        facts = remember.facts(self)
        if facts.last_tested is None:
            super().summarize_test_progress()
            return
        now, self.this = self.this, facts.last_tested
        try:
            super().summarize_test_progress()
        finally:
            self.this, facts.last_tested = now, None

    def save_checkpoint(self, filename, *rest, **options):
        phases = remember.facts(self).phases
        save = super().save_checkpoint
        if phases is None:
            save(filename, *rest, **options)
            return
        phases.write(filename)
        with phases.saving(filename):
            save(filename, *rest, **options)
        phases.saved(filename)

    def restore_from_checkpoint(self, filename):
        facts = remember.facts(self)
        phases = facts.phases

        def restore(file):
            restored = super(Exchanged, self).restore_from_checkpoint(file)
            for function in self.model, self.loss_function, self.evaluation_function:
                function_restores.values_restored(function)
            return restored

        if phases is not None:
            return phases.restorer(filename, restore).state
        if facts.follower is not None:
            return facts.follower.follow(filename, restore)
        saved_graph.refuse_other(self, filename)
        with or_as_it_was(self, facts.learners):
            return restore(filename)
