"""What the families share: the base of a trunk, an activation that can be read before, names, widths, first weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


class Activation(nn.Module):
    """A ReLU; its `before` gives what goes in to a reader, and only then is the ReLU not done in place."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.before._forward_hooks:  # nobody reads: one map less in memory
            return F.relu(x, inplace=True)
        return F.relu(self.before(x))


class Trunk(nn.Module):
    """Images N x C x H x W -> N x feature_dim: the global average of the last map N x feature_dim x h x w."""

    feature_dim: int
    feature_paths: dict[str, str]

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """The last map."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.maps(x).mean(dim=(2, 3))


def feature_names(stem: str, stages: Sequence[str], before: Sequence[str]) -> dict[str, str]:
    """stem, stage1_preact, stage1, stage2_preact, ... -> module path.  before: of the stages' unactivated outputs."""
    names = {"stem": stem}
    for number, (stage, unactivated) in enumerate(zip(stages, before, strict=True), 1):
        names |= {f"stage{number}_preact": unactivated, f"stage{number}": stage}
    return names


def scaled(channels: int, width: float) -> int:
    """`channels` at width 1; else times `width`, rounded to a multiple of 4, at least 4."""
    return channels if width == 1.0 else max(4, round(channels * width / 4) * 4)


def initialise(network: nn.Module) -> None:
    """Kaiming's normal distribution by fan-out for convolutions, without biases, as the originals of most have it."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def halving(in_channels: int, out_channels: int) -> nn.Conv2d:
    """The 4x4 convolution of stride 2 that stems for 64 px begin with."""
    return nn.Conv2d(in_channels, out_channels, 4, 2, 1, bias=False)


def conv3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps the size, divided by its stride."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, 1, groups=groups, bias=False)
