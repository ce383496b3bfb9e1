"""Settings of the published methods on pooled vectors, on the last map and on fused maps; free of torch.

Defaults are the published ones (RepDistiller, the trainer of Tian et al. 2020, arXiv 1910.10699; SimKD; ReviewKD), but
where the published form is wrong: there the right one is the default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator

from runtime.bounds import Bound, Channels, Count, NotNegative, Positive, ShareBelowOne
from runtime.settings import setting

EqualRows = Literal["left-out", "counted"]
Reduction = Literal["rows", "entries"]
Normaliser = Literal["running", "first"]
ReductionFactor = Annotated[int, AfterValidator(Bound(1, 64))]

_VECTORS = "TEACHER:STUDENT pair of vectors or maps; left out: pooled, or the last maps."


@dataclass(frozen=True)
class RelationSettings:
    """Of RKD."""

    weight: Positive = setting(1.0, "Weight of the sum of both terms.")
    distance_weight: NotNegative = setting(25.0, "Weight of the distances.")
    angle_weight: NotNegative = setting(50.0, "Weight of the angles.")
    pairs: tuple[str, ...] = setting((), _VECTORS)
    equal_rows: EqualRows = setting(
        "left-out", "Pairs of equal rows in the mean distance: left-out, or counted (published: as 1e-6 apart)."
    )


@dataclass(frozen=True)
class ProbabilitySettings:
    """Of PKT."""

    reduction: Reduction = setting(
        "rows", "rows: KL divergence of each row, averaged; entries: mean over all B x B, as published."
    )
    weight: Positive | None = setting(
        None, "Weight; left out: 30000 for entries (published), 468.75 for rows, which is the same for batches of 64."
    )
    pairs: tuple[str, ...] = setting((), _VECTORS)


@dataclass(frozen=True)
class ContrastSettings:
    """Of CRD.  Both banks take 8 x embedding_dim bytes for each training image."""

    weight: Positive = setting(0.8, "Weight of the loss.")
    pairs: tuple[str, ...] = setting((), _VECTORS)
    embedding_dim: Channels = setting(128, "Width of both embeddings.", "numbers")
    negatives: Count = setting(16384, "Images of other classes that each image is told from.", "images")
    temperature: Positive = setting(0.07, "Temperature.")
    momentum: ShareBelowOne = setting(0.5, "Share of the old entry of a bank that stays.")
    normaliser: Normaliser = setting(
        "running", "Z: running (its mean moves with training), or first (published: that of the first batch for ever)."
    )


@dataclass(frozen=True)
class ReusedClassifierSettings:
    """Of SimKD."""

    weight: Positive = setting(1.0, "Weight of the loss.")
    factor: ReductionFactor = setting(2, "The projector's inner channels: the teacher's, divided by it.")


@dataclass(frozen=True)
class ReviewSettings:
    """Of ReviewKD.  Published weights run from 0.6 (ResNet-56 to ResNet-20) to 8 (ResNet-32x4 to ShuffleNetV2)."""

    weight: Positive = setting(5.0, "Weight of the sum over the levels, behind the warm-up.")
    pairs: tuple[str, ...] = setting(
        (), "TEACHER:STUDENT pairs of maps or vectors, the largest first; left out: all stages in order, or the last "
        "maps of equal size, and pooled.",
    )  # fmt: skip
    middle_channels: Channels = setting(512, "Most channels of the fused maps.", "channels")
    warmup_epochs: NotNegative = setting(20.0, "The weight rises from 0 over so many.", "epochs")
