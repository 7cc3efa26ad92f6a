"""How the outputs of two networks differ, position by position and sample by sample; NumPy only."""
import numpy as np


class OutputParity:
    """Compares one output of a trained network with that of its lowered twin.

    NaN equals NaN and an infinity equals itself, at the same position of the same sample. One that
    the other network does not have there is different, and nothing is admitted for it.

    Finite values of a sample may differ by `tolerance` times its scale: its own largest finite
    magnitude, or a common one where that is larger, since an output that happens to be near 0
    carries the rounding errors of the terms that cancelled in it. The common one is the lower
    quartile of the samples' own, which a few samples that overflow do not move.

    Attributes:
        predictions (int): argmax compared; 0 where the output is no vector.
        different_predictions (int): how many of them differ, among the clear samples.
        not_finite (int): values of the trained network that are NaN or infinite.
        different_not_finite (int): values, among the clear samples, that are so in one network
            alone, or otherwise so.
    """

    def __init__(self):
        self.predictions = self.different_predictions = 0
        self.not_finite = self.different_not_finite = 0
        self._differences, self._magnitudes, self._clear = [], [], []

    def add(self, expected, actual, clear):
        """Adds a minibatch.

        Args:
            expected, actual (array): of the trained and of the lowered network, [samples, ...].
            clear (array of bool): samples in which all is to be compared.
        """
        ours, theirs = (
            values.reshape(len(values), -1).astype(np.float64) for values in (actual, expected)
        )
        finite = np.isfinite(ours) & np.isfinite(theirs)
        same = finite | (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        self.not_finite += int(np.sum(~np.isfinite(theirs)))
        self.different_not_finite += int(np.sum(~same[clear]))
        self._differences.append(_largest(np.where(finite, ours, 0) - np.where(finite, theirs, 0)))
        self._magnitudes.append(_largest(np.where(np.isfinite(theirs), theirs, 0)))
        self._clear.append(clear)
        if expected.ndim == 2 and expected.shape[1] > 1:
            self.predictions += len(theirs)
            differ = theirs.argmax(axis=1) != ours.argmax(axis=1)
            self.different_predictions += int(np.sum(differ & clear))

    @property
    def largest_output(self):
        """Largest finite magnitude of the trained network."""
        return self._most(np.concatenate(self._magnitudes))

    @property
    def largest_difference(self):
        """Largest difference of two finite values."""
        return self._most(np.concatenate(self._differences))

    @property
    def unexplained_difference(self):
        """Likewise, over the clear samples."""
        return self._most(np.concatenate(self._differences)[np.concatenate(self._clear)])

    @property
    def unexplained_error(self):
        """Largest difference of a clear sample as a share of its scale; infinite where the
        scale is 0."""
        difference, magnitude = np.concatenate(self._differences), np.concatenate(self._magnitudes)
        ordered = np.sort(magnitude[magnitude > 0])
        scale = np.maximum(magnitude, ordered[len(ordered) // 4] if ordered.size else 0)
        differs = np.concatenate(self._clear) & (difference > 0)
        with np.errstate(divide='ignore', over='ignore'):
            return self._most(difference[differs] / scale[differs])

    @staticmethod
    def _most(values):
        return float(values.max()) if values.size else 0.0


def _largest(rows):
    return np.abs(rows).max(axis=1) if rows.shape[1] else np.zeros(len(rows))
