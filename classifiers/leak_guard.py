"""Refuses validation images that something which is to be judged, or which filters, has been trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from image_data.sources import ImageSource
from runtime.errors import UserError

_BLOCK_ROWS = 1024


def _names(images: ImageSource) -> Iterator[bytes]:
    for start in range(0, len(images), _BLOCK_ROWS):
        for pixels in images.images(np.arange(start, min(start + _BLOCK_ROWS, len(images)))):
            yield hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16).digest()


def refuse_seen_images(validation: ImageSource, seen: Mapping[str, ImageSource]) -> None:
    """Raise UserError where an image (equal in every pixel) of `validation` is in one of `seen`.

    `seen` names what each part was trained on, e.g. {"GAN": train, "density ratio": train, "filter predictor": train}.
    """
    wanted = set(_names(validation))
    for part, images in seen.items():
        shared = len(wanted.intersection(_names(images)))
        if shared:
            raise UserError(
                f"{shared} of {len(wanted)} validation images were seen by the {part}, so the score would flatter it; "
                f"train the {part} on the training images only."
            )
