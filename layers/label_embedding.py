"""From encoded labels to a vector, for class labels and for continuous labels."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from layers.spectral_norm import spectral

OCTAVES = 4  # sine and cosine of pi*y, 2*pi*y, 4*pi*y, 8*pi*y: neighbouring labels stay neighbours


class LabelEmbedding(nn.Module):
    """int64 N (classes), or float32 N x d in about [0, 1] (continuous) -> float32 N x out_dim.

    Classes: a table of `width` rows.  Continuous labels of dimension `width`: Fourier features, then an MLP of one
    hidden layer.  It takes the place of CcGAN's label network (ILI), and is trained with the rest of the network.
    """

    frequencies: torch.Tensor

    def __init__(
        self, kind: Literal["classes", "continuous"], width: int, out_dim: int, spectral_normed: bool = False
    ) -> None:
        super().__init__()
        self.kind, self.width = kind, width
        if kind == "classes":
            self.table = spectral(nn.Embedding(width, out_dim), spectral_normed)
            return
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(OCTAVES), persistent=False)
        features = width * (1 + 2 * OCTAVES)
        self.mlp = nn.Sequential(
            spectral(nn.Linear(features, out_dim), spectral_normed),
            nn.SiLU(),
            spectral(nn.Linear(out_dim, out_dim), spectral_normed),
        )

    def forward(self, encoded: torch.Tensor) -> torch.Tensor:
        if self.kind == "classes":
            return self.table(encoded)
        values = encoded.reshape(-1, self.width)
        phases = (values[:, :, None] * self.frequencies).flatten(1)
        return self.mlp(torch.cat([2.0 * values - 1.0, phases.sin(), phases.cos()], dim=1))
