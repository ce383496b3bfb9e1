"""What each step trains on: class-balanced batches, or CcGAN's vicinal batches for continuous labels.

Every batch is a pure function of (seed, position), so a resumed run sees what an undisturbed one would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from interfaces import LabelSpace
from runtime.errors import UserError
from runtime.ranks import Ranks
from runtime.seeds import numpy_generator

SMALLEST_WEIGHT = 1e-3  # the soft vicinity ends where a weight falls below this
JITTER_TRIES = 20


@dataclass(frozen=True)
class LabelledBatch:
    """Rows of real images, and encoded labels: D's condition, G's condition; weights or None."""

    rows: np.ndarray
    target: np.ndarray  # given to D for the real and the fake image
    fake: np.ndarray  # given to G
    real_weights: np.ndarray | None
    fake_weights: np.ndarray | None

    def part(self, ranks: Ranks) -> LabelledBatch:
        """This rank's rows of the batch."""
        return LabelledBatch(*(ranks.part(getattr(self, each.name)) for each in fields(self)))


class BatchDrawer(Protocol):
    """`discriminator(position)` and `generator(position)`; positions count the updates of each kind."""

    def discriminator(self, position: int) -> LabelledBatch: ...

    def generator(self, position: int) -> np.ndarray: ...


def batch_drawer(
    labels: np.ndarray, label_space: LabelSpace, batch_size: int, seed: int, vicinity: str, vicinity_gaps: float
) -> BatchDrawer:
    """The drawer for a label space; `labels` are those of the training images, in the user's units."""
    encoded = label_space.encode(labels).numpy()
    if label_space.kind == "classes":
        return BalancedClasses(encoded, label_space.width, batch_size, seed)
    return Vicinity(encoded.astype(np.float64), batch_size, seed, soft=vicinity == "soft", gaps=vicinity_gaps)


class BalancedClasses:
    """Every batch holds each class equally often (to within one); images of a class are drawn at random."""

    def __init__(self, labels: np.ndarray, classes: int, batch_size: int, seed: int) -> None:
        self.classes, self.batch_size, self.seed = classes, batch_size, seed
        self.members = [np.flatnonzero(labels == index) for index in range(classes)]
        empty = [index for index, members in enumerate(self.members) if not len(members)]
        if empty:
            raise UserError(f"class {empty[0]} has no training image; remove the class or add images.")

    def discriminator(self, position: int) -> LabelledBatch:
        """Target and fake labels are the same."""
        random = numpy_generator(self.seed, "teacher-d", position)
        labels = self._labels(random)
        rows = np.array([self.members[label][random.integers(len(self.members[label]))] for label in labels])
        return LabelledBatch(rows, labels, labels, None, None)

    def generator(self, position: int) -> np.ndarray:
        return self._labels(numpy_generator(self.seed, "teacher-g", position))

    def _labels(self, random: np.random.Generator) -> np.ndarray:
        order = random.permutation(self.classes)
        return np.resize(order, self.batch_size).astype(np.int64)


class Vicinity:
    """CcGAN's vicinal batches (Ding et al. 2021) on labels encoded to [0, 1]; N x d, d usually 1.

    A target is a random known label + N(0, sigma^2), sigma = 1.06 std(y) N^(-1/5), clipped to [0, 1].  The real image
    is drawn from those within the vicinity of the target, the fake label is uniform in the vicinity, inside [0, 1].
    kappa = gaps * (largest gap between neighbouring labels); hard: |y - target| <= kappa, weights 1; soft: half-width
    sqrt(-ln 1e-3) kappa, weights exp(-(y - target)^2 / kappa^2).  In d dimensions the vicinity is a box.
    """

    def __init__(self, labels: np.ndarray, batch_size: int, seed: int, *, soft: bool, gaps: float) -> None:
        self.labels, self.batch_size, self.seed, self.soft = labels, batch_size, seed, soft
        self.known = np.unique(labels, axis=0)
        if len(self.known) < 2:
            raise UserError("all training labels are equal; a conditional teacher needs at least two values.")
        self.sigma = 1.06 * labels.std(axis=0) * len(labels) ** -0.2
        widest = max(np.diff(np.unique(column)).max(initial=0.0) for column in labels.T)
        self.kappa = gaps * float(widest)
        self.reach = self.kappa * float(np.sqrt(-np.log(SMALLEST_WEIGHT))) if soft else self.kappa

    def discriminator(self, position: int) -> LabelledBatch:
        random = numpy_generator(self.seed, "teacher-d", position)
        target, rows = self._targets(random)
        low, high = np.maximum(target - self.reach, 0.0), np.minimum(target + self.reach, 1.0)
        fake = random.uniform(low, high)
        if not self.soft:
            return LabelledBatch(rows, _single(target), _single(fake), None, None)
        real_weights = self._weights(self.labels[rows] - target)
        return LabelledBatch(rows, _single(target), _single(fake), real_weights, self._weights(fake - target))

    def generator(self, position: int) -> np.ndarray:
        return _single(self._jittered(numpy_generator(self.seed, "teacher-g", position), self.batch_size))

    def _targets(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Targets whose vicinity holds a real image, and a row of one such image for each."""
        target = self._jittered(random, self.batch_size)
        rows = np.full(self.batch_size, -1)
        for attempt in range(JITTER_TRIES + 1):
            for index in np.flatnonzero(rows < 0):
                near = np.flatnonzero((np.abs(self.labels - target[index]) <= self.reach).all(axis=1))
                if len(near):
                    rows[index] = near[random.integers(len(near))]
            lost = np.flatnonzero(rows < 0)
            if not len(lost):
                break
            # The last attempt is without jitter: a known label is in its own vicinity.
            target[lost] = self._jittered(random, len(lost), self.sigma * (attempt < JITTER_TRIES - 1))
        return target, rows

    def _jittered(self, random: np.random.Generator, count: int, sigma: np.ndarray | None = None) -> np.ndarray:
        chosen = self.known[random.integers(len(self.known), size=count)]
        noise = random.standard_normal(chosen.shape) * (self.sigma if sigma is None else sigma)
        return np.clip(chosen + noise, 0.0, 1.0)

    def _weights(self, distance: np.ndarray) -> np.ndarray:
        return _single(np.exp(-np.square(distance).sum(axis=1) / self.kappa**2))


def _single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)
