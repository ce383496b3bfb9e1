"""Settings of a teacher's training; the defaults are for the embedded digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from layers.discriminators import DISCRIMINATORS
from runtime.bounds import (
    BatchSize,
    Count,
    NotNegative,
    Positive,
    Seed,
    Share,
    ShareBelowOne,
    check_bounds,
)  # fmt: skip
from runtime.errors import UserError
from runtime.registry import Choice, component
from runtime.settings import setting
from teacher_sampler.networks import TEACHERS

AUTO_BELOW_IMAGES = 500


@dataclass(frozen=True)
class TeacherSettings:
    """Names and units of `train-teacher`.  A step is `discriminator_steps` updates of D and one of G."""

    generator: Choice = component(TEACHERS, "biggan", "The teacher's architecture.")
    discriminator: Choice = component(DISCRIMINATORS, "projection", "The discriminator.")
    steps: Count = setting(1300, "Updates of the generator.", "steps")
    batch_size: BatchSize = setting(32, "Real images of one update, and as many fakes.", "images")
    discriminator_steps: Count = setting(2, "Updates of the discriminator for each of the generator.", "updates")
    lr: Positive = setting(5e-4, "Adam's rate for the generator.")
    lr_discriminator: Positive = setting(1e-3, "Adam's rate for the discriminator.")
    lr_decay_from: Share = setting(0.6, "From here on the rates fall linearly to 0; 1 for never.", "of the steps")
    beta1: ShareBelowOne = setting(0.0, "Adam's beta1 for both.")
    beta2: ShareBelowOne = setting(0.999, "Adam's beta2 for both.")
    ema_half_life_images: Positive = setting(5_000.0, "Half-life of the EMA of the generator's weights.", "images")
    r1_weight: NotNegative = setting(
        0.0, "Weight of the gradient penalty on real images (half of gamma); 0 leaves it out."
    )
    diffaugment: tuple[str, ...] = setting(
        ("auto",), "What D sees: auto, or of color, translation, cutout and, where allowed, flip."
    )
    vicinity: Literal["soft", "hard"] = setting("soft", "Continuous labels: weights exp(-nu d^2), or 1.")
    vicinity_gaps: Positive = setting(
        2.0, "Continuous labels: kappa is this times the largest gap between neighbouring labels.", "gaps"
    )
    precision: Literal["float32", "bfloat16"] = setting(
        "float32", "Of the networks' passes; weights and updates are float32."
    )
    standing_batches: Count = setting(50, "Forward passes for the batch-norm statistics of the EMA.", "batches")
    seed: Seed = setting(0, "Every random draw follows from it.")
    log_every_steps: Count = setting(50, "Steps between two lines of stats.jsonl.", "steps")
    checkpoint_every_steps: Count = setting(500, "Steps between two checkpoints; one more every 30 seconds.", "steps")

    def check(self, allowed_augmentations: Sequence[str]) -> None:
        """Raise a UserError where a value is impossible, or an augmentation is not allowed on the data."""
        from layers.diffaugment import check_policy  # torch stays unloaded until a value is checked

        check_bounds(self, "train-teacher")
        if self.diffaugment != ("auto",):
            check_policy(self.diffaugment)
        if "flip" in self.diffaugment and "flip" not in allowed_augmentations:
            raise UserError("diffaugment flip is not allowed on this dataset (a mirrored image changes its label).")

    def policy(self, images: int) -> tuple[str, ...]:
        """The DiffAugment policy for a training set of so many images.

        `auto`: translation below 500 images, nothing from there on.  On 100 digits it took fakes-only accuracy
        from .89 to .92, on 1,000 digits it cost .97 to .95 (one run each, the latter pair also differing in the decay
        of the rates).  The bound lies between these two sizes and was not searched.
        """
        if self.diffaugment != ("auto",):
            return self.diffaugment
        return ("translation",) if images < AUTO_BELOW_IMAGES else ()
