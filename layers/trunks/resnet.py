"""ResNets whose stem is one 3x3 convolution of stride 1: ResNet-18, -34 and -50 in their small-image form.

Stages at 1, 1/2, 1/4, ... of the image.  Source: He et al. 2016, arXiv 1512.03385, table 1, without the stem's
stride and pooling, as all of the trainers for 32 px have it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from layers.pointwise import PointwiseConv2d
from layers.trunks.parts import Activation, Trunk, conv3, feature_names, initialise, scaled

_WIDTHS = (64, 128, 256, 512)
_EXPANSION = 4  # of a bottleneck


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (1x1 where the shape changes)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3(in_channels, channels, stride), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = conv3(channels, channels), nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, stride)
        self.inner, self.relu = nn.ReLU(inplace=True), Activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.inner(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(inner)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to four times the channels, with a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        wide = channels * _EXPANSION
        self.conv1, self.bn1 = PointwiseConv2d(in_channels, channels), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = conv3(channels, channels, stride), nn.BatchNorm2d(channels)
        self.conv3, self.bn3 = PointwiseConv2d(channels, wide), nn.BatchNorm2d(wide)
        self.downsample = _shortcut(in_channels, wide, stride)
        self.inner, self.relu = nn.ReLU(inplace=True), Activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.inner(self.bn1(self.conv1(x)))
        inner = self.inner(self.bn2(self.conv2(inner)))
        return self.relu(self.bn3(self.conv3(inner)) + self.downsample(x))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(PointwiseConv2d(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


class ResNet(Trunk):
    """Stages layer1, layer2, ... of blocks; each stage's first block halves the map, layer1's with `first_stride` 2."""

    def __init__(
        self,
        in_channels: int,
        stem: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        bottleneck: bool = False,
        first_stride: int = 1,
    ) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = conv3(in_channels, stem), nn.BatchNorm2d(stem), nn.ReLU(inplace=True)
        self.stages = []
        before = stem
        for number, (channels, count) in enumerate(zip(widths, blocks, strict=True), 1):
            stage = nn.Sequential()
            for place in range(count):
                stride = 1 if place else first_stride if number == 1 else 2
                stage.append((Bottleneck if bottleneck else BasicBlock)(before, channels, stride))
                before = channels * (_EXPANSION if bottleneck else 1)
            self.add_module(f"layer{number}", stage)
            self.stages.append(f"layer{number}")
        activations = [f"{name}.{count - 1}.relu.before" for name, count in zip(self.stages, blocks, strict=True)]
        self.feature_paths = feature_names("relu", self.stages, activations)
        self.feature_dim = before
        initialise(self)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return x


def resnet(
    in_channels: int,
    resolution_px: int,
    width: float,
    *,
    blocks: tuple[int, ...],
    bottleneck: bool = False,
    first_stride: int = 1,
) -> ResNet:
    """Four stages of 64 to 512 channels, four times as many behind bottlenecks."""
    widths = [scaled(channels, width) for channels in _WIDTHS]
    return ResNet(in_channels, widths[0], widths, blocks, bottleneck, first_stride)
