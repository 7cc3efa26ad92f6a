"""Refuses, at the end of a run, optimizations that never became due."""
from cntk.train.training_session import DataUnit

from .callbacks import on_all_workers
from .going_back import called


def refuse_missed(optimizations, applied, due, clock, gone_back=None, unseen=None):
    """Refuses optimizations that never became due; warns of those that a restore undid.

    Args:
        optimizations (list of nc.Optimization): those of the run.
        applied, due (list of int): indices of those that are applied, and that are due now.
        clock (schedule.Clock): of the run.
        gone_back (going_back.GoneBack): of the restore that ended the run; None if none did.
        unseen (str): what is to be said of training that the run has not seen, or None.

    Raises:
        ValueError: an optimization never became due.
    """
    missed = [index for index in range(len(optimizations)) if index not in applied]
    if gone_back is not None:
        missed = gone_back.warn(optimizations, missed, due)
    if missed:
        end = gone_back or clock
        raise on_all_workers(
            ValueError(
                'training ended after %d samples (%d epochs), before %s; %s'
                % (
                    end.samples,
                    end.epoch,
                    ', '.join(called(optimizations[index]) for index in missed),
                    unseen or _remedy(clock),
                )
            )
        )


def _remedy(clock):
    """Returns what to do if an optimization never became due."""
    if not clock.samples and clock.base[0] and clock.max_samples is not None:
        return (
            'CNTK counts max_samples over the life of the learners, and these had seen '
            f'{clock.base[0]} before, so make new ones, or give more'
        )
    if clock.unit == DataUnit.sweep and not clock.epoch:
        return (
            'no end of a sweep was reported, as by a source that tells none or under a '
            'UserLearner, so give epoch_size in samples'
        )
    return 'train longer, or give an earlier epoch'
