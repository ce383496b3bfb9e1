"""Self-attention over image positions, as BigGAN and SAGAN use it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from layers.spectral_norm import spectral

# Position pairs whose weights are computed at once; a batch with more is attended to in parts.  On a CPU they then
# stay in its cache; elsewhere they must fit beside the network (256 images of 64 x 64 positions would need 4 GiB).
PAIRS_AT_ONCE = {"cpu": 1 << 18}
PAIRS_AT_ONCE_ELSEWHERE = 1 << 26


class SelfAttention2d(nn.Module):
    """out = x + gamma * o(g A^T), A = softmax over the 2x2-pooled positions of theta^T phi, without scaling.

    N x channels x H x W -> the same shape, H and W even.  gamma starts at 0 (Zhang et al. 2019, SAGAN, eq. 1-3).
    `bias`: whether the four convolutions have biases (CcGAN's SAGAN has them, BigGAN has none).
    """

    def __init__(self, channels: int, spectral_normed: bool = True, bias: bool = False) -> None:
        super().__init__()
        narrow, half = max(1, channels // 8), max(1, channels // 2)
        self.theta = spectral(nn.Conv2d(channels, narrow, 1, bias=bias), spectral_normed)
        self.phi = spectral(nn.Conv2d(channels, narrow, 1, bias=bias), spectral_normed)
        self.g = spectral(nn.Conv2d(channels, half, 1, bias=bias), spectral_normed)
        self.o = spectral(nn.Conv2d(half, channels, 1, bias=bias), spectral_normed)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        query = self.theta(x).flatten(2).transpose(1, 2)
        key = F.max_pool2d(self.phi(x), 2).flatten(2)
        value = F.max_pool2d(self.g(x), 2).flatten(2).transpose(1, 2)
        if torch.compiler.is_compiling():  # the number of parts would fix the batch of an exported program
            mixed = torch.softmax(query @ key, dim=-1) @ value
        else:
            pairs = PAIRS_AT_ONCE.get(x.device.type, PAIRS_AT_ONCE_ELSEWHERE)
            at_once = max(1, pairs // (query.shape[1] * key.shape[2]))
            parts = zip(query.split(at_once), key.split(at_once), value.split(at_once), strict=True)
            mixed = torch.cat([torch.softmax(q @ k, dim=-1) @ v for q, k, v in parts])
        return torch.addcmul(x, self.o(mixed.transpose(1, 2).unflatten(2, (height, width))), self.gamma)
