"""Kernel alignment and adapter losses against NumPy twins and their known values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from white_box.losses.feature_l2 import AdaptedL2
from white_box.losses.kernel_alignment import OneMinusAlignment, kernel_alignment, rows_of


def numpy_kernel_alignment(x: np.ndarray, y: np.ndarray, centred: bool) -> float:
    """Slow twin in float64, by the Gram matrices K = X X' and L = Y Y'."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    if centred:
        x, y = x - x.mean(0), y - y.mean(0)
    k = np.array([[float(a @ b) for b in x] for a in x])
    other = np.array([[float(a @ b) for b in y] for a in y])
    return float((k * other).sum() / (np.sqrt((k**2).sum()) * np.sqrt((other**2).sum())))


def normals(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(3, 20),
    p=st.integers(1, 9),
    q=st.integers(1, 9),
    centred=st.booleans(),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
)
def test_kernel_alignment_equals_its_twin(seed: int, rows: int, p: int, q: int, centred: bool, scale: float) -> None:
    x, y = scale * (normals(seed, rows, p) + 0.5), normals(seed + 1, rows, q)
    found = float(kernel_alignment(x, y, centred))
    assert found == pytest.approx(numpy_kernel_alignment(x.numpy(), y.numpy(), centred), abs=2e-5)
    assert -1e-6 <= found <= 1 + 1e-5


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("rows", [6, 50])  # fewer and more rows than columns: both ways of forming the products
def test_rotation_and_scale_do_not_matter(rows: int, centred: bool) -> None:
    x = normals(0, rows, 8)
    rotation, _ = torch.linalg.qr(normals(1, 8, 8))
    assert float(kernel_alignment(x, x @ rotation, centred)) == pytest.approx(1.0, abs=1e-5)
    assert float(kernel_alignment(x, -7.5 * x, centred)) == pytest.approx(1.0, abs=1e-5)
    assert float(kernel_alignment(x, normals(2, rows, 8), centred)) < 0.9


def test_one_sample_in_the_sample_form_is_always_aligned() -> None:
    found = kernel_alignment(rows_of(normals(0, 1, 4, 3, 3), "sample"), rows_of(normals(1, 1, 6, 3, 3), "sample"))
    assert float(found) == pytest.approx(1.0, abs=1e-5)


def test_row_forms() -> None:
    maps = torch.arange(2 * 3 * 2 * 2, dtype=torch.float32).view(2, 3, 2, 2)
    positions = np.stack([maps[n, :, i, j].numpy() for n in range(2) for i in range(2) for j in range(2)])
    np.testing.assert_array_equal(rows_of(maps, "position").numpy(), positions)
    assert rows_of(maps, "sample").shape == (2, 12)


def test_all_zero_features_give_zero_and_finite_gradients() -> None:
    x = torch.zeros(10, 4, requires_grad=True)
    value = kernel_alignment(x, normals(0, 10, 3))
    value.backward()
    assert float(value.detach()) == 0.0
    assert torch.isfinite(x.grad).all()


def test_feature_l2_equals_its_twin() -> None:
    loss = AdaptedL2(2, 3)
    student, teacher = normals(0, 4, 2, 5, 5), normals(1, 4, 3, 5, 5)
    weight, bias = loss.adapter.weight.detach().numpy()[:, :, 0, 0], loss.adapter.bias.detach().numpy()
    adapted = np.einsum("ts,nshw->nthw", weight, student.numpy()) + bias[None, :, None, None]
    assert float(loss(student, teacher).mean().detach()) == pytest.approx(
        float(((adapted - teacher.numpy()) ** 2).mean()), rel=1e-5
    )


@pytest.mark.parametrize(
    "loss", [AdaptedL2(4, 6), OneMinusAlignment("position", True), OneMinusAlignment("sample", False)]
)
def test_low_precision_changes_little(loss: torch.nn.Module) -> None:
    student, teacher = normals(0, 8, 4, 3, 3), normals(1, 8, 6, 3, 3)
    full = loss(student, teacher).mean()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = loss(student, teacher).mean()
    assert low.dtype == torch.float32
    assert float(low.detach()) == pytest.approx(float(full.detach()), abs=0.05)
