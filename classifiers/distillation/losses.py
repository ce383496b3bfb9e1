"""Losses on outputs: hard labels (NOKD) and soft targets (BLKD).  Pure functions of tensors.

All take `student["output"]`, `teacher["output"]` and `batch["labels"]`: logits N x C and int64 N for classes;
encoded values float N x d (`LabelSpace.encode`, [0, 1]) for all three with continuous labels.  Where the batch holds
`weights`, float N with mean 1 over the training set, every term of row i counts weights[i] times; the sum is still
divided by N, so that the gradient's expectation does not depend on which rows meet in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol

import torch
from torch.nn import functional

from interfaces.distillation import Outputs
from runtime.errors import UserError
from runtime.registry import Registry


class Distiller(Protocol):
    """A DistillationLoss that says whether it needs the teacher's outputs."""

    @property
    def needs_teacher(self) -> bool: ...

    def __call__(self, student: Outputs, teacher: Outputs, batch: Outputs) -> dict[str, torch.Tensor]: ...


DISTILLERS: Registry[Callable[..., Distiller]] = Registry("distiller")


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


@DISTILLERS.register("none")
@dataclass(frozen=True)
class HardLabels:
    """NOKD: the labels alone.  `label_smoothing` in [0, 1) for classes; it does nothing for continuous labels."""

    label_smoothing: float = 0.0
    needs_teacher: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_range("label_smoothing", self.label_smoothing, 0.0, 0.999)

    def __call__(self, student: Outputs, teacher: Outputs, batch: Outputs) -> dict[str, torch.Tensor]:
        return {"loss": hard_loss(student["output"], batch["labels"], self.label_smoothing, batch.get("weights"))}


@DISTILLERS.register("blkd")
@dataclass(frozen=True)
class SoftTargets:
    """BLKD: hard_weight x CE + soft_weight x KL_T; the defaults are those of RepDistiller (cGAN-KD's journal version).

    Continuous labels have no soft targets in the literature that cGAN-KD compares with.  Here the soft term is then
    the squared error to the teacher's prediction, so that the whole is MSE to a target mixed of label and teacher.
    """

    hard_weight: float = 0.1
    soft_weight: float = 0.9
    temperature: float = 4.0
    needs_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_range("hard_weight", self.hard_weight, 0.0, 1e6)
        _check_range("soft_weight", self.soft_weight, 0.0, 1e6)
        _check_range("temperature", self.temperature, 0.01, 1e3)

    def __call__(self, student: Outputs, teacher: Outputs, batch: Outputs) -> dict[str, torch.Tensor]:
        weights = batch.get("weights")
        hard = hard_loss(student["output"], batch["labels"], weights=weights)
        if batch["labels"].dtype == torch.int64:
            soft = soft_loss(student["output"], teacher["output"], self.temperature, weights)
        else:
            soft = squared_loss(student["output"], teacher["output"], weights)
        return {"loss": self.hard_weight * hard + self.soft_weight * soft, "hard": hard, "soft": soft}


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UserError(f"{name} {value:g} lies outside {low:g} to {high:g}; put it right in the distiller's weights.")


def weight_names(name: str) -> list[str]:
    """The weights that the distiller `name` has."""
    maker = DISTILLERS.get(name)
    return [field.name for field in fields(maker)] if isinstance(maker, type) else []  # type: ignore[arg-type]


def build_distiller(name: str, weights: Mapping[str, float] | None = None) -> Distiller:
    """The distiller `name` with its weights; a UserError names the weights that it has where one is unknown."""
    maker, known = DISTILLERS.get(name), weight_names(name)
    unknown = sorted(set(weights or {}) - set(known))
    if unknown:
        raise UserError(f"distiller {name!r} has no weight {', '.join(unknown)}; it has {', '.join(known) or 'none'}.")
    return maker(**(weights or {}))
