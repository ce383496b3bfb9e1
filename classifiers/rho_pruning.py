"""Stopping a hopeless cell early: at a validation, its best score is worse than the median of the finished cells."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

_FINISHED_CELLS_FIRST = 3  # no pruning before so many of the same student are there to compare with
Curve = Sequence[tuple[int, float]]


class MedianStop:
    """The median rule over the curves of the finished cells, (step, score) as reported; lower is better."""

    def __init__(self, finished: Sequence[Curve]) -> None:
        self._finished = [dict(curve) for curve in finished if curve]
        self._best = float("inf")

    def falls_behind(self, step: int, score: float) -> bool:
        """Whether to stop: the best score so far is worse than the median at `step` over the finished cells."""
        self._best = min(self._best, score)
        rivals = [curve[step] for curve in self._finished if step in curve]
        return len(self._finished) >= _FINISHED_CELLS_FIRST and bool(rivals) and self._best > median(rivals)
