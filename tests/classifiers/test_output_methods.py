"""Methods on outputs: equal to the original programs' values and gradients, and to slow NumPy twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from classifiers.distillation.dist import correlation_losses
from classifiers.distillation.dkd import decoupled_losses
from image_data.labels import ClassLabels, ContinuousLabels
from interfaces.method import Batch, Method, Views
from layers.label_losses import soft_loss, standardised
from runtime.errors import UserError
from tests.support.parity_kd import assert_like, parity_kd
from training.distilling import MethodSpace
from training.methods import METHODS

V1 = {"temperature": 5.0, "hard_weight": 0.5, "soft_weight": 0.5}
STANDARDISED: dict[str, dict[str, Any]] = {
    "blkd": {"standardise": True, "temperature": 2.0, "hard_weight": 0.1, "soft_weight": 9.0},
    "dkd": {"standardise": True, "temperature": 2.0, "target_weight": 9.0, "rest_weight": 72.0},
}  # fmt: skip


def method(name: str, classes: int = 100, **given: Any) -> Method:
    space = MethodSpace(name, label_space=ClassLabels(tuple(map(str, range(classes)))))
    return METHODS.build(METHODS.choose(name, given), space)


def terms(made: Method, student: Any, teacher: Any, labels: Any, weights: Any = None) -> dict[str, torch.Tensor]:
    """At a step behind any warm-up."""
    return made(Views(student), Views(teacher), Batch(labels, weights, step=99, steps=100))


def slope(loss: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, of, retain_graph=True)[0]


def outputs(folder: str, student: str = "logits_s") -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(fixture, student's logits with a gradient, teacher's, labels)."""
    found = parity_kd("losses", folder)
    ours, other = student, student.replace("_s", "_t")
    labels = found.inputs["ext_labels" if student.startswith("ext") else "labels"]
    return found, found.inputs[ours].clone().requires_grad_(), found.inputs[other], labels


def test_parity_kd_blkd_as_in_repdistiller() -> None:
    found, student, teacher, labels = outputs("kd")
    total = terms(method("blkd"), student, teacher, labels)
    assert_like(total["soft"], found.expected["loss"])
    assert_like(total["hard"], found.expected["ce"])
    assert_like(total["loss"], found.expected["total"])
    assert_like(slope(total["soft"], student), found.expected["grad.logits_s"])
    assert_like(slope(total["loss"], student), found.expected["grad_total.logits_s"])
    assert_like(soft_loss(student, teacher, 1.0), found.expected["loss_T1"])


def test_parity_kd_blkd_of_the_first_release_and_as_recommended() -> None:
    found, student, teacher, labels = outputs("blkd_v1")
    for per_element, prefix in ((True, ""), (False, "alt.")):
        total = terms(method("blkd", 10, per_element=per_element, **V1), student, teacher, labels)
        assert_like(total["loss"], found.expected[f"{prefix}loss"])
        assert_like(total["soft"] / 25, found.expected[f"{prefix}loss_kd"])  # the original's T^2 stands outside
        assert_like(slope(total["loss"], student), found.expected[f"{prefix}grad.logits_s"])


@pytest.mark.parametrize("name", list(STANDARDISED))
def test_parity_kd_standardised_logits(name: str) -> None:
    found, student, teacher, labels = outputs("logit_std")
    total = terms(method(name, **STANDARDISED[name]), student, teacher, labels)
    key = "kd" if name == "blkd" else "dkd"
    loss, hard = (total["soft"], 0.0) if key == "kd" else (total["loss"], functional.cross_entropy(student, labels))
    assert_like(loss, found.expected[key])
    assert_like(slope(loss, student), found.expected[f"grad.{key}.logits_s"])
    assert_like(total["loss"] + hard, found.expected[f"{key}_weighted"])


def test_parity_kd_dkd() -> None:
    found, student, teacher, labels = outputs("dkd")
    total = terms(method("dkd"), student, teacher, labels)
    assert_like(total["loss"], found.expected["loss"])
    assert_like(total["dkd_target"], found.expected["tckd"])
    assert_like(total["dkd_rest"], found.expected["nckd"])
    assert_like(slope(total["loss"], student), found.expected["grad.logits_s"])


def test_parity_kd_dkd_is_finite_where_the_original_is_not() -> None:
    found, student, teacher, labels = outputs("dkd", "ext_logits_s")
    total = terms(method("dkd"), student, teacher, labels)["loss"]
    assert torch.isinf(found.expected["ext.loss"])
    assert_like(total, found.expected["alt.ext.loss"])
    assert_like(slope(total, student), found.expected["alt.grad.ext_logits_s"])


def test_parity_kd_dist() -> None:
    found, student, teacher, labels = outputs("dist")
    total = terms(method("dist"), student, teacher, labels)["loss"]
    assert_like(total, found.expected["loss"])
    assert_like(slope(total, student), found.expected["grad.logits_s"])
    plain = {"temperature": 1.0, "row_weight": 1.0, "column_weight": 1.0}
    total = terms(method("dist", **plain), student, teacher, labels)
    assert_like(total["loss"], found.expected["loss_default"])
    assert_like(slope(total["loss"], student), found.expected["grad_default.logits_s"])
    assert_like(total["dist_rows"], found.expected["inter"])
    assert_like(total["dist_columns"], found.expected["intra"])


@pytest.mark.parametrize(("release", "t"), [("v1", 5.0), ("v2", 10.0)])
def test_parity_kd_takd_is_blkd_twice(release: str, t: float) -> None:
    """The assistant learns from the teacher, then the student from the assistant."""
    found = parity_kd("losses", "takd")
    made = method("blkd", **{**V1, "temperature": t, "per_element": release == "v1"})
    chain = ("logits_t", "logits_assistant", "logits_s")
    for step in (1, 2):
        teacher, student = found.inputs[chain[step - 1]], found.inputs[chain[step]].clone().requires_grad_()
        total = terms(made, student, teacher, found.inputs["labels"])["loss"]
        assert_like(total, found.expected[f"{release}.step{step}"])
        assert_like(slope(total, student), found.expected[f"grad.{release}.step{step}.{chain[step]}"])


def softmax(values: np.ndarray) -> np.ndarray:
    """Of one row."""
    powers = np.array([np.exp(value - values.max()) for value in values])
    return powers / sum(powers)


def divergence(wanted: np.ndarray, ours: np.ndarray) -> float:
    return float(sum(p * (np.log(p) - np.log(q)) for p, q in zip(wanted, ours, strict=True)))


def drawn(seed: int, rows: int = 5, classes: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[torch.Tensor]]:
    """Logits of student and teacher and labels, float64; and all three as tensors."""
    rng = np.random.default_rng(seed)
    student, teacher, labels = rng.normal(0, 3, (rows, classes)), rng.normal(0, 3, (rows, classes)), None
    labels = rng.integers(0, classes, rows)
    return student, teacher, labels, [torch.from_numpy(values) for values in (student, teacher, labels)]


def test_standardised_logits_equal_their_numpy_twin() -> None:
    student, _, _, (tensor, *_) = drawn(3)
    twin = [(row - np.mean(row)) / (np.std(row, ddof=1) + 1e-7) for row in student]
    np.testing.assert_allclose(standardised(tensor), twin, rtol=1e-9)


def test_equal_logits_have_a_finite_gradient() -> None:
    logits = torch.zeros(2, 4, requires_grad=True)
    teacher, labels = torch.randn(2, 4), torch.tensor([0, 1])
    for name, given in (*STANDARDISED.items(), ("dist", {})):
        loss = terms(method(name, 4, **given), logits, teacher, labels)["loss"]
        assert torch.isfinite(loss)
        assert torch.isfinite(slope(loss, logits)).all(), name


def test_dkd_equals_its_numpy_twin() -> None:
    student, teacher, labels, tensors = drawn(4)
    target = rest = 0.0
    for ours, wanted, label in zip(student, teacher, labels, strict=True):
        p, q = softmax(wanted / 3), softmax(ours / 3)
        target += divergence(np.array([p[label], 1 - p[label]]), np.array([q[label], 1 - q[label]]))
        p, q = np.delete(p, label), np.delete(q, label)
        rest += divergence(p / p.sum(), q / q.sum())
    found = decoupled_losses(*tensors, temperature=3.0)
    np.testing.assert_allclose([one.item() for one in found], [9 * target / 5, 9 * rest / 5], rtol=1e-9)


def test_dkd_rises_over_its_warm_up() -> None:
    student, teacher, labels = drawn(5)[3]
    made = method("dkd", 4, warmup_fraction=0.5)
    early, late, last = (
        made(Views(student), Views(teacher), Batch(labels, step=step, steps=20))["loss"].item() for step in (0, 9, 19)
    )
    assert early == pytest.approx(0.1 * last)
    assert late == pytest.approx(last)


def test_dist_equals_its_numpy_twin() -> None:
    student, teacher, _, tensors = drawn(6)
    ours, wanted = (np.stack([softmax(row / 2) for row in rows]) for rows in (student, teacher))
    rows = np.mean([1 - np.corrcoef(ours[row], wanted[row])[0, 1] for row in range(5)])
    columns = np.mean([1 - np.corrcoef(ours[:, one], wanted[:, one])[0, 1] for one in range(4)])
    found = correlation_losses(*tensors[:2], temperature=2.0)
    np.testing.assert_allclose([one.item() for one in found], [4 * rows, 4 * columns], rtol=1e-6)  # its 1e-8


@pytest.mark.parametrize(("name", "given"), [
    ("blkd", {}), ("blkd", STANDARDISED["blkd"]), ("dkd", {}), ("dkd", STANDARDISED["dkd"]),
    ("dist", {"column_weight": 0.0}),
])  # fmt: skip
def test_a_row_of_weight_two_counts_as_two(name: str, given: Any) -> None:
    student, teacher, labels = drawn(7)[3]
    again = [torch.cat([values, values[:1]]) for values in (student, teacher, labels)]
    made = method(name, 4, **given)
    weighted = terms(made, student, teacher, labels, torch.tensor([2.0, 1.0, 1.0, 1.0, 1.0]))["loss"]
    torch.testing.assert_close(weighted * 5, terms(made, *again)["loss"] * 6)


def test_rows_of_weight_two_count_twice_in_the_correlation_of_a_class() -> None:
    student, teacher, _ = drawn(8)[3]
    again = [torch.cat([values, values[:1]]) for values in (student, teacher)]
    _, weighted = correlation_losses(student, teacher, 4.0, torch.tensor([2.0, 1.0, 1.0, 1.0, 1.0]))
    torch.testing.assert_close(weighted, correlation_losses(*again, 4.0)[1])


@pytest.mark.parametrize(("name", "given"), [
    ("blkd", {"standardise": True}), ("blkd", {"per_element": True}), ("dkd", {}), ("dist", {}),
])  # fmt: skip
def test_what_is_for_classes_alone_refuses_continuous_labels(name: str, given: Any) -> None:
    space = MethodSpace(name, label_space=ContinuousLabels(-90.0, 90.0, "degrees"))
    with pytest.raises(UserError, match=f"method {name} compares the probabilities of classes"):
        METHODS.build(METHODS.choose(name, given), space)


def test_dkd_refuses_two_classes_unless_the_others_do_not_count() -> None:
    with pytest.raises(UserError, match="set its rest-weight to 0, or take blkd"):
        method("dkd", 2)
    loss = terms(method("dkd", 2, rest_weight=0.0), torch.randn(3, 2), torch.randn(3, 2), torch.tensor([0, 1, 1]))
    assert torch.isfinite(loss["loss"])
