"""ShuffleNet of 2017 with three groups: 240-480-960 channels behind a stem of one 1x1 convolution, for small images.

Source: Zhang et al. 2018, arXiv 1707.01083, table 1, in the form of Tian et al. 2020, arXiv 1910.10699: no stride or
pooling in the stem, a ReLU behind the 3x3 convolution too, and one group only at the very first convolution.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from layers.pointwise import PointwiseConv2d
from layers.trunks.parts import Activation, Trunk, conv3, feature_names, halving

Stem = Literal["1x1", "3x3", "4x4"]
_STEM, _GROUPS = 24, 3
_STAGES = ((240, 4), (480, 8), (960, 4))  # channels, units


def stem_convolution(stem: Stem, in_channels: int, out_channels: int) -> nn.Conv2d:
    """1x1 or 3x3 at the image's size, or 4x4 with stride 2, without bias."""
    if stem == "4x4":
        return halving(in_channels, out_channels)
    return conv3(in_channels, out_channels) if stem == "3x3" else PointwiseConv2d(in_channels, out_channels)


def shuffled(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Channels of `groups` groups in turn: (group, place) becomes (place, group)."""
    if groups == 1:
        return x
    count, channels, height, width = x.shape
    return x.view(count, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


class ShuffleUnit(nn.Module):
    """1x1 in groups, shuffle, 3x3 by channel, 1x1 in groups; with stride 2 joined to the pooled input, else added."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        branch_channels = out_channels - (in_channels if stride == 2 else 0)
        inner = branch_channels // 4
        self.groups = 1 if in_channels == _STEM else _GROUPS
        self.conv1 = nn.Conv2d(in_channels, inner, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = conv3(inner, inner, stride, inner), nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, branch_channels, 1, groups=_GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(branch_channels)
        self.pool = nn.AvgPool2d(3, 2, 1) if stride == 2 else None
        self.inner, self.relu = nn.ReLU(inplace=True), Activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = shuffled(self.inner(self.bn1(self.conv1(x))), self.groups)
        inner = self.bn3(self.conv3(self.inner(self.bn2(self.conv2(inner)))))
        return self.relu(x + inner if self.pool is None else torch.cat([inner, self.pool(x)], dim=1))


class ShuffleNetV1(Trunk):
    """Stages layer1 to layer3 at 1/2, 1/4, 1/8 of the image."""

    def __init__(self, in_channels: int, stem: Stem) -> None:
        super().__init__()
        self.conv1, self.bn1 = stem_convolution(stem, in_channels, _STEM), nn.BatchNorm2d(_STEM)
        self.relu = nn.ReLU(inplace=True)
        before, stages = _STEM, []
        for channels, count in _STAGES:
            units = [ShuffleUnit(before, channels, 2)]
            units += [ShuffleUnit(channels, channels, 1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*units))
            before = channels
        self.layer1, self.layer2, self.layer3 = stages
        unactivated = [f"layer{number}.{count - 1}.relu.before" for number, (_, count) in enumerate(_STAGES, 1)]
        self.feature_paths = feature_names("relu", ("layer1", "layer2", "layer3"), unactivated)
        self.feature_dim = before

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))


def shufflenet_v1(in_channels: int, resolution_px: int, width: float, *, stem: Stem = "1x1") -> ShuffleNetV1:
    """ShuffleNet with three groups, factor 1."""
    return ShuffleNetV1(in_channels, stem)
