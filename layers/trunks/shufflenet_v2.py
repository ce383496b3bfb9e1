"""ShuffleNetV2 at factor 1 for small images: 116-232-464 channels behind a stem of one 1x1 convolution.

A stage's preact is its last unit's output before the ReLU and before the shuffle.  Source: Ma et al. 2018,
arXiv 1807.11164, table 5, in the form of Tian et al. 2020, arXiv 1910.10699 (no stride or pooling in the stem).
"""

from __future__ import annotations

import torch
from torch import nn

from layers.pointwise import PointwiseConv2d
from layers.trunks.parts import Trunk, conv3, feature_names
from layers.trunks.shufflenet_v1 import Stem, shuffled, stem_convolution

_STEM, _LAST = 24, 1024
_STAGES = ((116, 3), (232, 7), (464, 3))  # channels, units behind the first


class BasicUnit(nn.Module):
    """Half of the channels pass by; the others go through 1x1, 3x3 by channel, 1x1; then both are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1, self.bn1 = PointwiseConv2d(half, half), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = conv3(half, half, 1, half), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = PointwiseConv2d(half, half), nn.BatchNorm2d(half)
        self.relu = nn.ReLU(inplace=True)
        self.before = nn.Identity()  # for readers alone

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, x = x.chunk(2, dim=1)
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        inner = self.bn3(self.conv3(inner))
        if self.before._forward_hooks:
            self.before(torch.cat([kept, inner], dim=1))
        return shuffled(torch.cat([kept, self.relu(inner)], dim=1), 2)


class DownUnit(nn.Module):
    """Both branches read the whole input and halve the map."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv1, self.bn1 = conv3(in_channels, in_channels, 2, in_channels), nn.BatchNorm2d(in_channels)
        self.conv2, self.bn2 = PointwiseConv2d(in_channels, half), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = PointwiseConv2d(in_channels, half), nn.BatchNorm2d(half)
        self.conv4, self.bn4 = conv3(half, half, 2, half), nn.BatchNorm2d(half)
        self.conv5, self.bn5 = PointwiseConv2d(half, half), nn.BatchNorm2d(half)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = self.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(self.relu(self.bn3(self.conv3(x)))))
        return shuffled(torch.cat([left, self.relu(self.bn5(self.conv5(right)))], dim=1), 2)


class ShuffleNetV2(Trunk):
    """Stages layer1 to layer3 at 1/2, 1/4, 1/8 of the image, then a 1x1 convolution to 1024 channels."""

    def __init__(self, in_channels: int, stem: Stem) -> None:
        super().__init__()
        self.conv1, self.bn1 = stem_convolution(stem, in_channels, _STEM), nn.BatchNorm2d(_STEM)
        self.relu = nn.ReLU(inplace=True)
        before, stages = _STEM, []
        for channels, count in _STAGES:
            stages.append(nn.Sequential(DownUnit(before, channels), *(BasicUnit(channels) for _ in range(count))))
            before = channels
        self.layer1, self.layer2, self.layer3 = stages
        self.conv2, self.bn2 = PointwiseConv2d(before, _LAST), nn.BatchNorm2d(_LAST)
        self.relu2 = nn.ReLU(inplace=True)
        unactivated = [f"layer{number}.{count}.before" for number, (_, count) in enumerate(_STAGES, 1)]
        self.feature_paths = feature_names("relu", ("layer1", "layer2", "layer3"), unactivated)
        self.feature_dim = _LAST

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        return self.relu2(self.bn2(self.conv2(x)))


def shufflenet_v2(in_channels: int, resolution_px: int, width: float, *, stem: Stem = "1x1") -> ShuffleNetV2:
    """ShuffleNetV2, factor 1."""
    return ShuffleNetV2(in_channels, stem)
