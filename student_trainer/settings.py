"""What a student generator's training may be told, with the defaults that were measured on the digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runtime.errors import UserError

Convolutions = Literal["depthwise", "full"]
LatentConditions = Literal["none", "chunk", "all"]
Upsampling = Literal["bilinear", "nearest"]


@dataclass(frozen=True)
class StudentSettings:
    """All settings of `train_student`; a bad value is a UserError at once.

    The defaults suit 16 x 16 grey images: the first part of the training copies pixels only, which is cheap, and a game
    on fresh z against the teacher's images sharpens the rest.  (A thousand real images in their place are too few: the
    discriminator then stays at chance.)  TinyGAN's published weights are feature 1, pixel 0.2 falling
    to 0, adversarial 0.01 on pairs and 0.002 on real images, D's pair game 1 and real game 0.2, the student's
    adversarial terms on every 5th step, and games from the first step on.
    """

    network: str = "tinygan"
    base_width: int = 8  # channels of the last block; earlier blocks are twice as wide each
    max_width: int = 512
    start_channels: int = 8  # channels that the linear layer makes at 4 x 4; 0: as many as the first block takes
    start_hidden: int = 24  # hidden units between (z, label) and the 4 x 4 maps; 0: one linear layer on z alone
    embedding_dim: int = 12
    latent_conditions: LatentConditions = "none"  # what of z enters the conditional norms
    convolutions: Convolutions = "depthwise"
    upsampling: Upsampling = "bilinear"
    discriminator_width: int = 16

    steps: int = 3000
    batch_size: int = 64
    lr: float = 4e-3
    lr_discriminator: float = 1e-3
    beta1: float = 0.5
    beta1_discriminator: float = 0.5
    beta2: float = 0.99
    lr_warm_up: float = 0.02  # part of the steps
    lr_decay_from: float = 0.5  # part of the steps after which the rate falls linearly to 0

    feature_weight: float = 0.0
    pixel_weight: float = 1.0
    pixel_floor: float = 1.0
    pixel_decay_until: float = 2 / 3  # part of the steps
    adversarial_weight: float = 0.0  # on pairs: D compares the teacher's image with the student's for the same (z, y)
    adversarial_fresh_weight: float = 0.1  # on fresh z: against real images, or teacher images where there are none
    games_from: float = 0.4  # part of the steps after which D learns and feature and adversarial terms act
    discriminator_every: int = 1  # D learns, and feature and adversarial terms act, on every n-th step; pixels always
    adversarial_every: int = 1  # the student's adversarial terms act on every n-th of those steps
    discriminator_pair_weight: float = 0.0  # of the game on pairs in D's own loss; 0 leaves it out
    discriminator_fresh_weight: float = 1.0  # of the game on fresh z in D's own loss; 0 leaves it out
    r1_weight: float = 0.0
    r1_every: int = 8
    diffaugment: tuple[str, ...] = ()  # for D: color, translation, cutout, flip; worth trying where real images are few

    ema_half_life_images: float = 5_000
    standing_batches: int = 64  # forward passes for the batch-norm statistics of the average
    truncation: float | None = None  # the teacher's: fresh z are standard normals times this

    precision: Literal["float32", "bfloat16"] = "float32"  # of the networks' passes; weights and updates are float32
    holdout_fraction: float = 0.02  # of the pairs, kept for the paired metric
    holdout_max: int = 1000
    log_every: int = 100
    checkpoint_every: int = 2000
    checkpoint_seconds: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        from layers.diffaugment import check_policy  # torch stays unloaded until a value is checked

        check_policy(self.diffaugment)
        at_least = {"batch_size": 2, **dict.fromkeys(_ONE_OR_MORE, 1), **dict.fromkeys(_NOT_NEGATIVE, 0)}
        for name, low in at_least.items():
            if not getattr(self, name) >= low:
                raise UserError(f"train-student: {name} must be {low} or more, not {getattr(self, name)}.")
        for name in ("lr", "lr_discriminator", "ema_half_life_images"):
            if not getattr(self, name) > 0:
                raise UserError(f"train-student: {name} must be above 0, not {getattr(self, name)}.")
        for name in ("lr_warm_up", "lr_decay_from", "games_from", "pixel_decay_until", "holdout_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"train-student: {name} is a part between 0 and 1, not {getattr(self, name)}.")
        if self.precision not in ("float32", "bfloat16"):
            raise UserError(f"train-student: precision must be float32 or bfloat16, not {self.precision!r}.")
        if self.truncation is not None and not self.truncation > 0:
            raise UserError(f"train-student: truncation must be above 0, not {self.truncation}.")
        games = (self.adversarial_weight, self.adversarial_fresh_weight) if self.adversarial_every == 1 else ()
        always = self.discriminator_every == 1 and self.games_from == 0
        of_games = (self.feature_weight, *games) if always else ()
        if not (any(of_games) or min(self.pixel_weight, self.pixel_floor) > 0):
            raise UserError(
                "train-student: on some steps every term of the student's loss has weight 0; "
                "raise pixel_weight and pixel_floor, or feature_weight with discriminator_every 1 and games_from 0."
            )


_ONE_OR_MORE = (
    "base_width",
    "max_width",
    "embedding_dim",
    "discriminator_width",
    "steps",
    "discriminator_every",
    "adversarial_every",
    "r1_every",
    "standing_batches",
    "log_every",
    "checkpoint_every",
)
_NOT_NEGATIVE = (
    "start_channels",
    "start_hidden",
    "holdout_max",
    "feature_weight",
    "pixel_weight",
    "pixel_floor",
    "adversarial_weight",
    "adversarial_fresh_weight",
    "discriminator_pair_weight",
    "discriminator_fresh_weight",
    "r1_weight",
)
