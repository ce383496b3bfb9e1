"""Losses on outputs: hard labels (NOKD) and soft targets (BLKD).  Pure functions of tensors.

All take `student["output"]`, `teacher["output"]` and `batch["labels"]`: logits N x C and int64 N for classes;
encoded values float N x d (`LabelSpace.encode`, [0, 1]) for all three with continuous labels.  Where the batch holds
`weights`, float N with mean 1 over the training set, every term of row i counts weights[i] times; the sum is still
divided by N, so that the gradient's expectation does not depend on which rows meet in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch.nn import functional

from classifiers.distillation import DISTILLERS
from classifiers.distillation.settings import HardLabelSettings, SoftTargetSettings
from interfaces.distillation import Outputs


class Distiller(Protocol):
    """A DistillationLoss that says whether it needs the teacher's outputs."""

    @property
    def needs_teacher(self) -> bool: ...

    def __call__(self, student: Outputs, teacher: Outputs, batch: Outputs) -> dict[str, torch.Tensor]: ...


def hard_loss(
    output: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean cross entropy (int64 labels), or mean squared error on encoded labels (float labels), of weighted rows."""
    if labels.dtype != torch.int64:
        return squared_loss(output, labels, weights)
    if weights is None:
        return functional.cross_entropy(output, labels, label_smoothing=label_smoothing)
    rows = functional.cross_entropy(output, labels, label_smoothing=label_smoothing, reduction="none")
    return (weights * rows).mean()


def squared_loss(output: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared difference of N x d values, of weighted rows."""
    if weights is None:
        return functional.mse_loss(output, wanted)
    return (weights[:, None] * (output - wanted).square()).mean()


def soft_loss(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """KL_T = (T^2 / B) sum KL(softmax(t / T) || softmax(s / T)): the mean over the batch, not over the elements.

    Hinton et al. 2015, arXiv 1503.02531, section 2.  Dividing by B x C as well, as the first release of cGAN-KD
    does, makes the weight depend on the number of classes.
    """
    student_log = functional.log_softmax(student_logits / temperature, dim=1)
    teacher_log = functional.log_softmax(teacher_logits / temperature, dim=1)
    if weights is None:
        return functional.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True) * temperature**2
    rows = functional.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(dim=1)
    return (weights * rows).mean() * temperature**2


@DISTILLERS.register("none", settings=HardLabelSettings)
@dataclass(frozen=True)
class HardLabels(HardLabelSettings):
    """NOKD: the labels alone.  `label_smoothing` in [0, 1) for classes; it does nothing for continuous labels."""

    needs_teacher: ClassVar[bool] = False

    def __call__(self, student: Outputs, teacher: Outputs, batch: Outputs) -> dict[str, torch.Tensor]:
        return {"loss": hard_loss(student["output"], batch["labels"], self.label_smoothing, batch.get("weights"))}


@DISTILLERS.register("blkd", settings=SoftTargetSettings)
@dataclass(frozen=True)
class SoftTargets(SoftTargetSettings):
    """BLKD: hard_weight x CE + soft_weight x KL_T.

    Continuous labels have no soft targets in the literature that cGAN-KD compares with.  Here the soft term is then
    the squared error to the teacher's prediction, so that the whole is MSE to a target mixed of label and teacher.
    """

    needs_teacher: ClassVar[bool] = True

    def __call__(self, student: Outputs, teacher: Outputs, batch: Outputs) -> dict[str, torch.Tensor]:
        weights = batch.get("weights")
        hard = hard_loss(student["output"], batch["labels"], weights=weights)
        if batch["labels"].dtype == torch.int64:
            soft = soft_loss(student["output"], teacher["output"], self.temperature, weights)
        else:
            soft = squared_loss(student["output"], teacher["output"], weights)
        return {"loss": self.hard_weight * hard + self.soft_weight * soft, "hard": hard, "soft": soft}
