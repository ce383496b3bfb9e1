"""Precision and recall of a set of fakes by nearest neighbours (Kynkäänniemi et al. 2019).

Precision: the share of fakes that lie within the real images' neighbourhoods.  Recall: the share of real images that
lie within the fakes' neighbourhoods, which falls when a generator forgets part of the data.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from runtime.errors import UserError
from training.finite import require_finite

_CHUNK_ROWS = 1024


class PrecisionRecall(NamedTuple):
    """Both in [0, 1]."""

    precision: float
    recall: float


def precision_recall(
    fake: np.ndarray | torch.Tensor,
    real: np.ndarray | torch.Tensor,
    *,
    neighbours: int = 3,
    chunk_rows: int = _CHUNK_ROWS,
) -> PrecisionRecall:
    """N x d and M x d features; a neighbourhood reaches to the `neighbours`-th nearest image of its own set."""
    if min(len(fake), len(real)) <= neighbours:
        raise UserError(
            f"precision and recall with {neighbours} neighbours need more than {neighbours} images in each set, "
            f"not {len(fake)} and {len(real)}; give more images."
        )
    a, b = _as_float64(fake), _as_float64(real)
    return PrecisionRecall(
        precision=_share_covered(a, b, _radii(b, neighbours, chunk_rows), chunk_rows),
        recall=_share_covered(b, a, _radii(a, neighbours, chunk_rows), chunk_rows),
    )


def _radii(points: torch.Tensor, neighbours: int, chunk_rows: int) -> torch.Tensor:
    """The distance from each point to its `neighbours`-th nearest other point."""
    found = []
    for start in range(0, len(points), chunk_rows):
        rows = points[start : start + chunk_rows]
        distances = _distances(rows, points)
        own = torch.arange(len(rows))
        distances[own, start + own] = 0.0
        found.append(distances.kthvalue(neighbours + 1, dim=1).values)
    return torch.cat(found)


def _share_covered(points: torch.Tensor, centres: torch.Tensor, radii: torch.Tensor, chunk_rows: int) -> float:
    covered = 0
    for start in range(0, len(points), chunk_rows):
        distances = _distances(points[start : start + chunk_rows], centres)
        covered += int((distances <= radii).any(dim=1).sum())
    return covered / len(points)


def _distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _as_float64(features: np.ndarray | torch.Tensor) -> torch.Tensor:
    values = torch.as_tensor(features).detach().cpu().double()
    require_finite(values.numpy(), "features")
    return values
