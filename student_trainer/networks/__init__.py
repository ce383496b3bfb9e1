"""Student generators by name, one file each.

GENERATORS.build(choice, resolution_px, channels, latent_dim, label_kind, label_width) gives an untrained network:
latents N x z and encoded labels -> images N x C x H x W in [-1, 1].
"""

from __future__ import annotations

from typing import Any

from runtime.registry import Registry
from student_trainer.networks.settings import TinyGanSettings

GENERATORS: Registry[Any] = Registry("student generator")
GENERATORS.declare("tinygan", "student_trainer.networks.tinygan", TinyGanSettings)

__all__ = ["GENERATORS", "TinyGanSettings"]
