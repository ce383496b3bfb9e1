"""Taps and terms: what fires, what carries a gradient, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from image_data.labels import ClassLabels, ContinuousLabels
from interfaces import TeacherCard
from runtime.errors import UserError
from student_trainer import GENERATORS
from training.generator_folder import NetworkGenerator
from white_box import WhiteBoxSettings, build_terms
from white_box.taps import ForwardTap, blocks_by_size, map_shapes

LATENT = 12


def network(width: int = 4, resolution_px: int = 16, kind: str = "classes", labels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return GENERATORS.get("tinygan")(resolution_px, 1, LATENT, kind, labels, base_width=width, embedding_dim=4)


def as_teacher(module: nn.Module, kind: str = "classes") -> NetworkGenerator:
    space = ClassLabels(("a", "b", "c")) if kind == "classes" else ContinuousLabels(0.0, 90.0, "degrees")
    card = TeacherCard(
        "tinygan", {}, 16, 1, space.to_json(), {"distribution": "normal", "dimension": LATENT}, {}, "", "none", []
    )
    return NetworkGenerator(card, module, space, torch.device("cpu"))


def inputs(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, LATENT, generator=torch.Generator().manual_seed(3)), torch.arange(count) % 3


class WithSpare(nn.Module):
    """A student with a convolution that its forward pass does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.spare = nn.Conv2d(3, 3, 1)

    def forward(self, latents: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        return self.inner(latents, encoded)


def test_default_taps_are_the_blocks_of_equal_size() -> None:
    terms = build_terms(as_teacher(network(8)), network(4), WhiteBoxSettings())
    assert terms.taps == (("blocks.0", "blocks.0"), ("blocks.1", "blocks.1"))
    smaller = build_terms(as_teacher(network(8, 32)), network(4), WhiteBoxSettings())
    assert smaller.taps == (("blocks.0", "blocks.0"), ("blocks.1", "blocks.1"))


def test_a_network_without_blocks_offers_its_maps() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(5, 1, 1))
    found = blocks_by_size(plain, torch.zeros(2, 1, 8, 8))
    assert found == {(8, 8): "1", (4, 4): "2"}


def test_the_dry_pass_leaves_no_trace() -> None:
    student = network()
    student.train()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    shapes = map_shapes(student, *inputs(2))
    assert shapes["blocks.1"] == (2, 4, 16, 16)
    assert student.training
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
    assert not any(module._forward_hooks for module in student.modules())


def test_terms_are_weighted_named_and_train_student_and_adapters_only() -> None:
    teacher, student = as_teacher(network(8)), network(4)
    settings = WhiteBoxSettings(("feature_l2=2", "kernel_alignment=0.5"))
    terms = build_terms(teacher, student, settings)
    terms.attach(student)
    latents, labels = inputs()
    student(latents, labels)
    found = terms(latents, labels)
    assert set(found) == {
        f"{loss}[blocks.{block} -> blocks.{block}]" for loss in settings.weights() for block in range(2)
    }
    sum(found.values()).backward()
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in terms.parameters())
    assert float(student.start.weight.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in teacher.network.parameters())
    assert not any("teacher" in name for name in terms.state_dict())

    double = build_terms(teacher, student, WhiteBoxSettings(("feature_l2=4", "kernel_alignment=1")))
    double.attach(student)
    student(latents, labels)
    twice = double(latents, labels)
    for name, value in found.items():
        assert float(twice[name].detach()) == pytest.approx(2 * float(value.detach()), rel=1e-5)


def test_equal_networks_have_no_kernel_distance() -> None:
    module = network()
    terms = build_terms(as_teacher(network()), module, WhiteBoxSettings(("kernel_alignment=1",)))
    module.eval()
    terms.attach(module)
    latents, labels = inputs()
    terms._checked = True  # a perfect student has no slope
    module(latents, labels)
    assert all(float(value.detach()) == pytest.approx(0.0, abs=1e-5) for value in terms(latents, labels).values())


def test_a_tap_that_never_fires_is_named() -> None:
    settings = WhiteBoxSettings(("feature_l2=1",), white_box_taps=("blocks.0:spare",))
    with pytest.raises(UserError, match="'spare' does not fire"):
        build_terms(as_teacher(network()), WithSpare(), settings)
    tap = ForwardTap(WithSpare(), ["spare"], "student")
    with pytest.raises(UserError, match="student's tap on 'spare' did not fire"):
        tap.outputs()


def test_a_frozen_student_module_is_named() -> None:
    student = network().requires_grad_(False)
    terms = build_terms(as_teacher(network(8)), student, WhiteBoxSettings(("feature_l2=1",)))
    terms.attach(student)
    student(*inputs())
    with pytest.raises(UserError, match=r"gives the student's 'blocks\.0' no usable gradient"):
        terms(*inputs())


def test_closing_removes_every_hook() -> None:
    teacher, student = as_teacher(network()), network()
    terms = build_terms(teacher, student, WhiteBoxSettings())
    terms.attach(student)
    terms.attach(student)
    assert sum(len(module._forward_hooks) for module in student.modules()) == 2
    terms.close()
    assert not any(module._forward_hooks for module in [*student.modules(), *teacher.network.modules()])
    with pytest.raises(UserError, match="not attached"):
        terms(*inputs())


def test_sizes_that_differ_are_refused_or_resized() -> None:
    teacher, student = as_teacher(network(8)), network(4)
    crossed = ("blocks.1:blocks.0",)
    with pytest.raises(UserError, match="16 x 16"):
        build_terms(teacher, student, WhiteBoxSettings(white_box_taps=crossed))
    terms = build_terms(teacher, student, WhiteBoxSettings(white_box_taps=crossed, resize_maps=True))
    terms.attach(student)
    student(*inputs())
    assert all(torch.isfinite(value) for value in terms(*inputs()).values())


def test_continuous_labels() -> None:
    teacher, student = as_teacher(network(8, 16, "continuous", 1), "continuous"), network(4, 16, "continuous", 1)
    assert len(build_terms(teacher, student, WhiteBoxSettings()).taps) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: build_terms(as_teacher(network()), network(), WhiteBoxSettings(("magic=1",))),
            "known are feature_l2, kernel_alignment",
        ),
        (lambda: WhiteBoxSettings(("feature_l2",)), "a loss and a weight above 0"),
        (lambda: WhiteBoxSettings(("feature_l2=1", "feature_l2=2")), "named twice"),
        (lambda: WhiteBoxSettings(white_box_taps=("blocks.0",)), "TEACHER_PATH:STUDENT_PATH"),
        (lambda: WhiteBoxSettings(kernel_rows="pixel"), "position or sample"),
        (lambda: WhiteBoxSettings(("feature_l2=0",)), "a loss and a weight above 0"),
        (lambda: WhiteBoxSettings(("feature_l2=nan",)), "a loss and a weight above 0"),
        (lambda: WhiteBoxSettings(()), "no loss"),
        (
            lambda: build_terms(
                as_teacher(network()), network(), WhiteBoxSettings(white_box_taps=("blocks.7:blocks.0",))
            ),
            "teacher has no module 'blocks.7'",
        ),
        (
            lambda: build_terms(
                as_teacher(network()), network(), WhiteBoxSettings(white_box_taps=("blocks.0:nowhere",))
            ),
            "student has no module 'nowhere'",
        ),
        (
            lambda: build_terms(as_teacher(network()), network(), WhiteBoxSettings(white_box_taps=("start:blocks.0",))),
            "no N x C x H x W map",
        ),
        (lambda: build_terms(object(), network(), WhiteBoxSettings()), "not a local network"),  # type: ignore[arg-type]
    ],
)
def test_bad_settings(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]
