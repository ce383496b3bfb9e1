"""CcGAN's image-to-label network (Ding et al. 2021, 2023): a residual network from an image to h, and from h to y.

The papers' T1 and T2, here x2h and h2y.  The label embedding y2h (their T3) was trained as a right inverse of h2y.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from layers.residual_block import ResidualBlock


class ImageLabelNetwork(nn.Module):
    """x2y: float32 N x channels x H x W in [-1, 1] -> (features h, N x dimension; labels, N x 1), both 0 or more.

    A trained network's labels lie about [0, 1]; nothing cuts them off above.  Made for eval mode: its norms are read
    with their statistics.

    `widths`: channels of the first convolution and of the stages, each of which halves the size; `blocks`: residual
    blocks of each stage; `hidden`: units between the last stage and h; `pools`: 0 for 64 pixels, 1 (before the first
    stage) for 128 and 192, 2 (after it, too) for 256.
    """

    def __init__(
        self, channels: int, widths: Sequence[int], blocks: Sequence[int], hidden: int, dimension: int, pools: int = 0
    ) -> None:
        super().__init__()
        self.dimension = dimension
        parts: list[nn.Module] = [
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(),
        ]  # fmt: skip
        for index, ((before, after), count) in enumerate(zip(pairwise(widths), blocks, strict=True)):
            if index < pools:
                parts.append(nn.MaxPool2d(2))
            first = ResidualBlock(before, after, stride=2)
            parts.append(nn.Sequential(first, *(ResidualBlock(after, after, stride=1) for _ in range(count - 1))))
        self.main = nn.Sequential(*parts)
        self.x2h = nn.Sequential(
            nn.Linear(widths[-1], hidden), nn.BatchNorm1d(hidden), nn.ReLU(),
            nn.Linear(hidden, dimension), nn.BatchNorm1d(dimension), nn.ReLU(),
        )  # fmt: skip
        self.h2y = nn.Sequential(nn.Linear(dimension, 1), nn.ReLU())

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.x2h(self.main(images).mean(dim=(2, 3)))
        return h, self.to_label(h)

    def to_label(self, h: torch.Tensor) -> torch.Tensor:
        """h2y: float32 N x dimension -> N x 1."""
        return self.h2y(h)
