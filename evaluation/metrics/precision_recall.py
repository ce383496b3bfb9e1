"""Precision and recall of a set of fakes by nearest neighbours (Kynkäänniemi et al. 2019).

Precision: the share of fakes that lie within the real images' neighbourhoods.  Recall: the share of real images that
lie within the fakes' neighbourhoods, which falls when a generator forgets part of the data.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from evaluation.features import as_float64
from evaluation.metrics.registry import METRICS, PAIRWISE_IMAGES, ImageSets, Metric
from evaluation.table import Column
from runtime.errors import UserError

_CHUNK_ROWS = 1024
_NEIGHBOURS = 3  # the paper's k


@METRICS.register("precision_recall")
class PrecisionRecallMetric(Metric):
    """`precision` and `recall`, over at most 5,000 images of each set; both are left out of the row where refused."""

    columns = {
        "precision": Column("precision", "%", scale=100),
        "recall": Column("recall", "%", scale=100, better="higher"),
    }
    explanation = (
        "Precision is the share of these images that lie among the real ones; recall the share of real images that lie "
        "among these, which falls where a generator forgets a part of the data."
    )
    needs = frozenset({"features", "real"})

    def smallest(self, feature_width: int) -> int:
        return _NEIGHBOURS + 1

    def measure(self, sets: ImageSets) -> dict[str, Any]:
        return precision_recall(*sets.pairwise_features)._asdict()

    def refused(self, sets: ImageSets, reason: str) -> dict[str, Any]:
        return {}

    def protocol(self, sets: ImageSets) -> dict[str, Any]:
        return {"pairwise_images": PAIRWISE_IMAGES, "seed": sets.seed}


class PrecisionRecall(NamedTuple):
    """Both in [0, 1]."""

    precision: float
    recall: float


def precision_recall(
    fake: np.ndarray | torch.Tensor,
    real: np.ndarray | torch.Tensor,
    *,
    neighbours: int = _NEIGHBOURS,
    chunk_rows: int = _CHUNK_ROWS,
) -> PrecisionRecall:
    """N x d and M x d features; a neighbourhood reaches to the `neighbours`-th nearest image of its own set."""
    if min(len(fake), len(real)) <= neighbours:
        raise UserError(
            f"precision and recall with {neighbours} neighbours need more than {neighbours} images in each set, "
            f"not {len(fake)} and {len(real)}; give more images."
        )
    a, b = (torch.from_numpy(as_float64(features)) for features in (fake, real))
    return PrecisionRecall(
        precision=_share_covered(a, b, _radii(b, neighbours, chunk_rows), chunk_rows),
        recall=_share_covered(b, a, _radii(a, neighbours, chunk_rows), chunk_rows),
    )


def _radii(points: torch.Tensor, neighbours: int, chunk_rows: int) -> torch.Tensor:
    """The distance from each point to its `neighbours`-th nearest other point."""
    radii = []
    for start in range(0, len(points), chunk_rows):
        rows = points[start : start + chunk_rows]
        distances = _distances(rows, points)
        own = torch.arange(len(rows))
        distances[own, start + own] = 0.0  # exactly, so that the smallest is the point itself and k + 1 skips it
        radii.append(distances.kthvalue(neighbours + 1, dim=1).values)
    return torch.cat(radii)


def _share_covered(points: torch.Tensor, centres: torch.Tensor, radii: torch.Tensor, chunk_rows: int) -> float:
    covered = 0
    for start in range(0, len(points), chunk_rows):
        distances = _distances(points[start : start + chunk_rows], centres)
        covered += int((distances <= radii).any(dim=1).sum())
    return covered / len(points)


def _distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
