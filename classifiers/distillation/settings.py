"""What the distillation methods may be told; free of torch, so that --help can show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator

from runtime.bounds import Bound, Share, ShareAboveZero, ShareBelowOne
from runtime.settings import setting

LossWeight = Annotated[float, AfterValidator(Bound(0, 10**6))]
Temperature = Annotated[float, AfterValidator(Bound(0.01, 1000))]
Operations = Annotated[int, AfterValidator(Bound(0, 10))]
Magnitude = Annotated[float, AfterValidator(Bound(0, 30))]
STANDARDISE = "Give each image's logits mean 0 and deviation 1 first, student's and teacher's"


@dataclass(frozen=True)
class HardLabelSettings:
    """Of the method none."""

    label_smoothing: ShareBelowOne = setting(0.0, "Share of a label's mass that all classes get.")


@dataclass(frozen=True)
class SoftTargetSettings:
    """Of the method blkd; the defaults are those of RepDistiller (cGAN-KD's journal version).

    cGAN-KD's first release: temperature 5, both weights 0.5, per_element.  Logit standardisation: standardise,
    temperature 2, hard_weight 0.1, soft_weight 9.
    """

    temperature: Temperature = setting(4.0, "The logits are divided by it.")
    hard_weight: LossWeight = setting(0.1, "Weight of the label's loss.")
    soft_weight: LossWeight = setting(0.9, "Weight of the teacher's soft labels.")
    standardise: bool = setting(False, STANDARDISE + " (published with temperature 2, soft weight 9).")
    per_element: bool = setting(
        False, "Divide the soft labels' term by the number of classes too, as cGAN-KD's first release."
    )


@dataclass(frozen=True)
class DecoupledSettings:
    """Of the method dkd; the defaults are those of mdistiller.

    rest_weight there: 8 for ResNet32x4 pairs, 6 for VGG-13 and WRN-40-2 pairs, 2 for ResNet-56 to 20.  Logit
    standardisation: standardise, temperature 2, target_weight 9, rest_weight 72.
    """

    temperature: Temperature = setting(4.0, "The logits are divided by it.")
    target_weight: LossWeight = setting(1.0, "Weight of the label's class against all others (alpha).")
    rest_weight: LossWeight = setting(8.0, "Weight of the other classes among themselves (beta).")
    warmup_fraction: ShareBelowOne = setting(
        0.083, "Both weights rise linearly over this part of the training; published: 20 of 240 epochs.", "of the steps"
    )
    standardise: bool = setting(False, STANDARDISE + " (published with temperature 2, weights 9 and 72).")


@dataclass(frozen=True)
class CorrelationSettings:
    """Of the method dist; the defaults are those published for CIFAR-100 (ImageNet: temperature 1, each weight 1)."""

    temperature: Temperature = setting(4.0, "The logits are divided by it.")
    row_weight: LossWeight = setting(2.0, "Weight of the correlation of each image's probabilities.")
    column_weight: LossWeight = setting(2.0, "Weight of the correlation of each class's probabilities in a batch.")


@dataclass(frozen=True)
class MultiLevelSettings:
    """Of the method mlkd; the defaults are those of logit standardisation's code, but for its slips.

    Published: kept unsure, as_published; with 480 epochs, twice those of the other methods.
    Its sums over temperatures and views are large: on 100 labelled digits (200 steps) it diverged at the learning rates
    0.05 and 0.025, and trained at 0.005.
    """

    temperature: Temperature = setting(2.0, "The logits are divided by it, and by each of the further ones.")
    further_temperatures: tuple[Temperature, ...] = setting((3.0, 5.0, 2.0, 6.0), "What the logits are divided by too.")
    hard_weight: LossWeight = setting(0.1, "Weight of the label's loss on both views.")
    soft_weight: LossWeight = setting(9.0, "Weight of the soft labels and of both correlations.")
    standardise: bool = setting(False, STANDARDISE + "; not in the correlations.")
    kept: Literal["confident", "unsure"] = setting(
        "confident", "Half of the weak views that counts: where the teacher is the surest, or (published) the least."
    )
    as_published: bool = setting(
        False, "Scale by the share of kept rows instead of choosing them, and treat the strong view as the original."
    )
    operations: Operations = setting(2, "RandAugment of the strong view: how many changes.")
    magnitude: Magnitude = setting(10.0, "RandAugment of the strong view: how strong, out of 30.")


@dataclass(frozen=True)
class AugmentedSettings:
    """Of the method uda; the defaults are those of cGAN-KD's first release."""

    temperature: Temperature = setting(5.0, "The logits are divided by it.")
    hard_weight: LossWeight = setting(0.5, "Weight of the label's loss.")
    soft_weight: LossWeight = setting(0.5, "Weight of the teacher's soft labels.")


@dataclass(frozen=True)
class SelfSupervisedSettings:
    """Of the method sskd; the defaults are the published ones."""

    temperature: Temperature = setting(4.0, "Of the upright images' soft labels.")
    hard_weight: LossWeight = setting(0.1, "Weight of the label's loss on upright images.")
    soft_weight: LossWeight = setting(0.9, "Weight of the soft labels of upright images.")
    rotated_temperature: Temperature = setting(4.0, "Of the rotated images' soft labels.")
    rotated_weight: LossWeight = setting(2.7, "Weight of the soft labels of rotated images.")
    rotated_share: Share = setting(1.0, "Share that counts of the rotated images that the teacher gets wrong.")
    similarity_temperature: Temperature = setting(0.5, "Of the similarities of rotated and upright images.")
    similarity_weight: LossWeight = setting(10.0, "Weight of the teacher's similarities.")
    similarity_share: Share = setting(0.75, "Share that counts of the similarities that the teacher gets wrong.")
    head_share: ShareAboveZero = setting(
        0.25,
        "Length of the first stage, which trains the teacher's projection; published: 60 to 240 epochs.",
        "of the steps",
    )
