"""Wide ResNets: batch norm and ReLU stand before the convolutions, so that stages end in raw sums.

A stage's preact is what the next batch norm makes of it.  Source: Zagoruyko and Komodakis 2016, arXiv 1605.07146;
names, and what counts as a stage's feature, as in Tian et al. 2020, arXiv 1910.10699.
"""

from __future__ import annotations

import torch
from torch import nn

from layers.pointwise import PointwiseConv2d
from layers.trunks.parts import Activation, Trunk, conv3, feature_names, halving, initialise, scaled

_WIDTHS = (16, 32, 64)


class WideBlock(nn.Module):
    """Norm, ReLU, 3x3 convolution, twice, added to the input (to its activation by a 1x1 where the shape changes)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.relu1 = nn.BatchNorm2d(in_channels), Activation()
        self.conv1 = conv3(in_channels, out_channels, stride)
        self.bn2, self.relu2 = nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
        self.conv2 = conv3(out_channels, out_channels)
        changes = stride != 1 or in_channels != out_channels
        self.convShortcut = PointwiseConv2d(in_channels, out_channels, stride) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = self.relu1(self.bn1(x))
        inner = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return inner + (x if self.convShortcut is None else self.convShortcut(active))


class Stage(nn.Module):
    """Blocks one behind the other; the first changes channels and size."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, count: int) -> None:
        super().__init__()
        blocks = [WideBlock(in_channels, out_channels, stride)]
        blocks += [WideBlock(out_channels, out_channels, 1) for _ in range(count - 1)]
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class WideResNet(Trunk):
    """Three stages of (depth - 4) / 6 blocks, 16-32-64 channels times `factor` times `width`."""

    def __init__(self, in_channels: int, width: float, depth: int, factor: int, halving_stem: bool) -> None:
        super().__init__()
        stem, count = scaled(16, width), (depth - 4) // 6
        widths = [scaled(channels * factor, width) for channels in _WIDTHS]
        self.conv1 = halving(in_channels, stem) if halving_stem else conv3(in_channels, stem)
        self.bn0 = nn.BatchNorm2d(stem) if halving_stem else nn.Identity()
        self.relu0 = nn.ReLU(inplace=True) if halving_stem else nn.Identity()
        self.block1 = Stage(stem, widths[0], 1, count)
        self.block2 = Stage(widths[0], widths[1], 2, count)
        self.block3 = Stage(widths[1], widths[2], 2, count)
        self.bn1, self.relu = nn.BatchNorm2d(widths[2]), Activation()
        before = ("block2.layer.0.relu1.before", "block3.layer.0.relu1.before", "relu.before")
        self.feature_paths = feature_names("relu0", ("block1", "block2", "block3"), before)
        self.feature_dim = widths[2]
        initialise(self)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn1(self.block3(self.block2(self.block1(self.relu0(self.bn0(self.conv1(x))))))))


def wide_resnet(
    in_channels: int, resolution_px: int, width: float, *, depth: int, factor: int, halving_stem: bool = False
) -> WideResNet:
    """WRN-depth-factor."""
    return WideResNet(in_channels, width, depth, factor, halving_stem)
