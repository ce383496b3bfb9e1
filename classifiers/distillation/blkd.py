"""BLKD: a teacher's soft labels beside the hard ones.

Hinton et al. 2015, arXiv 1503.02531.  Continuous labels have no soft targets in the literature that cGAN-KD compares
with.  Here the soft term is then the squared error to the teacher's prediction, so that the whole is MSE to a target
mixed of label and teacher.

TAKD (Mirzadeh et al. 2020, arXiv 1902.03393) is this method twice: an assistant learns from the teacher, the student
from the assistant (scripts/takd.sh).
"""

from __future__ import annotations

import torch

from classifiers.distillation.settings import SoftTargetSettings
from interfaces.method import Batch, Method, Views
from layers.label_losses import hard_loss, soft_loss, squared_loss, standardised
from training.distilling import MethodSpace
from training.methods import METHODS


@METHODS.register("blkd", settings=SoftTargetSettings)
class SoftTargets(Method):
    """L = hard_weight x CE + soft_weight x KL_T; with `per_element` KL_T / C.

    With `standardise` KL_T is that of standardised logits (Sun et al. 2024, arXiv 2403.01427), CE of the plain ones.
    """

    requires = frozenset({"labels", "logits"})
    whole_loss = True

    def __init__(
        self,
        space: MethodSpace,
        temperature: float,
        hard_weight: float,
        soft_weight: float,
        standardise: bool,
        per_element: bool,
    ) -> None:
        """UserError for a setting that means nothing for continuous labels."""
        super().__init__()
        if standardise or per_element:
            space.classes()
        self.temperature, self.hard_weight, self.soft_weight = temperature, hard_weight, soft_weight
        self.standardise, self.per_element = standardise, per_element

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        hard = hard_loss(student.output, batch.labels, weights=batch.weights)
        soft = self._soft(student.output, teacher.output, batch)
        return {"loss": self.hard_weight * hard + self.soft_weight * soft, "hard": hard, "soft": soft}

    def _soft(self, student: torch.Tensor, teacher: torch.Tensor, batch: Batch) -> torch.Tensor:
        if batch.labels.dtype != torch.int64:
            return squared_loss(student, teacher, batch.weights)
        if self.standardise:
            student, teacher = standardised(student), standardised(teacher)
        soft = soft_loss(student, teacher, self.temperature, batch.weights)
        return soft / student.shape[1] if self.per_element else soft
