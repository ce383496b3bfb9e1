"""The training flags that train-classifier, distill and search-rho share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel

from classifiers.distillation import DISTILLERS
from classifiers.settings import ClassifierSettings
from commands.support.options import Chosen, entry_option, settings_from, settings_options
from runtime.registry import Choice

# each command has its own default for the two
ClassifierFlags: Any = settings_options(ClassifierSettings, "ClassifierFlags", exclude={"seed", "network", "method"})


class MethodOptions(BaseModel):
    """The distillation method and its settings."""

    aliases: ClassVar[Mapping[str, str]] = {
        name: f"method.{name}" for name in ("label_smoothing", "temperature", "hard_weight", "soft_weight")
    }

    method: Chosen = entry_option(DISTILLERS, "blkd", "none: hard labels; blkd: a teacher's soft labels.")


def classifier_settings(options: Any, network: Choice, method: Choice, **fixed: Any) -> ClassifierSettings:
    """The settings of a training of this network by this method, from the flags."""
    found: ClassifierSettings = settings_from(options, ClassifierSettings, network=network, method=method, **fixed)
    return found
