"""Distillation methods by name: DISTILLERS.build(choice) gives the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from classifiers.distillation.settings import HardLabelSettings, SoftTargetSettings
from runtime.lazy import lazy_exports
from runtime.registry import Registry

if TYPE_CHECKING:
    from classifiers.distillation.losses import Distiller as Distiller
    from classifiers.distillation.losses import HardLabels as HardLabels
    from classifiers.distillation.losses import SoftTargets as SoftTargets

DISTILLERS: Registry[Any] = Registry("distiller")
DISTILLERS.declare("none", "classifiers.distillation.losses", HardLabelSettings)
DISTILLERS.declare("blkd", "classifiers.distillation.losses", SoftTargetSettings)

__getattr__, _exported = lazy_exports(
    __name__, dict.fromkeys(("Distiller", "HardLabels", "SoftTargets"), "classifiers.distillation.losses")
)
__all__ = ["DISTILLERS", "Distiller", "HardLabels", "SoftTargets"]
