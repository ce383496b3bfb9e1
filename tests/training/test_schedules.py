"""Schedules: their ends, their corners, and what they never do."""

from __future__ import annotations

import pytest
import torch

from training.schedules import between, cosine, linear_decay, milestones, ramp, set_learning_rate, warm_up


def test_a_warm_up_ends_at_full_strength() -> None:
    assert [warm_up(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warm_up(0, 0) == 1.0


def test_a_linear_decay_is_full_until_its_beginning_and_nothing_at_its_end() -> None:
    assert [linear_decay(step, 6, 10) for step in (0, 5, 6, 7, 9, 10, 11)] == [1.0, 1.0, 1.0, 0.75, 0.25, 0.0, 0.0]
    assert linear_decay(3, 10, 10) == 1.0
    assert linear_decay(0.75, 0.5, 1.0) == 0.5


def test_a_cosine_falls_from_one_to_zero() -> None:
    values = [cosine(step, 8) for step in range(9)]
    assert values[0] == 1.0
    assert values[4] == pytest.approx(0.5)
    assert values[8] == pytest.approx(0.0, abs=1e-15)
    assert values == sorted(values, reverse=True)


def test_milestones_multiply_from_their_step_on() -> None:
    found = [milestones(step, 10, (0.5, 0.8), 0.1) for step in (0, 4, 5, 7, 8, 9)]
    assert found == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


def test_between_two_values() -> None:
    assert [between(2.0, -1.0, ramp(step, 3)) for step in range(5)] == pytest.approx([2.0, 1.0, 0.0, -1.0, -1.0])


def test_a_rate_is_set_for_all_parameters() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [weight]} for weight in weights], lr=1.0)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
