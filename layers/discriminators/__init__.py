"""Discriminators by name, one file each.

DISCRIMINATORS.build(choice, resolution_px, channels, label_kind, label_width) gives an untrained network that offers
`forward(images, encoded) -> N logits`, `features(images)`: its maps from fine to coarse, and `blocks`, one for each.
"""

from __future__ import annotations

from typing import Any

from layers.discriminators.settings import ProjectionSettings
from runtime.registry import Registry

DISCRIMINATORS: Registry[Any] = Registry("discriminator")
DISCRIMINATORS.declare("projection", "layers.discriminators.projection", ProjectionSettings)

__all__ = ["DISCRIMINATORS", "ProjectionSettings"]
