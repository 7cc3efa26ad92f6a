"""Notes where a run was when its script went back to a checkpoint.

The first restore of a run that has trained nothing is a resume: what is due at the checkpoint is
applied, as if the earlier process had never ended. With any other restore the script goes back, to
its best epoch for instance. If it trains on, what is due is applied again. If the run ends there,
the script gets what it restored, and a warning names what is not in it.
"""
import warnings
from typing import FrozenSet, NamedTuple, Optional


def called(optimization):
    """Returns how messages call an optimization."""
    return f'{optimization.name}(epoch={optimization.epoch!r})'


class GoneBack(NamedTuple):
    """The checkpoint that a run went back to, and how far it had come before."""

    file: str
    samples: int
    epoch: int
    applied: FrozenSet[int]  # indices of optimizations
    due: FrozenSet[int]  # of those that were due and not applied

    def after(self, earlier: Optional['GoneBack']) -> 'GoneBack':
        """Returns the same for a run that had gone back before, and trained nothing since."""
        if earlier is None:
            return self
        return GoneBack(
            self.file,
            max(self.samples, earlier.samples),
            max(self.epoch, earlier.epoch),
            self.applied | earlier.applied,
            self.due | earlier.due,
        )

    def warn(self, optimizations, pending, due):
        """Warns of the optimizations that are not in what the run ends with.

        Args:
            optimizations (list of nc.Optimization): those of the run.
            pending (list of int): indices of those that are not applied now.
            due (list of int): indices of those that are due now.

        Returns:
            list of int: indices of the others, which the run never reached.
        """
        applied = [index for index in pending if index in self.applied]
        due = [index for index in pending if index not in applied and index in {*self.due, *due}]
        if applied or due:
            parts = [
                f'{called(optimizations[index])}, {what}'
                for indices, what in (
                    (applied, 'applied after that checkpoint was saved'),
                    (due, 'due and not applied before the restore'),
                )
                for index in indices
            ]
            warnings.warn(
                f'training ended with a restore of the checkpoint {self.file}, and the network is '
                f'left as it was restored, without {"; ".join(parts)}. To have that in it, restore '
                'a checkpoint saved after it was applied, or train on after the restore'
            )
        return [index for index in pending if index not in {*applied, *due}]
