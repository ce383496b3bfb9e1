"""What a teacher's training may be told; the defaults are for the embedded digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from runtime.bounds import (
    BatchSize,
    Channels,
    Count,
    CountOrNone,
    NotNegative,
    Positive,
    Seed,
    Share,
    ShareBelowOne,
    check_bounds,
)  # fmt: skip
from runtime.errors import UserError

AUTO_BELOW_IMAGES = 500
TRAINABLE = ("biggan", "biggan-deep")  # entries of TEACHERS that take these settings; the others are only loaded


@dataclass(frozen=True)
class TeacherSettings:
    """Names and units of `train-teacher`.  A step is `discriminator_steps` updates of D and one of G."""

    architecture: str = "biggan"  # one that can be trained; `list` names them
    width: Channels = 16  # of the generator: channels of its last block; earlier blocks are wider
    discriminator_width: Channels = 16  # channels of the discriminator's first block; later blocks are wider
    latent_dim: Channels = 64  # numbers in z
    label_dim: Channels = 32  # numbers in the generator's shared label embedding
    attention_px: CountOrNone = 0  # resolution with self-attention in both networks; 0 for none
    spectral_generator: bool = True  # spectral norm in the generator too
    steps: Count = 1300  # generator updates
    batch_size: BatchSize = 32  # images, real and fake each
    discriminator_steps: Count = 2  # discriminator updates for each generator update
    lr_g: Positive = 5e-4  # Adam's rate for the generator
    lr_d: Positive = 1e-3  # Adam's rate for the discriminator
    lr_decay_from: Share = 0.6  # part of the steps after which both rates fall linearly to zero; 1 for never
    beta1: ShareBelowOne = 0.0  # Adam
    beta2: ShareBelowOne = 0.999  # Adam
    ema_half_life_images: Positive = 5_000.0  # of the average of the generator's weights
    r1_weight: NotNegative = 0.0  # of the gradient penalty on real images (half of gamma); 0 leaves it out
    diffaugment: tuple[str, ...] = ("auto",)  # auto, or of color, translation, cutout and, where allowed, flip
    vicinity: Literal["soft", "hard"] = "soft"  # continuous labels: weights exp(-nu d^2), or 1
    vicinity_gaps: Positive = 2.0  # continuous labels: kappa = this * largest gap between neighbouring labels
    precision: Literal["float32", "bfloat16"] = "float32"  # of the networks' passes; weights and updates are float32
    standing_batches: Count = 50  # forward passes for the batch-norm statistics of the average
    seed: Seed = 0
    stats_every_steps: Count = 50  # a line in stats.jsonl
    checkpoint_every_steps: Count = 500  # and every 30 seconds

    def check(self, allowed_augmentations: Sequence[str]) -> None:
        """Raise a UserError where a value is impossible, or an augmentation is not allowed on the data."""
        from layers.diffaugment import check_policy  # torch stays unloaded until a value is checked
        from teacher_sampler.networks import TEACHERS

        check_bounds(self, "train-teacher")
        TEACHERS.get(self.architecture)
        if self.architecture not in TRAINABLE:
            raise UserError(
                f"--architecture {self.architecture} cannot be trained here, only loaded (import-teacher); those that "
                f"can are {' and '.join(TRAINABLE)}."
            )
        if self.vicinity not in ("soft", "hard"):
            raise UserError(f"vicinity {self.vicinity!r} is unknown; use soft or hard.")
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
