"""Strong random changes of a training batch: AutoAugment's policy for CIFAR-10, and RandAugment.

Cubuk et al. 2018, arXiv 1805.09501 (table 7), and 2019, arXiv 1909.13719.  They may change what a label means where it
is an angle or a colour.  Images are changed in groups that drew the same operation, so that a batch costs some dozens
of calls and not hundreds.  All draws come from the CPU's generator of torch, which a training seeds for each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torchvision.transforms.v2 import functional as changes

GREY = 128  # fills the ground that a shift, shear or turn uncovers
LEVELS = 10  # magnitudes of AutoAugment run from 0 to 9
STRONGEST = 30  # of RandAugment

_Operation = Callable[[torch.Tensor, float, int], torch.Tensor]


def _moved(images: torch.Tensor, fill: int, down: float = 0.0, right: float = 0.0, *shear: float) -> torch.Tensor:
    """Shifted by shares of height and width, or sheared about the upper left corner by (along x, along y)."""
    height, width = images.shape[-2:]
    offset, degrees = [int(right * width), int(down * height)], [math.degrees(math.atan(one)) for one in shear]
    return changes.affine(images, 0.0, offset, 1.0, degrees or [0.0, 0.0], fill=float(fill), center=[0.0, 0.0])


def _shown(change: Callable[[torch.Tensor, float], torch.Tensor]) -> _Operation:
    """Colour, contrast, ...: factor 1 leaves the image as it is; level in -1 .. 1 gives 0.1 .. 1.9."""
    return lambda images, level, fill: change(images, 1.0 + 0.9 * level)


# images uint8 N x C x H x W, level (0 .. 1; those that have two directions -1 .. 1), fill -> images
_OPERATIONS: dict[str, _Operation] = {
    "identity": lambda images, level, fill: images,
    "autocontrast": lambda images, level, fill: changes.autocontrast(images),
    "equalize": lambda images, level, fill: changes.equalize(images),
    "invert": lambda images, level, fill: changes.invert(images),
    "posterize": lambda images, level, fill: changes.posterize(images, round(8 - 4 * level)),
    "solarize": lambda images, level, fill: changes.solarize(images, 255.0 * (1 - level)),
    "shear-x": lambda images, level, fill: _moved(images, fill, 0.0, 0.0, 0.3 * level, 0.0),
    "shear-y": lambda images, level, fill: _moved(images, fill, 0.0, 0.0, 0.0, 0.3 * level),
    "translate-x": lambda images, level, fill: _moved(images, fill, right=0.45 * level),
    "translate-y": lambda images, level, fill: _moved(images, fill, down=0.45 * level),
    "rotate": lambda images, level, fill: changes.rotate(images, 30.0 * level, fill=float(fill)),
    "color": _shown(changes.adjust_saturation),
    "contrast": _shown(changes.adjust_contrast),
    "brightness": _shown(changes.adjust_brightness),
    "sharpness": _shown(changes.adjust_sharpness),
}
_TWO_WAYS = {
    "shear-x",
    "shear-y",
    "translate-x",
    "translate-y",
    "rotate",
    "color",
    "contrast",
    "brightness",
    "sharpness",
}
_OF_RAND_AUGMENT = [name for name in _OPERATIONS if name != "invert"]

# Each line: two operations with the probability (in tenths) and the magnitude (0 to 9) of each.
_CIFAR10_POLICY = """
invert 1 7, contrast 2 6 | rotate 7 2, translate-x 3 9 | sharpness 8 1, sharpness 9 3 | shear-y 5 8, translate-y 7 9
autocontrast 5 8, equalize 9 2 | shear-y 2 7, posterize 3 7 | color 4 3, brightness 6 7 | sharpness 3 9, brightness 7 9
equalize 6 5, equalize 5 1 | contrast 6 7, sharpness 6 5 | color 7 7, translate-x 5 8 | equalize 3 7, autocontrast 4 8
translate-y 4 3, sharpness 2 6 | brightness 9 6, color 2 8 | solarize 5 2, invert 0 3 | equalize 2 0, autocontrast 6 0
equalize 2 8, equalize 6 4 | color 9 9, equalize 6 6 | autocontrast 8 4, solarize 2 8 | brightness 1 3, color 7 0
solarize 4 5, autocontrast 9 3 | translate-y 9 9, translate-y 7 9 | autocontrast 9 2, solarize 8 3
equalize 8 8, invert 1 3 | translate-y 7 9, autocontrast 9 1
"""


def _policy() -> list[list[tuple[str, float, float]]]:
    """Of each sub-policy the (operation, probability, level 0 .. 1), in order."""
    pairs = [pair for line in _CIFAR10_POLICY.strip().splitlines() for pair in line.split("|")]
    parts = [[part.split() for part in pair.split(",")] for pair in pairs]
    return [
        [(name, int(tenths) / 10, int(magnitude) / (LEVELS - 1)) for name, tenths, magnitude in two] for two in parts
    ]


def auto_augment(images: torch.Tensor, fill: int = GREY) -> torch.Tensor:
    """uint8 N x C x H x W, C 1 or 3 -> the same shape: each image by one of the 25 sub-policies for CIFAR-10."""
    policy = _policy()
    drawn = torch.randint(len(policy), (len(images),)).tolist()
    for turn in range(2):
        chances, signs = torch.rand(len(images)).tolist(), _signs(len(images))
        chosen = []
        for row, sub_policy in enumerate(drawn):
            name, probability, level = policy[sub_policy][turn]
            chosen.append(_directed(name, level, signs[row]) if chances[row] < probability else ("identity", 0.0))
        images = _changed(images, chosen, fill)
    return images


def rand_augment(images: torch.Tensor, operations: int = 2, magnitude: float = 10.0, fill: int = GREY) -> torch.Tensor:
    """uint8 N x C x H x W, C 1 or 3 -> the same shape: so many operations on each image, magnitude out of 30."""
    for _ in range(operations):
        drawn, signs = torch.randint(len(_OF_RAND_AUGMENT), (len(images),)).tolist(), _signs(len(images))
        pairs = zip(drawn, signs, strict=True)
        chosen = [_directed(_OF_RAND_AUGMENT[one], magnitude / STRONGEST, sign) for one, sign in pairs]
        images = _changed(images, chosen, fill)
    return images


def _signs(count: int) -> list[int]:
    return (1 - 2 * torch.randint(2, (count,))).tolist()


def _directed(name: str, level: float, sign: int) -> tuple[str, float]:
    return name, sign * level if name in _TWO_WAYS else level


def _changed(images: torch.Tensor, chosen: Sequence[tuple[str, float]], fill: int) -> torch.Tensor:
    """Each image by its (operation, level); the input is not changed."""
    groups: dict[tuple[str, float], list[int]] = {}
    for row, choice in enumerate(chosen):
        groups.setdefault(choice, []).append(row)
    result = images.clone()
    for (name, level), members in groups.items():
        if name != "identity":
            rows = torch.tensor(members, device=images.device)
            result[rows] = _OPERATIONS[name](images[rows], level, fill)
    return result
