"""The validation score of a classifier or regressor: lower is better.  Test images never come here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from image_data.sources import ImageSource
from interfaces import LabelSpace

BLOCK_ROWS = 256


@dataclass(frozen=True)
class Score:
    """`value`: the error rate in [0, 1] ("error"), or the mean absolute error in the user's units ("mae").

    `cross_entropy` (nats, classes only) tells how well the probabilities fit: a network that measures the teacher
    error of fakes is only as good as that.
    """

    metric: str
    value: float
    cross_entropy: float | None = None


def outputs(network: nn.Module, images: ImageSource, device: torch.device) -> torch.Tensor:
    """float32 network outputs (logits or encoded labels) on the CPU for all images, in evaluation mode."""
    was_training = network.training
    network.eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(images), BLOCK_ROWS):
            rows = np.arange(start, min(start + BLOCK_ROWS, len(images)))
            found.append(network(torch.from_numpy(images.images(rows)).to(device)).float().cpu())
    network.train(was_training)
    return torch.cat(found)


def score_outputs(found: torch.Tensor, labels: np.ndarray, label_space: LabelSpace) -> Score:
    """Compare network outputs with labels in the user's units; continuous predictions are clipped to the range."""
    if label_space.kind == "classes":
        truth = label_space.encode(np.array(labels))  # a copy: stored labels are read-only
        error = (found.argmax(1) != truth).double().mean().item()
        return Score("error", error, functional.cross_entropy(found.double(), truth).item())
    predicted = np.asarray(label_space.decode(found.clamp(0.0, 1.0))).reshape(len(labels), -1)
    return Score("mae", float(np.abs(predicted - np.asarray(labels).reshape(len(labels), -1)).mean()))


def image_errors(found: torch.Tensor, labels: np.ndarray, label_space: LabelSpace) -> np.ndarray:
    """float64 N, of each image: 0 or 1, or the absolute error in the user's units; their mean is the score."""
    if label_space.kind == "classes":
        wrong: np.ndarray = (found.argmax(1) != label_space.encode(np.array(labels))).double().numpy()
        return wrong
    predicted = np.asarray(label_space.decode(found.clamp(0.0, 1.0)), dtype=np.float64).reshape(len(labels), -1)
    missed: np.ndarray = np.abs(predicted - np.asarray(labels).reshape(len(labels), -1)).mean(axis=1)
    return missed
