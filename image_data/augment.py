"""Random changes of a training batch that keep its labels: horizontal mirror and small shift.

Which of them a dataset allows is the dataset's to say (`RealData.allowed_augmentations`): a mirrored digit is no digit.
Every draw comes from the generator that is passed in, so a training step is repeatable; or it is named by an image's
key and the number of a view, so that the view can be made again wherever the image lies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from runtime.errors import UserError
from runtime.ranks import ALONE, Ranks
from runtime.seeds import keyed_uniforms

AUGMENTATIONS = ("flip", "translate")
_DRAWS = 3  # of one view: mirrored or not, rows, columns


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
    whole = len(images) * ranks.count
    if "flip" in names:
        mirrored = torch.rand(whole, generator=generator, device=generator.device) < 0.5
        images = _flip(images, ranks.part(mirrored))
    if "translate" in names:
        reach = _reach(images, pad_px)
        shift = torch.randint(-reach, reach + 1, (2, whole), generator=generator, device=generator.device)
        images = _translate(images, ranks.part(shift, dim=1))
    return images


def augment_view(
    images: torch.Tensor, names: Sequence[str], keys: np.ndarray, views: np.ndarray, seed: int
) -> torch.Tensor:
    """View number views[i] of image i: `augment` with draws that are a pure function of (seed, keys[i], views[i]).

    images: N x C x H x W; keys: whole numbers N, one an image, whatever its row; views: N, from 0.
    """
    names = check_augmentations(names, "augment_view")
    draws = keyed_uniforms(keys, _DRAWS * np.asarray(views), _DRAWS, seed, "view of an image")
    if "flip" in names:
        images = _flip(images, torch.from_numpy(draws[:, 0] < 0.5))
    if "translate" in names:
        reach = _reach(images, None)
        shift = np.floor(draws[:, 1:] * (2 * reach + 1)).astype(np.int64) - reach
        images = _translate(images, torch.from_numpy(shift.T.copy()))
    return images


def _flip(images: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(3), images)


def _reach(images: torch.Tensor, pad_px: int | None) -> int:
    reach = images.shape[-1] // 8 if pad_px is None else pad_px
    if reach < 0:
        raise ValueError(f"pad_px must not be negative, but is {reach}")
    return reach


def _translate(images: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """shift: whole 2 x N, down and right."""
    count, _, height, width = images.shape
    shift = shift.to(images.device)
    rows = (torch.arange(height, device=images.device) + shift[0, :, None]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + shift[1, :, None]).clamp(0, width - 1)
    item = torch.arange(count, device=images.device)[:, None, None]
    # Indices on both sides of the channel slice: the result is N x H x W x C, so channels go back in front.
    return images[item, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
