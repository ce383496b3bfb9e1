"""Acceptance: the rule itself, ceilings, and that accepted candidates follow the wanted density."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from filters import Acceptance, classification_error, regression_error
from runtime.errors import UserError

RATIOS = arrays.arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 100, width=32))


@settings(max_examples=40, deadline=None)
@given(r=RATIOS, ceiling=st.floats(0.01, 50), seed=st.integers(0, 1000))
def test_accept_is_the_rule(r: np.ndarray, ceiling: float, seed: int) -> None:
    uniforms = np.random.default_rng(seed).random(len(r))
    slow = [float(value) > 0 and u <= float(value) / ceiling for u, value in zip(uniforms, r, strict=True)]
    found = Acceptance().accept(uniforms, r, ceiling)
    assert found.dtype == bool
    assert found.tolist() == slow
    assert Acceptance().accept(uniforms, r, np.full(len(r), ceiling)).tolist() == slow
    clipped = sum(max(float(value) - ceiling, 0.0) for value in r)
    total = float(r.astype(np.float64).sum())
    assert Acceptance().clipped_mass(r, ceiling) == pytest.approx(clipped / total if total else 0.0)


def test_a_ratio_of_zero_never_passes() -> None:
    assert not Acceptance().accept(np.zeros(3), np.zeros(3), 1.0).any()


@settings(max_examples=40, deadline=None)
@given(r=RATIOS)
def test_ceiling_is_the_quantile_or_an_error(r: np.ndarray) -> None:
    if r.max() <= 0:
        with pytest.raises(UserError, match="label seven: all"):
            Acceptance().ceiling(r, "seven")
        return
    found = Acceptance().ceiling(r, "seven")
    assert 0 < found <= r.max()
    assert Acceptance(quantile=1.0).ceiling(r, "seven") == r.max()


def test_ceiling_of_many_zeros_and_of_bad_pilots() -> None:
    rare = np.zeros(5000)
    rare[17] = 2.5
    assert Acceptance().ceiling(rare, "3") == 2.5
    for bad in (np.array([]), np.array([1.0, np.nan]), np.array([np.inf])):
        with pytest.raises(UserError, match="label 3"):
            Acceptance().ceiling(bad, "3")
    with pytest.raises(UserError, match="quantile"):
        Acceptance(quantile=0.0)


def test_accepted_candidates_follow_the_wanted_density() -> None:
    """Proposals N(0, 1), target N(1, 0.5): with r = p / q the accepted ones have the target's moments."""
    random = np.random.default_rng(0)
    x = random.normal(size=200_000)
    r = np.exp(-0.5 * ((x - 1.0) / 0.5) ** 2) / 0.5 / np.exp(-0.5 * x**2)
    rule = Acceptance()
    ceiling = rule.ceiling(r[:20_000], "x")
    kept = x[rule.accept(random.random(len(x)), r, ceiling)]
    assert rule.clipped_mass(r, ceiling) < 0.01
    assert kept.mean() == pytest.approx(1.0, abs=0.02)
    assert kept.std() == pytest.approx(0.5, abs=0.02)


def test_none_accepts_everything_and_travels() -> None:
    rule = pickle.loads(pickle.dumps(Acceptance.none()))
    assert rule == Acceptance.none()
    assert not rule.needs_ratio
    assert rule.accept(np.array([0.0, 0.99]), np.array([0.0, 0.0]), rule.ceiling(np.zeros(2), "1")).all()
    assert rule.clipped_mass(np.ones(2), 0.5) == 0.0


def test_teacher_errors_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    rows = logits.double().numpy()
    slow = [np.log(np.exp(rows[i]).sum()) - rows[i, y] for i, y in enumerate((1, 2))]
    found = classification_error(logits, np.array([1, 2]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow, rtol=1e-6)
    np.testing.assert_allclose(regression_error(torch.tensor([1.0, -2.0]), np.array([3.0, -2.5])), [2.0, 0.5])
    np.testing.assert_allclose(regression_error(torch.tensor([[3.0, 4.0]]), np.zeros((1, 2))), [5.0])
    with pytest.raises(ValueError, match="do not go with"):
        regression_error(torch.zeros(2, 3), np.zeros(2))
