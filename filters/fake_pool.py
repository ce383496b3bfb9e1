"""Fakes for fitting a density ratio: each real image is faced by fakes that were asked for with its label."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from image_data.label_meeting import LabelHolder, check_same_labels
from interfaces import LabelSpace, Teacher
from layers.pixels import quantise
from runtime.errors import UserError
from runtime.progress import progress
from runtime.seeds import numbered_keys

FIRST_CANDIDATE = 1 << 41  # candidate numbers from here on belong to fitting: no pilot and no dataset shares a latent
_BLOCK = 256


def teacher_features(
    teacher: Teacher, labels: np.ndarray, seed: int, phi: Callable[[torch.Tensor, np.ndarray], torch.Tensor]
) -> torch.Tensor:
    """phi(quantised fake, label) for each label: float32 N x d on phi's device.

    labels: in the user's units, N or N x d; a label may come many times.  Works in fixed blocks, in order.
    """
    keys = numbered_keys(labels, FIRST_CANDIDATE)
    pieces: list[torch.Tensor] = []
    with progress("fakes for the density ratio", len(labels)) as bar:
        for begin in range(0, len(labels), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            latents = teacher.latents(keys[block], seed)
            images = quantise(teacher.generate(latents, labels[block], keys[block], seed))
            pieces.append(phi(images, labels[block]))
            bar.advance(len(labels[block]))
    return torch.cat(pieces)


def check_teacher(
    teacher: Teacher, label_space: LabelSpace, image_shape: tuple[int, ...], labels: np.ndarray | None = None
) -> None:
    """UserError where the teacher's images or labels are not those of the real data (C x H x W, labels in the user's
    units).
    """
    card = teacher.card
    made = (card.channels, card.resolution_px, card.resolution_px)
    if made != tuple(image_shape):
        raise UserError(
            f"the teacher makes images of {made} (channels, height, width) and the real images are "
            f"{tuple(image_shape)}; load the data with the teacher's resolution and channels."
        )
    check_same_labels(
        LabelHolder("data", "the real data", label_space),
        LabelHolder("teacher", "the teacher", teacher.label_space),
        labels,
    )
