"""What a filter's training can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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

    seed: int = 0
    held_out: float = 0.2  # share of the real images on which training is judged and stopped
    # the extractor phi
    extractor_steps: int = 300
    extractor_batch: int = 64
    extractor_lr: float = 2e-3  # Adam, falling to 0 along a cosine
    extractor_weight_decay: float = 1e-3
    extractor_width: int = 16
    feature_dim: int | None = None  # None: `default_feature_dim`
    # the density ratio psi
    ratio: Ratio = "conditional"  # one network that sees the label, one network a class, or no training at all
    neighbours: int = 3  # k of nearest-neighbours; more where a label has more than some tens of real images
    ratio_steps: int = 400
    ratio_batch: int = 128
    lr: float = 1e-3
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 1e-4
    penalty: float = 0.1
    mlp: str = "mlp3"
    width: float = 0.125
    dropout: float | None = None  # 0.5, or 0.4 per class
    agreement: bool = True  # psi also sees how well the extractor's head agrees with the label (not the neighbours)
    fakes_per_real: int = 5
    fakes_at_least: int = 5000
    # bookkeeping
    evaluate_every_steps: int = 25
    checkpoint_every_steps: int = 500
    checkpoint_every_seconds: float = 30.0

    def __post_init__(self) -> None:
        from filters.density_ratio import RATIO_NETWORKS  # torch stays unloaded until a value is checked

        RATIO_NETWORKS.get(self.mlp)
        if not 0.0 < self.held_out < 1.0:
            raise UserError(f"held_out is {self.held_out:g}; it must lie between 0 and 1.")
        if self.ratio not in ("conditional", "per-class", "nearest-neighbours"):
            raise UserError(f"ratio is {self.ratio!r}; it must be conditional, per-class or nearest-neighbours.")
        if self.dropout is not None and not 0.0 <= self.dropout < 1.0:
            raise UserError(f"dropout is {self.dropout:g}; it must be at least 0 and below 1.")
        for name in ("extractor_steps", "ratio_steps", "fakes_at_least"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must not be negative.")
        positive = (
            "extractor_batch extractor_lr extractor_width ratio_batch lr width fakes_per_real evaluate_every_steps "
            "checkpoint_every_steps checkpoint_every_seconds neighbours"
        )
        for name in positive.split():
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be above 0.")
        if self.feature_dim is not None and self.feature_dim < 1:
            raise UserError(f"feature_dim is {self.feature_dim}; it must be at least 1.")

    @property
    def resolved_dropout(self) -> float:
        """The published rates where none was asked for: 0.5, and 0.4 for the ratio of one class."""
        default = 0.4 if self.ratio == "per-class" else 0.5
        return default if self.dropout is None else self.dropout

    @property
    def sees_agreement(self) -> bool:
        """Whether psi's input has the column of `Features.with_label`; neighbours are sought among features alone."""
        return self.agreement and self.ratio != "nearest-neighbours"
