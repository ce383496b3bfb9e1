"""The projection discriminator."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from layers.attention import SelfAttention2d
from layers.discriminators import DISCRIMINATORS
from layers.discriminators.settings import ProjectionSettings
from layers.label_embedding import LabelEmbedding
from layers.spectral_norm import spectral

WIDEST = 8  # times the first width


class DownBlock(nn.Module):
    """Residual block ReLU-conv-ReLU-conv, halving the size by average pooling where asked."""

    def __init__(
        self, in_channels: int, out_channels: int, *, down: bool, first: bool = False, slope: float = 0.0
    ) -> None:
        super().__init__()
        self.down, self.first, self.slope = down, first, slope
        self.conv1 = spectral(nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.conv2 = spectral(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = spectral(nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv2(_activate(self.conv1(x if self.first else _activate(x, self.slope)), self.slope))
        if self.down:  # a 1x1 convolution and pooling commute, and pooling first is cheaper
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        return h + self.shortcut(x)


@DISCRIMINATORS.register("projection", settings=ProjectionSettings)
class ProjectionDiscriminator(nn.Module):
    """D(x, y) = linear(f) + <e(y), f>, f the last map summed over positions (Miyato and Koyama 2018, eq. 5).

    forward(x, encoded): float N x C x H x W in [-1, 1] and encoded labels -> N logits.  Blocks halve the image down
    to 4 x 4, one more follows; images of sizes between powers of two first repeat their border pixels.  Widths double
    from `width` up to `WIDEST` times it.  Spectral norm everywhere, no batch norm, so no image's logit depends on
    another image.  `slope`: of the ReLUs, for negative inputs.
    features(x): the map after each block.

    The sum is not a mean on purpose: with every layer's gain held to 1, logits of a mean stay near each other (within
    .01 on the digits) and the hinge teaches nothing.
    """

    def __init__(
        self,
        resolution_px: int,
        channels: int,
        label_kind: Literal["classes", "continuous"],
        label_width: int,
        width: int = 16,
        attention_px: int = 0,
        slope: float = 0.0,
    ) -> None:
        super().__init__()
        self.slope = slope
        halvings = (-(-resolution_px // 4) - 1).bit_length()
        if halvings < 1:
            raise ValueError(f"resolution {resolution_px} is too small; a discriminator halves the image down to 4 px")
        missing = (4 << halvings) - resolution_px
        self.border = (missing // 2, missing - missing // 2) * 2
        widths = [width * min(1 << index, WIDEST) for index in range(halvings)]
        widths.append(widths[-1])
        blocks: list[nn.Module] = []
        previous, size = channels, 4 << halvings
        for index, wide in enumerate(widths):
            down = index < halvings
            block: nn.Module = DownBlock(previous, wide, down=down, first=index == 0, slope=slope)
            size = size // 2 if down else size
            if down and size == attention_px:
                block = nn.Sequential(block, SelfAttention2d(wide))
            blocks.append(block)
            previous = wide
        self.blocks = nn.ModuleList(blocks)
        self.linear = spectral(nn.Linear(previous, 1))
        self.embedding = LabelEmbedding(label_kind, label_width, previous, spectral_normed=True)

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The maps after each block, from fine to coarse."""
        maps = []
        if any(self.border):
            x = F.pad(x, self.border, mode="replicate")
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps

    def forward(self, x: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        return self.logits(self.features(x)[-1], encoded)

    def logits(self, last_map: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        """The head alone, for callers that have already computed `features(x)[-1]`."""
        pooled = _activate(last_map, self.slope).sum(dim=(2, 3))
        return self.linear(pooled).squeeze(1) + (self.embedding(encoded) * pooled).sum(1)


def _activate(x: torch.Tensor, slope: float) -> torch.Tensor:
    return F.leaky_relu(x, slope) if slope else F.relu(x)
