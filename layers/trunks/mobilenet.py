"""MobileNetV2 at half width for small images ("mobile_half"): a stem of stride 2, ReLU, no activation at block ends.

Stage outputs are linear, so that before and after the activation are the same.  Source: Sandler et al. 2018,
arXiv 1801.04381, table 2, in the form of Tian et al. 2020, arXiv 1910.10699 (ReLU in place of ReLU6; the first block
widens by 1 but keeps its 1x1 convolution).
"""

from __future__ import annotations

import torch
from torch import nn

from layers.pointwise import PointwiseConv2d
from layers.trunks.parts import Trunk, conv3, feature_names, initialise

_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_STEM, _LAST = 32, 1280
_STAGES = ("blocks.1", "blocks.2", "blocks.4", "blocks.6")


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, 3x3 by channel, 1x1 back; added to the input where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.adds = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            *_norm_relu(PointwiseConv2d(in_channels, inner)),
            *_norm_relu(conv3(inner, inner, stride, inner)),
            PointwiseConv2d(inner, out_channels),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


def _norm_relu(layer: nn.Conv2d) -> list[nn.Module]:
    return [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU(inplace=True)]


class MobileNetV2(Trunk):
    """Seven groups of blocks; the last 1x1 convolution has 1280 channels, more where `factor` exceeds 1."""

    def __init__(self, in_channels: int, factor: float) -> None:
        super().__init__()
        before = max(4, int(_STEM * factor))
        self.conv1 = nn.Sequential(*_norm_relu(conv3(in_channels, before, 2)))
        self.blocks = nn.Sequential()
        for expansion, channels, count, stride in _BLOCKS:
            channels = max(4, int(channels * factor))
            group = nn.Sequential()
            for place in range(count):
                group.append(InvertedResidual(before, channels, 1 if place else stride, expansion))
                before = channels
            self.blocks.append(group)
        self.feature_dim = int(_LAST * max(1.0, factor))
        self.conv2 = nn.Sequential(*_norm_relu(PointwiseConv2d(before, self.feature_dim)))
        self.feature_paths = feature_names("conv1", _STAGES, _STAGES)
        initialise(self)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.blocks(self.conv1(x)))


def mobilenet(in_channels: int, resolution_px: int, width: float, *, factor: float) -> MobileNetV2:
    """Channels times `factor` times `width`."""
    return MobileNetV2(in_channels, factor * width)
