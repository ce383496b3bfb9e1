"""Settings of the published methods on feature maps; free of torch.

Defaults are the published ones (RepDistiller, the trainer of Tian et al. 2020, arXiv 1910.10699, for 240 epochs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator

from runtime.bounds import Bound, Channels, Positive, ShareAboveZero
from runtime.settings import setting

ReluRule = Literal["fit", "always", "never"]
CorrelationForm = Literal["kernels", "neighbours"]
DirectionSigns = Literal["positive", "free"]
Margin = Annotated[float, AfterValidator(Bound(0, 1000, above=True))]
LearningRateFactor = Annotated[float, AfterValidator(Bound(0, 1000, above=True))]
STAGE_SHARE = 30 / 240  # epochs of the stage, of those that follow it

_STAGES = "TEACHER:STUDENT pairs of maps; left out: all stages in order, or where these differ in number the last maps "
_STAGES += "of equal size."
_LAST = "TEACHER:STUDENT pairs of maps; left out: the last stages."


@dataclass(frozen=True)
class FitNetSettings:
    """Of FitNet."""

    weight: Positive = setting(100.0, "Weight of the sum over the pairs.")
    pairs: tuple[str, ...] = setting((), "TEACHER:STUDENT pairs of maps; left out: the second stages.")
    relu: ReluRule = setting(
        "fit",
        "ReLU behind the regressor: fit (unless the teacher's map has negative values), always (published), never.",
    )


@dataclass(frozen=True)
class AttentionSettings:
    """Of attention transfer."""

    weight: Positive = setting(1000.0, "Weight of the sum over the pairs.")
    pairs: tuple[str, ...] = setting((), _STAGES)


@dataclass(frozen=True)
class NeuronSelectivitySettings:
    """Of NST."""

    weight: Positive = setting(50.0, "Weight of the sum over the pairs.")
    pairs: tuple[str, ...] = setting((), _STAGES)


@dataclass(frozen=True)
class SimilaritySettings:
    """Of SP."""

    weight: Positive = setting(3000.0, "Weight of the sum over the pairs; made for batches of 64.")
    pairs: tuple[str, ...] = setting((), _LAST)


@dataclass(frozen=True)
class CorrelationSettings:
    """Of CC.  On the fixture's vectors 100 gives kernels the gradient that 0.02 gives neighbours."""

    form: CorrelationForm = setting(
        "kernels", "kernels: congruence of the batch's kernel matrices; neighbours: products of rows, as published."
    )
    weight: Positive | None = setting(None, "Weight; left out: 100 for kernels, 0.02 (published) for neighbours.")
    pairs: tuple[str, ...] = setting((), "TEACHER:STUDENT pair of vectors or maps; left out: pooled, or the last maps.")
    embedding_dim: Channels = setting(128, "Width of both embeddings.", "numbers")


@dataclass(frozen=True)
class InformationSettings:
    """Of VID."""

    weight: Positive = setting(1.0, "Weight of the sum over the pairs.")
    pairs: tuple[str, ...] = setting((), _STAGES)
    first_variance: Positive = setting(5.0, "Variance of each teacher channel before training.")


@dataclass(frozen=True)
class FlowSettings:
    """Of FSP."""

    weight: Positive = setting(1.0, "Weight of the sum over neighbouring maps, in the stage before the labels.")
    pairs: tuple[str, ...] = setting((), "TEACHER:STUDENT pairs of maps in order; left out: the stem and all stages.")
    stage_share: ShareAboveZero = setting(STAGE_SHARE, "Steps of the stage before the labels, as a share of the steps.")


@dataclass(frozen=True)
class SingularVectorSettings:
    """Of KDSVD, for which no weight was published."""

    weight: Positive = setting(1.0, "Weight of the sum over neighbouring maps.")
    pairs: tuple[str, ...] = setting((), "TEACHER:STUDENT pairs of maps in order; left out: all stages.")
    signs: DirectionSigns = setting(
        "positive", "Of the teacher's directions: positive, by their sum, or free, as they come (published)."
    )


@dataclass(frozen=True)
class BoundarySettings:
    """Of AB."""

    weight: Positive = setting(1.0, "Weight of the sum over the pairs, in the stage before the labels.")
    pairs: tuple[str, ...] = setting(
        (), "TEACHER:STUDENT pairs of maps; left out: all stages, before their ReLU where the networks name such maps."
    )
    margin: Margin = setting(1.0, "Distance from the boundary within which a response is still moved.")
    stage_share: ShareAboveZero = setting(STAGE_SHARE, "Steps of the stage before the labels, as a share of the steps.")


@dataclass(frozen=True)
class FactorSettings:
    """Of FT.  The stage's learning rate was 0.01 beside 0.05 for ResNets and WRNs, else the same."""

    weight: Positive = setting(200.0, "Weight of the sum over the pairs.")
    pairs: tuple[str, ...] = setting((), _LAST)
    factor_share: ShareAboveZero = setting(0.5, "Channels of a factor, as a share of the teacher's.")
    stage_share: ShareAboveZero = setting(STAGE_SHARE, "Steps of the paraphraser's stage, as a share of the steps.")
    stage_lr_factor: LearningRateFactor = setting(0.2, "On the learning rate in the paraphraser's stage.")
