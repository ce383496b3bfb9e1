"""SSKD: soft labels on rotated images too, and the teacher's idea of which rotated image stems from which.

Xu et al. 2020, arXiv 2006.07114, section 3.  Each image is seen in four rotations.  First a head on the teacher's
pooled vector learns to find the upright image of a rotated one among those of the batch; then the student, with a head
of its own, learns its similarities.  The original leaves open which of equally ranked rows is dropped; here the later.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from classifiers.distillation.settings import SelfSupervisedSettings
from interfaces.method import Batch, Method, Stage, Views
from layers.label_losses import hard_loss, soft_loss, soft_rows
from training.distilling import MethodSpace
from training.methods import METHODS

_HEAD = "head"


def upright(rows: torch.Tensor) -> torch.Tensor:
    """4N x d, rows 4b to 4b + 3 of image b -> N x d."""
    return rows[::4]


def rotated(rows: torch.Tensor) -> torch.Tensor:
    """4N x d -> 3N x d, rows 3b to 3b + 2 of image b."""
    return rows.unflatten(0, (-1, 4))[:, 1:].flatten(0, 1)


def similarities(embedded: torch.Tensor) -> torch.Tensor:
    """Cosine of each rotated row with each upright one: 4N x d -> 3N x N."""
    unit = functional.normalize(embedded, dim=1)
    return rotated(unit) @ upright(unit).T


def sources(rows: torch.Tensor) -> torch.Tensor:
    """The image of each rotated row: int64 3N, for anything with N rows."""
    return torch.arange(len(rows), device=rows.device).repeat_interleave(3)


def kept_rows(scores: torch.Tensor, wanted: torch.Tensor, share: float) -> torch.Tensor:
    """bool N: the rows whose wanted column has the highest score, and this share of the others, best ranks first.

    scores: N x M, wanted: int64 N.
    """
    ranks = (scores > scores.gather(1, wanted[:, None])).sum(dim=1)
    wrong = (ranks > 0).sum()
    count = len(ranks) - wrong + (share * wrong.double()).floor().long()  # as a tensor: nothing waits for the device
    places = torch.empty_like(ranks).scatter_(0, ranks.argsort(stable=True), torch.arange(len(ranks)).to(ranks))
    return places < count


def kept_mean(rows: torch.Tensor, kept: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """The mean over the rows that are kept, of N; 0 where none is."""
    counted = kept.to(rows) if weights is None else kept * weights
    return (counted * rows).sum() / kept.sum().clamp_min(1)


@METHODS.register("sskd", settings=SelfSupervisedSettings)
class SelfSupervised(Method):
    """First the cross entropy of the teacher's similarities with the true sources, the student untouched; then
    L = hard_weight x CE + soft_weight x KL (both upright) + rotated_weight x KL + similarity_weight x KL (kept rows).
    """

    requires = frozenset({"labels", "logits", "features", "rotations"})
    student_features = teacher_features = ("pooled",)
    whole_loss = True
    rows_per_image = 4
    whole_batch = True

    def __init__(
        self,
        space: MethodSpace,
        temperature: float,
        hard_weight: float,
        soft_weight: float,
        rotated_temperature: float,
        rotated_weight: float,
        rotated_share: float,
        similarity_temperature: float,
        similarity_weight: float,
        similarity_share: float,
        head_share: float,
    ) -> None:
        super().__init__()
        space.classes()
        self.temperature, self.hard_weight, self.soft_weight = temperature, hard_weight, soft_weight
        self.rotated = rotated_temperature, rotated_weight, rotated_share
        self.similarity = similarity_temperature, similarity_weight, similarity_share
        self.head_share = head_share
        student, other = (insides.shape("pooled", dims=1)[0] for insides in space.insides())
        self.own_head, self.guide_head = _projection(student), _projection(other)

    def stages(self) -> tuple[Stage, ...]:
        return Stage(_HEAD, share=self.head_share, trains_student=False), Stage()

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        pooled = teacher.features["pooled"].float()
        thrice = None if batch.weights is None else batch.weights.repeat_interleave(3)
        if batch.stage == _HEAD:
            cosines = similarities(self.guide_head(pooled))
            return {"loss": hard_loss(cosines, sources(batch.labels), weights=thrice)}
        with torch.no_grad():
            wanted = similarities(self.guide_head(pooled))
        ours = similarities(self.own_head(student.features["pooled"].float()))
        hard = hard_loss(upright(student.output), batch.labels, weights=batch.weights)
        soft = soft_loss(upright(student.output), upright(teacher.output), self.temperature, batch.weights)
        turned, labels = (rotated(student.output), rotated(teacher.output)), batch.labels.repeat_interleave(3)
        terms = {"hard": hard, "soft": soft}
        losses = [self.hard_weight * hard, self.soft_weight * soft]
        for name, (own, other), true, (t, weight, share) in (
            ("sskd_rotated", turned, labels, self.rotated),
            ("sskd_similarity", (ours, wanted), sources(batch.labels), self.similarity),
        ):
            terms[name] = kept_mean(soft_rows(own, other, t), kept_rows(other, true, share), thrice)
            losses.append(weight * terms[name])
        return {"loss": torch.stack(losses).sum(), **terms}


def _projection(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
