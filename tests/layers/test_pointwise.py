"""No network here holds a layer whose training writes past its memory, and what takes its place gives the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from classifiers.networks import STUDENTS, build_student
from image_data.labels import ClassLabels
from layers.pointwise import PointwiseConv2d, corrupts_memory, with_safe_strides
from runtime.errors import UserError

SPACE = ClassLabels(("a", "b"))


def unsafe(network: nn.Module) -> list[str]:
    return [name for name, layer in network.named_modules() if corrupts_memory(layer)]


@pytest.mark.parametrize("name", STUDENTS)
def test_the_narrowest_students_are_safe(name: str) -> None:
    try:
        student = build_student(name, 1, 32, SPACE, width=0.25)
    except UserError:  # its width is in its name
        student = build_student(name, 1, 32, SPACE)
    assert not unsafe(student)


def test_narrow_layers_of_others_are_replaced_with_their_weights() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(nn.Conv2d(4, 8, 1, stride=2), nn.Conv2d(8, 8, 1, stride=2))
    )
    images = torch.randn(2, 3, 15, 15)
    expected, names = network(images), list(network.state_dict())
    assert unsafe(network) == ["1.0"]
    found = with_safe_strides(network)
    assert not unsafe(found)
    assert isinstance(found[1][0], PointwiseConv2d)  # type: ignore[index]
    assert list(found.state_dict()) == names
    torch.testing.assert_close(found(images), expected)


def test_its_gradients_are_those_of_a_strided_convolution() -> None:
    layer = PointwiseConv2d(9, 5, stride=3).double()
    images = torch.randn(2, 9, 10, 10, dtype=torch.float64)
    plain = nn.functional.conv2d(images, layer.weight, stride=3)
    ours = layer(images)
    torch.testing.assert_close(ours, plain)
    weights = torch.randn_like(ours)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weights).sum(), layer.weight),
        torch.autograd.grad((plain * weights).sum(), layer.weight),
    )
