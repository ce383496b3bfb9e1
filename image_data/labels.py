"""Class labels and continuous labels: what is stored, what networks see, and what is refused.

Stored labels are in the user's units: int64 class indices, or float64 values (N, or N x d).  Networks see int64
indices, or float32 N x d in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from image_data.label_meeting import labels_differ as labels_differ
from interfaces import LabelSpace
from runtime.errors import UserError


@dataclass(frozen=True)
class ClassLabels:
    """Classes 0 .. len(names) - 1."""

    names: tuple[str, ...]

    @property
    def kind(self) -> Literal["classes", "continuous"]:
        return "classes"

    @property
    def width(self) -> int:
        return len(self.names)

    def encode(self, labels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64))

    def decode(self, encoded: torch.Tensor) -> np.ndarray:
        return encoded.cpu().numpy().astype(np.int64)

    def check(self, labels: np.ndarray, source: str) -> None:
        labels = np.asarray(labels)
        if labels.dtype.kind not in "iu":
            if labels.ndim != 1 or not np.array_equal(labels, np.round(labels)):
                raise UserError(f"{source}: class labels must be whole numbers, one for each image.")
        elif labels.ndim != 1:
            raise UserError(f"{source}: class labels must be a list of numbers, not an array of shape {labels.shape}.")
        if labels.size and (labels.min() < 0 or labels.max() >= self.width):
            raise UserError(
                f"{source}: labels run from {labels.min()} to {labels.max()}, "
                f"but there are {self.width} classes (0 to {self.width - 1}); mend the labels or the class count."
            )

    def to_json(self) -> dict[str, Any]:
        return {"kind": "classes", "names": list(self.names)}


@dataclass(frozen=True)
class ContinuousLabels:
    """A value, or a vector of `dimension` values, in [low, high] of the user's `unit`; mapped linearly to [0, 1]."""

    low: float
    high: float
    unit: str = ""
    dimension: int = 1
    transform: Literal["linear"] = "linear"

    @property
    def kind(self) -> Literal["classes", "continuous"]:
        return "continuous"

    @property
    def width(self) -> int:
        return self.dimension

    def encode(self, labels: np.ndarray) -> torch.Tensor:
        values = (np.asarray(labels, dtype=np.float64) - self.low) / (self.high - self.low)
        return torch.from_numpy(values.reshape(len(values), self.dimension).astype(np.float32))

    def decode(self, encoded: torch.Tensor) -> np.ndarray:
        values = encoded.detach().cpu().numpy().astype(np.float64) * (self.high - self.low) + self.low
        return values.reshape(len(values)) if self.dimension == 1 else values

    def check(self, labels: np.ndarray, source: str) -> None:
        labels = np.asarray(labels, dtype=np.float64)
        shape = (len(labels),) if self.dimension == 1 else (len(labels), self.dimension)
        if labels.shape != shape:
            raise UserError(f"{source}: labels of shape {labels.shape} where {shape} was expected.")
        if not np.isfinite(labels).all():
            raise UserError(f"{source}: a label is not a finite number; remove that image.")
        if labels.size and (labels.min() < self.low or labels.max() > self.high):
            raise UserError(
                f"{source}: labels run from {labels.min():g} to {labels.max():g} {self.unit}, outside the stated "
                f"range {self.low:g} to {self.high:g}; mend the labels or the range."
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "continuous",
            "low": self.low,
            "high": self.high,
            "unit": self.unit,
            "dimension": self.dimension,
            "transform": self.transform,
        }


def label_space_from_json(description: dict[str, Any]) -> LabelSpace:
    """Rebuild a label space from its `to_json()`."""
    fields = dict(description)
    kind = fields.pop("kind", None)
    try:
        if kind == "classes":
            return ClassLabels(names=tuple(str(name) for name in fields["names"]))
        if kind == "continuous":
            return ContinuousLabels(**fields)
    except (KeyError, TypeError) as error:
        raise UserError(f"label space {description} is malformed ({error}).") from error
    raise UserError(f"label space kind {kind!r} is unknown; use classes or continuous.")
