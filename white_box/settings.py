"""What the methods on features may be told, and train-student's flags for several of them; free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from runtime.bounds import Positive, Seed, check_bounds
from runtime.errors import UserError
from runtime.registry import Choice
from runtime.settings import setting, settings_of
from training.methods import METHODS

KernelRows = Literal["position", "sample"]


@dataclass(frozen=True)
class PairSettings:
    """Of losses on pairs of feature maps."""

    weight: Positive = setting(1.0, "Weight of the mean over the pairs.")
    pairs: tuple[str, ...] = setting((), "TEACHER:STUDENT pairs of features; left out: the last maps of equal size.")
    resize_maps: bool = setting(False, "Average the larger of two maps to the smaller; else unequal sizes are refused.")


@dataclass(frozen=True)
class KernelAlignmentSettings(PairSettings):
    """Of kernel alignment."""

    rows: KernelRows = setting("position", "Rows of the kernel: position (N x H x W rows of C) or sample (N rows).")
    centred: bool = setting(True, "Centre the columns (linear CKA).")


@dataclass(frozen=True)
class WhiteBoxSettings:
    """Several methods on features at once, with the pairs that they share; a bad value is a UserError at once.

    On the digits (one seed, 3,000 steps) the student's Frechet distance was 1.27 times the teacher's without a term,
    1.19 with kernel_alignment=0.02, and 1.8 with feature_l2 at 0.01 or 0.1, which narrows the classes.
    """

    white_box_losses: tuple[str, ...] = setting(("kernel_alignment=0.02",), "Each loss as NAME=WEIGHT.")
    white_box_taps: tuple[str, ...] = setting(
        (), "TEACHER_PATH:STUDENT_PATH pairs of modules; left out: the blocks of equal size."
    )
    kernel_rows: KernelRows = setting(
        "position", "Rows of kernel alignment: position (N x H x W rows of C) or sample (N rows)."
    )
    kernel_centred: bool = setting(True, "Centre the columns of kernel alignment (linear CKA).")
    resize_maps: bool = setting(
        False, "Average the larger of two maps of unequal size to the smaller; else that is an error."
    )
    seed: Seed = setting(0, "The adapters start from it.")

    def __post_init__(self) -> None:
        if not self.white_box_losses:
            raise UserError("white box: no loss is named; give at least one, e.g. kernel_alignment=0.1.")
        check_bounds(self, "white box")
        self.methods()

    def methods(self) -> tuple[Choice, ...]:
        """The methods that are named, each with those of the flags that it has."""
        weights: dict[str, float] = {}
        for entry in self.white_box_losses:
            name, _, text = entry.partition("=")
            try:
                weight = float(text)
            except ValueError:
                weight = math.nan
            if not (weight > 0 and math.isfinite(weight)):
                raise UserError(
                    f"white box: {entry!r} must be a loss and a weight above 0, as in kernel_alignment=0.1."
                )
            if name in weights:
                raise UserError(f"white box: the loss {name} is named twice; name it once.")
            weights[name] = weight
        return tuple(self._method(name, weight) for name, weight in weights.items())

    def _method(self, name: str, weight: float) -> Choice:
        given = {
            "weight": weight,
            "pairs": self.white_box_taps,
            "resize_maps": self.resize_maps,
            "rows": self.kernel_rows,
            "centred": self.kernel_centred,
        }
        known = {one.name for one in settings_of(METHODS.settings(name))}
        if "weight" not in known:
            raise UserError(f"white box: {name} is no loss on features; `list` names those that are.")
        return METHODS.choose(name, {key: value for key, value in given.items() if key in known})
