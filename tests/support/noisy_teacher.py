"""A black-box teacher with known faults, over real digits: some images are smeared, some belong to another label."""

from __future__ import annotations

import numpy as np
import torch

from image_data.sources import ArraySource
from interfaces import LabelSpace, TeacherCard
from runtime.seeds import sample_uniforms


class NoisyTeacher:
    """Candidate (label, k) is a real image of (about) that label; a share `wrong` gets another label's image.

    Which images are faulty is a pure function of the key: `is_wrong(keys)`.  All carry a little noise.
    """

    def __init__(self, images: ArraySource, label_space: LabelSpace, wrong: float = 0.4, licence: str = "") -> None:
        self.images, self.label_space, self.wrong = images, label_space, wrong
        self.card = TeacherCard(
            architecture="noisy",
            arguments={},
            resolution_px=int(images.pixels.shape[-1]),
            channels=int(images.pixels.shape[1]),
            label_space=label_space.to_json(),
            latent={},
            truncation={},
            source_digest="noisy",
            licence=licence,
            allowed_augmentations=[],
        )

    def latents(self, keys: np.ndarray, seed: int) -> None:
        return None

    def is_wrong(self, keys: np.ndarray) -> np.ndarray:
        return sample_uniforms(keys, 1, "noisy.wrong", 1)[:, 0] < self.wrong

    def generate(
        self, latents: torch.Tensor | None, labels: np.ndarray, keys: np.ndarray, seed: int = 0
    ) -> torch.Tensor:
        draws = sample_uniforms(keys, 1, "noisy.image", 1)[:, 0]
        noise = sample_uniforms(keys, 1, "noisy.pixels", int(np.prod(self.images.pixels.shape[1:])))
        rows = np.array([self._row(*item) for item in zip(labels, draws, self.is_wrong(keys), strict=True)])
        clean = self.images.pixels[rows].astype(np.float64) / 127.5 - 1.0
        noisy = clean + 0.1 * (noise.reshape(clean.shape) - 0.5)
        return torch.from_numpy(noisy.astype(np.float32))

    def candidates(self, labels: np.ndarray) -> None:
        """Without end."""
        return None

    def _row(self, label: float, draw: float, wrong: bool) -> int:
        if self.label_space.kind == "classes":
            near = np.flatnonzero((self.images.labels == label) != wrong)
        else:
            distance = np.abs(self.images.labels - label)
            near = np.flatnonzero((distance > 40.0) if wrong else (distance < 3.0))
        return int(near[int(draw * len(near))])
