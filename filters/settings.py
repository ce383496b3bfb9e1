"""What a filter's training can be told."""

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
from runtime.errors import UserError

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

    seed: Seed = 0
    held_out: InnerShare = 0.2  # share of the real images on which training is judged and stopped
    # the extractor phi
    extractor_steps: CountOrNone = 300  # steps of the extractor's training; 0 leaves it random
    extractor_batch: BatchSize = 64  # real images of one step of the extractor
    extractor_lr: Positive = 2e-3  # Adam, falling to 0 along a cosine
    extractor_weight_decay: NotNegative = 1e-3  # of the extractor's Adam
    extractor_width: Channels = 16  # channels of the extractor's first block
    feature_dim: Channels | None = None  # numbers in a feature; about 256 where left out
    # the density ratio psi
    ratio: Ratio = "conditional"  # one network that sees the label, one network a class, or no training at all
    neighbours: Count = 3  # k of nearest-neighbours; more where a label has more than some tens of real images
    ratio_steps: CountOrNone = 400  # steps of the ratio's training; 0 leaves it a constant
    ratio_batch: BatchSize = 128  # real images of one step of the ratio, and as many fakes
    lr: Positive = 1e-3  # Adam's rate for the ratio
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.5, 0.999)  # of the ratio's Adam
    weight_decay: NotNegative = 1e-4  # of the ratio's Adam
    penalty: NotNegative = 0.1  # weight of the term that keeps the mean ratio on fakes at 1
    mlp: str = "mlp3"  # the ratio's network: mlp3, mlp5, mlp7 or mlp9
    width: Width = 0.125  # factor on the ratio's layer widths
    dropout: ShareBelowOne | None = None  # of the ratio; 0.5 where left out, or 0.4 per class
    agreement: bool = True  # psi also sees how well the extractor's head agrees with the label (not the neighbours)
    fakes_per_real: Count = 5  # fakes drawn from the teacher for each real image
    fakes_at_least: CountOrNone = 5000  # fakes drawn from the teacher in all, at least
    # bookkeeping
    evaluate_every_steps: Count = 25  # a look at the held-out images
    checkpoint_every_steps: Count = 500  # steps after which a stop loses nothing
    checkpoint_every_seconds: Positive = 30.0  # and seconds

    def __post_init__(self) -> None:
        from filters.density_ratio import RATIO_NETWORKS  # torch stays unloaded until a value is checked

        RATIO_NETWORKS.get(self.mlp)
        check_bounds(self, "fit-filter")
        if self.ratio not in ("conditional", "per-class", "nearest-neighbours"):
            raise UserError(f"ratio is {self.ratio!r}; it must be conditional, per-class or nearest-neighbours.")

    @property
    def resolved_dropout(self) -> float:
        """The published rates where none was asked for: 0.5, and 0.4 for the ratio of one class."""
        default = 0.4 if self.ratio == "per-class" else 0.5
        return default if self.dropout is None else self.dropout

    @property
    def sees_agreement(self) -> bool:
        """Whether psi's input has the column of `Features.with_label`; neighbours are sought among features alone."""
        return self.agreement and self.ratio != "nearest-neighbours"
