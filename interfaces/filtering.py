"""Networks that look at stored images.  Each takes uint8 batches and normalises inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch


@runtime_checkable
class FeatureExtractor(Protocol):
    """phi: uint8 N x C x H x W -> float32 N x d on the module's device."""

    card: dict[str, Any]

    def __call__(self, images: torch.Tensor) -> torch.Tensor: ...


@runtime_checkable
class DensityRatio(Protocol):
    """r(x, y): uint8 images and labels in the user's units -> float32 N >= 0 on the CPU."""

    card: dict[str, Any]

    def __call__(self, images: torch.Tensor, labels: np.ndarray) -> torch.Tensor: ...


@runtime_checkable
class Predictor(Protocol):
    """f(x): uint8 images -> float32 N x C logits (classes), or N x d predictions in the user's units, on the CPU."""

    card: dict[str, Any]

    def __call__(self, images: torch.Tensor) -> torch.Tensor: ...
