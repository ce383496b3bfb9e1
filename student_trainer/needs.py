"""What a student generator's training takes, for `--dry-run`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from interfaces import LabelSpace
from student_trainer.building import build_discriminator, build_student
from student_trainer.settings import StudentSettings
from training.memory import training_needs

_COPIES = 5  # weights, gradients, Adam's two moments, EMA


def student_needs(
    settings: StudentSettings,
    label_space: LabelSpace,
    image_shape: tuple[int, int, int],
    latent_dim: int,
    label: np.ndarray,
    data_bytes: int,
    device: torch.device,
) -> dict[str, Any]:
    """MB of memory, but for white-box terms.  label: one label (1, or 1 x d) in the user's units."""
    student = build_student(settings, label_space, image_shape, latent_dim).train()
    discriminator = build_discriminator(settings, label_space, image_shape)

    def step(count: int) -> torch.Tensor:
        """A pair and an unpaired batch, each of which D looks at beside the teacher's images."""
        encoded = label_space.encode(np.repeat(label, count, axis=0))
        made = [student(torch.zeros(count, latent_dim), encoded) for _ in range(2)]
        return torch.cat([discriminator(torch.cat([one, one]), torch.cat([encoded, encoded])) for one in made])

    return training_needs([student, discriminator], step, settings.batch_size, _COPIES, data_bytes, device)
