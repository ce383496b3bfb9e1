"""Methods that see several views of each image: MLKD, UDA and SSKD, against the original programs and NumPy twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from classifiers.distillation import sskd
from classifiers.distillation.mlkd import class_correlation, image_correlation, kept_rows
from image_data.labels import ClassLabels, ContinuousLabels
from interfaces.method import Batch, Method, Views
from layers.features import Insides
from layers.label_losses import soft_loss
from runtime.errors import UserError
from tests.support.parity_kd import Fixture, assert_like, parity_kd
from training.distilling import MethodSpace
from training.methods import METHODS

AS_PUBLISHED = {"as_published": True, "kept": "unsure"}


class Pooled(nn.Module):
    """A network with a pooled vector of this width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pooled = nn.Linear(width, width)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.pooled(vectors)


def method(name: str, classes: int = 100, widths: tuple[int, int] = (64, 96), **given: Any) -> Any:
    inside = [Insides(Pooled(width), (torch.zeros(2, width),), "network") for width in widths]
    space = MethodSpace(name, *inside, label_space=ClassLabels(tuple(map(str, range(classes)))))
    return METHODS.build(METHODS.choose(name, given), space)


def interleaved(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.stack([one, other], dim=1).flatten(0, 1)


def two_views(found: Fixture, views: tuple[str, str], made: Method) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """The method's terms on the fixture, and the student's logits with a gradient."""
    students = [found.inputs[f"logits_s{view}"].clone().requires_grad_() for view in views]
    teachers = [found.inputs[f"logits_t{view}"] for view in views]
    batch = Batch(found.inputs["labels"])
    return made(Views(interleaved(*students)), Views(interleaved(*teachers)), batch), students


@pytest.mark.parametrize("standardise", [False, True])
def test_parity_kd_mlkd_as_published(standardise: bool) -> None:
    found = parity_kd("losses", "mlkd")
    made = method("mlkd", standardise=standardise, **AS_PUBLISHED)
    terms, students = two_views(found, ("_weak", "_strong"), made)
    key = "std" if standardise else "plain"
    for name, part in (("kd", "soft"), ("cc", "mlkd_classes"), ("bc", "mlkd_images")):
        assert_like(9 * terms[part], found.expected[f"{key}.{name}"])
    assert_like(0.1 * terms["hard"], found.expected[f"{key}.ce"])
    assert_like(terms["loss"], found.expected[f"{key}.total"])
    for view, slope in zip(("weak", "strong"), torch.autograd.grad(terms["loss"], students), strict=True):
        assert_like(slope, found.expected[f"grad.{key}.logits_s_{view}"])


def test_parity_kd_mlkd_as_intended() -> None:
    found = parity_kd("losses", "mlkd")
    terms, _ = two_views(found, ("_weak", "_strong"), method("mlkd", kept="unsure"))
    assert_like(9 * terms["soft"], found.expected["alt.kd"])


def test_parity_kd_uda() -> None:
    found = parity_kd("losses", "uda")
    terms, students = two_views(found, ("", "_aug"), method("uda", 10))
    assert_like(terms["loss"], found.expected["loss"])
    for view, slope in zip(("", "_aug"), torch.autograd.grad(terms["loss"], students), strict=True):
        assert_like(slope, found.expected[f"grad.logits_s{view}"])
    assert_like(soft_loss(*students, 1.0), found.expected["consistency"])  # which the original never calls


def fixture_of_sskd() -> tuple[Fixture, Any, Views, Views, Batch]:
    """(fixture, method with its heads, student's views with gradients, teacher's, batch)."""
    found = parity_kd("losses", "sskd")
    made = method("sskd")
    for head, owner in ((made.own_head, "student"), (made.guide_head, "teacher")):
        start = f"{owner}.proj_head."
        weights = {key.removeprefix(start): one for key, one in found.weights.items() if key.startswith(start)}
        head.load_state_dict(weights)
    given = found.inputs
    student = Views(given["logits_s"].clone().requires_grad_(), {"pooled": given["feat_s"].clone().requires_grad_()})
    return found, made, student, Views(given["logits_t"], {"pooled": given["feat_t"]}), Batch(given["labels"])


def assert_norms(head: nn.Module, found: Fixture, start: str) -> None:
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None
        assert_like(parameter.grad.norm(), found.expected[f"gradnorm.{start}.{name}"])


def test_parity_kd_sskd_first_stage() -> None:
    found, made, _, teacher, batch = fixture_of_sskd()
    loss = made(Views(), teacher, Batch(batch.labels, stage="head"))["loss"]
    assert_like(loss, found.expected["phase_a.loss"])
    assert_like(sskd.similarities(made.guide_head(teacher.features["pooled"])), found.expected["phase_a.simi"])
    loss.backward()
    assert_norms(made.guide_head, found, "phase_a.proj_head")


def test_parity_kd_sskd_student() -> None:
    found, made, student, teacher, batch = fixture_of_sskd()
    terms = made(student, teacher, batch)
    for number, name in enumerate(("hard", "soft", "sskd_rotated", "sskd_similarity"), start=1):
        assert_like(terms[name], found.expected[f"phase_b.loss{number}"])
    assert_like(terms["loss"], found.expected["phase_b.loss"])
    terms["loss"].backward()
    assert_like(student.output.grad, found.expected["grad.logits_s"])
    assert_like(student.features["pooled"].grad, found.expected["grad.feat_s"])
    assert_norms(made.own_head, found, "phase_b.student_proj_head")
    assert all(parameter.grad is None for parameter in made.guide_head.parameters())


def test_parity_kd_sskd_keeps_the_same_rows() -> None:
    found, made, student, teacher, batch = fixture_of_sskd()
    wanted = sskd.similarities(made.guide_head(teacher.features["pooled"]))
    assert_like(wanted, found.expected["phase_b.t_simi"])
    ours = sskd.similarities(made.own_head(student.features["pooled"]))
    assert_like(ours, found.expected["phase_b.s_simi"])
    kept = sskd.kept_rows(wanted, sskd.sources(batch.labels), 0.75)
    assert kept.nonzero()[:, 0].equal(found.expected["phase_b.distill_index_ss"])
    kept = sskd.kept_rows(sskd.rotated(teacher.output), batch.labels.repeat_interleave(3), 1.0)
    assert kept.nonzero()[:, 0].equal(found.expected["phase_b.distill_index_tf"])


def test_correlations_equal_their_numpy_twins() -> None:
    rng = np.random.default_rng(1)
    p, q = rng.dirichlet(np.ones(4), (2, 5))
    weights = np.array([0.0, 2.0, 1.0, 1.0, 1.0])
    tensors = [torch.from_numpy(one) for one in (p, q, weights)]
    images = classes = 0.0
    for i in range(5):
        images += sum(weights[i] * weights[j] * (q[i] @ q[j] - p[i] @ p[j]) ** 2 for j in range(5)) / 5
    for a in range(4):
        for b in range(4):
            classes += sum(weights[i] * (q[i, a] * q[i, b] - p[i, a] * p[i, b]) for i in range(5)) ** 2 / 4
    np.testing.assert_allclose(image_correlation(*tensors).item(), images)
    np.testing.assert_allclose(class_correlation(*tensors).item(), classes)


def test_kept_rows_equal_their_twins() -> None:
    rng = np.random.default_rng(2)
    scores, wanted = rng.normal(size=(9, 4)).round(0), rng.integers(0, 4, 9)  # rounded: with ties
    ranks = [int(sum(row > row[column])) for row, column in zip(scores, wanted, strict=True)]
    right = sum(rank == 0 for rank in ranks)
    for share in (0.0, 0.5, 1.0):
        best = sorted(range(9), key=lambda row: ranks[row])[: right + int(share * (9 - right))]
        kept = sskd.kept_rows(torch.from_numpy(scores), torch.from_numpy(wanted), share)
        assert set(kept.nonzero()[:, 0].tolist()) == set(best)
    logits = torch.tensor([[5.0, 0.0], [1.0, 0.0], [3.0, 0.0], [0.0, 0.0]])
    assert kept_rows(logits, "confident").tolist() == [1.0, 0.0, 1.0, 0.0]
    assert kept_rows(logits, "unsure").tolist() == [0.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize("name", ["mlkd", "uda"])
def test_rows_are_the_image_and_its_strong_view(name: str) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    rows = method(name).inputs(images)
    assert rows.dtype == torch.uint8
    assert rows[::2].equal(images)
    assert not rows[1::2].equal(images)
    if name == "mlkd":
        assert method(name, operations=0).inputs(images)[1::2].equal(images)


@pytest.mark.parametrize(("name", "given"), [
    ("uda", {}), ("sskd", {"similarity_weight": 0.0}), ("mlkd", {"kept": "confident"}), ("mlkd", AS_PUBLISHED),
])  # fmt: skip
def test_weights_of_rows_scale_their_terms(name: str, given: Any) -> None:
    """Weights of 2 double the loss; a row of weight 0 gives no gradient, however its neighbours look."""
    torch.manual_seed(1)
    views = 4 if name == "sskd" else 2
    logits, teacher = torch.randn(4 * views, 5).requires_grad_(), torch.randn(4 * views, 5)
    pooled = {"pooled": torch.randn(4 * views, 3)}
    made, labels = method(name, 5, (3, 3), **given), torch.tensor([0, 1, 2, 3])
    loss = made(Views(logits, pooled), Views(teacher, pooled), Batch(labels, torch.tensor([0.0, 2.0, 1.0, 1.0])))
    (slope,) = torch.autograd.grad(loss["loss"], logits)
    assert not slope[:views].any()
    assert all(slope[start : start + views].any() for start in range(views, 4 * views, views))
    if name != "mlkd":  # whose correlations grow by the square
        once, twice = (
            made(Views(logits, pooled), Views(teacher, pooled), Batch(labels, torch.full((4,), one)))["loss"]
            for one in (1.0, 2.0)
        )
        torch.testing.assert_close(2 * once, twice)


@pytest.mark.parametrize("name", ["mlkd", "uda", "sskd"])
def test_continuous_labels_are_refused(name: str) -> None:
    space = MethodSpace(name, label_space=ContinuousLabels(-90.0, 90.0, "degrees"))
    with pytest.raises(UserError, match=f"method {name} compares the probabilities of classes"):
        METHODS.build(METHODS.choose(name), space)
