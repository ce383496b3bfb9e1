"""Networks that look at stored images.  Each takes uint8 batches, normalises inside, and answers on its device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch


@runtime_checkable
class DensityRatio(Protocol):
    """r(x, y): uint8 images and labels in the user's units -> float32 N >= 0."""

    card: dict[str, Any]

    def __call__(self, images: torch.Tensor, labels: np.ndarray) -> torch.Tensor: ...


@runtime_checkable
class Predictor(Protocol):
    """f(x): uint8 images -> float32 N x C logits, or encoded labels N x d in [0, 1] (`LabelSpace.encode`)."""

    card: dict[str, Any]

    def __call__(self, images: torch.Tensor) -> torch.Tensor: ...

    def predictions(self, images: torch.Tensor) -> torch.Tensor:
        """What is stored and shown, float32 on the CPU: N x C logits, or N x d in the user's units."""
        ...
