"""BLKD: a teacher's soft labels beside the hard ones.

Hinton et al. 2015, arXiv 1503.02531.  Continuous labels have no soft targets in the literature that cGAN-KD compares
with.  Here the soft term is then the squared error to the teacher's prediction, so that the whole is MSE to a target
mixed of label and teacher.
"""

from __future__ import annotations

import torch

from classifiers.distillation.settings import SoftTargetSettings
from interfaces.method import Batch, Method, Views
from layers.label_losses import hard_loss, soft_loss, squared_loss
from training.distilling import MethodSpace
from training.methods import METHODS


@METHODS.register("blkd", settings=SoftTargetSettings)
class SoftTargets(Method):
    """L = hard_weight x CE + soft_weight x KL_T."""

    requires = frozenset({"labels", "logits"})
    whole_loss = True

    def __init__(self, space: MethodSpace, temperature: float, hard_weight: float, soft_weight: float) -> None:
        super().__init__()
        self.temperature, self.hard_weight, self.soft_weight = temperature, hard_weight, soft_weight

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        hard = hard_loss(student.output, batch.labels, weights=batch.weights)
        if batch.labels.dtype == torch.int64:
            soft = soft_loss(student.output, teacher.output, self.temperature, batch.weights)
        else:
            soft = squared_loss(student.output, teacher.output, batch.weights)
        return {"loss": self.hard_weight * hard + self.soft_weight * soft, "hard": hard, "soft": soft}
