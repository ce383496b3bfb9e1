"""Every student network: shapes, gradients, fixed normalisation, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from classifiers.networks import STUDENTS, TrunkSettings, build_student
from classifiers.networks.student import StudentNetwork
from image_data.labels import ClassLabels, ContinuousLabels
from interfaces import LabelSpace
from layers.residual_block import ResidualBlock
from layers.trunks import build_trunk
from runtime.errors import UserError

TEN = ClassLabels(tuple("0123456789"))
DEGREES = ContinuousLabels(-90.0, 90.0, "degrees")
SPACES: dict[str, LabelSpace] = {"classes": TEN, "continuous": DEGREES}
EXPECTED_STUDENTS = {"resnet8", "resnet20", "vgg8", "vgg8_quarter", "mobilenetv3"}
ONCE = {"resnet8x4", "resnet18", "wrn_16_2", "vgg8_narrow", "mobilenetv2", "shufflev1", "shufflev2", "efficientnetb0"}
THRICE = EXPECTED_STUDENTS | {"wrn_10_1"}


def _small(name: str) -> dict[str, float]:
    return {"width": 0.25} if STUDENTS.settings(name) is TrunkSettings else {}


@pytest.mark.parametrize("name", list(STUDENTS))
def test_student_contract(name: str) -> None:
    """Shapes at three resolutions, uint8 equals the same values as floats, gradients reach every parameter.

    Some at one resolution; of large networks the output alone.
    """
    if name not in ONCE | THRICE:
        side = 32 if name.endswith(("_flat", "_imagenet")) else 16
        network = build_student(name, 1, side, TEN).eval()
        with torch.inference_mode():
            assert network(torch.zeros(2, 1, side, side, dtype=torch.uint8)).shape == (2, 10)
        return
    cases = (("continuous", (32, 3)), ("classes", (16, 1)), ("classes", (64, 3)))
    for kind, (resolution, channels) in cases[: 3 if name in THRICE else 1]:
        torch.manual_seed(0)
        network = build_student(name, channels, resolution, SPACES[kind], **_small(name))
        images = torch.randint(0, 256, (4, channels, resolution, resolution), dtype=torch.uint8)
        output = network(images)
        assert output.shape == (4, SPACES[kind].width)
        assert output.dtype == torch.float32
        output.square().sum().backward()
        trained = [(key, value) for key, value in network.named_parameters() if value.requires_grad]
        assert [key for key, value in trained if value.grad is None] == []
        network.eval()
        with torch.inference_mode():
            assert torch.equal(network(images), network(images.float()))
            torch.testing.assert_close(network(images)[:2], network(images[:2]), rtol=1e-3, atol=1e-4)


def test_the_contract_runs_over_every_entry() -> None:
    assert set(STUDENTS) >= EXPECTED_STUDENTS
    (marks,) = [mark for mark in test_student_contract.pytestmark if mark.name == "parametrize"]  # type: ignore[attr-defined]
    assert set(marks.args[1]) == set(STUDENTS)


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
        (("vgg11_flat", 3, 16), "16 px are too small for vgg11_flat; use 32 px or more"),
        (("densenet121", 3, 32, 0.5), "densenet121 has one width; leave the width at 1"),
        (("timm:no_such_model", 1, 16), "timm knows no model"),
        (("timm:mobilenetv3_small_050", 1, 16, 0.5), "width in its name"),
        (("timm:resnet18", 1, 16), "MobileNet or EfficientNet"),
        (("timm:vit_tiny_patch16_224", 3, 32), "timm:vit_tiny_patch16_224"),
    ],
)
def test_impossible_backbones_are_refused(arguments: tuple[str, int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_trunk(*arguments)


def test_the_shortcut_is_a_strided_convolution() -> None:
    block = ResidualBlock(4, 8, 2).eval()
    images = torch.randn(2, 4, 9, 9)
    weight = block.shortcut[0].weight  # type: ignore[index]
    strided = torch.nn.functional.conv2d(images, weight, stride=2)
    assert torch.allclose(block.shortcut[0](images), strided, atol=1e-6)  # type: ignore[index]
    assert block(images).shape == strided.shape


def test_narrow_networks_train_in_channels_last() -> None:
    network = build_trunk("resnet8", 1, 16, 0.25).to(memory_format=torch.channels_last)
    for _ in range(8):
        network(torch.randn(8, 1, 16, 16)).square().mean().backward()
    assert all(bool(torch.isfinite(part.grad).all()) for part in network.parameters() if part.grad is not None)
