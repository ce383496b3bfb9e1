"""DKD: soft labels in two parts, the label's class against all others, and the others among themselves.

Zhao et al. 2022, arXiv 2203.08679, equation 7.  With the labels that a teacher has replaced, as on fakes, the first
part compares the confidence in the teacher's own choice.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from classifiers.distillation.settings import DecoupledSettings
from interfaces.method import Batch, Method, Views
from layers.label_losses import standardised, weighted_mean
from runtime.errors import UserError
from training.distilling import MethodSpace
from training.methods import METHODS
from training.schedules import warm_up


def decoupled_losses(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(TCKD, NCKD), each T^2 / B x a KL: of (p_label, 1 - p_label), and of the softmax over the other classes.

    Logits N x C, labels int64 N.  All in log space, so that both are finite for any finite logits: the original takes
    the logarithm of a sum of probabilities, which is -inf for a confident student.
    """
    own = torch.zeros_like(student_logits, dtype=torch.bool).scatter_(1, labels[:, None], True)
    pairs, rests = [], []
    for logits in (student_logits, teacher_logits):
        log_p = functional.log_softmax(logits / temperature, dim=1)
        rest = log_p.masked_fill(own, -torch.inf)
        pairs.append(torch.stack([log_p.gather(1, labels[:, None])[:, 0], rest.logsumexp(dim=1)], dim=1))
        # The label's class has probability 0 in both, and no part in the sum: 0 in place of -inf leaves it out.
        rests.append(functional.log_softmax(rest, dim=1).masked_fill(own, 0.0))
    target = (pairs[1].exp() * (pairs[1] - pairs[0])).sum(dim=1)
    among = (rests[1].exp() * (rests[1] - rests[0])).sum(dim=1)  # the label's: 1 x (0 - 0)
    return weighted_mean(target, weights) * temperature**2, weighted_mean(among, weights) * temperature**2


@METHODS.register("dkd", settings=DecoupledSettings)
class Decoupled(Method):
    """L = warm-up x (target_weight x TCKD + rest_weight x NCKD), beside the cross entropy."""

    requires = frozenset({"labels", "logits"})

    def __init__(
        self,
        space: MethodSpace,
        temperature: float,
        target_weight: float,
        rest_weight: float,
        warmup_fraction: float,
        standardise: bool,
    ) -> None:
        """UserError for continuous labels, and for two classes: one other class has nothing to be compared with."""
        super().__init__()
        if space.classes() < 3 and rest_weight > 0:
            raise UserError(
                f"method {space.name} compares the classes other than the label's, and of two classes there is one "
                "such; set its rest-weight to 0, or take blkd."
            )
        self.temperature, self.warmup_fraction, self.standardise = temperature, warmup_fraction, standardise
        self.target_weight, self.rest_weight = target_weight, rest_weight

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, torch.Tensor]:
        ours, wanted = student.output, teacher.output
        if self.standardise:
            ours, wanted = standardised(ours), standardised(wanted)
        target, rest = decoupled_losses(ours, wanted, batch.labels, self.temperature, batch.weights)
        strength = warm_up(batch.step, self.warmup_fraction * batch.steps)
        loss = strength * (self.target_weight * target + self.rest_weight * rest)
        return {"loss": loss, "dkd_target": target, "dkd_rest": rest}
