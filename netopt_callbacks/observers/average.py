"""Averages loss and metric over a window of minibatches."""


class Average:
    """Averages what `Observer.on_minibatch` receives, so that each *sample* has the same weight.

    Args:
        samples (int): samples trained before the window opens.

    Attributes:
        samples (int): samples trained up to the current end of the window.
        minibatches (int): minibatches in the window.
    """

    def __init__(self, samples=0):
        self.samples = samples
        self._open()

    def add(self, samples, loss, metric):
        """Adds one minibatch.

        Args:
            samples (int): samples trained up to the end of the minibatch.
            loss (float): average per sample of the minibatch.
            metric (float): likewise; None if there is no metric.
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
        """Average per sample over the window; None if no minibatch had a metric."""
        return self._metric / self._metric_count if self._metric_count else None

    def restart(self):
        """Opens the next window where this one ends."""
        self._open()

    def _open(self):
        self.minibatches = 0
        self._count = self._metric_count = 0
        self._loss = self._metric = 0.0
