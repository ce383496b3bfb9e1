"""Images of a generator for evaluation: drawn by key and quantised as at rest; a score sees what would be stored."""

from __future__ import annotations

import numpy as np
import torch

from image_data.sources import ArraySource
from interfaces import Teacher
from layers.pixels import quantise
from runtime.errors import UserError
from runtime.seeds import derive_seed, numbered_keys

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
    blocks = []
    for start in range(0, len(labels), block_rows):
        rows = np.arange(start, start + block_rows)
        rows = np.where(rows < len(labels), rows, start)
        latents = generator.latents(keys[rows], seed)
        images = generator.generate(latents, labels[rows], keys[rows], seed)
        if not torch.isfinite(images).all():
            raise ValueError("the generator returned values that are not finite numbers")
        blocks.append(quantise(images)[: len(labels) - start].cpu().numpy())
    return ArraySource(np.concatenate(blocks), labels)


def draw_images(generator: Teacher, per_label: int, seed: int) -> ArraySource:
    """Images of a generator: classes in equal numbers, or ten evenly spaced label values.

    Ready images are as many as there are.
    """
    space = generator.label_space
    if space.kind == "classes":
        values = np.arange(space.width)
    else:
        values = np.linspace(space.to_json()["low"], space.to_json()["high"], 10)
    there = generator.candidates(values)
    counts = np.full(len(values), per_label) if there is None else np.minimum(per_label, there)
    if not counts.any():
        raise UserError("the teacher has no images of the labels that are evaluated; leave --teacher out.")
    return generated_images(generator, np.repeat(values, counts), derive_seed(seed, "evaluation"))
