"""What every room may ask of a label space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch


@runtime_checkable
class LabelSpace(Protocol):
    """Class labels or continuous labels.  Stored labels are always in the user's units.

    Classes: int64, shape N.  Continuous: float64, shape N (dimension 1) or N x d.
    """

    @property
    def kind(self) -> Literal["classes", "continuous"]: ...

    @property
    def width(self) -> int:
        """Number of classes, or the dimension d of a continuous label: what a network outputs."""
        ...

    def encode(self, labels: np.ndarray) -> torch.Tensor:
        """User's units -> network input: int64 N for classes, float32 N x d in [0, 1] for continuous labels."""
        ...

    def decode(self, encoded: torch.Tensor) -> np.ndarray:
        """Network units -> user's units (the inverse of `encode`; no clipping)."""
        ...

    def check(self, labels: np.ndarray, source: str) -> None:
        """Raise `runtime.errors.UserError` naming `source` when a label is outside the space."""
        ...

    def to_json(self) -> dict[str, Any]:
        """A JSON description from which `image_data.labels.label_space_from_json` rebuilds the space."""
        ...
