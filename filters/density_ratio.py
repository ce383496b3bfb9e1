"""r(x, y) = psi(phi(x), e(y)), an estimate of p_real(x | y) / p_teacher(x | y).

The networks and the penalised Softplus loss are those of cDR-RS, the subsampling step of cGAN-KD, with widths that a
factor scales down for small data.  Three departures, the first two measured to lower the held-out loss on small data:
the class embedding starts near the identity; one input more tells how well the extractor's own head agrees with the
asked label; and a fresh network is the constant 1, "fakes are as good as real images", so that training has to earn
every departure from it and the last ReLU cannot start dead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from filters.features import Features
from filters.nearest_ratio import NearestNeighbourRatio
from interfaces import LabelSpace
from runtime.registry import Registry

RATIO_NETWORKS: Registry[tuple[int, ...]] = Registry("density-ratio network")
RATIO_NETWORKS.register("mlp3")((2048, 1024, 512))
RATIO_NETWORKS.register("mlp5")((2048, 1024, 512, 256, 128))
RATIO_NETWORKS.register("mlp7")((2048, 2048, 1024, 1024, 512, 256, 128))
RATIO_NETWORKS.register("mlp9")((2048, 2048, 1024, 1024, 512, 512, 256, 256, 128))
RATIO_NETWORKS.register("mlp3-regression")((512, 256, 128))  # the journal version's, for continuous labels
RATIO_NETWORKS.register("mlp5-regression")((1024, 512, 256, 128, 64))

_GROUPS = 8
_NARROWEST = 4 * _GROUPS  # in groups of two channels GroupNorm leaves little but a sign
_FREQUENCIES = 8
_CONTINUOUS_EMBEDDING = 32


def penalised_softplus(r_real: torch.Tensor, r_fake: torch.Tensor, penalty: float) -> torch.Tensor:
    """mean_fake[s(r) r - softplus(r)] - mean_real[s(r)] + penalty (mean_fake[r] - 1)^2, in float32; s = sigmoid.

    Without the penalty its minimiser is r = p_real / p_fake (cDR-RS).  r_real: N, r_fake: M, both >= 0.
    """
    real, fake = r_real.float(), r_fake.float()
    bregman = (torch.sigmoid(fake) * fake - nn.functional.softplus(fake)).mean() - torch.sigmoid(real).mean()
    return bregman + penalty * (fake.mean() - 1.0) ** 2


class ContinuousEmbedding(nn.Module):
    """Labels in [0, 1], N x d -> N x 32: sines and cosines of half turns, Linear, ReLU; trained with psi."""

    frequencies: torch.Tensor

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.pi * torch.arange(1, _FREQUENCIES + 1, dtype=torch.float32))
        self.linear = nn.Linear(dimension * 2 * _FREQUENCIES, _CONTINUOUS_EMBEDDING)

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        angles = (labels[:, :, None] * self.frequencies).flatten(1)
        return torch.relu(self.linear(torch.cat([angles.sin(), angles.cos()], dim=1)))


class RatioNetwork(nn.Module):
    """psi and e: (phi(x) float N x d, encoded labels) -> ratios N >= 0.

    feature_dim: d, which counts the agreement column where there is one (`Features.with_label`).
    label_kind: classes, continuous, or none for a network that sees no label.
    mlp: a name in RATIO_NETWORKS; width: factor on the published widths (rounded to multiples of 8, at least 32).
    Hidden layers are Linear, GroupNorm(8), ReLU, Dropout; the output is Linear, ReLU.  Features are standardised by the
    constants of `set_standardisation` first, so that the learning rate does not depend on the extractor's scale.
    """

    feature_mean: torch.Tensor
    feature_scale: torch.Tensor

    def __init__(
        self, feature_dim: int, label_kind: str, label_width: int, mlp: str, width: float, dropout: float
    ) -> None:
        super().__init__()
        self.embedding: nn.Module | None
        if label_kind == "none":
            self.embedding, embedded = None, 0
        elif label_kind == "classes":
            self.embedding, embedded = _class_embedding(label_width), label_width
        else:
            self.embedding, embedded = ContinuousEmbedding(label_width), _CONTINUOUS_EMBEDDING
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_scale", torch.ones(feature_dim))
        layers: list[nn.Module] = []
        current = feature_dim + embedded
        for published in RATIO_NETWORKS.get(mlp):
            hidden = max(_NARROWEST, round(published * width / _GROUPS) * _GROUPS)
            layers += [nn.Linear(current, hidden), nn.GroupNorm(_GROUPS, hidden), nn.ReLU(), nn.Dropout(dropout)]
            current = hidden
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(current, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.ones_(self.output.bias)

    @torch.no_grad()
    def set_standardisation(self, features: torch.Tensor) -> None:
        """Take mean and standard deviation of each feature over N x d."""
        self.feature_mean.copy_(features.mean(dim=0))
        self.feature_scale.copy_(features.std(dim=0).clamp_min(1e-3 * float(features.std()) + 1e-12).reciprocal())

    def forward(self, features: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        standard = (features.float() - self.feature_mean) * self.feature_scale
        joined = standard if self.embedding is None else torch.cat([self.embedding(encoded), standard], dim=1)
        return torch.relu(self.output(self.hidden(joined))).squeeze(1)


class PerClassRatio(nn.Module):
    """One ratio network without label input for each class (DRE-F-SP+RS): C times the training, no shared weights.

    Called like RatioNetwork; each row goes to its class's network.
    """

    def __init__(self, networks: Sequence[RatioNetwork]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, features: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        ratios = torch.zeros(len(features), dtype=torch.float32, device=features.device)
        for value in torch.unique(encoded).tolist():
            rows = torch.nonzero(encoded == value).squeeze(1)
            ratios[rows] = self.networks[value](features[rows], encoded[rows])
        return ratios


def _class_embedding(classes: int) -> nn.Embedding:
    """C x C, trained; starts near 3 times the identity, so that classes are apart from the first step."""
    embedding = nn.Embedding(classes, classes)
    with torch.no_grad():
        embedding.weight.mul_(0.1).add_(3.0 * torch.eye(classes))
    return embedding


def build_ratio_network(arguments: dict[str, Any]) -> nn.Module:
    """The network of a card's `ratio` entry: (features, encoded labels) -> ratios; `form` tells which kind."""
    rest = {name: value for name, value in arguments.items() if name != "form"}
    form = arguments.get("form", "conditional")
    if form == "nearest-neighbours":
        return NearestNeighbourRatio(**rest)
    if form == "per-class":
        count = int(rest.pop("classes"))
        return PerClassRatio([RatioNetwork(**rest) for _ in range(count)])
    return RatioNetwork(**rest)


class DensityRatio:
    """A fitted filter: (uint8 N x C x H x W, N labels in the user's units) -> float32 N >= 0 on its device.

    `card["sha256"]` names the weights; `features` is the frozen extractor.
    """

    def __init__(self, features: Features, network: nn.Module, label_space: LabelSpace, card: dict[str, Any]) -> None:
        self.features, self.label_space, self.card, self.device = features, label_space, card, features.device
        self.network = network.to(self.device).eval().requires_grad_(False)

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
        encoded = self.label_space.encode(labels).to(self.device)
        inputs = self.features.with_label(images, encoded, bool(self.card["settings"]["agreement"]))
        return self.network(inputs, encoded).float()
