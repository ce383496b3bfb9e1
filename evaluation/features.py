"""The features that distances between images are computed from, and the networks that give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from evaluation.inception import Inception, find_weights, load_inception
from evaluation.judge import Judge
from image_data.sources import ImageSource
from runtime.errors import UserError
from training.finite import require_finite

_READ_ROWS = 1024


class FeatureNetwork(Protocol):
    """What gives the features: `Judge` or `Inception`."""

    metric_name: str
    feature_width: int

    @property
    def protocol(self) -> dict[str, Any]: ...

    def features(self, images: torch.Tensor | np.ndarray) -> torch.Tensor: ...


def choose_feature_network(
    judge: Judge, weights_file: Path | None = None, device: torch.device | None = None
) -> Judge | Inception:
    """Inception where its weights are given or cached, otherwise the judge.  The score is named after the choice."""
    path = find_weights(weights_file)
    return judge if path is None else load_inception(path, device)


def extract(network: FeatureNetwork, source: ImageSource) -> np.ndarray:
    """float32 N x d features of a source's images, read in pieces."""
    if not len(source):
        raise UserError("there are no images to evaluate; give a dataset with images.")
    rows = np.arange(len(source))
    pieces = [rows[start : start + _READ_ROWS] for start in range(0, len(rows), _READ_ROWS)]
    return np.concatenate([network.features(source.images(piece)).numpy() for piece in pieces])


def as_float64(features: np.ndarray | torch.Tensor) -> np.ndarray:
    """float64 N x d of features in any precision; UserError where one is not a finite number."""
    if isinstance(features, torch.Tensor):
        features = features.detach().cpu().numpy()
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"features must be N x d, not of shape {values.shape}")
    require_finite(values, "features")
    return values
