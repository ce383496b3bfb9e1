"""A teacher is anything that returns images for labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from interfaces.labels import LabelSpace

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class TeacherCard:
    """What is known of a teacher.  Written to `card.json` beside its weights or files."""

    architecture: str  # a network's registry name, e.g. "biggan", or a kind of black box, e.g. "onnx"
    arguments: dict[str, Any]  # constructor arguments of the network, or how to call the black box
    resolution_px: int
    channels: int
    label_space: dict[str, Any]  # LabelSpace.to_json()
    latent: dict[str, Any]  # {"distribution": "normal", "dimension": 64}, or {} for teachers without latents
    truncation: dict[str, Any]  # {}, {"std": s} (BigGAN: of the latents), or {"psi": p, "cutoff": n} (StyleGAN2)
    source_digest: str  # sha256 of the weights or files
    licence: str
    allowed_augmentations: list[str]
    measured_quality: dict[str, Any] = field(default_factory=dict)
    trained_on: dict[str, Any] = field(default_factory=dict)  # the dataset's name, digest, images seen
    format_version: int = 1


@runtime_checkable
class Teacher(Protocol):
    """Keys are int64 N x 2: (label bits, candidate number k); see `runtime.seeds.label_bits`."""

    card: TeacherCard
    label_space: LabelSpace

    def latents(self, keys: np.ndarray, seed: int) -> torch.Tensor | None:
        """float32 N x z on the CPU, a pure function of (seed, key); None for a teacher without latents."""
        ...

    def generate(self, latents: torch.Tensor | None, labels: np.ndarray, keys: np.ndarray, seed: int) -> torch.Tensor:
        """float32 N x C x H x W, nominal [-1, 1]; `labels` in the user's units, `latents` those of (keys, seed).

        (seed, key) names any randomness inside, so an image is a pure function of (seed, label, k).
        """
        ...

    def candidates(self, labels: np.ndarray) -> np.ndarray | None:
        """int64 N: how many candidates each of these labels has, k = 0, 1, ...; None where there is no end."""
        ...
