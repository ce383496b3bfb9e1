"""VGG networks with batch norm whose layers stand in one list, each of the five blocks followed by a pooling.

All of the last map is the pooled vector: 512 features at 32 px (1x1), 2048 at 64 (2x2).  Source: Simonyan and Zisserman
2015, arXiv 1409.1556, in the form of Ding et al. 2023, arXiv 2104.03164.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from layers.trunks.parts import Activation, Trunk, feature_names, initialise, scaled
from layers.trunks.vgg import WIDTHS

_TOTAL_STRIDE = 32


class FlatVgg(Trunk):
    """`features`: convolution, norm, ReLU, ..., pooling, five times."""

    def __init__(self, in_channels: int, resolution_px: int, widths: Sequence[int], layers: Sequence[int]) -> None:
        super().__init__()
        self.features = nn.Sequential()
        before, ends = in_channels, []
        for channels, count in zip(widths, layers, strict=True):
            for _ in range(count):
                self.features.append(nn.Conv2d(before, channels, 3, 1, 1))
                self.features.append(nn.BatchNorm2d(channels))
                self.features.append(Activation())
                before = channels
            ends.append(f"features.{len(self.features) - 1}")
            self.features.append(nn.MaxPool2d(2))
        self.feature_paths = feature_names(ends[0], ends[1:], [f"{end}.before" for end in ends[1:]])
        self.feature_dim = before * (resolution_px // _TOTAL_STRIDE) ** 2
        initialise(self)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.maps(x).flatten(1)


def flat_vgg(in_channels: int, resolution_px: int, width: float, *, layers: tuple[int, ...]) -> FlatVgg:
    """layers: convolutions in each block."""
    return FlatVgg(in_channels, resolution_px, [scaled(channels, width) for channels in WIDTHS], layers)
