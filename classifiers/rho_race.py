"""A race over rhos: which are dropped after some seeds, so that the risk of dropping the best one is stated.

After the first `FIRST_LOOK` seeds, and after each further one but the last, every two rhos that still run are compared
on the same seeds and images.  A rho is dropped where the mean difference of its error to that of another is larger than
t(1 - a) standard errors (`evaluation.crossed`: over seeds and images, Student's t), with

    a = risk / ((rhos - 1) x looks).

The best rho (the lowest expected error) can lose to at most rhos - 1 others at each look, each time with a probability
of at most a; so by the union bound it is dropped with a probability of at most `risk`.  Races of this kind: Maron and
Moore 1993 (Hoeffding races), with paired tests in blocks Birattari et al. 2002 (F-Race).  Hoeffding's bound needs no
normal differences, but cannot tell anything apart with the few seeds of a search; of a mean over some hundred images
normality is a mild assumption.

rho 1 is never dropped: the others are compared with it at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.crossed import CrossedMean, crossed_mean

FIRST_LOOK = 3  # seeds
NO_FILTER = 1.0
Errors = Mapping[float, np.ndarray]  # rho -> seeds x images, mean over students; equal images, the first seeds first


@dataclass(frozen=True)
class Dropped:
    """A rho that left the race: after how many seeds, beaten by which, by how much (± half at the race's level)."""

    rho: float
    seeds: int
    by: float
    difference: float
    half: float


@dataclass(frozen=True)
class Race:
    """risk: of dropping the best rho.  seeds: how many a rho runs that is never dropped."""

    risk: float
    seeds: int

    @property
    def looks(self) -> range:
        """After how many seeds it is decided; none where there are too few."""
        return range(FIRST_LOOK, self.seeds)

    @property
    def rounds(self) -> list[int]:
        """How many seeds are finished at the end of each round: at the looks, and of all."""
        return [*self.looks, self.seeds]

    def tail(self, rhos: int) -> float:
        """a: the probability that one comparison at one look may err with."""
        return self.risk / max(1, (rhos - 1) * len(self.looks))

    def dropped(self, errors: Errors) -> list[Dropped]:
        """All that were dropped at the looks for which there are errors, in order.

        errors: of every rho of the grid; of one that was dropped as many seeds as it ran, or more.
        """
        running, gone = sorted(errors), []
        tail = self.tail(len(errors))
        for count in self.looks:
            if any(len(errors[rho]) < count for rho in running):
                break
            lost = [found for rho in running if (found := _beaten(rho, running, errors, count, tail)) is not None]
            gone += lost
            running = [rho for rho in running if rho not in {one.rho for one in lost}]
        return gone


def _beaten(rho: float, running: Sequence[float], errors: Errors, count: int, tail: float) -> Dropped | None:
    """The comparison that `rho` lost by most, where there is one."""
    if rho == NO_FILTER:
        return None
    means = {one: errors[one][:count].mean() for one in running}
    lost = []
    for rival in (one for one in running if means[one] < means[rho]):
        difference = compared(errors[rho][:count], errors[rival][:count])
        half = difference.half(tail)
        if half is not None and difference.mean > half:
            lost.append(Dropped(rho, count, rival, difference.mean, half))
    return max(lost, key=lambda one: one.difference, default=None)


def compared(ours: np.ndarray, others: np.ndarray) -> CrossedMean:
    """Mean of ours - others, both seeds x images."""
    return crossed_mean(np.asarray(ours) - np.asarray(others))
