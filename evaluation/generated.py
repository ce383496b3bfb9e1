"""Images of a generator for evaluation: drawn by key and quantised as at rest; a score sees what would be stored."""

from __future__ import annotations

import numpy as np
import torch

from image_data.sources import ArraySource
from interfaces import Teacher
from layers.pixels import quantise
from runtime.seeds import numbered_keys

_BLOCK_ROWS = 128


def generated_images(
    generator: Teacher, labels: np.ndarray, seed: int, *, block_rows: int = _BLOCK_ROWS
) -> ArraySource:
    """One image for each label (user's units), uint8 N x C x H x W: round half to even of (x + 1) * 127.5, clamped.

    The k-th image of a label is the same however many other labels are asked for.  A last, short block is filled up,
    so that every forward pass has the same shape.  Only stored images or these are scored, never raw floats.
    """
    labels = np.asarray(labels)
    keys = numbered_keys(labels)
    found = []
    for start in range(0, len(labels), block_rows):
        rows = np.arange(start, start + block_rows)
        rows = np.where(rows < len(labels), rows, start)
        latents = generator.latents(keys[rows], seed)
        images = generator.generate(latents, labels[rows], keys[rows], seed)
        if not torch.isfinite(images).all():
            raise ValueError("the generator returned values that are not finite numbers")
        found.append(quantise(images)[: len(labels) - start].cpu().numpy())
    return ArraySource(np.concatenate(found), labels)
