"""DenseNet-121 for small images: a stem of one 3x3 convolution, four dense stages at 1, 1/2, 1/4, 1/8 of the image.

Norm and ReLU stand before the convolutions: a stage's feature is its raw output, its preact what the next batch norm
makes of it.  Source: Huang et al. 2017, arXiv 1608.06993, table 1 (growth 32, halving transitions).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from layers.pointwise import PointwiseConv2d
from layers.trunks.parts import Activation, Trunk, conv3, feature_names, halving

_BOTTLENECK = 4  # times the growth


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1, norm, ReLU, 3x3; the input follows behind what was made."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        inner = _BOTTLENECK * growth
        self.bn1, self.conv1 = nn.BatchNorm2d(in_channels), PointwiseConv2d(in_channels, inner)
        self.bn2, self.conv2 = nn.BatchNorm2d(inner), conv3(inner, growth)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.conv1(self.relu(self.bn1(x)))
        return torch.cat([self.conv2(self.relu(self.bn2(inner))), x], dim=1)


class Transition(nn.Module):
    """Norm, ReLU, 1x1 to half of the channels, 2x2 average."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(in_channels), PointwiseConv2d(in_channels, in_channels // 2)
        self.relu = Activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(self.conv(self.relu(self.bn(x))), 2)


class DenseNet(Trunk):
    """dense1, trans1, dense2, ..., dense4, and a last norm and ReLU."""

    def __init__(self, in_channels: int, layers: tuple[int, ...], growth: int, halving_stem: bool) -> None:
        super().__init__()
        before = 2 * growth
        self.conv1: nn.Module = conv3(in_channels, before)
        if halving_stem:
            self.conv1 = nn.Sequential(halving(in_channels, before), nn.BatchNorm2d(before), nn.ReLU(inplace=True))
        self.parts: list[str] = []
        for number, count in enumerate(layers, 1):
            stage = nn.Sequential(*(DenseLayer(before + place * growth, growth) for place in range(count)))
            self._add(f"dense{number}", stage)
            before += count * growth
            if number < len(layers):
                self._add(f"trans{number}", Transition(before))
                before //= 2
        self.bn, self.relu = nn.BatchNorm2d(before), Activation()
        stages = [name for name in self.parts if name.startswith("dense")]
        between = [f"{name}.relu.before" for name in self.parts if name.startswith("trans")]
        self.feature_paths = feature_names("conv1", stages, [*between, "relu.before"])
        self.feature_dim = before

    def _add(self, name: str, part: nn.Module) -> None:
        self.add_module(name, part)
        self.parts.append(name)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        for name in self.parts:
            x = self.get_submodule(name)(x)
        return self.relu(self.bn(x))


def densenet(
    in_channels: int,
    resolution_px: int,
    width: float,
    *,
    layers: tuple[int, ...],
    growth: int,
    halving_stem: bool = False,
) -> DenseNet:
    """layers: of each dense stage."""
    return DenseNet(in_channels, layers, growth, halving_stem)
