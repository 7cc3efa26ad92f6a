"""The average of loss and metric over a window of minibatches."""


class Average:
    """Sums what `Observer.on_minibatch` tells, so that each *sample* weighs the same.

    Args:
        samples (int): samples trained before the window opens.

    Attributes:
        samples (int): samples trained at the end of the window so far.
        minibatches (int): minibatches in the window.
    """

    def __init__(self, samples=0):
        self.samples = samples
        self._open()

    def add(self, samples, loss, metric):
        """Adds one minibatch.

        Args:
            samples (int): samples trained up to its end.
            loss (float): average per sample of the minibatch.
            metric (float): likewise; None where there is none.
        """
        count = samples - self.samples
        self.samples = samples
        self.minibatches += 1
        self._count += count
        self._loss += count * loss
        if metric is not None:
            self._metric_count += count
            self._metric += count * metric

    @property
    def loss(self):
        """Average per sample over the window; None while it is empty."""
        return self._loss / self._count if self._count else None

    @property
    def metric(self):
        """Average per sample over the window; None where no minibatch had one."""
        return self._metric / self._metric_count if self._metric_count else None

    def restart(self):
        """Opens the next window where this one ends."""
        self._open()

    def _open(self):
        self.minibatches = 0
        self._count = self._metric_count = 0
        self._loss = self._metric = 0.0
