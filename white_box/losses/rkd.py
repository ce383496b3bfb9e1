"""RKD: distances and angles between the images of a batch, as the teacher's vectors have them.

Source: Park et al. 2019, arXiv 1904.05068, equations 5 to 9.  D_ij = |x_i - x_j| / mean distance of unequal rows, and
A_ijk = cosine between x_j - x_i and x_k - x_i; smooth L1 over all B^2 and B^3 entries.

RepDistiller takes D^2 from |a|^2 + |b|^2 - 2 ab, which close rows far from the origin lose, and lets equal rows count
as 1e-6 apart in the mean (`equal_rows` counted); here differences are formed, and equal rows have no direction.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from interfaces.method import Batch
from runtime.errors import UserError
from training.distilling import MethodSpace
from training.methods import METHODS
from white_box.losses.vectors import PairedVectors
from white_box.settings_vectors import EqualRows, RelationSettings

_LEAST = 1e-6  # what the published form takes for the distance of equal rows
_ENTRIES = 2**24  # of B x B x d differences and B x B x B cosines that are held at once


def distances(vectors: torch.Tensor, weights: torch.Tensor | None, equal_rows: EqualRows) -> torch.Tensor:
    """B x d -> B x B over their weighted mean; 0 with the gradient 0 between equal rows."""
    squares = (vectors[:, None] - vectors[None]).square().sum(dim=2)
    apart = squares > 0
    found = torch.where(apart, squares, 1.0).sqrt() * apart
    others = ~torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    if equal_rows == "counted":
        found, apart = torch.where(others, found.clamp_min(_LEAST), 0.0), others
    share = apart.float() if weights is None else apart * torch.outer(weights, weights)
    mean = (found * share).sum() / share.sum().clamp_min(1e-12)
    return found / mean.clamp_min(1e-12)


def distance_rows(
    student: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor | None, equal_rows: EqualRows = "left-out"
) -> torch.Tensor:
    """B x d_s and B x d_t -> scalar: mean over B^2 of smooth L1 of the distances, weighted by both rows."""
    with torch.no_grad():
        wanted = distances(teacher, weights, equal_rows)
    values = functional.smooth_l1_loss(distances(student, weights, equal_rows), wanted, reduction="none")
    return (values if weights is None else values * torch.outer(weights, weights)).mean()


def angles(vectors: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """B x d and a x d -> a x B x B: cosines at each anchor; 0 with the gradient 0 where a difference is 0."""
    apart = vectors[None] - anchors[:, None]
    squares = apart.square().sum(dim=2, keepdim=True)
    unit = apart * torch.where(squares > 0, torch.where(squares > 0, squares, 1.0).rsqrt(), 0.0)
    return unit @ unit.mT


def angle_rows(student: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """B x d_s and B x d_t -> scalar: mean over B^3 of smooth L1 of the cosines, weighted by all three rows.

    Large batches go by groups of anchors, whose cosines are formed again for the gradient.
    """
    rows = len(student)
    group = max(1, _ENTRIES // (rows * max(rows, student.shape[1], teacher.shape[1])))
    w = student.new_ones(rows) if weights is None else weights.to(student)

    def part(ours: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = angles(teacher, teacher[at])
        values = functional.smooth_l1_loss(angles(ours, ours[at]), wanted, reduction="none")
        return torch.einsum("ijk,i,j,k->", values, w[at], w, w) / rows**3

    groups = torch.arange(rows, device=student.device).split(group)
    if len(groups) == 1:
        return part(student, groups[0])
    return torch.stack([checkpoint(part, student, at, use_reentrant=False) for at in groups]).sum()


@METHODS.register("rkd", settings=RelationSettings)
class RelationalDistillation(PairedVectors):
    """L = weight x (25 distances + 50 angles)."""

    whole_batch = True  # no mean over rows

    def __init__(
        self,
        space: MethodSpace,
        weight: float,
        distance_weight: float,
        angle_weight: float,
        pairs: Sequence[str],
        equal_rows: EqualRows,
    ) -> None:
        """UserError where both terms have the weight 0."""
        if not distance_weight and not angle_weight:
            raise UserError(f"method {space.name}: distance_weight and angle_weight are both 0; set one above 0.")
        super().__init__(space, pairs)
        self.weights, self.equal_rows = (weight * distance_weight, weight * angle_weight), equal_rows

    def terms(self, student: torch.Tensor, teacher: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        found = {}
        if self.weights[0]:
            found["distance"] = self.weights[0] * distance_rows(student, teacher, batch.weights, self.equal_rows)
        if self.weights[1]:
            found["angle"] = self.weights[1] * angle_rows(student, teacher, batch.weights)
        return {"loss": torch.stack(list(found.values())).sum(), **found}
