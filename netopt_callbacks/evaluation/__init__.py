"""Minibatches that are not trained: held-out data, its metric, and the position of a source."""
