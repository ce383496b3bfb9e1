"""The settings of a filter's training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runtime.bounds import (
    BatchSize,
    Channels,
    Count,
    CountOrNone,
    InnerShare,
    NotNegative,
    Positive,
    Seed,
    ShareBelowOne,
    Width,
    check_bounds,
)  # fmt: skip
from runtime.settings import setting

Ratio = Literal["conditional", "per-class", "nearest-neighbours"]


@dataclass(frozen=True)
class FilterSettings:
    """Settings of `fit_filter`; the defaults are for images of 16 x 16 to 32 x 32 and 100 to some thousand of them.

    The penalty is ten times the published one: where a small teacher's images can be told from real ones without
    error, the published one lets every ratio fall to 0 and nothing could be accepted.  The small mlp3 had the lowest
    held-out loss on digits, with 100 and with 1,000 images, and costs half of mlp5 at twice the width.

    Published values (cGAN-KD, second version): mlp5 at width 1, penalty 1e-2, batch 256, 200 epochs of Adam
    (0.5, 0.999), lr 1e-4 times 0.1 at 40 and 75 per cent of the steps, weight decay 1e-4, dropout 0.5.
    """

    seed: Seed = setting(0, "Every random draw follows from it.")
    held_out: InnerShare = setting(
        0.2, "Share of the real images on which training is judged and stopped.", "of the images"
    )
    extractor_steps: CountOrNone = setting(300, "Steps of the extractor's training; 0 leaves it random.", "steps")
    extractor_batch: BatchSize = setting(64, "Real images of one step of the extractor.", "images")
    extractor_lr: Positive = setting(2e-3, "Adam's rate for the extractor; it falls to 0 along a cosine.")
    extractor_weight_decay: NotNegative = setting(1e-3, "Weight decay of the extractor's Adam.")
    extractor_width: Channels = setting(16, "Channels of the extractor's first block.", "channels")
    feature_dim: Channels | None = setting(None, "Size of a feature; left open: about 256.", "numbers")
    ratio: Ratio = setting(
        "conditional", "One network that sees the label, one network a class, or no training at all."
    )
    neighbours: Count = setting(
        3, "k of nearest-neighbours; take more where a label has more than some tens of real images."
    )
    ratio_steps: CountOrNone = setting(400, "Steps of the ratio's training; 0 leaves it a constant.", "steps")
    ratio_batch: BatchSize = setting(128, "Real images of one step of the ratio, and as many fakes.", "images")
    lr: Positive = setting(1e-3, "Adam's rate for the ratio.")
    betas: tuple[ShareBelowOne, ShareBelowOne] = setting((0.5, 0.999), "Betas of the ratio's Adam.")
    weight_decay: NotNegative = setting(1e-4, "Weight decay of the ratio's Adam.")
    penalty: NotNegative = setting(0.1, "Weight of the term that keeps the mean ratio on fakes at 1.")
    mlp: str = setting("mlp3", "The ratio's network: mlp3, mlp5, mlp7 or mlp9.")
    width: Width = setting(0.125, "Factor on the ratio's layer widths.")
    dropout: ShareBelowOne | None = setting(None, "Dropout of the ratio; left open: 0.5, or 0.4 per class.")
    agreement: bool = setting(
        True, "The ratio also sees how well the extractor's head agrees with the label (not nearest-neighbours)."
    )
    fakes_per_real: Count = setting(5, "Fakes drawn from the teacher for each real image.", "fakes")
    fakes_at_least: CountOrNone = setting(5000, "Fakes drawn from the teacher in all, at least.", "fakes")
    validate_every_steps: Count = setting(25, "Steps between two looks at the held-out images.", "steps")
    checkpoint_every_steps: Count = setting(500, "Steps between two checkpoints.", "steps")
    checkpoint_every_seconds: Positive = setting(
        30.0, "Seconds between two checkpoints, whatever the steps.", "seconds"
    )

    def __post_init__(self) -> None:
        from filters.density_ratio import RATIO_NETWORKS  # torch stays unloaded until a value is checked

        RATIO_NETWORKS.get(self.mlp)
        check_bounds(self, "fit-filter")

    @property
    def resolved_dropout(self) -> float:
        """The published rates where none was asked for: 0.5, and 0.4 for the ratio of one class."""
        default = 0.4 if self.ratio == "per-class" else 0.5
        return default if self.dropout is None else self.dropout

    @property
    def sees_agreement(self) -> bool:
        """Whether psi's input has the column of `Features.with_label`; neighbours are sought among features alone."""
        return self.agreement and self.ratio != "nearest-neighbours"
