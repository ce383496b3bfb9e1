"""How far a predictor's view of a fake lies from the label that was asked of the teacher (cGAN-KD's "teacher error").

Errors are computed from the stored uint8 image's prediction without augmentation, so that they are reproducible.
"""

from __future__ import annotations

import numpy as np
import torch


def classification_error(logits: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    """float32 N: cross entropy in nats of each row.  logits: float N x C; labels: int64 N."""
    rows = logits.detach().to(device="cpu", dtype=torch.float32)
    wanted = torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64))
    return torch.nn.functional.cross_entropy(rows, wanted, reduction="none").numpy()


def regression_error(predictions: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    """float32 N: |f(x) - y| in the user's units; for vector labels the Euclidean length of the difference.

    predictions: float N or N x d; labels: float64 N or N x d.
    """
    predicted = predictions.detach().cpu().numpy().astype(np.float64).reshape(len(predictions), -1)
    wanted = np.asarray(labels, dtype=np.float64).reshape(len(predicted), -1)
    if wanted.shape != predicted.shape:
        raise ValueError(f"predictions of shape {predicted.shape} do not go with labels of shape {wanted.shape}")
    return np.sqrt(((predicted - wanted) ** 2).sum(axis=1)).astype(np.float32)
