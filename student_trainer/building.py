"""A student's network and its discriminator, built from the settings."""

from __future__ import annotations

from typing import Any

from torch import nn

from interfaces import LabelSpace
from layers.discriminators import DISCRIMINATORS
from student_trainer.networks import GENERATORS
from student_trainer.settings import StudentSettings


def network_arguments(
    settings: StudentSettings, label_space: LabelSpace, image_shape: tuple[int, int, int], latent_dim: int
) -> dict[str, Any]:
    """The constructor arguments of the student's network, as they go into its card.  image_shape: (C, H, W)."""
    return {
        "resolution_px": image_shape[1],
        "channels": image_shape[0],
        "latent_dim": latent_dim,
        "label_kind": label_space.kind,
        "label_width": label_space.width,
        **settings.generator.arguments(),
    }


def build_student(
    settings: StudentSettings, label_space: LabelSpace, image_shape: tuple[int, int, int], latent_dim: int
) -> nn.Module:
    """An untrained student of these settings, e.g. to count its parameters."""
    arguments = network_arguments(settings, label_space, image_shape, latent_dim)
    network: nn.Module = GENERATORS.get(settings.generator.name)(**arguments)
    return network


def build_discriminator(settings: StudentSettings, label_space: LabelSpace, image_shape: tuple[int, int, int]) -> Any:
    """An untrained discriminator of these settings.  image_shape: (C, H, W)."""
    return DISCRIMINATORS.build(
        settings.discriminator, image_shape[1], image_shape[0], label_space.kind, label_space.width
    )
