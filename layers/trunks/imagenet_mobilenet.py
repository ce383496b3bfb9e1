"""MobileNetV2 as made for large images, with a total stride of 32 and ReLU6: 2x2 px are left at 64 px.

Source: Sandler et al. 2018, arXiv 1801.04381, table 2; taken as it is by Ding et al. 2023, arXiv 2104.03164, for
RC-49, Steering Angle and UTKFace.
"""

from __future__ import annotations

import torch
from torch import nn

from layers.pointwise import PointwiseConv2d
from layers.trunks.parts import Trunk, conv3, feature_names, initialise

# expansion, channels, blocks, stride
_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_STEM, _LAST = 32, 1280
_STAGES = ("features.1", "features.3", "features.6", "features.13", "features.17")  # the last block of each size


def _norm_relu6(layer: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU6(inplace=True))


class LinearBlock(nn.Module):
    """1x1 to `expansion` times the channels (none for 1), 3x3 by channel, 1x1; added to the input of the same shape."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.adds = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential()
        if expansion != 1:
            self.conv.append(_norm_relu6(PointwiseConv2d(in_channels, inner)))
        self.conv.append(_norm_relu6(conv3(inner, inner, stride, inner)))
        self.conv.append(PointwiseConv2d(inner, out_channels))
        self.conv.append(nn.BatchNorm2d(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class ImageNetMobileNetV2(Trunk):
    """features.0 is the stem, features.1 to features.17 are blocks, features.18 is a 1x1 convolution."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(_norm_relu6(conv3(in_channels, _STEM, 2)))
        before = _STEM
        for expansion, channels, count, stride in _BLOCKS:
            for place in range(count):
                self.features.append(LinearBlock(before, channels, 1 if place else stride, expansion))
                before = channels
        self.features.append(_norm_relu6(PointwiseConv2d(before, _LAST)))
        self.feature_paths = feature_names("features.0", _STAGES, _STAGES)
        self.feature_dim = _LAST
        initialise(self)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)


def imagenet_mobilenet(in_channels: int, resolution_px: int, width: float) -> ImageNetMobileNetV2:
    """MobileNetV2, factor 1."""
    return ImageNetMobileNetV2(in_channels)
