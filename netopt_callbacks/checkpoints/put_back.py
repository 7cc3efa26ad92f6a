"""Undoes a restore that raises: CNTK may raise after it has restored a part."""
import contextlib
import os
import warnings

from cntk.train.trainer import Trainer

from ..temporary_folder import temporary_folder
from ..trainers import learner_facts
from . import temporary


@contextlib.contextmanager
def or_as_it_was(trainer, learners):
    """Context that puts the trainer back to its previous state if a restore in it raises.

    An exchange of the trainer undoes itself; Parameters, learners and random state come from a
    checkpoint made before the restore. With distributed learners there is no such checkpoint, since
    a save is a synchronization for them.

    Args:
        trainer (cntk.Trainer): put back if the restore raises.
        learners (list of cntk.learners.Learner): those of the trainer.
    """
    with contextlib.ExitStack() as stack:
        before = None if learner_facts.any_distributed(learners) else _saved(trainer, stack)
        try:
            yield
        except BaseException as first:
            try:
                if before is not None:
                    _put_back(trainer, before)
            finally:
                raise first  # even if the user's filters turn a warning into an error


def _saved(trainer, stack):
    """Saves a checkpoint of a trainer and returns its name; None if it could not be written.

    Closing `stack` deletes the checkpoint.
    """
    try:
        what = 'a restore that goes in whole or not at all'
        folder = stack.enter_context(temporary_folder(what))
        file = os.path.join(folder, 'before')
        temporary.room_for(folder, trainer.loss_function, trainer.parameter_learners, what)
        Trainer.save_checkpoint(trainer, file)
        temporary.check(file, what)
        return file
    except Exception as error:
        warnings.warn(
            'if this restore fails half way, the trainer stays as it then is: a copy of its '
            'state could not be written (%s)' % str(error).split('\n')[0]
        )


def _put_back(trainer, file):
    try:
        Trainer.restore_from_checkpoint(trainer, file)
    except Exception as error:
        warnings.warn(
            'a restore raised half way, and the trainer could not be put back to what it was '
            'before it (%s)' % str(error).split('\n')[0]
        )
