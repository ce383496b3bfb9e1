"""The student's loss terms against slow NumPy twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from student_trainer import StudentSettings, losses
from student_trainer.trainer import learning_rate, pixel_weight


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
@given(step=st.integers(0, 99), start=st.floats(0.01, 2), floor=st.floats(0.01, 2), until=st.floats(0.01, 1))
def test_the_pixel_weight_stays_between_start_and_floor(step: int, start: float, floor: float, until: float) -> None:
    options = StudentSettings(steps=100, pixel_weight=start, pixel_floor=floor, pixel_decay_until=until)
    weight = pixel_weight(options, step)
    low, high = sorted((start, floor))
    assert low - 1e-9 <= weight <= high + 1e-9
    if step / 100 >= until:
        assert weight == pytest.approx(floor)


def test_the_pixel_weight_follows_the_fraction_and_not_the_step() -> None:
    # 20 of the published 30 epochs; one original reaches zero after 20 iterations instead.
    published = StudentSettings(
        steps=58_500, pixel_weight=0.2, pixel_floor=0.0, feature_weight=1.0, adversarial_from=0.0
    )
    assert pixel_weight(published, 0) == pytest.approx(0.2)
    assert pixel_weight(published, 19_500) == pytest.approx(0.1)
    assert pixel_weight(published, 20) > 0.19
    assert pixel_weight(StudentSettings(pixel_weight=0.2, pixel_floor=0.05, pixel_decay_until=0.0), 9) == pytest.approx(
        0.05
    )


def test_the_learning_rate_rises_stays_and_falls() -> None:
    options = StudentSettings(steps=20, lr=1.0, warmup_fraction=0.1, lr_decay_from=0.5)
    assert [learning_rate(options, step) for step in (0, 1, 9, 14, 19)] == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0])
    assert learning_rate(StudentSettings(steps=20, lr=1.0, warmup_fraction=0.0, lr_decay_from=1.0), 19) == 1.0


def test_peak_signal_to_noise_equals_its_twin() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.rand(5, 1, 4, 4, generator=generator) * 2 - 1 for _ in range(2))
    pixels = [((image.numpy() + 1) * 127.5).astype(np.float64) for image in (student, teacher)]
    expected = [20 * np.log10(255) - 10 * np.log10(np.mean((a - b) ** 2)) for a, b in zip(*pixels, strict=True)]
    np.testing.assert_allclose(losses.peak_signal_to_noise(student, teacher).numpy(), expected, rtol=1e-5)
