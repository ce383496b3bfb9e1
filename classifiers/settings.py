"""Everything that decides how a classifier is trained, in one frozen object; all faults are reported at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from runtime.bounds import (
    BatchSize,
    Count,
    InnerShare,
    NotNegative,
    Positive,
    Seed,
    ShareBelowOne,
    Width,
    bound_problems,
)  # fmt: skip
from runtime.errors import UserError
from training.schedules import cosine, milestones, warm_up

LR_CLASSES = 0.05
LR_CONTINUOUS = 0.01  # at 0.05 the regression head was seen to collapse to the mean label within 50 steps


@dataclass(frozen=True)
class ClassifierSettings:
    """Steps are optimiser steps: every row of a table of methods gets the same number, whatever its data.

    The defaults are a strong baseline for few labels at 16 px: validation error 4.2 % on 100 labelled digits (mean of
    3 seeds) in about 6 s on one core; ResNet-8 with them has 7.6 % and takes 8 s for 600 steps.
    """

    student: str = "vgg8_quarter"  # an entry of STUDENTS, or "timm:NAME"
    width: Width = 1.0  # factor on the channel counts
    distiller: str = "none"  # an entry of DISTILLERS
    distiller_weights: Mapping[str, float] = field(default_factory=dict)  # its weights; the rest keep their defaults
    steps: Count = 900  # optimiser steps
    batch_size: BatchSize = 32  # images of one step, real and fake together
    lr: Positive | None = None  # peak rate of SGD with Nesterov momentum; None: LR_CLASSES or LR_CONTINUOUS
    momentum: ShareBelowOne = 0.9  # of SGD, Nesterov's
    weight_decay: NotNegative = 5e-4  # of SGD, on all weights
    schedule: Literal["cosine", "milestones"] = "cosine"  # how the rate falls after the warm-up
    milestones: tuple[InnerShare, ...] = (0.625, 0.75, 0.875)  # fractions of the steps: 150, 180, 210 of 240 epochs
    milestone_factor: Positive = 0.1  # the rate is multiplied by it at each milestone
    warmup_fraction: ShareBelowOne = 0.05  # linear from 0 over this part of the steps
    augmentation: tuple[str, ...] | None = None  # flip, translate, ...; "" for none  [default: all allowed ones]
    ema_half_life_images: NotNegative = 0.0  # 0: no averaged copy; else the averaged weights are validated and kept
    seed: Seed = 0  # covers weights, order and augmentation; not the draw of the images
    log_every_steps: Count = 50  # a line in stats.jsonl
    validate_every_steps: Count = 100  # a look at the validation images
    checkpoint_every_steps: Count = 1000  # steps after which a stop loses nothing
    selection: Literal["last", "best-validation"] = "last"  # which weights are kept
    precision: Literal["float32", "bfloat16"] = "float32"  # of the network's passes; weights and updates are float32
    init_from: str | None = None  # folder of a finished classifier to fine-tune (cGAN-KD's journal version: lr 0.01)

    def __post_init__(self) -> None:
        problems = self._problems()
        if problems:
            raise UserError("classifier settings: " + "; ".join(problems) + ".")

    def _problems(self) -> list[str]:
        # imported here so that torch stays unloaded until a value is checked
        from classifiers.distillation import DISTILLERS, build_distiller
        from classifiers.networks import STUDENTS
        from layers.backbones import TIMM_PREFIX

        checks = {
            f"student {self.student!r} is unknown, known are {', '.join(STUDENTS)} and timm:NAME": (
                self.student in STUDENTS or self.student.startswith(TIMM_PREFIX)
            ),
            f"distiller {self.distiller!r} is unknown, known are {', '.join(DISTILLERS)}": self.distiller in DISTILLERS,
            f"schedule {self.schedule!r} must be cosine or milestones": self.schedule in ("cosine", "milestones"),
            f"precision {self.precision!r} must be float32 or bfloat16": self.precision in ("float32", "bfloat16"),
            f"selection {self.selection!r} must be last or best-validation": (
                self.selection in ("last", "best-validation")
            ),
        }
        problems = [*bound_problems(self), *(text for text, holds in checks.items() if not holds)]
        if self.distiller in DISTILLERS:
            try:
                build_distiller(self.distiller, self.distiller_weights)
            except UserError as error:
                problems.append(str(error).rstrip("."))
        return problems

    def for_labels(self, kind: Literal["classes", "continuous"]) -> ClassifierSettings:
        """These settings with the learning rate filled in where it was left open."""
        if self.lr is not None:
            return self
        return replace(self, lr=LR_CLASSES if kind == "classes" else LR_CONTINUOUS)

    def learning_rate(self, step: int) -> float:
        """The rate of optimiser step `step` (from 0): linear warm-up, then cosine to 0 or steps down."""
        peak = LR_CLASSES if self.lr is None else self.lr
        warmup = round(self.warmup_fraction * self.steps)
        if step < warmup:
            return peak * warm_up(step, warmup)
        if self.schedule == "milestones":
            return peak * milestones(step, self.steps, self.milestones, self.milestone_factor)
        return peak * cosine(step - warmup, self.steps - warmup)

    def augmentations(self, allowed: Sequence[str]) -> tuple[str, ...]:
        """The augmentations to use; a UserError where one was asked for that the dataset does not allow."""
        if self.augmentation is None:
            return tuple(allowed)
        refused = [name for name in self.augmentation if name not in allowed]
        if refused:
            raise UserError(
                f"augmentation {', '.join(refused)} is not allowed for this dataset "
                f"(allowed: {', '.join(allowed) or 'none'}); it would change what the label means."
            )
        return tuple(self.augmentation)
