"""EfficientNet-B0 for small images: a 3x3 stem, 16 inverted residuals with squeeze and excitation, swish.

Stage outputs (the last of each size) are linear, so that before and after the activation are the same.  Source: Tan and
Le 2019, arXiv 1905.11946, table 1; the last 1x1 convolution is left out, as in the small-image form of Ding et al.
2023, arXiv 2104.03164.  Its stochastic depth and dropout (0.2) are left out too: a training that stopped could not
draw the same again.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from layers.pointwise import PointwiseConv2d
from layers.trunks.parts import Trunk, feature_names

# expansion, channels, blocks, kernel, stride
BLOCKS = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
_STEM, SQUEEZE = 32, 4
_STAGES = ("layers.0", "layers.2", "layers.4", "layers.10", "layers.15")


class SqueezeExcitation(nn.Module):
    """Scales channels by what their averages say."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.se1, self.se2 = (
            PointwiseConv2d(channels, squeezed, bias=True),
            PointwiseConv2d(squeezed, channels, 1, True),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean(dim=(2, 3), keepdim=True)
        return x * self.se2(F.silu(self.se1(means))).sigmoid()


class MobileBlock(nn.Module):
    """1x1 to more channels, k x k by channel, squeeze and excitation, 1x1; added to the input where the shape stays.

    Without expansion the first convolution is in the state dict and not used.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.expands, self.adds = expansion != 1, stride == 1 and in_channels == out_channels
        self.conv1, self.bn1 = PointwiseConv2d(in_channels, inner), nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.se = SqueezeExcitation(inner, max(1, in_channels // SQUEEZE))
        self.conv3, self.bn3 = PointwiseConv2d(inner, out_channels), nn.BatchNorm2d(out_channels)
        if not self.expands:
            self.conv1.requires_grad_(False)
            self.bn1.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = F.silu(self.bn1(self.conv1(x))) if self.expands else x
        inner = self.se(F.silu(self.bn2(self.conv2(inner))))
        inner = self.bn3(self.conv3(inner))
        return inner + x if self.adds else inner


class EfficientNet(Trunk):
    """layers.0 to layers.15."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(in_channels, _STEM, 3, 1, 1, bias=False), nn.BatchNorm2d(_STEM)
        self.swish = nn.SiLU()
        self.layers = nn.Sequential()
        before = _STEM
        for expansion, channels, count, kernel, stride in BLOCKS:
            for place in range(count):
                self.layers.append(MobileBlock(before, channels, kernel, 1 if place else stride, expansion))
                before = channels
        self.feature_paths = feature_names("swish", _STAGES, _STAGES)
        self.feature_dim = before

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(self.swish(self.bn1(self.conv1(x))))


def efficientnet(in_channels: int, resolution_px: int, width: float) -> EfficientNet:
    """EfficientNet-B0."""
    return EfficientNet(in_channels)
