"""MobileNetV2 at full width for 32 px: strides in three of the blocks alone, ReLU, 1x1 shortcuts where channels change.

Source: Sandler et al. 2018, arXiv 1801.04381, table 2, in the form of Ding et al. 2023, arXiv 2104.03164.
"""

from __future__ import annotations

import torch
from torch import nn

from layers.pointwise import PointwiseConv2d
from layers.trunks.parts import Trunk, conv3, feature_names, initialise

# expansion, channels, blocks, stride
_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_STEM, _LAST = 32, 1280
_STAGES = ("layers.2", "layers.5", "layers.12", "layers.16")  # the last block of each size


class MobileBlock(nn.Module):
    """1x1 to `expansion` times the channels, 3x3 by channel, 1x1; with stride 1 added to the input or its 1x1."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.adds = stride == 1
        self.conv1, self.bn1 = PointwiseConv2d(in_channels, inner), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = conv3(inner, inner, stride, inner), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = PointwiseConv2d(inner, out_channels), nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if self.adds and in_channels != out_channels:
            self.downsample = nn.Sequential(PointwiseConv2d(in_channels, out_channels), nn.BatchNorm2d(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.relu(self.bn1(self.conv1(x)))
        inner = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(inner)))))
        return inner + self.downsample(x) if self.adds else inner


class FullMobileNetV2(Trunk):
    """layers.0 to layers.16, then a 1x1 convolution to 1280 channels."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = conv3(in_channels, _STEM), nn.BatchNorm2d(_STEM), nn.ReLU(inplace=True)
        self.layers = nn.Sequential()
        before = _STEM
        for expansion, channels, count, stride in _BLOCKS:
            for place in range(count):
                self.layers.append(MobileBlock(before, channels, 1 if place else stride, expansion))
                before = channels
        self.conv2, self.bn2, self.relu2 = PointwiseConv2d(before, _LAST), nn.BatchNorm2d(_LAST), nn.ReLU(inplace=True)
        self.feature_paths = feature_names("relu", _STAGES, _STAGES)
        self.feature_dim = _LAST
        initialise(self)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu2(self.bn2(self.conv2(self.layers(self.relu(self.bn1(self.conv1(x)))))))


def full_mobilenet(in_channels: int, resolution_px: int, width: float) -> FullMobileNetV2:
    """MobileNetV2, factor 1."""
    return FullMobileNetV2(in_channels)
