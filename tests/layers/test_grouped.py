"""Joined networks: each gives, and learns, what it gives and learns alone; what cannot be joined is found out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from layers.grouped import join, split_state
from layers.trunks import build_trunk

COUNT, ROWS = 3, 4
EPS = torch.finfo(torch.float64).eps
LONGEST_SUM = 64 * 64 * 9  # of a convolution's or a batch norm's terms here, at most


def networks(name: str, width: float) -> list[nn.Module]:
    torch.manual_seed(1)
    return [nn.Sequential(build_trunk(name, 1, 16, width), nn.Flatten()).double() for _ in range(COUNT)]


@pytest.mark.parametrize(("name", "width"), [("vgg8", 0.0625), ("resnet8", 0.25), ("wrn_10_1", 0.25)])
def test_each_network_computes_and_learns_as_alone(name: str, width: float) -> None:
    """Outputs, gradients and batch statistics, in float64, to the rounding of the longest sum."""
    singles = networks(name, width)
    images = torch.randn(COUNT, ROWS, 1, 16, 16, dtype=torch.float64)
    joined = join(singles, images[0])
    assert joined is not None
    together = joined.train()(torch.cat(list(images), dim=1)).reshape(ROWS, COUNT, -1)
    together.square().sum().backward()
    gradients = {key: value.grad for key, value in joined.named_parameters()}
    for number, single in enumerate(singles):
        alone = single.train()(images[number])
        alone.square().sum().backward()
        close(together[:, number], alone)
        for key, value in split_state(joined, COUNT, number).items():
            close(value, single.state_dict()[key])
        for key, value in single.named_parameters():
            close(gradients[key].chunk(COUNT)[number], value.grad)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Within n eps of the largest entry, n the terms of the longest sum: what any order of summation may change."""
    found, wanted = found.detach().double(), wanted.detach().double()
    assert float((found - wanted).abs().max()) <= LONGEST_SUM * EPS * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("name", ["shufflev2", "densenet121"])
def test_a_network_that_moves_channels_is_not_joined(name: str) -> None:
    assert join([build_trunk(name, 1, 16) for _ in range(2)], torch.randn(2, 1, 16, 16)) is None


def test_layers_of_unknown_kind_are_not_joined() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.factor * F.adaptive_avg_pool2d(x, 1).flatten(1)

    image = torch.randn(2, 1, 8, 8)
    for make in (Scaled, lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Flatten()),
                 lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(0.5), nn.Flatten())):  # fmt: skip
        assert join([make(), make()], image) is None
