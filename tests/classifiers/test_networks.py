"""Every student network and every distillation loss; the losses against slow NumPy twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from classifiers.distillation import DISTILLERS
from classifiers.networks import STUDENTS, TrunkSettings, build_student
from classifiers.networks.student import StudentNetwork
from image_data.labels import ClassLabels, ContinuousLabels
from interfaces import LabelSpace
from layers.backbones import ResidualBlock, build_backbone
from runtime.errors import UserError

TEN = ClassLabels(tuple("0123456789"))
DEGREES = ContinuousLabels(-90.0, 90.0, "degrees")
SPACES: dict[str, LabelSpace] = {"classes": TEN, "continuous": DEGREES}
EXPECTED_STUDENTS = {"resnet8", "resnet20", "vgg8", "vgg8_quarter", "mobilenetv3"}
EXPECTED_DISTILLERS = {"none", "blkd"}


def _small(name: str) -> dict[str, float]:
    return {"width": 0.25} if STUDENTS.settings(name) is TrunkSettings else {}


@pytest.mark.parametrize("name", list(STUDENTS))
def test_student_contract(name: str) -> None:
    """Shapes at three resolutions, uint8 equals the same values as floats, gradients reach every parameter."""
    for kind, (resolution, channels) in (("classes", (16, 1)), ("continuous", (32, 3)), ("classes", (64, 3))):
        torch.manual_seed(0)
        network = build_student(name, channels, resolution, SPACES[kind], **_small(name))
        images = torch.randint(0, 256, (4, channels, resolution, resolution), dtype=torch.uint8)
        output = network(images)
        assert output.shape == (4, SPACES[kind].width)
        assert output.dtype == torch.float32
        output.square().sum().backward()
        assert [key for key, value in network.named_parameters() if value.grad is None] == []
        network.eval()
        with torch.inference_mode():
            assert torch.equal(network(images), network(images.float()))
            torch.testing.assert_close(network(images)[:2], network(images[:2]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", list(DISTILLERS))
@pytest.mark.parametrize("kind", list(SPACES))
def test_distiller_contract(name: str, kind: str) -> None:
    """A finite scalar "loss" that pulls on the student and never on the teacher."""
    distiller = DISTILLERS.build(DISTILLERS.choose(name))
    width = SPACES[kind].width
    student = torch.randn(6, width, requires_grad=True)
    teacher = torch.randn(6, width, requires_grad=False)
    labels = torch.randint(0, width, (6,)) if kind == "classes" else torch.rand(6, width)
    losses = distiller({"output": student}, {"output": teacher} if distiller.needs_teacher else {}, {"labels": labels})
    assert losses["loss"].shape == ()
    assert torch.isfinite(losses["loss"])
    losses["loss"].backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


def test_the_contracts_run_over_every_entry() -> None:
    assert set(STUDENTS) >= EXPECTED_STUDENTS
    assert set(DISTILLERS) >= EXPECTED_DISTILLERS
    pairs = ((test_student_contract, set(STUDENTS)), (test_distiller_contract, set(DISTILLERS)))
    for contract, entries in pairs:
        marks = [mark for mark in contract.pytestmark if mark.name == "parametrize" and mark.args[0] == "name"]
        assert set(marks[0].args[1]) == entries


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
    found = DISTILLERS.get("blkd")(**weights)(
        {"output": torch.from_numpy(student)},
        {"output": torch.from_numpy(teacher)},
        {"labels": torch.from_numpy(labels)},
    )["loss"]
    np.testing.assert_allclose(found.item(), _blkd_twin(student, teacher, labels, hard, soft, t), rtol=1e-9, atol=1e-9)


def test_regression_losses_equal_their_numpy_twins() -> None:
    rng = np.random.default_rng(1)
    student, teacher, labels = rng.random((3, 7, 2))
    tensors = [torch.from_numpy(values) for values in (student, teacher, labels)]
    batch, outputs = {"labels": tensors[2]}, {"output": tensors[0]}
    none = DISTILLERS.get("none")()(outputs, {}, batch)["loss"].item()
    blkd = DISTILLERS.get("blkd")()(outputs, {"output": tensors[1]}, batch)["loss"].item()
    to_label, to_teacher = np.mean((student - labels) ** 2), np.mean((student - teacher) ** 2)
    np.testing.assert_allclose(none, to_label)
    np.testing.assert_allclose(blkd, 0.1 * to_label + 0.9 * to_teacher)


def test_label_smoothing_equals_its_numpy_twin() -> None:
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(0, 2, (5, 4)), rng.integers(0, 4, 5)
    target = np.eye(4)[labels] * 0.9 + 0.1 / 4
    twin = -np.mean(np.sum(target * np.log(_softmax(logits)), axis=1))
    found = DISTILLERS.get("none")(label_smoothing=0.1)(
        {"output": torch.from_numpy(logits)}, {}, {"labels": torch.from_numpy(labels)}
    )["loss"]
    np.testing.assert_allclose(found.item(), twin)


def test_a_teacher_that_agrees_costs_nothing() -> None:
    logits = torch.randn(4, 5)
    losses = DISTILLERS.get("blkd")()({"output": logits}, {"output": logits}, {"labels": torch.tensor([0, 1, 2, 3])})
    assert abs(losses["soft"].item()) < 1e-6


def test_normalisation_is_fixed() -> None:
    """0 -> -1, 255 -> 1, whatever the data: seen through a backbone that only averages."""

    class Mean(nn.Module):
        feature_dim = 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=(2, 3))

    network = StudentNetwork(Mean(), ClassLabels(("a", "b")))
    network.head = nn.Identity()
    images = torch.stack([torch.full((1, 8, 8), value, dtype=torch.uint8) for value in (0, 255)])
    assert network(images).flatten().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet9", 1, 16), "unknown"),
        (("resnet8", 1, 16, 0.0), "width"),
        (("vgg8", 1, 4), "too small"),
        (("timm:no_such_model", 1, 16), "timm knows no model"),
        (("timm:mobilenetv3_small_050", 1, 16, 0.5), "width in its name"),
        (("timm:resnet18", 1, 16), "MobileNet or EfficientNet"),
        (("timm:vit_tiny_patch16_224", 3, 32), "timm:vit_tiny_patch16_224"),
    ],
)
def test_impossible_backbones_are_refused(arguments: tuple[str, int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(*arguments)


def test_unknown_distiller_weights_are_named() -> None:
    with pytest.raises(UserError, match=r"blkd has no setting temprature; it has temperature, hard_weight"):
        DISTILLERS.choose("blkd", {"temprature": 3.0})
    with pytest.raises(UserError, match="known are blkd, none"):
        DISTILLERS.choose("crd")
    with pytest.raises(UserError, match="temperature"):
        DISTILLERS.choose("blkd", {"temperature": 0.0})


def test_the_shortcut_is_a_strided_convolution() -> None:
    block = ResidualBlock(4, 8, 2).eval()
    images = torch.randn(2, 4, 9, 9)
    weight = block.shortcut[0].weight  # type: ignore[index]
    strided = torch.nn.functional.conv2d(images, weight, stride=2)
    assert torch.allclose(block.shortcut[0](images[:, :, ::2, ::2]), strided, atol=1e-6)  # type: ignore[index]
    assert block(images).shape == strided.shape


def test_narrow_networks_train_in_channels_last() -> None:
    network = build_backbone("resnet8", 1, 16, 0.25).to(memory_format=torch.channels_last)
    for _ in range(8):
        network(torch.randn(8, 1, 16, 16)).square().mean().backward()
    assert all(bool(torch.isfinite(part.grad).all()) for part in network.parameters() if part.grad is not None)
