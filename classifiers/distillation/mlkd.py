"""MLKD: soft labels at several temperatures, and correlations of classes and of images, on two views of each image.

Jin et al. 2023, CVPR, "Multi-level logit distillation", equations 3 to 7, with the weights of the code of logit
standardisation (Sun et al. 2024, arXiv 2403.01427).  The strong view is the weak one after RandAugment; the original
crops and mirrors each anew, and runs the networks on one view after the other, so that each has batch statistics of its
own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn import functional

from classifiers.distillation.settings import MultiLevelSettings
from image_data.strong_augment import rand_augment
from interfaces.method import Batch, Method, Views
from layers.label_losses import hard_loss, soft_loss, standardised
from training.distilling import MethodSpace
from training.methods import METHODS

_WEAK_IN_STRONG = 2  # the last temperatures, at which the original takes the weak view's logits in the strong sum


def class_correlation(ours: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """||Q' W Q - P' W P||^2 / C of probabilities N x C; weights: N."""
    gram = [(weights[:, None] * rows).T @ rows for rows in (ours, wanted)]
    return (gram[1] - gram[0]).square().sum() / ours.shape[1]


def image_correlation(ours: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """||Q Q' - P P'||^2 / N of probabilities N x C; a pair of images counts as the product of their weights."""
    pairs = weights[:, None] * weights * (wanted @ wanted.T - ours @ ours.T).square()
    return pairs.sum() / len(ours)


def correlations(
    student: torch.Tensor, teacher: torch.Tensor, temperatures: Sequence[float], weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(of classes, of images), each summed over the temperatures.  Logits N x C."""
    pairs = [[functional.softmax(logits / t, dim=1) for logits in (student, teacher)] for t in temperatures]
    classes = torch.stack([class_correlation(ours, wanted, weights) for ours, wanted in pairs])
    images = torch.stack([image_correlation(ours, wanted, weights) for ours, wanted in pairs])
    return classes.sum(), images.sum()


def kept_rows(teacher_logits: torch.Tensor, kept: Literal["confident", "unsure"]) -> torch.Tensor:
    """1 for the half of the N images of which the teacher is the surest, or the least sure, else 0."""
    confidence = functional.softmax(teacher_logits, dim=1).amax(dim=1)
    middle = confidence.quantile(0.5)
    return (confidence >= middle if kept == "confident" else confidence <= middle).to(teacher_logits)


@METHODS.register("mlkd", settings=MultiLevelSettings)
class MultiLevel(Method):
    """L = hard_weight x (CE of both views) + soft_weight x (KL + classes + images), each at all temperatures.

    Of the weak view only those rows count of which the teacher is the surest.  The original slips four times:
    `as_published` brings back that the selection is a mere factor (the share of the rows), that the strong view's KL
    has the weak logits at the last two temperatures, and that the strong view's correlations are dropped; `kept` unsure
    that the less confident half is kept.
    """

    requires = frozenset({"labels", "logits"})
    whole_loss = True
    rows_per_image = 2
    whole_batch = True

    def __init__(
        self,
        space: MethodSpace,
        temperature: float,
        further_temperatures: Sequence[float],
        hard_weight: float,
        soft_weight: float,
        standardise: bool,
        kept: Literal["confident", "unsure"],
        as_published: bool,
        operations: int,
        magnitude: float,
    ) -> None:
        super().__init__()
        space.classes()
        self.temperatures = (temperature, *further_temperatures)
        self.hard_weight, self.soft_weight, self.standardise = hard_weight, soft_weight, standardise
        self.kept, self.as_published = kept, as_published
        self.operations, self.magnitude = operations, magnitude

    def inputs(self, images: torch.Tensor) -> torch.Tensor:
        """Rows 2b: image b as it comes; 2b + 1: after RandAugment."""
        strong = rand_augment(images, self.operations, self.magnitude)
        return torch.stack([images, strong], dim=1).flatten(0, 1)

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        hard = 2 * hard_loss(student.output, batch.labels.repeat_interleave(2), weights=_twice(batch.weights))
        ours, wanted = (student.output[::2], student.output[1::2]), (teacher.output[::2], teacher.output[1::2])
        kept = kept_rows(wanted[0], self.kept)
        every = torch.ones_like(kept) if batch.weights is None else batch.weights.to(kept)
        soft = self._soft(ours, wanted, kept, every)
        weak = every if self.as_published else kept * every
        factor = kept.mean() if self.as_published else 1.0
        classes, images = (factor * one for one in correlations(ours[0], wanted[0], self.temperatures, weak))
        if not self.as_published:
            more = correlations(ours[1], wanted[1], self.temperatures, every)
            classes, images = classes + more[0], images + more[1]
        loss = self.hard_weight * hard + self.soft_weight * (soft + classes + images)
        return {"loss": loss, "hard": hard, "soft": soft, "mlkd_classes": classes, "mlkd_images": images}

    def _soft(
        self,
        ours: tuple[torch.Tensor, torch.Tensor],
        wanted: tuple[torch.Tensor, torch.Tensor],
        kept: torch.Tensor,
        every: torch.Tensor,
    ) -> torch.Tensor:
        """The KL of both views (weak, strong), at all temperatures."""
        if self.standardise:
            ours, wanted = (
                (standardised(ours[0]), standardised(ours[1])),
                (standardised(wanted[0]), standardised(wanted[1])),
            )
        slip = len(self.temperatures) - _WEAK_IN_STRONG if self.as_published else len(self.temperatures)
        terms = []
        for number, t in enumerate(self.temperatures):
            weak = soft_loss(ours[0], wanted[0], t, every if self.as_published else kept * every)
            terms.append(weak * kept.mean() if self.as_published else weak)
            view = 0 if number >= slip else 1
            terms.append(soft_loss(ours[view], wanted[view], t, every))
        return torch.stack(terms).sum()


def _twice(weights: torch.Tensor | None) -> torch.Tensor | None:
    return None if weights is None else weights.repeat_interleave(2)
