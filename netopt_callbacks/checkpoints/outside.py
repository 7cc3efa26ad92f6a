"""Says what to do where CNTK restores a checkpoint of a run with callbacks outside of such a run.

CNTK compares the graph in the file, which carries the label of a phase (see `mark`), with that of
the trainer, and its error shows both and no file.
"""
import functools

from cntk.train.trainer import Trainer
from cntk.train.training_session import TrainingSession

from ..trainers import remember
from .mark import MARK

_NOT_THE_SAME = 'is not equivalent'


def install():
    """Wraps CNTK's two ways to restore a trainer; called once."""
    if not hasattr(Trainer.restore_from_checkpoint, '__wrapped__'):
        Trainer.restore_from_checkpoint = _restoring(Trainer.restore_from_checkpoint)
        TrainingSession.train = _resuming(TrainingSession.train)


def _restoring(restore):
    @functools.wraps(restore)
    def method(self, filename):
        try:
            return restore(self, filename)
        except ValueError as error:
            _refuse_label(error, filename)
            raise

    return method


def _resuming(train):
    @functools.wraps(train)
    def method(self, *arguments, **options):
        try:
            return train(self, *arguments, **options)
        except ValueError as error:
            _refuse_label(error, remember.checkpoint_name(self) or 'to resume from')
            raise

    return method


def _refuse_label(error, file):
    """Raises what to do if CNTK's error says that the file alone carries a label."""
    trainers, different, saved = str(error).partition(_NOT_THE_SAME)
    if different and MARK in saved and MARK not in trainers:
        raise ValueError(
            f'the checkpoint {file} was saved under callbacks, and this trainer has none: call '
            'nc.attach(trainer, callbacks=[...]) first and restore inside it; a session restores '
            'by itself: nc.training_session(..., callbacks=[...], checkpoint_config=...)'
        ) from error
