"""A mean over seeds and images: its standard error against a slow loop, and how often its interval covers the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from evaluation.comparison import paired_difference
from evaluation.crossed import crossed_mean


def by_loops(values: np.ndarray) -> float:
    """The variance of the docstring, summed one by one."""
    seeds, images = values.shape
    mean = sum(values.flat) / values.size
    rows = [sum(values[s]) / images for s in range(seeds)]
    columns = [sum(values[:, i]) / seeds for i in range(images)]
    v_s = sum((row - mean) ** 2 for row in rows) / (seeds - 1) / seeds
    v_i = sum((column - mean) ** 2 for column in columns) / (images - 1) / images
    rest = sum((values[s, i] - rows[s] - columns[i] + mean) ** 2 for s in range(seeds) for i in range(images))
    v_si = rest / ((seeds - 1) * (images - 1)) / (seeds * images)
    return max(v_s, v_si) + max(v_i, v_si) - v_si


def test_the_variance_is_that_of_a_slow_loop() -> None:
    random = np.random.default_rng(0)
    for shape in ((2, 2), (3, 40), (8, 25), (5, 3)):
        values = random.normal(size=shape) + random.normal(size=shape[:1])[:, None] + random.normal(size=shape[1:])
        found = crossed_mean(values)
        assert found.mean == pytest.approx(values.mean())
        assert found.standard_error == pytest.approx(by_loops(values) ** 0.5)
        assert found.degrees == min(shape) - 1
        assert found.half(0.025) == pytest.approx(t.ppf(0.975, min(shape) - 1) * by_loops(values) ** 0.5)


def test_images_that_are_all_alike_leave_the_seeds_bar() -> None:
    """Then it is Student's t over the seeds' means."""
    by_seed = np.array([0.1, 0.3, 0.2, 0.25])
    found = crossed_mean(np.repeat(by_seed[:, None], 30, axis=1))
    assert found.half(0.025) == pytest.approx(paired_difference(by_seed, np.zeros(4)).half)


def test_one_seed_or_one_image_has_no_bar() -> None:
    for shape in ((1, 30), (4, 1)):
        assert crossed_mean(np.ones(shape)).half(0.025) is None


def test_equal_counts_of_errors_are_no_certainty() -> None:
    """Each of three seeds has one error more, on another image: their means are equal, and yet nothing is certain."""
    values = np.zeros((3, 50))
    values[[0, 1, 2], [4, 20, 33]] = 1.0
    found = crossed_mean(values)
    assert found.standard_error is not None
    assert found.standard_error >= 0.5 * found.mean


@pytest.mark.parametrize(("seed_sd", "image_sd", "rest_sd"), [(1, 0, 0.1), (0.1, 3, 1), (0.3, 1, 3), (0, 0, 3)])
def test_the_interval_covers_the_truth_as_often_as_it_says(seed_sd: float, image_sd: float, rest_sd: float) -> None:
    """Of 500 drawn tables whose mean is 0, at most 6 % have a 95 % interval that leaves 0 out (fixed draws)."""
    random = np.random.default_rng(5)
    missed = 0
    for _ in range(500):
        values = rest_sd * random.normal(size=(8, 40))
        values += seed_sd * random.normal(size=(8, 1)) + image_sd * random.normal(size=(1, 40))
        found = crossed_mean(values)
        half = found.half(0.025)
        missed += half is not None and abs(found.mean) > half
    assert missed <= 30
