"""The training flags that train-classifier, distill and search-rho share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel

from classifiers.settings import ClassifierSettings
from commands.support.options import Chosen, entry_option, settings_from, settings_options
from runtime.registry import Choice
from training.methods import METHODS

_OWN = {"seed", "network", "method", "beside"}  # not of all commands, or with other defaults
ClassifierFlags: Any = settings_options(ClassifierSettings, "ClassifierFlags", exclude=_OWN)


METHOD_HELP = "none: hard labels; blkd: a teacher's soft labels; others compare features."


class MethodOptions(BaseModel):
    """The distillation method and its settings."""

    aliases: ClassVar[Mapping[str, str]] = {
        name: f"method.{name}" for name in ("label_smoothing", "temperature", "hard_weight", "soft_weight")
    }

    method: Chosen = entry_option(METHODS, "blkd", METHOD_HELP)
    beside: Chosen = entry_option(METHODS, "none", "What is added to a method without labels of its own: none or blkd.")


def classifier_settings(options: Any, network: Choice, method: Choice, **fixed: Any) -> ClassifierSettings:
    """The settings of a training of this network by this method, from the flags."""
    settings: ClassifierSettings = settings_from(options, ClassifierSettings, network=network, method=method, **fixed)
    return settings
