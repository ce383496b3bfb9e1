"""The student's loss terms against slow NumPy twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from student_trainer import losses


def maps(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, size, size, generator=generator) for size in (4, 2, 1)]


def test_feature_l1_equals_its_twin() -> None:
    student, teacher = maps(0), maps(1)
    weights = losses.feature_weights(3)
    expected = 0.0
    for mine, theirs, weight in zip(student, teacher, weights, strict=True):
        entries = zip(mine.flatten().tolist(), theirs.flatten().tolist(), strict=True)
        expected += weight * np.mean([abs(a - b) for a, b in entries])
    assert float(losses.feature_l1(student, teacher, weights)) == pytest.approx(expected, rel=1e-5)


def test_the_teachers_side_carries_no_gradient() -> None:
    student, teacher = torch.zeros(1, 1, 2, 2, requires_grad=True), torch.ones(1, 1, 2, 2, requires_grad=True)
    (losses.pixel_l1(student, teacher) + losses.feature_l1([student], [teacher], [1.0])).backward()
    assert teacher.grad is None
    assert torch.allclose(student.grad, torch.full_like(student, -0.5))


def test_feature_weights_are_the_published_ones() -> None:
    assert losses.feature_weights(5) == (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
    assert losses.feature_weights(4) == (1 / 16, 1 / 8, 1 / 4, 1.0)
    assert losses.feature_weights(3) == (1 / 8, 1 / 4, 1.0)
    assert losses.feature_weights(6) == (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)


@settings(max_examples=30, deadline=None)
@given(
    fraction=st.floats(0, 1),
    start=st.floats(0, 2),
    floor=st.floats(0, 2),
    until=st.floats(0.01, 1),
)
def test_the_pixel_weight_stays_between_start_and_floor(
    fraction: float, start: float, floor: float, until: float
) -> None:
    weight = losses.pixel_weight(fraction, start, floor, until)
    low, high = sorted((start, floor))
    assert low - 1e-9 <= weight <= high + 1e-9
    if fraction >= until:
        assert weight == pytest.approx(floor)


def test_the_pixel_weight_follows_the_fraction_and_not_the_step() -> None:
    # 20 of the published 30 epochs; one original reaches zero after 20 iterations instead.
    assert losses.pixel_weight(0.0, 0.2, 0.0, 2 / 3) == pytest.approx(0.2)
    assert losses.pixel_weight(1 / 3, 0.2, 0.0, 2 / 3) == pytest.approx(0.1)
    assert losses.pixel_weight(20 / 58_500, 0.2, 0.0, 2 / 3) > 0.19
    assert losses.pixel_weight(0.5, 0.2, 0.05, 0.0) == 0.05


def test_the_learning_rate_rises_stays_and_falls() -> None:
    factors = [losses.learning_rate_factor(fraction, 0.1, 0.5) for fraction in (0.05, 0.1, 0.5, 0.75, 1.0)]
    assert factors == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0])
    assert losses.learning_rate_factor(1.0, 0.0, 1.0) == 1.0


def test_peak_signal_to_noise_equals_its_twin() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.rand(5, 1, 4, 4, generator=generator) * 2 - 1 for _ in range(2))
    pixels = [((image.numpy() + 1) * 127.5).astype(np.float64) for image in (student, teacher)]
    expected = [20 * np.log10(255) - 10 * np.log10(np.mean((a - b) ** 2)) for a, b in zip(*pixels, strict=True)]
    np.testing.assert_allclose(losses.peak_signal_to_noise(student, teacher).numpy(), expected, rtol=1e-5)
