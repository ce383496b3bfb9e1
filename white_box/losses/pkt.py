"""PKT: which images of the batch are near to which, as probabilities.

Source: Passalis and Tefas 2018, arXiv 1803.10837, equations 4 to 7 with the cosine kernel: K = (cos + 1) / 2, each row
divided by its sum, and KL(teacher || student).

RepDistiller takes the mean over B x B entries, so that its weight of 30000 depends on the batch (`reduction` entries),
and its gradient is NaN for a row of zeros; here such a row gets none through its own norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from interfaces.method import Batch
from layers.label_losses import weighted_mean
from training.distilling import MethodSpace
from training.methods import METHODS
from white_box.losses.vectors import PairedVectors
from white_box.settings_vectors import ProbabilitySettings, Reduction

EPSILON = 1e-7
WEIGHTS: dict[str, float] = {"entries": 30000.0, "rows": 30000.0 / 64}


def neighbourhoods(vectors: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """B x d -> B x B, rows with sum 1: how near each row is to each, itself too; a column counts as its row weighs."""
    norms = vectors.square().sum(dim=1, keepdim=True).clamp_min(1e-24).sqrt()
    unit = vectors / (norms + EPSILON)
    kernel = (unit @ unit.T + 1.0) / 2.0
    if weights is not None:
        kernel = kernel * weights
    return kernel / kernel.sum(dim=1, keepdim=True).clamp_min(1e-12)


def divergences(student: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """B x d_s and B x d_t -> B: sum_j p_t log((p_t + 1e-7) / (p_s + 1e-7))."""
    with torch.no_grad():
        wanted = neighbourhoods(teacher, weights)
    found = neighbourhoods(student, weights)
    return (wanted * ((wanted + EPSILON) / (found + EPSILON)).log()).sum(dim=1)


@METHODS.register("pkt", settings=ProbabilitySettings)
class ProbabilisticTransfer(PairedVectors):
    """L = weight x mean over rows, or over entries, of the divergence."""

    whole_batch = True  # each row is compared with all others

    def __init__(self, space: MethodSpace, reduction: Reduction, weight: float | None, pairs: Sequence[str]) -> None:
        super().__init__(space, pairs)
        self.reduction, self.weight = reduction, WEIGHTS[reduction] if weight is None else weight

    def terms(self, student: torch.Tensor, teacher: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        value = weighted_mean(divergences(student, teacher, batch.weights), batch.weights)
        return {"loss": self.weight * (value / len(student) if self.reduction == "entries" else value)}
