"""A density ratio without training: distances to the k-th nearest real image and to the k-th nearest fake.

Loftsgaarden and Quesenberry 1965 estimate a density at x by k / (n V rho_k(x)^d), where rho_k is the distance to the
k-th of n neighbours; the ratio of two such estimates (Wang, Kulkarni and Verdu 2009, IEEE Trans. IT 55(5)) is

    r(x, y) = (n_fake k_real) / (n_real k_fake) * (rho_fake(x) / rho_real(x))^d,

over the images of label y (classes), or of the labels in y's vicinity (continuous labels).  With a hundred images in
hundreds of dimensions neither the dimension of the extractor's features nor an estimate of their intrinsic dimension
is a usable exponent: the estimator's noise is raised to it.  So the exponent b and a factor exp(a) are calibrated:

    log r = log(n_fake k_real / (n_real k_fake)) + b log(rho_fake / rho_real) + a.

For every b, a is such that the mean ratio on held-out fakes is 1 (of each class, or over all labels), and b is the one
of a grid with the lowest penalised softplus loss on held-out reals and fakes, the loss that ratio networks are chosen
by.  Exponents at which the mean is carried by less than a fifth of the fakes (Kish's effective share) are left out:
such a mean says nothing, and hardly a fake would be accepted.  b = 0, the constant ratio, competes; the published
estimator is b = d, a = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from filters.neighbours import nearest

_SMALLEST_DISTANCE = 1e-6
LARGEST_LOG = 9.0
_VICINITY_SHARE = 0.05  # of the real images: those of nearest label count as of this continuous label


class NearestNeighbourRatio(nn.Module):
    """(phi(x) float N x d, encoded labels) -> ratios N >= 0, from stored features of real images and fakes.

    reals, fakes: how many are stored; neighbours: k, or fewer where a label has fewer images.
    """

    real: torch.Tensor
    fake: torch.Tensor
    real_labels: torch.Tensor
    fake_labels: torch.Tensor
    slope: torch.Tensor
    offset: torch.Tensor

    def __init__(
        self, feature_dim: int, label_kind: str, label_width: int, reals: int, fakes: int, neighbours: int
    ) -> None:
        super().__init__()
        self.label_kind, self.neighbours = label_kind, neighbours
        classes = label_kind == "classes"
        for name, rows in (("real", reals), ("fake", fakes)):
            self.register_buffer(name, torch.zeros(rows, feature_dim))
            shape = (rows,) if classes else (rows, label_width)
            self.register_buffer(f"{name}_labels", torch.zeros(shape, dtype=torch.int64 if classes else torch.float32))
        self.register_buffer("slope", torch.zeros((), dtype=torch.float64))
        self.register_buffer("offset", torch.zeros(label_width if classes else 1, dtype=torch.float64))

    def forward(self, features: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        statistic = self.statistic(features, encoded)
        logs = (
            statistic.base
            + float(self.slope) * statistic.log_distance_ratio
            + self.offset.cpu().numpy()[statistic.group]
        )
        return torch.from_numpy(np.exp(np.minimum(logs, LARGEST_LOG)).astype(np.float32)).to(features.device)

    def statistic(self, features: torch.Tensor, encoded: torch.Tensor) -> Statistic:
        """What the ratio is made of, before calibration."""
        queries, labels = _array(features), _array(encoded)
        base, logs = np.zeros(len(queries)), np.zeros(len(queries))
        values, label_of_row = np.unique(labels, axis=0, return_inverse=True)
        label_of_row = label_of_row.reshape(len(labels))
        real, fake = _array(self.real), _array(self.fake)
        for place, value in enumerate(values):
            members = np.flatnonzero(label_of_row == place)
            real_rows, fake_rows = self._members(value)
            if not (len(real_rows) and len(fake_rows)):
                continue  # nothing to compare with: the ratio stays 1
            k_real, k_fake = (min(self.neighbours, len(rows)) for rows in (real_rows, fake_rows))
            to_real = nearest(queries[members], real[real_rows], k_real)[0][:, -1]
            to_fake = nearest(queries[members], fake[fake_rows], k_fake)[0][:, -1]
            base[members] = np.log(len(fake_rows) * k_real / (len(real_rows) * k_fake))
            logs[members] = np.log(np.maximum(to_fake, _SMALLEST_DISTANCE) / np.maximum(to_real, _SMALLEST_DISTANCE))
        group = labels.astype(np.int64) if self.label_kind == "classes" else np.zeros(len(labels), dtype=np.int64)
        return Statistic(base, logs, group)

    def _members(self, label: Any) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the real images and of the fakes that count as of this label."""
        real, fake = _array(self.real_labels), _array(self.fake_labels)
        if self.label_kind == "classes":
            return np.flatnonzero(real == label), np.flatnonzero(fake == label)
        apart = [np.sqrt(((stored - label) ** 2).sum(axis=1)) for stored in (real, fake)]
        wanted = min(len(real), max(10 * self.neighbours, int(_VICINITY_SHARE * len(real))))
        radius = np.partition(apart[0], wanted - 1)[wanted - 1]
        return np.flatnonzero(apart[0] <= radius), np.flatnonzero(apart[1] <= radius)


@dataclass(frozen=True, eq=False)
class Statistic:
    """float64 N: `base`, the log of the ratio of the counts; `log_distance_ratio`; int64 N: `group` of the offset."""

    base: np.ndarray
    log_distance_ratio: np.ndarray
    group: np.ndarray


def _array(tensor: torch.Tensor) -> np.ndarray:
    statistic: np.ndarray = tensor.detach().cpu().numpy()
    return statistic
