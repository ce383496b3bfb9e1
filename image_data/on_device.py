"""All images of a training at once in the memory of the device that computes: no copy a step, equal batches."""

from __future__ import annotations

import numpy as np
import torch

from image_data.sources import ImageSource
from runtime.errors import UserError
from runtime.free_space import free_memory_bytes

_BLOCK_ROWS = 4096
_MOST = 2  # the images may take one part in so many of the free memory; the training needs the rest


def check_fits(source: ImageSource, device: torch.device) -> None:
    """UserError where the images would take more than half of the memory that is free on the device."""
    needed, free = image_bytes(source), _free_bytes(device)
    if free is not None and needed > free // _MOST:
        raise UserError(
            f"--data-on-device: the {len(source):,} training images take {needed / 1e6:,.0f} MB, more than half of the "
            f"{free / 1e6:,.0f} MB that are free on {device}; leave it out, and batches are read as they are needed."
        )


def image_bytes(source: ImageSource) -> int:
    """What all images of the source take in memory."""
    return int(source.images(np.array([0])).nbytes) * len(source)


def upload(source: ImageSource, device: torch.device) -> torch.Tensor:
    """uint8 N x C x H x W on the device, copied in blocks."""
    first = source.images(np.array([0]))
    pixels = torch.empty((len(source), *first.shape[1:]), dtype=torch.uint8, device=device)
    for start in range(0, len(source), _BLOCK_ROWS):
        rows = np.arange(start, min(start + _BLOCK_ROWS, len(source)))
        pixels[start : start + len(rows)] = torch.from_numpy(source.images(rows))
    return pixels


def _free_bytes(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory_bytes()
