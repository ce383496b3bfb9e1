"""What the distillation methods may be told; free of torch, so that --help can show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

from runtime.bounds import Bound, ShareBelowOne
from runtime.settings import setting

LossWeight = Annotated[float, AfterValidator(Bound(0, 10**6))]
Temperature = Annotated[float, AfterValidator(Bound(0.01, 1000))]


@dataclass(frozen=True)
class HardLabelSettings:
    """Of the method none."""

    label_smoothing: ShareBelowOne = setting(0.0, "Share of a label's mass that all classes get.")


@dataclass(frozen=True)
class SoftTargetSettings:
    """Of the method blkd; the defaults are those of RepDistiller (cGAN-KD's journal version)."""

    temperature: Temperature = setting(4.0, "The logits are divided by it.")
    hard_weight: LossWeight = setting(0.1, "Weight of the label's loss.")
    soft_weight: LossWeight = setting(0.9, "Weight of the teacher's soft labels.")
