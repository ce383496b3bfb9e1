"""ShuffleNetV2 at factor 1 as made for large images, with a total stride of 32: 2x2 px are left at 64 px.

Source: Ma et al. 2018, arXiv 1807.11164, table 5; taken as it is by Ding et al. 2023, arXiv 2104.03164, for RC-49.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from layers.pointwise import PointwiseConv2d
from layers.trunks.parts import Trunk, conv3, feature_names
from layers.trunks.shufflenet_v1 import shuffled

_STEM, _LAST = 24, 1024
_STAGES = ((116, 4), (232, 8), (464, 4))  # channels, units


class BranchedUnit(nn.Module):
    """Two branches, joined and shuffled; with stride 1 the first half of the channels passes by."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.branch1: nn.Sequential | None = None
        if stride == 2:
            self.branch1 = nn.Sequential(
                conv3(in_channels, in_channels, 2, in_channels), nn.BatchNorm2d(in_channels),
                PointwiseConv2d(in_channels, half), nn.BatchNorm2d(half), nn.ReLU(inplace=True),
            )  # fmt: skip
        self.branch2 = nn.Sequential(
            PointwiseConv2d(in_channels if stride == 2 else half, half), nn.BatchNorm2d(half), nn.ReLU(inplace=True),
            conv3(half, half, stride, half), nn.BatchNorm2d(half),
            PointwiseConv2d(half, half), nn.BatchNorm2d(half),
        )  # fmt: skip
        self.relu = nn.ReLU(inplace=True)
        self.before = nn.Identity()  # for readers alone

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.branch1 is None:
            first, x = x.chunk(2, dim=1)
        else:
            first = self.branch1(x)
        second = self.branch2(x)
        if self.before._forward_hooks:
            self.before(torch.cat([first, second], dim=1))
        return shuffled(torch.cat([first, self.relu(second)], dim=1), 2)


class ImageNetShuffleNetV2(Trunk):
    """A stem of two halvings, stage2 to stage4, then a 1x1 convolution to 1024 channels."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(conv3(in_channels, _STEM, 2), nn.BatchNorm2d(_STEM), nn.ReLU(inplace=True))
        before, stages = _STEM, []
        for channels, count in _STAGES:
            units = [BranchedUnit(before, channels, 2)]
            units += [BranchedUnit(channels, channels, 1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*units))
            before = channels
        self.stage2, self.stage3, self.stage4 = stages
        self.conv5 = nn.Sequential(PointwiseConv2d(before, _LAST), nn.BatchNorm2d(_LAST), nn.ReLU(inplace=True))
        unactivated = [f"stage{number}.{count - 1}.before" for number, (_, count) in enumerate(_STAGES, 2)]
        self.feature_paths = feature_names("conv1", ("stage2", "stage3", "stage4"), unactivated)
        self.feature_dim = _LAST

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.conv1(x), 3, 2, 1)
        return self.conv5(self.stage4(self.stage3(self.stage2(x))))


def imagenet_shufflenet(in_channels: int, resolution_px: int, width: float) -> ImageNetShuffleNetV2:
    """ShuffleNetV2, factor 1."""
    return ImageNetShuffleNetV2(in_channels)
