"""Everything that decides how a classifier is trained, in one frozen object; all faults are reported at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import AfterValidator

from classifiers.networks import STUDENTS
from runtime.bounds import (
    BatchSize,
    Bound,
    Count,
    InnerShare,
    NotNegative,
    Positive,
    Seed,
    ShareBelowOne,
    bound_problems,
)  # fmt: skip
from runtime.errors import UserError
from runtime.registry import Choice, component
from runtime.settings import setting
from training.methods import METHODS
from training.schedules import cosine, milestones, warm_up

LR_CLASSES = 0.05
LR_FINE_TUNING = 0.01  # cGAN-KD, journal version
LR_CONTINUOUS = 0.01  # at 0.05 the regression head was seen to collapse to the mean label within 50 steps


@dataclass(frozen=True)
class ClassifierSettings:
    """Steps are optimiser steps: every row of a table of methods gets the same number, whatever its data.

    The defaults are a strong baseline for few labels at 16 px: validation error 4.2 % on 100 labelled digits (mean of
    3 seeds) in about 6 s on one core; ResNet-8 with them has 7.6 % and takes 8 s for 600 steps.
    """

    network: Choice = component(STUDENTS, "vgg8_quarter", "The network, with a head for the labels.")
    method: Choice = component(METHODS, "none", "The distillation method.")
    beside: Choice = component(
        METHODS, "none", "What is added to a method that leaves out the labels: none (their cross entropy) or blkd."
    )
    steps: Count = setting(900, "Optimiser steps.", "steps")
    epochs: Annotated[float, AfterValidator(Bound(0, 10**6, above=True))] | None = setting(
        None, "Instead of --steps: passes through the training set, so that more images take more steps.", "epochs"
    )
    batch_size: BatchSize = setting(32, "Images of one step, real and fake together.", "images")
    lr: Positive | None = setting(
        None, "Peak rate of SGD; left open: 0.05, or 0.01 for continuous labels and with --init-from."
    )
    momentum: ShareBelowOne = setting(0.9, "Momentum of SGD.")
    nesterov: bool = setting(True, "Nesterov's momentum; published recipes take the plain one.")
    weight_decay: NotNegative = setting(5e-4, "Weight decay of SGD, on all weights.")
    schedule: Literal["cosine", "milestones"] = setting("cosine", "How the rate falls after the warm-up.")
    milestones: tuple[InnerShare, ...] = setting(
        (0.625, 0.75, 0.875),
        "Where --schedule milestones lets the rate drop.",
        "of the steps",
    )
    milestone_factor: Positive = setting(0.1, "Factor on the rate at each milestone.")
    warmup_fraction: ShareBelowOne = setting(
        0.05, "The rate first rises linearly from 0 over this part of the training.", "of the steps"
    )
    augmentation: tuple[str, ...] | None = setting(
        None, 'flip, translate, ...; "" for none; left open: all that the data allow.'
    )
    ema_half_life_images: NotNegative = setting(
        0.0, "Half-life of the EMA of the weights, which is then validated and kept; 0 for no EMA.", "images"
    )
    seed: Seed = setting(0, "Covers weights, order and augmentation; not the draw of the images.")
    log_every_steps: Count = setting(50, "Steps between two lines of stats.jsonl.", "steps")
    validate_every_steps: Count = setting(100, "Steps between two looks at the validation images.", "steps")
    checkpoint_every_steps: Count = setting(1000, "Steps between two checkpoints; one more every 30 seconds.", "steps")
    selection: Literal["last", "best-validation"] = setting("last", "Which weights are kept.")
    precision: Literal["float32", "bfloat16"] = setting(
        "float32", "Of the network's passes; weights and updates are float32."
    )
    compile: bool = setting(False, "Fuse the networks' passes with torch.compile, which takes some minutes first.")
    data_on_device: bool = setting(False, "Hold all training images in the device's memory.")
    init_from: str | None = setting(
        None, "Folder of a finished classifier to fine-tune, e.g. the student without distillation (cGAN-KD, journal)."
    )

    def __post_init__(self) -> None:
        problems = bound_problems(self)
        if problems:
            raise UserError("classifier settings: " + "; ".join(problems) + ".")

    def for_labels(self, kind: Literal["classes", "continuous"]) -> ClassifierSettings:
        """These settings with the learning rate filled in where it was left open."""
        if self.lr is not None:
            return self
        start = LR_CLASSES if self.init_from is None else LR_FINE_TUNING
        return replace(self, lr=start if kind == "classes" else LR_CONTINUOUS)

    def for_images(self, count: int) -> ClassifierSettings:
        """These settings with the steps that the epochs make of so many training images, the last epoch filled up."""
        if self.epochs is None:
            return self
        return replace(self, steps=math.ceil(Fraction(repr(float(self.epochs))) * count / self.batch_size))

    def learning_rate(self, step: int, steps: int | None = None) -> float:
        """The rate of optimiser step `step` (from 0) of `steps`: linear warm-up, then cosine to 0 or steps down."""
        peak, steps = LR_CLASSES if self.lr is None else self.lr, steps or self.steps
        warmup = round(self.warmup_fraction * steps)
        if step < warmup:
            return peak * warm_up(step, warmup)
        if self.schedule == "milestones":
            return peak * milestones(step, steps, self.milestones, self.milestone_factor)
        return peak * cosine(step - warmup, steps - warmup)

    def augmentations(self, allowed: Sequence[str]) -> tuple[str, ...]:
        """The augmentations to use; a UserError where one was asked for that the dataset does not allow."""
        if self.augmentation is None:
            return tuple(allowed)
        from image_data.augment import check_augmentations  # here, since it brings torch, and --help passes above

        check_augmentations(self.augmentation, "--augmentation")
        refused = [name for name in self.augmentation if name not in allowed]
        if refused:
            raise UserError(
                f"augmentation {', '.join(refused)} is not allowed for this dataset "
                f"(allowed: {', '.join(allowed) or 'none'}); it would change what the label means."
            )
        return tuple(self.augmentation)
