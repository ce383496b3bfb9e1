"""A measure of values that are no numbers is refused; it never comes out as a number, or as NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from evaluation.accuracy import summary
from evaluation.crossed import crossed_mean
from evaluation.metrics.frechet_distance import frechet_distance
from evaluation.metrics.kernel_distance import kernel_distance
from evaluation.metrics.precision_recall import precision_recall
from filters.acceptance import Acceptance
from filters.neighbours import nearest
from filters.weights import importance_weights
from image_data.labels import ClassLabels
from runtime.errors import UserError

GOOD = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
RATIO, GROUPS = np.abs(GOOD[:, 0]), np.zeros(40, dtype=np.int64)
MEASURES: dict[str, tuple[np.ndarray, Callable[[np.ndarray], Any]]] = {
    "frechet": (GOOD, lambda bad: frechet_distance(bad, GOOD)),
    "kernel": (GOOD, lambda bad: kernel_distance(bad, GOOD)),
    "kernel, the other side": (GOOD, lambda bad: kernel_distance(GOOD, bad)),
    "frechet, the other side": (GOOD, lambda bad: frechet_distance(GOOD, bad)),
    "precision": (GOOD, lambda bad: precision_recall(bad, GOOD)),
    "recall": (GOOD, lambda bad: precision_recall(GOOD, bad)),
    "nearest": (GOOD, lambda bad: nearest(bad, GOOD, 2)),
    "nearest references": (GOOD, lambda bad: nearest(GOOD, bad, 2)),
    "ceiling": (RATIO, lambda bad: Acceptance().ceiling(bad, "0")),
    "acceptance": (RATIO, lambda bad: Acceptance().accept(np.zeros(40), bad, 1.0)),
    "clipped mass": (RATIO, lambda bad: Acceptance().clipped_mass(bad, 1.0)),
    "weights": (RATIO, lambda bad: importance_weights(bad, GROUPS)),
    "crossed mean": (RATIO, lambda bad: crossed_mean(bad.reshape(4, -1))),
    "summary": (RATIO, lambda bad: summary(bad, ClassLabels(("a", "b")))),
}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", list(MEASURES))
def test_it_is_refused(name: str, value: float) -> None:
    good, measure = MEASURES[name]
    measure(good)
    bad = good.copy()
    bad.flat[-1] = value
    with pytest.raises((UserError, ValueError), match="finite"):
        measure(bad)
