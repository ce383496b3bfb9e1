"""What a teacher's training may be told; the defaults are for the embedded digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.errors import UserError


@dataclass(frozen=True)
class TeacherSettings:
    """Names and units of `train-teacher`.  A step is `discriminator_steps` updates of D and one of G."""

    architecture: str = "biggan"
    width: int = 16
    discriminator_width: int = 32
    latent_dim: int = 64
    label_dim: int = 32
    attention_px: int = 0
    spectral_generator: bool = True
    steps: int = 3000
    batch_size: int = 64
    discriminator_steps: int = 2
    lr_g: float = 2e-4
    lr_d: float = 2e-4
    lr_decay_from: float = 1.0  # part of the steps after which both rates fall linearly to zero; 1 for never
    beta1: float = 0.0
    beta2: float = 0.999
    ema_half_life_images: float = 20_000.0
    r1_weight: float = 0.0
    diffaugment: tuple[str, ...] = ("translation", "cutout")
    vicinity: str = "soft"  # continuous labels: "soft" (weights exp(-nu d^2)) or "hard" (weights 1)
    vicinity_gaps: float = 2.0  # m of kappa = m * largest gap between neighbouring labels
    standing_batches: int = 50
    seed: int = 0
    stats_every_steps: int = 50
    checkpoint_every_steps: int = 500

    def check(self, allowed_augmentations: Sequence[str]) -> None:
        """Raise a UserError where a value is impossible, or an augmentation is not allowed on the data."""
        from layers.diffaugment import check_policy  # torch stays unloaded until a value is checked

        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be more than 0.")
        if self.batch_size < 2:
            raise UserError("batch_size is 1; batch norm needs at least 2.")
        if not 0.0 <= self.lr_decay_from <= 1.0:
            raise UserError(f"lr_decay_from is {self.lr_decay_from}; it must lie in 0 to 1.")
        if self.vicinity not in ("soft", "hard"):
            raise UserError(f"vicinity {self.vicinity!r} is unknown; use soft or hard.")
        check_policy(self.diffaugment)
        if "flip" in self.diffaugment and "flip" not in allowed_augmentations:
            raise UserError("diffaugment flip is not allowed on this dataset (a mirrored image changes its label).")


_POSITIVE = (
    "width",
    "discriminator_width",
    "latent_dim",
    "label_dim",
    "steps",
    "batch_size",
    "discriminator_steps",
    "lr_g",
    "lr_d",
    "ema_half_life_images",
    "vicinity_gaps",
    "standing_batches",
    "stats_every_steps",
    "checkpoint_every_steps",
)
