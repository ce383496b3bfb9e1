"""The judge's network: unlike every student, teacher discriminator and filter network in build and normalisation.

Depthwise 5x5 convolutions, layer norm over channels and GELU (after ConvNeXt, Liu et al. 2022), no batch norm, so an
image's features do not depend on the batch it came in.
"""

from __future__ import annotations

import torch
from torch import nn

FEATURE_WIDTH = 64  # small, so that a Fréchet distance needs few images


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel: N x C x H x W -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class JudgeBlock(nn.Module):
    """x + scale * pointwise(GELU(pointwise(norm(depthwise(x)))))."""

    def __init__(self, channels: int, kernel_size: int = 5) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, 2 * channels)
        self.narrow = nn.Linear(2 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        inner = self.narrow(nn.functional.gelu(self.widen(inner))) * self.scale
        return x + inner.permute(0, 3, 1, 2)


class JudgeNetwork(nn.Module):
    """float N x C x H x W in [-1, 1] -> (features N x 64, outputs N x width).

    Halves the resolution until it is 4 pixels or fewer wide, with one block at each stage.
    """

    def __init__(self, resolution_px: int, channels: int, outputs: int) -> None:
        super().__init__()
        stages: list[nn.Module] = [nn.Conv2d(channels, 32, 4, stride=2, padding=1), ChannelNorm(32), JudgeBlock(32)]
        width, side = 32, resolution_px // 2
        while side > 4:
            stages += [nn.Conv2d(width, FEATURE_WIDTH, 2, stride=2), JudgeBlock(FEATURE_WIDTH)]
            width, side = FEATURE_WIDTH, side // 2
        if width != FEATURE_WIDTH:
            stages.append(nn.Conv2d(width, FEATURE_WIDTH, 1))
        stages.append(JudgeBlock(FEATURE_WIDTH))
        self.body = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.LayerNorm(FEATURE_WIDTH), nn.Linear(FEATURE_WIDTH, outputs))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.body(images).mean(dim=(2, 3))
        return features, self.head(features)
