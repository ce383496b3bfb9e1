"""Distillation losses by name: `DISTILLERS`, and `build_distiller`."""

from classifiers.distillation.losses import DISTILLERS, Distiller, HardLabels, SoftTargets, build_distiller

__all__ = ["DISTILLERS", "Distiller", "HardLabels", "SoftTargets", "build_distiller"]
