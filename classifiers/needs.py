"""What a light classifier's training takes, for `--dry-run`."""

from __future__ import annotations

from typing import Any

import torch

from classifiers.networks import build_student
from classifiers.settings import ClassifierSettings
from interfaces import LabelSpace
from training.memory import training_needs
from training.methods import METHODS

_COPIES = 5  # weights, gradients, momentum, the best state, and EMA


def classifier_needs(
    settings: ClassifierSettings,
    image_shape: tuple[int, ...],
    label_space: LabelSpace,
    data_bytes: int,
    device: torch.device,
) -> dict[str, Any]:
    """MB of memory; image_shape: (C, H, W), data_bytes: of the images that are held in memory."""
    channels, resolution_px = image_shape[:2]
    network = build_student(settings.network, channels, resolution_px, label_space).train()

    def step(count: int) -> torch.Tensor:
        return network(torch.zeros(count, *image_shape, dtype=torch.uint8))

    rows = settings.batch_size * METHODS.get(settings.method.name).rows_per_image
    return training_needs([network], step, rows, _COPIES, data_bytes, device)
