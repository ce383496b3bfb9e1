"""VGG networks with batch norm: five blocks of 3x3 convolutions, 64-128-256-512-512 channels at width 1.

The map is halved behind the first three blocks, and behind the fourth from 64 px on (2x2 px are left at 16, 4x4 at 32
and 64).  Source: Simonyan and Zisserman 2015, arXiv 1409.1556; VGG-8 and the poolings as in Tian et al. 2020,
arXiv 1910.10699, which halves behind the fourth block at 64 px alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from layers.trunks.parts import Activation, Trunk, feature_names, initialise, scaled

WIDTHS = (64, 128, 256, 512, 512)
_FOURTH_POOL_PX = 64


class Vgg(Trunk):
    """block0 to block4 end before their last ReLU, which are relu0 to relu4."""

    def __init__(self, in_channels: int, widths: Sequence[int], layers: Sequence[int]) -> None:
        super().__init__()
        before = in_channels
        for number, (channels, count) in enumerate(zip(widths, layers, strict=True)):
            block = nn.Sequential()
            for place in range(count):
                if place:
                    block.append(nn.ReLU(inplace=True))
                block.append(nn.Conv2d(before, channels, 3, 1, 1))
                block.append(nn.BatchNorm2d(channels))
                before = channels
            self.add_module(f"block{number}", block)
            self.add_module(f"relu{number}", Activation())
        numbers = range(1, len(layers))
        stages, unactivated = [f"relu{number}" for number in numbers], [f"relu{number}.before" for number in numbers]
        self.feature_paths = feature_names("relu0", stages, unactivated)
        self.feature_dim = before
        self.blocks = len(layers)
        initialise(self)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        pools = (1, 2, 3, 4) if x.shape[2] >= _FOURTH_POOL_PX else (1, 2, 3)  # before the blocks of these numbers
        for number in range(self.blocks):
            if number in pools:
                x = F.max_pool2d(x, 2)
            x = self.get_submodule(f"relu{number}")(self.get_submodule(f"block{number}")(x))
        return x


def vgg(
    in_channels: int,
    resolution_px: int,
    width: float,
    *,
    layers: tuple[int, ...],
    widths: tuple[int, ...] = WIDTHS,
    factor: float = 1.0,
) -> Vgg:
    """layers: convolutions in each block.  factor: on `widths`, beside `width`."""
    return Vgg(in_channels, [scaled(channels, width * factor) for channels in widths], layers)
