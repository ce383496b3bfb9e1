"""Differentiable augmentation of real and generated images before the discriminator (Zhao et al. 2020).

Every draw comes from the generator that is handed in, so the same generator state gives the same augmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from runtime.errors import UserError
from runtime.ranks import ALONE, Ranks

Draw = Callable[[int], torch.Tensor]

SHIFT_FRACTION = 1 / 8
CUTOUT_FRACTION = 1 / 2


def diff_augment(
    images: torch.Tensor, policy: Sequence[str], generator: torch.Generator, ranks: Ranks = ALONE, groups: int = 1
) -> torch.Tensor:
    """float N x C x H x W in [-1, 1] -> the same shape; each image gets its own draws, in the order of POLICIES.

    With several ranks the images are this rank's parts of `groups` whole batches, end to end, and get the draws that
    they have in the whole ones.  UserError on an unknown policy.
    """
    check_policy(policy)

    def draw(count: int) -> torch.Tensor:
        """count x N in [0, 1), drawn on the generator's device, brought to that of the images."""
        whole = torch.rand(count, len(images) * ranks.count, generator=generator, device=generator.device)
        return ranks.part(whole, groups, dim=1).to(images.device)

    for name, function in POLICIES.items():
        if name in policy:
            images = function(images, draw)
    return images


def check_policy(policy: Sequence[str]) -> None:
    """Raise a UserError where a name is unknown."""
    for name in policy:
        if name not in POLICIES:
            raise UserError(f"diffaugment policy {name!r} is unknown; known are {', '.join(POLICIES)}.")


def colour(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Brightness +U(-.5, .5), saturation *U(0, 2) (colour images only), contrast *U(.5, 1.5)."""
    draws = draw(3)[:, :, None, None, None]
    images = images + (draws[0] - 0.5)
    if images.shape[1] > 1:
        grey = images.mean(dim=1, keepdim=True)
        images = torch.lerp(grey, images, 2.0 * draws[1])
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(mean, images, 0.5 + draws[2])


def translation(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Shift by up to an eighth of the size, whole pixels, zeros (mid-grey) coming in."""
    _, _, height, width = images.shape
    draws = draw(2)
    rows = _shift_matrices(draws[0], height, images.dtype)
    columns = _shift_matrices(draws[1], width, images.dtype)
    # Products with 0/1 matrices are exact, and their gradient needs no scatter (fast, and deterministic on a GPU).
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


def cutout(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Set a square of half the size to zero; its centre is uniform, so it may hang over the border."""
    _, _, height, width = images.shape
    draws = draw(2)
    rows = _inside_cut(draws[0], height)
    columns = _inside_cut(draws[1], width)
    hidden = rows[:, None, :, None] & columns[:, None, None, :]
    return images * (~hidden).to(images.dtype)


def flip(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Mirror left and right with probability one half."""
    chosen = draw(1)[0] < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


POLICIES: dict[str, Callable[[torch.Tensor, Draw], torch.Tensor]] = {
    "color": colour,
    "translation": translation,
    "cutout": cutout,
    "flip": flip,
}


def _shift_matrices(draws: torch.Tensor, size: int, dtype: torch.dtype) -> torch.Tensor:
    """N x size x size: row i of a matrix picks input row i + shift, or nothing where that is outside."""
    reach = int(size * SHIFT_FRACTION + 0.5)
    shift = (draws * (2 * reach + 1)).long().clamp_(max=2 * reach) - reach
    place = torch.arange(size, device=draws.device)
    return (place[None, None, :] == place[None, :, None] + shift[:, None, None]).to(dtype)


def _inside_cut(draws: torch.Tensor, size: int) -> torch.Tensor:
    """N x size: which rows (or columns) the cut covers."""
    cut = int(size * CUTOUT_FRACTION + 0.5)
    centres = size + (1 - cut % 2)
    start = (draws * centres).long().clamp_(max=centres - 1) - cut // 2
    place = torch.arange(size, device=draws.device)[None, :]
    return (place >= start[:, None]) & (place < start[:, None] + cut)
