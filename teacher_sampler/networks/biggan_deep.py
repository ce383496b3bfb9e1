"""The BigGAN-deep generator (Brock et al. 2019, appendix B) for class and continuous labels, 16 to 512 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from interfaces import LabelSpace
from layers.attention import SelfAttention2d
from layers.conditional_norm import ConditionalBatchNorm2d
from layers.label_embedding import LabelEmbedding
from layers.spectral_norm import spectral
from layers.upsampled_conv import UpsampledConv2d
from runtime.errors import UserError
from teacher_sampler.networks import TEACHERS
from teacher_sampler.networks.biggan import START_PX, attended_stages, channel_widths, orthogonal, relu
from teacher_sampler.networks.settings import BigGanDeepSettings

NARROWING = 4  # the inside of a block has a fourth of the channels that come in


class BottleneckBlock(nn.Module):
    """Residual block of four convolutions, 1x1, 3x3, 3x3, 1x1, each after norm and ReLU.

    The shortcut has no weights: it keeps the first `out_channels` channels.  With `upsample`, height and width double
    before the second convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        condition_dim: int,
        upsample: bool,
        spectral_normed: bool,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.out_channels, self.upsample = out_channels, upsample
        hidden = max(1, in_channels // NARROWING)
        self.bn1 = ConditionalBatchNorm2d(in_channels, condition_dim, norm_eps)
        self.bn2 = ConditionalBatchNorm2d(hidden, condition_dim, norm_eps)
        self.bn3 = ConditionalBatchNorm2d(hidden, condition_dim, norm_eps)
        self.bn4 = ConditionalBatchNorm2d(hidden, condition_dim, norm_eps)
        second = UpsampledConv2d(hidden, hidden) if upsample else nn.Conv2d(hidden, hidden, 3, padding=1)
        self.conv1 = spectral(nn.Conv2d(in_channels, hidden, 1), spectral_normed)
        self.conv2 = spectral(second, spectral_normed)
        self.conv3 = spectral(nn.Conv2d(hidden, hidden, 3, padding=1), spectral_normed)
        self.conv4 = spectral(nn.Conv2d(hidden, out_channels, 1), spectral_normed)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        h = self.conv1(relu(self.bn1(x, condition)))
        h = self.conv2(relu(self.bn2(h, condition)))
        h = self.conv3(relu(self.bn3(h, condition)))
        h = self.conv4(relu(self.bn4(h, condition)))
        kept = x[:, : self.out_channels]
        return h + (F.interpolate(kept, scale_factor=2.0, mode="nearest") if self.upsample else kept)


class BigGANDeepGenerator(nn.Module):
    """G(z, y): float32 N x latent_dim and encoded labels N -> float32 N x channels x H x W in [-1, 1].

    The label's embedding and all of z together (in this order) feed the first linear layer and every norm.  Each stage
    is `depth` blocks, of which the last doubles the image and changes the channels.  `attention_px`: the resolution,
    or several, after which self-attention stands.  `norm_eps`: of the conditional norms; the last norm keeps 1e-5.
    `blocks.0`, `blocks.1`, ... (depth of them a stage) are the taps of white-box distillation.
    """

    def __init__(
        self,
        resolution_px: int,
        channels: int,
        label_kind: Literal["classes", "continuous"],
        label_width: int,
        width: int = 128,
        latent_dim: int = 128,
        label_dim: int = 128,
        depth: int = 2,
        attention_px: int | Sequence[int] = 0,
        norm_eps: float = 1e-5,
        spectral_normed: bool = True,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise UserError(f"depth {depth} leaves a stage without blocks; use at least 1.")
        maps = channel_widths(resolution_px, width)
        count = len(maps) - 1
        self.latent_dim = latent_dim
        condition_dim = label_dim + latent_dim
        self.embedding = LabelEmbedding(label_kind, label_width, label_dim)
        self.linear = spectral(nn.Linear(condition_dim, maps[0] * START_PX**2), spectral_normed)
        self.blocks = nn.ModuleList()
        for stage in range(count):
            for place in range(1, depth + 1):
                last = place == depth
                out_channels = maps[stage + 1] if last else maps[stage]
                block = BottleneckBlock(maps[stage], out_channels, condition_dim, last, spectral_normed, norm_eps)
                self.blocks.append(block)
        self.attention = nn.ModuleDict(
            {
                str(stage * depth + depth - 1): SelfAttention2d(maps[stage + 1], spectral_normed)
                for stage in attended_stages(attention_px, count)
            }
        )
        self.norm = nn.BatchNorm2d(maps[-1])
        self.conv = spectral(nn.Conv2d(maps[-1], channels, 3, padding=1), spectral_normed)
        self.apply(orthogonal)

    def forward(self, latents: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        condition = torch.cat([self.embedding(encoded), latents], dim=1)
        h = self.linear(condition).unflatten(1, (-1, START_PX, START_PX))
        if not self.training:
            h = h.contiguous(memory_format=torch.channels_last)
        for index, block in enumerate(self.blocks):
            h = block(h, condition)
            if str(index) in self.attention:
                h = self.attention[str(index)](h)
        return torch.tanh(self.conv(relu(self.norm(h))))


@TEACHERS.register("biggan-deep", settings=BigGanDeepSettings)
def build_biggan_deep(label_space: LabelSpace, **arguments: Any) -> BigGANDeepGenerator:
    """`arguments`: those of BigGANDeepGenerator but for those that the label space gives."""
    return BigGANDeepGenerator(label_kind=label_space.kind, label_width=label_space.width, **arguments)
