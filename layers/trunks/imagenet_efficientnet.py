"""EfficientNet-B0 as made for large images, with a total stride of 32: 2x2 px are left at 64 px.

Padding is TensorFlow's ("same"): with stride 2 on even sides a pixel more at the bottom and on the right.  Source: Tan
and Le 2019, arXiv 1905.11946, table 1; taken as it is by Ding et al. 2023, arXiv 2104.03164, for RC-49.  Stochastic
depth and dropout (0.2) are left out: a training that stopped could not draw the same again.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from layers.pointwise import PointwiseConv2d
from layers.trunks.efficientnet import BLOCKS, SQUEEZE
from layers.trunks.parts import Trunk, feature_names

_STEM, _LAST = 32, 1280
_STAGES = ("_blocks.0", "_blocks.2", "_blocks.4", "_blocks.10", "_blocks.15")


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class SameConv2d(nn.Conv2d):
    """A convolution without bias whose output has ceil(side / stride) px."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads: list[int] = []
        for side, kernel, stride in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(x, pads))


class ScaledBlock(nn.Module):
    """1x1 to more channels (none for expansion 1), k x k by channel, squeeze and excitation, 1x1, and the input."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner, squeezed = in_channels * expansion, max(1, in_channels // SQUEEZE)
        self.expands, self.adds = expansion != 1, stride == 1 and in_channels == out_channels
        if self.expands:
            self._expand_conv, self._bn0 = PointwiseConv2d(in_channels, inner), _norm(inner)
        self._depthwise_conv, self._bn1 = SameConv2d(inner, inner, kernel, stride, inner), _norm(inner)
        self._se_reduce = PointwiseConv2d(inner, squeezed, bias=True)
        self._se_expand = PointwiseConv2d(squeezed, inner, bias=True)
        self._project_conv, self._bn2 = PointwiseConv2d(inner, out_channels), _norm(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = F.silu(self._bn0(self._expand_conv(x))) if self.expands else x
        inner = F.silu(self._bn1(self._depthwise_conv(inner)))
        means = inner.mean(dim=(2, 3), keepdim=True)
        inner = inner * self._se_expand(F.silu(self._se_reduce(means))).sigmoid()
        inner = self._bn2(self._project_conv(inner))
        return inner + x if self.adds else inner


class ImageNetEfficientNet(Trunk):
    """_blocks.0 to _blocks.15 between a strided stem and a 1x1 convolution to 1280 channels."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self._conv_stem, self._bn0, self.swish = SameConv2d(in_channels, _STEM, 3, 2), _norm(_STEM), nn.SiLU()
        self._blocks = nn.Sequential()
        before = _STEM
        for expansion, channels, count, kernel, stride in BLOCKS:
            for place in range(count):
                self._blocks.append(ScaledBlock(before, channels, kernel, 1 if place else stride, expansion))
                before = channels
        self._conv_head, self._bn1 = PointwiseConv2d(before, _LAST), _norm(_LAST)
        self.feature_paths = feature_names("swish", _STAGES, _STAGES)
        self.feature_dim = _LAST

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        x = self._blocks(self.swish(self._bn0(self._conv_stem(x))))
        return F.silu(self._bn1(self._conv_head(x)))


def imagenet_efficientnet(in_channels: int, resolution_px: int, width: float) -> ImageNetEfficientNet:
    """EfficientNet-B0."""
    return ImageNetEfficientNet(in_channels)
