"""Methods on outputs against slow NumPy twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interfaces.method import Batch, Views
from runtime.errors import UserError
from training.distilling import MethodSpace
from training.methods import METHODS


def scalars(
    name: str, student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, rows: Any = None, **weights: float
) -> dict[str, torch.Tensor]:
    """The method's scalars for these outputs; rows: the weights of the rows."""
    method = METHODS.build(METHODS.choose(name, weights), MethodSpace())
    return method(Views(student), Views(teacher), Batch(labels, rows))


def _softmax(values: np.ndarray) -> np.ndarray:
    out = np.empty_like(values)
    for row in range(len(values)):
        powers = [np.exp(value - values[row].max()) for value in values[row]]
        out[row] = np.array(powers) / sum(powers)
    return out


def _blkd_twin(
    student: np.ndarray, teacher: np.ndarray, labels: np.ndarray, hard: float, soft: float, t: float
) -> float:
    cross_entropy, divergence = 0.0, 0.0
    for row in range(len(labels)):
        cross_entropy -= np.log(_softmax(student)[row, labels[row]])
        p, q = _softmax(teacher / t)[row], _softmax(student / t)[row]
        divergence += sum(p[c] * (np.log(p[c]) - np.log(q[c])) for c in range(len(p)))
    return hard * cross_entropy / len(labels) + soft * t * t * divergence / len(labels)


@given(st.integers(1, 5), st.integers(2, 6), st.floats(0, 1), st.floats(0, 2), st.floats(0.5, 8), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_blkd_equals_its_numpy_twin(rows: int, classes: int, hard: float, soft: float, t: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(0, 3, (2, rows, classes))
    labels = rng.integers(0, classes, rows)
    weights = {"hard_weight": hard, "soft_weight": soft, "temperature": t}
    found = scalars("blkd", *map(torch.from_numpy, (student, teacher, labels)), **weights)["loss"]
    np.testing.assert_allclose(found.item(), _blkd_twin(student, teacher, labels, hard, soft, t), rtol=1e-9, atol=1e-9)


def test_regression_losses_equal_their_numpy_twins() -> None:
    rng = np.random.default_rng(1)
    student, teacher, labels = rng.random((3, 7, 2))
    tensors = [torch.from_numpy(values) for values in (student, teacher, labels)]
    none, blkd = (scalars(name, *tensors)["loss"].item() for name in ("none", "blkd"))
    to_label, to_teacher = np.mean((student - labels) ** 2), np.mean((student - teacher) ** 2)
    np.testing.assert_allclose(none, to_label)
    np.testing.assert_allclose(blkd, 0.1 * to_label + 0.9 * to_teacher)


def test_label_smoothing_equals_its_numpy_twin() -> None:
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(0, 2, (5, 4)), rng.integers(0, 4, 5)
    target = np.eye(4)[labels] * 0.9 + 0.1 / 4
    twin = -np.mean(np.sum(target * np.log(_softmax(logits)), axis=1))
    tensors = torch.from_numpy(logits), torch.empty(0), torch.from_numpy(labels)
    found = scalars("none", *tensors, label_smoothing=0.1)["loss"]
    np.testing.assert_allclose(found.item(), twin)


def test_a_teacher_that_agrees_costs_nothing() -> None:
    logits = torch.randn(4, 5)
    losses = scalars("blkd", logits, logits, torch.tensor([0, 1, 2, 3]))
    assert abs(losses["soft"].item()) < 1e-6


def test_rows_count_by_their_weights() -> None:
    """A row of weight 2 counts as two of weight 1; the sum is divided by the number of rows all the same."""
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([0, 1, 2])
    again = [torch.cat([values, values[:1]]) for values in (student, teacher, labels)]
    for name in ("none", "blkd"):
        weighted = scalars(name, student, teacher, labels, torch.tensor([2.0, 1.0, 1.0]))["loss"]
        torch.testing.assert_close(weighted * 3, scalars(name, *again)["loss"] * 4)


def test_settings_that_a_method_lacks_or_that_are_out_of_bounds_are_named() -> None:
    for name, given_settings, message in (
        ("blkd", {"temprature": 3.0}, "temprature.*hard_weight"),
        ("crdd", {}, "unknown; known are ab"),
        ("blkd", {"temperature": 0.0}, "temperature"),
    ):
        with pytest.raises(UserError, match=message):
            METHODS.choose(name, given_settings)
