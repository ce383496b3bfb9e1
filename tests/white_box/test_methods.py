"""Methods on features of generators: which maps are paired, what is trained, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from interfaces.method import Batch, Method
from layers.features import FeatureReader, Insides
from runtime.errors import UserError
from student_trainer import GENERATORS
from training.distilling import MethodSpace, build_method, check_terms
from white_box.settings import WhiteBoxSettings

LATENT = 12
BATCH = Batch(torch.empty(0))


def network(width: int = 4, resolution_px: int = 16, kind: str = "classes", labels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return GENERATORS.get("tinygan")(resolution_px, 1, LATENT, kind, labels, base_width=width, embedding_dim=4)


def inputs(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, LATENT, generator=torch.Generator().manual_seed(3)), torch.arange(count) % 3


def build(teacher: nn.Module, student: nn.Module, *losses: str, examples: Any = None, **settings: Any) -> Method:
    examples = inputs(2) if examples is None else examples
    space = MethodSpace("", Insides(student, examples, "student"), Insides(teacher, examples, "teacher"))
    choices = WhiteBoxSettings(losses or ("kernel_alignment=0.02",), **settings).methods()
    return build_method(choices, space, 0, {"features"})


def terms_of(method: Method, teacher: nn.Module, student: nn.Module) -> dict[str, torch.Tensor]:
    views = FeatureReader(student, method.student_features)(*inputs())
    with torch.no_grad():
        wanted = FeatureReader(teacher, method.teacher_features)(*inputs())
    found = method(views, wanted, BATCH)
    check_terms(method, found, views)
    return found


class WithSpare(nn.Module):
    """A student with a convolution that its forward pass does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.spare = nn.Conv2d(3, 3, 1)

    def forward(self, latents: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        return self.inner(latents, encoded)


@pytest.mark.parametrize("resolution_px", [16, 32])
def test_blocks_of_equal_size_are_paired(resolution_px: int) -> None:
    method = build(network(8, resolution_px), network(4))
    assert method.teacher_features == method.student_features == ("blocks.0", "blocks.1")


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        ("at=1000", (0, 1)),
        ("nst=50", (0, 1)),
        ("vid=1", (0, 1)),
        ("fitnet=100", (1,)),
        ("ft=200", (1,)),
        ("cc=1", (1,)),
    ],
)
def test_methods_of_classifiers_take_a_generators_blocks(loss: str, wanted: tuple[int, ...]) -> None:
    teacher, student = network(8), network(4)
    method = build(teacher, student, loss)
    assert method.student_features == method.teacher_features == tuple(f"blocks.{place}" for place in wanted)
    terms_of(method, teacher, student)


def test_continuous_labels() -> None:
    networks = network(8, 16, "continuous", 1), network(4, 16, "continuous", 1)
    examples = torch.randn(2, LATENT), torch.full((2, 1), 0.5)
    assert len(build(*networks, examples=examples).teacher_features) == 2


def test_terms_are_weighted_named_and_train_student_and_adapters_only() -> None:
    teacher, student = network(8).requires_grad_(False), network(4)
    method = build(teacher, student, "feature_l2=2", "kernel_alignment=0.5")
    found = terms_of(method, teacher, student)
    named = {
        f"{loss}[blocks.{block} -> blocks.{block}]" for loss in ("feature_l2", "kernel_alignment") for block in (0, 1)
    }
    assert set(found) == named | {"loss"}
    assert float(found["loss"].detach()) == pytest.approx(sum(float(found[name].detach()) for name in named))
    found["loss"].backward()
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in method.parameters())
    assert float(student.start.weight.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any("teacher" in name for name in method.state_dict())

    twice = terms_of(build(teacher, student, "feature_l2=4", "kernel_alignment=1"), teacher, student)
    for name, value in found.items():
        assert float(twice[name].detach()) == pytest.approx(2 * float(value.detach()), rel=1e-5)


def test_equal_networks_have_no_kernel_distance() -> None:
    module = network().eval()
    method = build(network(), module, "kernel_alignment=1")
    views = FeatureReader(module, method.student_features)(*inputs())
    found = method(views, views, BATCH)
    assert all(float(value.detach()) == pytest.approx(0.0, abs=1e-5) for value in found.values())


def test_a_frozen_student_module_is_named() -> None:
    teacher, student = network(8), network().requires_grad_(False)
    with pytest.raises(UserError, match=r"gives the student's 'blocks\.0' no usable gradient"):
        terms_of(build(teacher, student, "feature_l2=1"), teacher, student)


def test_sizes_that_differ_are_refused_or_resized() -> None:
    teacher, student = network(8), network(4)
    crossed: dict[str, Any] = {"white_box_taps": ("blocks.1:blocks.0",)}
    with pytest.raises(UserError, match="16 x 16"):
        build(teacher, student, **crossed)
    found = terms_of(build(teacher, student, **crossed, resize_maps=True), teacher, student)
    assert all(torch.isfinite(value) for value in found.values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build(network(), network(), "magic=1"), "method 'magic' is unknown; known are"),
        (lambda: WhiteBoxSettings(("feature_l2",)), "a loss and a weight above 0"),
        (lambda: WhiteBoxSettings(("feature_l2=1", "feature_l2=2")), "named twice"),
        (lambda: build(network(), network(), white_box_taps=("blocks.0",)), "TEACHER:STUDENT"),
        (lambda: WhiteBoxSettings(("kernel_alignment=1",), kernel_rows="pixel"), "position"),
        (lambda: WhiteBoxSettings(("feature_l2=0",)), "a loss and a weight above 0"),
        (lambda: WhiteBoxSettings(("feature_l2=nan",)), "a loss and a weight above 0"),
        (lambda: WhiteBoxSettings(()), "no loss"),
        (lambda: build(network(), network(), white_box_taps=("blocks.7:blocks.0",)), "teacher has no feature 'blo"),
        (lambda: build(network(), network(), white_box_taps=("blocks.0:nowhere",)), "student has no feature 'nowhere'"),
        (lambda: build(network(), network(), white_box_taps=("start:blocks.0",)), "no N x C x H x W map"),
        (lambda: build(network(), WithSpare(), white_box_taps=("blocks.0:spare",)), "'spare' does not fire"),
        (lambda: build(network(), network(), "blkd=1"), "blkd is no loss on features"),
    ],
)  # fmt: skip
def test_bad_settings(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
