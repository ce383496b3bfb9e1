"""A race drops the best rho less often than its stated risk, and drops what is clearly worse."""

from __future__ import annotations

import numpy as np
import pytest

from classifiers.rho_race import Race, compared

RHOS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SEEDS, IMAGES, GRIDS = 8, 60, 300


def drawn(random: np.random.Generator, gaps: np.ndarray, kind: str) -> dict[float, np.ndarray]:
    """One made-up grid; gaps: of each rho's expected error to the best.

    Each rho's training at each seed has luck of its own, each image a difficulty, and each rho likes some images.
    wrong: errors are 0 or 1, as of classes; distance: real numbers, as of continuous labels.
    """
    difficulty, spread = random.normal(size=IMAGES), random.choice([0.2, 1.0])
    errors = {}
    for rho, gap in zip(RHOS, gaps, strict=True):
        luck = spread * random.normal(size=(SEEDS, 1))
        taste = random.choice([0.0, 0.5]) * random.normal(size=IMAGES)
        height = -1.5 + difficulty + taste + luck + random.normal(size=(SEEDS, IMAGES))
        if kind == "wrong":  # the same share of trainings and images for all, but for the gap
            errors[rho] = (height > 0).astype(float)
            errors[rho] = np.where(random.random((SEEDS, IMAGES)) < gap, 1.0, errors[rho])
        else:
            errors[rho] = height + gap
    return errors


@pytest.mark.parametrize("kind", ["wrong", "distance"])
@pytest.mark.parametrize(("risk", "gap"), [(0.05, 0.0), (0.3, 0.03)])
def test_the_best_is_dropped_less_often_than_the_risk(kind: str, risk: float, gap: float) -> None:
    """300 grids with the best at rho 0.5 and all others equal to it, or worse by a little; the draws are fixed."""
    random, race = np.random.default_rng(1), Race(risk, SEEDS)
    gaps = np.array([0.0, *[gap] * (len(RHOS) - 1)])
    lost = sum(any(one.rho == 0.5 for one in race.dropped(drawn(random, gaps, kind))) for _ in range(GRIDS))
    assert lost / GRIDS <= risk


def test_what_is_clearly_worse_is_dropped_and_said_with_its_rival() -> None:
    random, race = np.random.default_rng(2), Race(0.05, SEEDS)
    gaps = np.array([0.5, 0.5, 0.0, 0.5, 0.5, 0.5])
    errors = {rho: 0.1 * rows for rho, rows in drawn(random, np.zeros(6), "distance").items()}
    errors = {rho: rows + gap for (rho, rows), gap in zip(errors.items(), gaps, strict=True)}
    gone = race.dropped(errors)
    assert {one.rho for one in gone} == {0.5, 0.6, 0.8, 0.9}  # never rho 1, with which all are compared at the end
    assert all(one.seeds >= 3 and one.difference > one.half > 0 for one in gone)
    assert all(
        one.difference == compared(errors[one.rho][: one.seeds], errors[one.by][: one.seeds]).mean for one in gone
    )


def test_the_union_bound_is_over_rivals_and_looks() -> None:
    assert list(Race(0.05, 8).looks) == [3, 4, 5, 6, 7]
    assert Race(0.05, 8).rounds == [3, 4, 5, 6, 7, 8]
    assert Race(0.05, 8).tail(6) == pytest.approx(0.05 / 25)
    assert Race(0.05, 3).rounds == [3]  # nothing can be stopped any more
    assert Race(0.05, 3).dropped({0.5: np.ones((3, 9)), 1.0: np.zeros((3, 9))}) == []


def test_cells_that_a_dropped_rho_did_not_run_are_not_missed() -> None:
    """What is decided does not depend on whether a dropped rho has run on."""
    random, race = np.random.default_rng(3), Race(0.3, SEEDS)
    for _ in range(20):
        errors = drawn(random, np.array([0.0, 0.8, 0.1, 1.2, 0.2, 0.0]), "distance")
        gone = race.dropped(errors)
        cut = {one.rho: errors[one.rho][: one.seeds] for one in gone}
        assert race.dropped({**errors, **cut}) == gone
