"""What a student generator's training may be told, with the defaults that were measured on the digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from layers.discriminators import DISCRIMINATORS
from runtime.bounds import (
    BatchSize,
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
from runtime.registry import Choice, component
from runtime.settings import setting
from student_trainer.networks import GENERATORS


@dataclass(frozen=True)
class StudentSettings:
    """All settings of `train_student`; a bad value is a UserError at once.

    The defaults suit 16 x 16 grey images: the first part of the training copies pixels only, which is cheap, and an
    adversarial loss on unpaired z against the teacher's images sharpens the rest.  (A thousand real images in their
    place are too few: the discriminator then stays at chance.)  With plain ReLUs D died and said the same of every
    image, hence its slope.  TinyGAN's published weights are feature 1, pixel 0.2 falling to 0, adversarial 0.01 on
    pairs and 0.002 on real images, D's loss 1 on pairs and 0.2 on real images, the student's adversarial terms on
    every 5th step, and all of them from the first step on.
    """

    generator: Choice = component(GENERATORS, "tinygan", "The student generator.")
    discriminator: Choice = component(DISCRIMINATORS, "projection", "The discriminator.", slope=0.2)

    steps: Count = setting(3000, "Steps of the student.", "steps")
    batch_size: BatchSize = setting(64, "Pairs of one step.", "pairs")
    lr: Positive = setting(4e-3, "Adam's rate for the student.")
    lr_discriminator: Positive = setting(1e-3, "Adam's rate for the discriminator.")
    beta1: ShareBelowOne = setting(0.5, "Adam's beta1 for the student.")
    beta1_discriminator: ShareBelowOne = setting(0.5, "Adam's beta1 for the discriminator.")
    beta2: ShareBelowOne = setting(0.99, "Adam's beta2 for both.")
    warmup_fraction: Share = setting(
        0.02, "The rates first rise linearly from 0 over this part of the training.", "of the steps"
    )
    lr_decay_from: Share = setting(0.5, "From here on the rates fall linearly to 0.", "of the steps")

    feature_weight: NotNegative = setting(0.0, "Weight of the distance in the discriminator's features.")
    pixel_weight: NotNegative = setting(1.0, "Weight of the distance in pixels, at first.")
    pixel_floor: NotNegative = setting(1.0, "Weight of the distance in pixels, in the end.")
    pixel_decay_until: Share = setting(2 / 3, "Until here the weight of the pixels goes to its floor.", "of the steps")
    adversarial_weight: NotNegative = setting(
        0.0, "Weight of the adversarial loss on pairs: D compares both images of the same (z, y)."
    )
    adversarial_unpaired_weight: NotNegative = setting(
        0.1, "Weight of the adversarial loss on unpaired z: against real images, else teacher images."
    )
    adversarial_from: Share = setting(
        0.4, "From here on D learns, and feature and adversarial terms act.", "of the steps"
    )
    discriminator_every: Count = setting(
        1, "D learns, and feature and adversarial terms act, on every n-th step; pixels always."
    )
    adversarial_every: Count = setting(1, "The student's adversarial terms act on every n-th of those.")
    discriminator_pair_weight: NotNegative = setting(0.0, "Weight of the pairs in D's own loss; 0 leaves them out.")
    discriminator_unpaired_weight: NotNegative = setting(
        1.0, "Weight of the unpaired images in D's own loss; 0 leaves them out."
    )
    r1_weight: NotNegative = setting(0.0, "Weight of the gradient penalty on true images; 0 leaves it out.")
    r1_every: Count = setting(8, "The penalty acts on every n-th step of D.")
    diffaugment: tuple[str, ...] = setting(
        (), "What D sees: color, translation, cutout, flip; worth trying where real images are few."
    )

    ema_half_life_images: Positive = setting(5_000, "Half-life of the EMA of the student's weights.", "images")
    standing_batches: Count = setting(64, "Forward passes for the batch-norm statistics of the EMA.", "batches")
    truncation: Positive | None = setting(None, "The teacher's: unpaired z are standard normals times this.")

    precision: Literal["float32", "bfloat16"] = setting(
        "float32", "Of the networks' passes; weights and updates are float32."
    )
    holdout_fraction: Share = setting(0.02, "Pairs kept for the paired metric.", "of the pairs")
    holdout_max: CountOrNone = setting(1000, "Most pairs kept for the paired metric.", "pairs")
    log_every_steps: Count = setting(100, "Steps between two lines of stats.jsonl.", "steps")
    checkpoint_every_steps: Count = setting(2000, "Steps between two checkpoints.", "steps")
    checkpoint_every_seconds: NotNegative = setting(30.0, "Seconds between two checkpoints at most.", "seconds")
    seed: Seed = setting(0, "Every random draw follows from it.")

    def __post_init__(self) -> None:
        from layers.diffaugment import check_policy  # torch stays unloaded until a value is checked

        check_policy(self.diffaugment)
        check_bounds(self, "train-student")
        adversarial = (self.adversarial_weight, self.adversarial_unpaired_weight) if self.adversarial_every == 1 else ()
        always = self.discriminator_every == 1 and self.adversarial_from == 0
        of_discriminator = (self.feature_weight, *adversarial) if always else ()
        if not (any(of_discriminator) or min(self.pixel_weight, self.pixel_floor) > 0):
            raise UserError(
                "train-student: on some steps every term of the student's loss has weight 0; raise pixel_weight and "
                "pixel_floor, or feature_weight with discriminator_every 1 and adversarial_from 0."
            )
