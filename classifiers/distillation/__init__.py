"""Distillation losses by name: `DISTILLERS`, and `build_distiller`."""

from classifiers.distillation.losses import (
    DISTILLERS,
    Distiller,
    HardLabels,
    SoftTargets,
    build_distiller,
    weight_names,
)

__all__ = ["DISTILLERS", "Distiller", "HardLabels", "SoftTargets", "build_distiller", "weight_names"]
