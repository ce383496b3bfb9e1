"""BLKD+UDA: labels and soft labels on each image as it comes and after AutoAugment.

Ding et al. 2021, arXiv 2104.03164 (cGAN-KD, first release), after unsupervised data augmentation (Xie et al. 2020,
arXiv 1904.12848), whose consistency term it leaves out.  There the policy sees the image before crop and mirror, here
after them.
"""

from __future__ import annotations

import torch

from classifiers.distillation.settings import AugmentedSettings
from image_data.strong_augment import auto_augment
from interfaces.method import Batch, Method, Views
from layers.label_losses import hard_loss, soft_loss
from training.distilling import MethodSpace
from training.methods import METHODS


@METHODS.register("uda", settings=AugmentedSettings)
class AugmentedSoftTargets(Method):
    """L = K(x) / 2 + K(A(x)) / 2, K = hard_weight x CE + soft_weight x KL_T; the teacher sees the same view."""

    requires = frozenset({"labels", "logits"})
    whole_loss = True
    rows_per_image = 2

    def __init__(self, space: MethodSpace, temperature: float, hard_weight: float, soft_weight: float) -> None:
        super().__init__()
        space.classes()
        self.temperature, self.hard_weight, self.soft_weight = temperature, hard_weight, soft_weight

    def inputs(self, images: torch.Tensor) -> torch.Tensor:
        """Rows 2b: image b as it comes; 2b + 1: after the policy for CIFAR-10."""
        return torch.stack([images, auto_augment(images)], dim=1).flatten(0, 1)

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        labels = batch.labels.repeat_interleave(2)
        weights = None if batch.weights is None else batch.weights.repeat_interleave(2)
        hard = hard_loss(student.output, labels, weights=weights)
        soft = soft_loss(student.output, teacher.output, self.temperature, weights)
        return {"loss": self.hard_weight * hard + self.soft_weight * soft, "hard": hard, "soft": soft}
