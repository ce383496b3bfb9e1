"""Losses of the published methods on maps against slow NumPy twins in float64, and what weights of rows do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.map_methods import method_on, run
from white_box.losses.ab import boundary_loss
from white_box.losses.at import attention_difference
from white_box.losses.cc import kernel_difference, neighbour_products
from white_box.losses.fitnet import Hint
from white_box.losses.fsp import flow_differences
from white_box.losses.ft import factor_difference
from white_box.losses.kdsvd import LeadingDirections, direction_differences
from white_box.losses.nst import selectivity_discrepancy
from white_box.losses.sp import similarity_difference
from white_box.losses.stages import in_float32
from white_box.losses.vid import gaussian_bound

ROWS = 4


def maps(seed: int, *shape: int) -> torch.Tensor:
    """Behind a ReLU: about a third is 0."""
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.4).relu()


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / math.sqrt(float((vector**2).sum()))


def slow_attention(one: np.ndarray) -> np.ndarray:
    _, height, width = one.shape
    return unit(np.array([(one[:, i, j] ** 2).mean() for i in range(height) for j in range(width)]))


def slow_at(s: np.ndarray, t: np.ndarray) -> list[float]:
    return [float(((slow_attention(a) - slow_attention(b)) ** 2).mean()) for a, b in zip(s, t, strict=True)]


def slow_ft(s: np.ndarray, t: np.ndarray) -> list[float]:
    return [float(np.abs(slow_attention(a) - slow_attention(b)).mean()) for a, b in zip(s, t, strict=True)]


def slow_nst(s: np.ndarray, t: np.ndarray) -> list[float]:
    def kernel(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.mean([[float(unit(a) @ unit(b)) ** 2 for b in other] for a in one]))

    rows = [(a.reshape(len(a), -1), b.reshape(len(b), -1)) for a, b in zip(s, t, strict=True)]
    return [kernel(b, b) + kernel(a, a) - 2 * kernel(a, b) for a, b in rows]


def slow_ab(s: np.ndarray, t: np.ndarray) -> list[float]:
    def way(a: float, b: float) -> float:
        if b <= 0:
            return (a + 1) ** 2 if a > -1 else 0.0
        return (a - 1) ** 2 if a <= 1 else 0.0

    return [sum(way(*entry) for entry in zip(a.ravel(), b.ravel(), strict=True)) for a, b in zip(s, t, strict=True)]


def slow_sp(s: np.ndarray, t: np.ndarray) -> np.ndarray:
    def similarity(rows: np.ndarray) -> np.ndarray:
        return np.stack([unit(np.array([(a * b).sum() for b in rows])) for a in rows])

    return (similarity(t) - similarity(s)) ** 2


def slow_cc(s: np.ndarray, t: np.ndarray) -> np.ndarray:
    def kernel(rows: np.ndarray) -> np.ndarray:
        units = [unit(row.ravel()) for row in rows]
        return np.array([
            [sum(math.exp(-0.8) * 0.8**p / math.factorial(p) * float(a @ b) ** p for p in range(3)) for b in units]
            for a in units
        ])  # fmt: skip

    return (kernel(s) - kernel(t)) ** 2


@pytest.mark.parametrize(
    ("fast", "slow", "student", "teacher"),
    [
        (attention_difference, slow_at, (3, 4, 5), (6, 4, 5)),
        (factor_difference, slow_ft, (3, 4, 5), (3, 4, 5)),
        (selectivity_discrepancy, slow_nst, (3, 4, 5), (6, 4, 5)),
        (boundary_loss, slow_ab, (3, 4, 5), (3, 4, 5)),
        (similarity_difference, slow_sp, (3, 4, 5), (6, 2, 2)),
        (kernel_difference, slow_cc, (7,), (7,)),
    ],
)
def test_a_loss_equals_its_twin(
    fast: Callable[..., torch.Tensor],
    slow: Callable[..., Any],
    student: tuple[int, ...],
    teacher: tuple[int, ...],
) -> None:
    s, t = maps(0, ROWS, *student) - 0.2 * (fast is boundary_loss), maps(1, ROWS, *teacher)
    wanted = slow(s.double().numpy(), t.double().numpy())
    np.testing.assert_allclose(fast(s, t).numpy(), np.array(wanted), rtol=1e-4, atol=1e-6)


def test_fitnet_equals_its_twin() -> None:
    hint, s, t = Hint((3, 4, 4), (5, 4, 4), relu=True), maps(0, ROWS, 3, 4, 4), maps(1, ROWS, 5, 4, 4)
    convolution, norm = hint.regressor.convolution, hint.regressor.norm
    with torch.no_grad():
        norm.weight.copy_(maps(2, 5) + 0.5)
        norm.bias.copy_(maps(3, 5))
    weight, bias, gain, shift = (
        part.detach().double().numpy() for part in (convolution.weight, convolution.bias, norm.weight, norm.bias)
    )
    moved = np.einsum("dc,nchw->ndhw", weight[:, :, 0, 0], s.double().numpy()) + bias[None, :, None, None]
    mean, variance = moved.mean((0, 2, 3), keepdims=True), moved.var((0, 2, 3), keepdims=True)
    normed = (moved - mean) / np.sqrt(variance + 1e-5) * gain[None, :, None, None] + shift[None, :, None, None]
    wanted = ((np.maximum(normed, 0) - t.double().numpy()) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(hint(s, t).detach().numpy(), wanted, rtol=1e-4)


def test_vid_equals_its_twin_and_stays_finite_for_a_large_scale() -> None:
    s, t, scale = maps(0, ROWS, 3, 2, 2), maps(1, ROWS, 3, 2, 2), torch.tensor([-3.0, 0.5, 4.0])
    v = np.log1p(np.exp(scale.double().numpy())) + 1e-5
    square = (s.double().numpy() - t.double().numpy()) ** 2
    wanted = [np.mean([0.5 * (row[c] / v[c] + np.log(v[c])) for c in range(3)]) for row in square]
    np.testing.assert_allclose(gaussian_bound(s, t, scale).numpy(), wanted, rtol=1e-5)
    assert torch.isfinite(gaussian_bound(s, t, scale + 200)).all()


def test_cc_neighbours_equal_their_twin() -> None:
    s, t = maps(0, ROWS, 7), maps(1, ROWS, 7)
    apart = np.abs(s.double().numpy() - t.double().numpy())
    wanted = [sum(apart[i, d] * apart[i + 1, d] for d in range(7)) for i in range(ROWS - 1)]
    np.testing.assert_allclose(neighbour_products(s, t).numpy(), wanted, rtol=1e-5)


def levels(seed: int) -> list[torch.Tensor]:
    return [maps(seed, ROWS, 5, 4, 4), maps(seed + 1, ROWS, 6, 4, 4), maps(seed + 2, ROWS, 8, 2, 2)]


def slow_flow(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Maps of one image; the larger is averaged over blocks of 2 x 2."""
    if earlier.shape[1] == 2 * later.shape[1]:
        earlier = earlier.reshape(len(earlier), later.shape[1], 2, later.shape[2], 2).mean((2, 4))
    return np.array([[(a * b).mean() for b in earlier] for a in later])


def test_fsp_equals_its_twin() -> None:
    s, t = levels(0), levels(10)
    for at, found in enumerate(flow_differences(s, t)):
        wanted = [
            np.mean((slow_flow(s[at][i].double().numpy(), s[at + 1][i].double().numpy())
                     - slow_flow(t[at][i].double().numpy(), t[at + 1][i].double().numpy())) ** 2)
            for i in range(ROWS)
        ]  # fmt: skip
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4)


def slow_directions(student: np.ndarray, teacher: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of one image's maps."""
    s, t = (np.linalg.svd(one.reshape(len(one), -1).T, full_matrices=False)[2] for one in (student, teacher))
    wanted = np.sign(t[0].sum()) * t[0]
    cosines = [float(candidate @ wanted) for candidate in s[:4]]
    best = int(np.argmax(np.abs(cosines)))
    return np.sign(cosines[best]) * s[best], wanted


def test_kdsvd_equals_its_twin() -> None:
    s, t = levels(0), levels(10)
    for at, found in enumerate(direction_differences(s, t)):
        for i in range(ROWS):
            before, after = (
                slow_directions(s[level][i].double().numpy(), t[level][i].double().numpy()) for level in (at, at + 1)
            )
            ours, other = (
                np.array([[math.exp(-((b - a) ** 2) / 8) for a in before[side]] for b in after[side]])
                for side in (0, 1)
            )
            assert float(found[i]) == pytest.approx(float(((ours - other) ** 2).sum()), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 6, 4), (1, 3, 5)])  # more places than channels, and fewer
def test_the_gradient_of_leading_directions_is_that_of_finite_differences(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)

    def without_sign(x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = LeadingDirections.apply(x, 3)  # type: ignore[no-untyped-call]
        return found[:, :, None] * found[:, None]

    assert torch.autograd.gradcheck(without_sign, (x,), rtol=1e-4)


def test_dead_channels_leave_kdsvd_a_finite_gradient() -> None:
    s, t = [one.clone() for one in levels(0)], levels(10)
    for one in s:
        one[:, :3] = 0
        one.requires_grad_()
    torch.stack(direction_differences(s, t)).sum().backward()
    assert all(one.grad is not None and torch.isfinite(one.grad).all() and one.grad.any() for one in s)


STAGES = {"ab": "initialisation", "fsp": "initialisation"}
STUDENT = {
    name: maps(seed, ROWS, 4, size, size) for seed, (name, size) in enumerate({"stage1": 8, "stage2": 4}.items())
}
TEACHER = {
    name: maps(seed + 5, ROWS, 4, size, size) for seed, (name, size) in enumerate({"stage1": 8, "stage2": 4}.items())
}


@pytest.mark.parametrize("name", ["ab", "at", "cc", "feature_l2", "fitnet", "fsp", "ft", "kdsvd", "nst", "sp", "vid"])
def test_rows_count_as_their_weights(name: str) -> None:
    """Weights of 1 change nothing, equal ones scale the loss, and a row of weight 0 gets no gradient but by norms."""
    torch.manual_seed(0)
    student = {key: value.clone().requires_grad_() for key, value in STUDENT.items()}
    method = method_on(name, student, TEACHER).eval()

    def loss(weights: torch.Tensor | None) -> float:
        for value in student.values():
            value.grad = None
        return float(run(method, student, TEACHER, STAGES.get(name, "student"), weights)["loss"])

    plain, power = loss(None), 2 if name in ("sp", "cc") else 1
    assert loss(torch.ones(ROWS)) == pytest.approx(plain, rel=1e-6)
    assert loss(torch.full((ROWS,), 3.0)) == pytest.approx(3.0**power * plain, rel=1e-5)
    alone = [loss(torch.eye(ROWS)[i]) for i in range(ROWS)]
    if power == 1:
        assert sum(alone) == pytest.approx(plain, rel=1e-5)
        loss(torch.tensor([1.0, 0.0, 1.0, 1.0]))
        assert all(value.grad is None or not value.grad[1].any() for value in student.values())


@pytest.mark.parametrize("name", ["ab", "at", "cc", "fitnet", "fsp", "ft", "kdsvd", "nst", "sp", "vid"])
def test_low_precision_changes_little(name: str) -> None:
    torch.manual_seed(0)
    student = {key: value.clone().requires_grad_() for key, value in STUDENT.items()}
    method, stage = method_on(name, student, TEACHER), STAGES.get(name, "student")
    full = run(method, student, TEACHER, stage)["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = run(method, student, TEACHER, stage)["loss"]
    assert low.dtype == torch.float32
    assert float(low) == pytest.approx(float(full), rel=0.05)


def test_a_function_in_float32_ignores_the_pass_around_it() -> None:
    product = in_float32(lambda x, y: x @ y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product(torch.ones(2, 2).bfloat16(), torch.ones(2, 2)).dtype == torch.float32
