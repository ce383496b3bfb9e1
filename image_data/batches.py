"""The order of training: a pure function of (seed, step), so any step can be continued from its number alone."""

from __future__ import annotations

from fractions import Fraction

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
        return self.between(step * self.batch_size, (step + 1) * self.batch_size)

    def between(self, start: int, stop: int) -> np.ndarray:
        """int64, the rows at the places start ... stop - 1 of all epochs."""
        positions = np.arange(start, stop)
        epochs = positions // self.count
        first, last = start // self.count, max(start, stop - 1) // self.count
        for epoch in [known for known in self._epochs if known < first]:
            del self._epochs[epoch]
        pieces = [self._epoch(epoch)[positions[epochs == epoch] % self.count] for epoch in range(first, last + 1)]
        return np.concatenate(pieces)

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            order = numpy_generator(self.seed, self.purpose, "epoch", epoch).permutation(self.count)
            self._epochs[epoch] = order
        return self._epochs[epoch]


class RatioOrder(BatchOrder):
    """Batches with a fixed share of real images, which have the rows 0 ... real - 1; the fakes come behind them.

    Real images and fakes go through epochs of their own.  A share that gives no whole number of images is met by
    batches with one real image more or fewer: after n steps floor(n x batch_size x share) real images were shown.
    """

    def __init__(self, real: int, fakes: int, real_share: float, batch_size: int, seed: int, purpose: str) -> None:
        super().__init__(real + fakes, batch_size, seed, purpose)
        self._share = Fraction(repr(float(real_share)))
        self._first_fake = real
        self._real = BatchOrder(real, batch_size, seed, f"{purpose}, real")
        self._fakes = BatchOrder(fakes, batch_size, seed, f"{purpose}, fakes")

    def rows(self, step: int) -> np.ndarray:
        start, stop = step * self.batch_size, (step + 1) * self.batch_size
        real_start, real_stop = (int(place * self._share) for place in (start, stop))
        real = self._real.between(real_start, real_stop)
        fakes = self._fakes.between(start - real_start, stop - real_stop) + self._first_fake
        order = numpy_generator(self.seed, self.purpose, "within step", step).permutation(self.batch_size)
        rows: np.ndarray = np.concatenate([real, fakes])[order]  # ranks take parts of it, and each shall have both
        return rows
