"""The BigGAN generator (Brock et al. 2019) for class labels and for continuous labels, 16 to 512 pixels."""

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
from teacher_sampler.networks.settings import BigGanSettings

START_PX = 4
# Channels at 4x4 and after each block, in multiples of `width`.  From 32 pixels on these are the published ones; the
# published table has no 16.
CHANNEL_MULTIPLES: dict[int, tuple[int, ...]] = {
    16: (4, 2, 1),
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}


class UpBlock(nn.Module):
    """Residual block norm-ReLU-up-conv-norm-ReLU-conv with a 1x1 shortcut; doubles height and width."""

    def __init__(
        self, in_channels: int, out_channels: int, condition_dim: int, spectral_normed: bool, norm_eps: float
    ) -> None:
        super().__init__()
        self.bn1 = ConditionalBatchNorm2d(in_channels, condition_dim, norm_eps)
        self.bn2 = ConditionalBatchNorm2d(out_channels, condition_dim, norm_eps)
        self.conv1 = spectral(UpsampledConv2d(in_channels, out_channels), spectral_normed)
        self.conv2 = spectral(nn.Conv2d(out_channels, out_channels, 3, padding=1), spectral_normed)
        self.conv_sc = spectral(nn.Conv2d(in_channels, out_channels, 1), spectral_normed)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        h = self.conv1(relu(self.bn1(x, condition)))
        h = self.conv2(relu(self.bn2(h, condition)))
        # A 1x1 convolution and nearest upsampling commute; convolving first costs a quarter.
        return h + F.interpolate(self.conv_sc(x), scale_factor=2.0, mode="nearest")


class BigGANGenerator(nn.Module):
    """G(z, y): float32 N x latent_dim and encoded labels N -> float32 N x channels x H x W in [-1, 1].

    The label's embedding (`label_dim` numbers) is shared by all blocks.  With `hierarchical`, z is cut into one piece
    for the first linear layer and one for each block, joined to the embedding; pieces differ by at most one number,
    so none of `latent_dim` is lost.  `attention_px`: the resolution, or several, after which self-attention stands,
    0 or none of them for no attention.  `norm_eps`: of the conditional norms; the last norm keeps 1e-5.
    `blocks.0`, `blocks.1`, ... are the taps of white-box distillation.
    """

    def __init__(
        self,
        resolution_px: int,
        channels: int,
        label_kind: Literal["classes", "continuous"],
        label_width: int,
        width: int = 64,
        latent_dim: int = 128,
        label_dim: int = 128,
        hierarchical: bool = True,
        attention_px: int | Sequence[int] = 0,
        norm_eps: float = 1e-5,
        spectral_normed: bool = True,
    ) -> None:
        super().__init__()
        maps = channel_widths(resolution_px, width)
        count = len(maps) - 1
        self.latent_dim, self.hierarchical = latent_dim, hierarchical
        self.chunks = _chunk_sizes(latent_dim, count + 1) if hierarchical else [latent_dim] + [0] * count
        self.embedding = LabelEmbedding(label_kind, label_width, label_dim)
        self.linear = spectral(nn.Linear(self.chunks[0], maps[0] * START_PX**2), spectral_normed)
        self.blocks = nn.ModuleList(
            UpBlock(maps[index], maps[index + 1], label_dim + self.chunks[index + 1], spectral_normed, norm_eps)
            for index in range(count)
        )
        self.attention = nn.ModuleDict(
            {
                str(index): SelfAttention2d(maps[index + 1], spectral_normed)
                for index in attended_stages(attention_px, count)
            }
        )
        self.norm = nn.BatchNorm2d(maps[-1])
        self.conv = spectral(nn.Conv2d(maps[-1], channels, 3, padding=1), spectral_normed)
        self.apply(orthogonal)

    def forward(self, latents: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        pieces = latents.split(self.chunks, dim=1)
        shared = self.embedding(encoded)
        h = self.linear(pieces[0]).unflatten(1, (-1, START_PX, START_PX))
        if not self.training:
            h = h.contiguous(memory_format=torch.channels_last)
        for index, block in enumerate(self.blocks):
            condition = torch.cat([shared, pieces[index + 1]], dim=1) if self.hierarchical else shared
            h = block(h, condition)
            if str(index) in self.attention:
                h = self.attention[str(index)](h)
        return torch.tanh(self.conv(relu(self.norm(h))))


@TEACHERS.register("biggan", settings=BigGanSettings)
def build_biggan(label_space: LabelSpace, **arguments: Any) -> BigGANGenerator:
    """`arguments`: those of BigGANGenerator but for those that the label space gives."""
    return BigGANGenerator(label_kind=label_space.kind, label_width=label_space.width, **arguments)


def relu(x: torch.Tensor) -> torch.Tensor:
    """ReLU, in place while sampling: in inference mode no gradient and no tap will look at `x` again."""
    return F.relu(x, inplace=not torch.compiler.is_compiling() and torch.is_inference_mode_enabled())


def channel_widths(resolution_px: int, width: int) -> list[int]:
    """Channels at 4x4 and after each stage; UserError for a resolution that the family does not have."""
    if resolution_px not in CHANNEL_MULTIPLES:
        known = ", ".join(str(size) for size in CHANNEL_MULTIPLES)
        raise UserError(
            f"resolution {resolution_px} is not one that biggan has; read the images at one of {known} (--resolution)."
        )
    return [width * multiple for multiple in CHANNEL_MULTIPLES[resolution_px]]


def attended_stages(attention_px: int | Sequence[int], count: int) -> list[int]:
    """The stages, of `count` that each double the image, that end at one of these sizes; UserError where none does."""
    sizes = {attention_px} if isinstance(attention_px, int) else set(attention_px)
    ends = [START_PX << (stage + 1) for stage in range(count)]
    for size in sorted(sizes - {0, *ends}):
        raise UserError(f"attention at {size} pixels is impossible: no block ends at that size.")
    return [stage for stage, end in enumerate(ends) if end in sizes]


def orthogonal(layer: nn.Module) -> None:
    """Orthogonal weights and zero biases, but not for the gains of conditional norms, which start near zero."""
    if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
        nn.init.zeros_(layer.bias)
        parametrizations = getattr(layer, "parametrizations", None)
        weight = layer.weight if parametrizations is None else parametrizations["weight"].original
        nn.init.orthogonal_(weight)


def _chunk_sizes(total: int, pieces: int) -> list[int]:
    if total < pieces:
        raise UserError(f"latent_dim {total} cannot be cut into {pieces} pieces; use at least {pieces}.")
    base, more = divmod(total, pieces)
    return [base + (index < more) for index in range(pieces)]
