"""Random changes of a training batch that keep its labels: horizontal mirror and small shift.

Which of them a dataset allows is the dataset's to say (`RealData.allowed_augmentations`): a mirrored digit is no digit.
Every draw comes from the generator that is passed in, so a training step is repeatable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runtime.errors import UserError
from runtime.ranks import ALONE, Ranks

AUGMENTATIONS = ("flip", "translate")


def check_augmentations(names: Sequence[str], source: str) -> tuple[str, ...]:
    """The names in their fixed order; UserError naming `source` for an unknown one."""
    unknown = sorted(set(names) - set(AUGMENTATIONS))
    if unknown:
        raise UserError(f"{source}: augmentation {unknown[0]!r} is unknown; known are {', '.join(AUGMENTATIONS)}.")
    return tuple(name for name in AUGMENTATIONS if name in names)


def augment(
    images: torch.Tensor,
    names: Sequence[str],
    generator: torch.Generator,
    pad_px: int | None = None,
    ranks: Ranks = ALONE,
) -> torch.Tensor:
    """N x C x H x W of any dtype -> same dtype and shape; the input is not changed.

    "flip" mirrors each image with probability 1/2.  "translate" shifts each image by whole pixels, -pad_px .. pad_px
    in each direction (default resolution // 8), and repeats the border value where the shift uncovers ground: the
    same as padding by pad_px and cropping at random.
    The generator may live on the CPU while the images do not.  With no names the images come back as they are.
    With several ranks the images are this rank's part of a batch, and get the draws that they have in the whole one.
    """
    if images.ndim != 4:
        raise ValueError(f"images must be N x C x H x W, not of shape {tuple(images.shape)}")
    names = check_augmentations(names, "augment")
    if "flip" in names:
        images = _flip(images, generator, ranks)
    if "translate" in names:
        reach = images.shape[-1] // 8 if pad_px is None else pad_px
        if reach < 0:
            raise ValueError(f"pad_px must not be negative, but is {reach}")
        images = _translate(images, reach, generator, ranks)
    return images


def _flip(images: torch.Tensor, generator: torch.Generator, ranks: Ranks) -> torch.Tensor:
    mirrored = torch.rand(len(images) * ranks.count, generator=generator, device=generator.device) < 0.5
    return torch.where(ranks.part(mirrored).to(images.device)[:, None, None, None], images.flip(3), images)


def _translate(images: torch.Tensor, pad_px: int, generator: torch.Generator, ranks: Ranks) -> torch.Tensor:
    count, _, height, width = images.shape
    whole = (2, count * ranks.count)
    shift = torch.randint(-pad_px, pad_px + 1, whole, generator=generator, device=generator.device)
    shift = ranks.part(shift, dim=1).to(images.device)
    rows = (torch.arange(height, device=images.device) + shift[0, :, None]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + shift[1, :, None]).clamp(0, width - 1)
    item = torch.arange(count, device=images.device)[:, None, None]
    # Indices on both sides of the channel slice: the result is N x H x W x C, so channels go back in front.
    return images[item, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
