"""Self-attention over image positions, as BigGAN uses it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from layers.spectral_norm import spectral


class SelfAttention2d(nn.Module):
    """out = x + gamma * o(g A^T), A = softmax over the 2x2-pooled positions of theta^T phi, without scaling.

    N x channels x H x W -> the same shape, H and W even.  gamma starts at 0 (Zhang et al. 2019, SAGAN, eq. 1-3).
    """

    def __init__(self, channels: int, spectral_normed: bool = True) -> None:
        super().__init__()
        narrow, half = max(1, channels // 8), max(1, channels // 2)
        self.theta = spectral(nn.Conv2d(channels, narrow, 1, bias=False), spectral_normed)
        self.phi = spectral(nn.Conv2d(channels, narrow, 1, bias=False), spectral_normed)
        self.g = spectral(nn.Conv2d(channels, half, 1, bias=False), spectral_normed)
        self.o = spectral(nn.Conv2d(half, channels, 1, bias=False), spectral_normed)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, _, height, width = x.shape
        query = self.theta(x).flatten(2)
        key = F.max_pool2d(self.phi(x), 2).flatten(2)
        value = F.max_pool2d(self.g(x), 2).flatten(2)
        weights = torch.softmax(query.transpose(1, 2) @ key, dim=-1)
        mixed = (value @ weights.transpose(1, 2)).reshape(count, -1, height, width)
        return x + self.gamma * self.o(mixed)
