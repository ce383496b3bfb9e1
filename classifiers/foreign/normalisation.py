"""What a foreign classifier's pixels went through before it saw them.  No file tells that, so that it is stated.

A wrong normalisation gives no error, only worse predictions; it is asked for, kept in the card and part of the
predictor's name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from runtime.errors import UserError
from runtime.registry import Registry


@dataclass(frozen=True)
class Normalisation:
    """(pixel / scale - mean) / std, channel by channel: `scale` is 255 or 1, `mean` and `std` have one number each."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """float32 N x C x H x W from pixels 0 to 255 of any type, on their device."""
        shape = (1, len(self.mean), 1, 1)
        pixels = images.float() / self.scale
        return (pixels - pixels.new_tensor(self.mean).view(shape)) / pixels.new_tensor(self.std).view(shape)

    def __str__(self) -> str:
        pixels = "x" if self.scale == 1.0 else "x/255"
        if set(self.mean) == {0.0} and set(self.std) == {1.0}:
            return f"{self.name}: {pixels}"
        return f"{self.name}: ({pixels} - {_listed(self.mean)}) / {_listed(self.std)}"

    def to_json(self) -> dict[str, Any]:
        """For the card."""
        return {"name": self.name, "mean": list(self.mean), "std": list(self.std), "scale": self.scale}

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Normalisation:
        """The inverse; KeyError, TypeError or ValueError where a card says something else."""
        mean, std = (tuple(float(value) for value in found[name]) for name in ("mean", "std"))
        scale = float(found["scale"])
        if not mean or len(mean) != len(std) or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise ValueError("its normalisation is no mean and standard deviation of each channel")
        if scale not in (1.0, 255.0):
            raise ValueError("its normalisation has a scale other than 1 and 255")
        return Normalisation(str(found["name"]), mean, std, scale)


NORMALISATIONS: Registry[Normalisation] = Registry("normalisation")
for _preset in (
    Normalisation("none", (0.0,), (1.0,)),
    Normalisation("raw", (0.0,), (1.0,), scale=1.0),
    Normalisation("half", (0.5,), (0.5,)),
    Normalisation("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    Normalisation("cifar10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    Normalisation("cifar10-0.2023", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    Normalisation("cifar100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    Normalisation("mnist", (0.1307,), (0.3081,)),
):
    NORMALISATIONS.register(_preset.name)(_preset)

CHOICES = (
    "cifar10, cifar10-0.2023 (the often copied deviations), cifar100, imagenet, mnist, half ((x/255 - 0.5)/0.5), "
    "none (x/255), raw (0 to 255) or 'MEAN;STD' of x/255, e.g. '0.49,0.48,0.45;0.25,0.24,0.26'"
)


def normalisation_of(text: str, channels: int) -> Normalisation:
    """A preset's name, or `MEAN;STD` with one number or one a channel; UserError where it fits no such images."""
    found = NORMALISATIONS.get(text) if text in NORMALISATIONS else _stated(text)
    return replace(found, mean=_spread(text, found.mean, channels), std=_spread(text, found.std, channels))


def _stated(text: str) -> Normalisation:
    parts = text.split(";") if ";" in text else text.split("/")
    try:
        mean, std = (tuple(float(number) for number in part.split(",")) for part in parts)
    except ValueError as error:
        raise UserError(f"--normalise {text[:80]} is neither a name nor MEAN;STD; give {CHOICES}.") from error
    if not all(math.isfinite(number) for number in (*mean, *std)) or min(std) <= 0:
        raise UserError(f"--normalise {text[:80]}: means must be finite, and standard deviations above 0.")
    if max(map(abs, mean)) > 1.0 or max(std) > 2.0:
        raise UserError(
            f"--normalise {text[:80]}: MEAN;STD are of pixels between 0 and 1; divide numbers of 0 to 255 by 255."
        )
    return Normalisation("stated", mean, std)


def _spread(text: str, numbers: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(numbers) not in (1, channels):
        raise UserError(
            f"--normalise {text[:80]} is for {len(numbers)} channels, and the classifier's images have {channels}; "
            f"give MEAN;STD with {channels} number{'s' if channels > 1 else ''} each."
        )
    return tuple(numbers) * (channels // len(numbers))


def _listed(numbers: Sequence[float]) -> str:
    shown = [f"{number:g}" for number in numbers]
    return shown[0] if len(set(shown)) == 1 else f"({', '.join(shown)})"
