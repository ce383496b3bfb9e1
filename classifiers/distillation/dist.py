"""DIST: probabilities that correlate with the teacher's, along each image and along each class.

Huang et al. 2022, arXiv 2205.10536, equations 7 to 9.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from classifiers.distillation.settings import CorrelationSettings
from interfaces.method import Batch, Method, Views
from layers.label_losses import weighted_mean
from training.distilling import MethodSpace
from training.methods import METHODS

_EPSILON = 1e-8


def correlation(one: torch.Tensor, other: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Pearson's r of each row of N x M with the same row of the other: N.  weights: M, of the entries."""
    counts = torch.ones_like(one[:1]) if weights is None else weights[None].to(one)
    means = [(counts * rows).sum(dim=1, keepdim=True) / counts.sum() for rows in (one, other)]
    centred = [counts.sqrt() * (rows - mean) for rows, mean in zip((one, other), means, strict=True)]
    lengths = [torch.linalg.vector_norm(rows, dim=1) for rows in centred]
    return (centred[0] * centred[1]).sum(dim=1) / (lengths[0] * lengths[1] + _EPSILON)


def correlation_losses(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float, weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """T^2 x (mean of 1 - r over the images' rows, mean of 1 - r over the classes' columns) of the probabilities."""
    ours, wanted = (functional.softmax(logits / temperature, dim=1) for logits in (student_logits, teacher_logits))
    rows = weighted_mean(1 - correlation(ours, wanted), weights)
    columns = (1 - correlation(ours.T, wanted.T, weights)).mean()
    return rows * temperature**2, columns * temperature**2


@METHODS.register("dist", settings=CorrelationSettings)
class Correlations(Method):
    """L = row_weight x inter-class + column_weight x intra-class relation, beside the cross entropy."""

    requires = frozenset({"logits"})
    whole_batch = True

    def __init__(self, space: MethodSpace, temperature: float, row_weight: float, column_weight: float) -> None:
        super().__init__()
        space.classes()
        self.temperature, self.row_weight, self.column_weight = temperature, row_weight, column_weight

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        rows, columns = correlation_losses(student.output, teacher.output, self.temperature, batch.weights)
        loss = self.row_weight * rows + self.column_weight * columns
        return {"loss": loss, "dist_rows": rows, "dist_columns": columns}
