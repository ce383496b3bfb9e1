"""The order of training: a pure function of (seed, epoch), so any step can be continued from its number alone."""

from __future__ import annotations

import numpy as np

from runtime.seeds import numpy_generator


class BatchOrder:
    """Rows of each step: epochs of shuffled rows, joined end to end; every batch is full.

    `rows(step)` depends on (count, batch_size, seed, purpose, step) only.  An epoch's permutation is kept while it
    is in use.
    """

    def __init__(self, count: int, batch_size: int, seed: int, purpose: str) -> None:
        if count < 1 or batch_size < 1:
            raise ValueError(f"cannot draw batches of {batch_size} from {count} rows")
        self.count, self.batch_size, self.seed, self.purpose = count, batch_size, seed, purpose
        self._epochs: dict[int, np.ndarray] = {}

    def rows(self, step: int) -> np.ndarray:
        """int64, `batch_size` rows."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = positions // self.count
        first, last = int(epochs[0]), int(epochs[-1])
        for epoch in [known for known in self._epochs if known < first]:
            del self._epochs[epoch]
        pieces = [self._epoch(epoch)[positions[epochs == epoch] % self.count] for epoch in range(first, last + 1)]
        return np.concatenate(pieces)

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            order = numpy_generator(self.seed, self.purpose, "epoch", epoch).permutation(self.count)
            self._epochs[epoch] = order
        return self._epochs[epoch]
