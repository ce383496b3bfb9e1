"""What a student generator's training may be told, with the defaults that were measured on the digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runtime.bounds import (
    BatchSize,
    Channels,
    ChannelsOrNone,
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

    network: str = "tinygan"  # the student generator; `list` names them
    base_width: Channels = 8  # channels of the last block; earlier blocks are twice as wide each
    max_width: Channels = 512  # channels of a block, at most
    start_channels: ChannelsOrNone = 8  # the linear layer's channels at 4 x 4; 0: as many as the first block takes
    start_hidden: ChannelsOrNone = 24  # hidden units before the 4 x 4 maps; 0: one linear layer on z alone
    embedding_dim: Channels = 12  # numbers in the label's embedding
    latent_conditions: LatentConditions = "none"  # what of z enters the conditional norms
    convolutions: Convolutions = "depthwise"  # depthwise ones are light
    upsampling: Upsampling = "bilinear"  # between blocks
    discriminator_width: Channels = 16  # channels of the discriminator's first block

    steps: Count = 3000  # steps of the student
    batch_size: BatchSize = 64  # pairs of one step
    lr: Positive = 4e-3  # Adam's rate for the student
    lr_discriminator: Positive = 1e-3  # Adam's rate for the discriminator
    beta1: ShareBelowOne = 0.5  # of the student's Adam
    beta1_discriminator: ShareBelowOne = 0.5  # of the discriminator's Adam
    beta2: ShareBelowOne = 0.99  # of both
    lr_warm_up: Share = 0.02  # part of the steps
    lr_decay_from: Share = 0.5  # part of the steps after which the rate falls linearly to 0

    feature_weight: NotNegative = 0.0  # of the distance in the discriminator's features
    pixel_weight: NotNegative = 1.0  # of the distance in pixels, at first
    pixel_floor: NotNegative = 1.0  # of the distance in pixels, in the end
    pixel_decay_until: Share = 2 / 3  # part of the steps
    adversarial_weight: NotNegative = 0.0  # on pairs: D compares both images of the same (z, y)
    adversarial_fresh_weight: NotNegative = 0.1  # on fresh z: against real images, else teacher images
    games_from: Share = 0.4  # part of the steps after which D learns and feature and adversarial terms act
    discriminator_every: Count = 1  # D learns, and feature and adversarial terms act, on every n-th step; pixels always
    adversarial_every: Count = 1  # the student's adversarial terms act on every n-th of those steps
    discriminator_pair_weight: NotNegative = 0.0  # of the game on pairs in D's own loss; 0 leaves it out
    discriminator_fresh_weight: NotNegative = 1.0  # of the game on fresh z in D's own loss; 0 leaves it out
    r1_weight: NotNegative = 0.0  # of the gradient penalty on true images; 0 leaves it out
    r1_every: Count = 8  # the penalty acts on every n-th step of D
    diffaugment: tuple[str, ...] = ()  # for D: color, translation, cutout, flip; worth trying where real images are few

    ema_half_life_images: Positive = 5_000  # of the average of the student's weights
    standing_batches: Count = 64  # forward passes for the batch-norm statistics of the average
    truncation: Positive | None = None  # the teacher's: fresh z are standard normals times this

    precision: Literal["float32", "bfloat16"] = "float32"  # of the networks' passes; weights and updates are float32
    holdout_fraction: Share = 0.02  # of the pairs, kept for the paired metric
    holdout_max: CountOrNone = 1000  # pairs kept for the paired metric, at most
    log_every: Count = 100  # steps to a line in stats.jsonl
    checkpoint_every: Count = 2000  # steps after which a stop loses nothing
    checkpoint_seconds: NotNegative = 30.0  # and seconds
    seed: Seed = 0

    def __post_init__(self) -> None:
        from layers.diffaugment import check_policy  # torch stays unloaded until a value is checked

        check_policy(self.diffaugment)
        check_bounds(self, "train-student")
        if self.precision not in ("float32", "bfloat16"):
            raise UserError(f"train-student: precision must be float32 or bfloat16, not {self.precision!r}.")
        games = (self.adversarial_weight, self.adversarial_fresh_weight) if self.adversarial_every == 1 else ()
        always = self.discriminator_every == 1 and self.games_from == 0
        of_games = (self.feature_weight, *games) if always else ()
        if not (any(of_games) or min(self.pixel_weight, self.pixel_floor) > 0):
            raise UserError(
                "train-student: on some steps every term of the student's loss has weight 0; "
                "raise pixel_weight and pixel_floor, or feature_weight with discriminator_every 1 and games_from 0."
            )
