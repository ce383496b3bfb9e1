"""Batch normalisation whose gain and bias follow a condition vector."""

from __future__ import annotations

import torch
from torch import nn

INITIAL_STD = 0.02


class ConditionalBatchNorm2d(nn.Module):
    """out = bn(x) * (1 + gain(c)) + bias(c), with a batch norm that has no weights of its own.

    x: N x channels x H x W, c: N x condition_dim.  Gain and bias are linear maps without bias that start near zero,
    so a fresh network begins unconditional (BigGAN, Brock et al. 2019, appendix B; De Vries et al. 2017).  In eval
    mode norm, gain and bias are one scale and one shift for each image and channel, so the map is read once.
    """

    def __init__(self, channels: int, condition_dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=eps, affine=False)
        self.gain = nn.Linear(condition_dim, channels, bias=False)
        self.bias = nn.Linear(condition_dim, channels, bias=False)
        nn.init.normal_(self.gain.weight, std=INITIAL_STD)
        nn.init.normal_(self.bias.weight, std=INITIAL_STD)

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        gain, bias = 1.0 + self.gain(c), self.bias(c)
        if self.training:
            return torch.addcmul(bias[:, :, None, None], self.bn(x), gain[:, :, None, None])
        scale = gain * torch.rsqrt(self.bn.get_buffer("running_var") + self.bn.eps)
        shift = bias - self.bn.get_buffer("running_mean") * scale
        return torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None])
