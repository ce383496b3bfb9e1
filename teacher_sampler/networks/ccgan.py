"""The CcGAN generators (Ding et al. 2021, 2023): SNGAN and SAGAN for one continuous label, with plain weights.

One network covers both at every size, with the improved label input (ILI: the label through its own small network
into every conditional norm) and the naive one (NLI: the label added to the first linear layer's output).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from interfaces import LabelSpace
from layers.attention import SelfAttention2d
from runtime.errors import UserError
from teacher_sampler.networks import TEACHERS
from teacher_sampler.networks.biggan import UpBlock

NORM_GROUPS = 8
NORM_EPS = 1e-5
# What is added to the label before its network, by the network's depth: published are five layers and, for cell counts,
# seven.
LABEL_OFFSETS: dict[int, float] = {5: 1e-8, 7: 0.0}


class LabelEmbeddingNetwork(nn.Module):
    """y2h: float32 N x 1 in [0, 1] -> N x dimension.  `layers` linear layers, GroupNorm and ReLU between them.

    `final_relu`: whether a ReLU follows the last one too (it does but for SteeringAngle at 64 pixels).
    """

    def __init__(self, dimension: int, layers: int, final_relu: bool) -> None:
        super().__init__()
        if layers not in LABEL_OFFSETS:
            raise UserError(f"a label embedding of {layers} layers is unknown; it has 5 or 7.")
        if dimension % NORM_GROUPS:
            raise UserError(f"a label embedding of {dimension} numbers is impossible: {NORM_GROUPS} must divide it.")
        self.dimension, self.layers = dimension, layers
        self.offset, self.final_relu = LABEL_OFFSETS[layers], final_relu
        parts: list[nn.Module] = [nn.Linear(1, dimension)]
        for _ in range(layers - 1):
            parts += [nn.GroupNorm(NORM_GROUPS, dimension), nn.ReLU(), nn.Linear(dimension, dimension)]
        self.main = nn.Sequential(*parts)

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        h = self.main(labels + self.offset)
        return F.relu(h) if self.final_relu else h


class CcGANGenerator(nn.Module):
    """G(z, y): float32 N x latent_dim and labels N x 1 in [0, 1] -> float32 N x channels x H x W in [-1, 1].

    `widths`: channels of the start_px x start_px map and after each block, each of which doubles the size.
    `attention_after`: the block, from 0, whose output goes through self-attention; None for none.
    `conditioning` "embedded" is ILI; "added" is NLI, and the last three arguments then say nothing.
    `blocks.0`, `blocks.1`, ... are the taps of white-box distillation.
    """

    def __init__(
        self,
        latent_dim: int,
        widths: Sequence[int],
        channels: int,
        conditioning: Literal["embedded", "added"] = "embedded",
        start_px: int = 4,
        attention_after: int | None = None,
        embedding_dim: int = 128,
        embedding_layers: int = 5,
        final_relu: bool = True,
    ) -> None:
        super().__init__()
        if conditioning not in ("embedded", "added"):
            raise UserError(f"conditioning {conditioning!r} is none that ccgan has; use embedded or added.")
        if len(widths) < 2:
            raise UserError(
                f"widths {list(widths)} make no block; name the channels at the start and after each block."
            )
        if attention_after is not None and not 0 <= attention_after < len(widths) - 1:
            raise UserError(f"attention_after {attention_after} is no block; there are 0 to {len(widths) - 2}.")
        self.latent_dim, self.start_px, self.attention_after = latent_dim, start_px, attention_after
        embedded = conditioning == "embedded"
        self.embedding = LabelEmbeddingNetwork(embedding_dim, embedding_layers, final_relu) if embedded else None
        self.linear = nn.Linear(latent_dim, widths[0] * start_px**2)
        condition_dim = embedding_dim if embedded else 1
        self.blocks = nn.ModuleList(
            UpBlock(before, after, condition_dim, spectral_normed=False, norm_eps=NORM_EPS)
            for before, after in pairwise(widths)
        )
        self.attention = None
        if attention_after is not None:
            self.attention = SelfAttention2d(widths[attention_after + 1], spectral_normed=False, bias=True)
        self.norm = nn.BatchNorm2d(widths[-1])
        self.conv = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, latents: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        first = self.linear(latents)
        if self.embedding is not None:
            condition = self.embedding(encoded)
        else:
            # Norms without a condition are conditional ones of the constant 1.
            first, condition = first + encoded, torch.ones_like(encoded)
        h = first.unflatten(1, (-1, self.start_px, self.start_px))
        if not self.training:
            h = h.contiguous(memory_format=torch.channels_last)
        for index, block in enumerate(self.blocks):
            h = block(h, condition)
            if self.attention is not None and index == self.attention_after:
                h = self.attention(h)
        return torch.tanh(self.conv(F.relu(self.norm(h))))


@TEACHERS.register("ccgan")
def build_ccgan(label_space: LabelSpace, **arguments: Any) -> CcGANGenerator:
    """`arguments`: those of CcGANGenerator; the label must be one continuous value."""
    if label_space.kind != "continuous" or label_space.width != 1:
        raise UserError("ccgan takes one continuous label, and this label space is another; use biggan for it.")
    return CcGANGenerator(**arguments)
