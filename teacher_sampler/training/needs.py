"""What a GAN's training takes, for `--dry-run`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from image_data.sources import ImageSource
from interfaces import LabelSpace
from runtime.ranks import ALONE
from teacher_sampler.training.settings import TeacherSettings
from teacher_sampler.training.trainer import _Run
from training.memory import training_needs

_COPIES = 5  # weights, gradients, Adam's two moments, EMA


def teacher_needs(
    data: ImageSource, label_space: LabelSpace, settings: TeacherSettings, data_bytes: int, device: torch.device
) -> dict[str, Any]:
    """MB of memory.  The larger step is the generator's where D is small, and D's with real and fake images else."""
    run = _Run(data, label_space, settings, torch.device("cpu"), ALONE)

    def step(count: int) -> torch.Tensor:
        encoded = label_space.encode(data.labels[np.zeros(count, dtype=np.int64)])
        fake = run.generator(torch.zeros(count, run.latent_dim), encoded)
        twice = torch.cat([fake.detach(), fake])
        return run.discriminator(twice, torch.cat([encoded, encoded]))

    return training_needs([run.generator, run.discriminator], step, settings.batch_size, _COPIES, data_bytes, device)
