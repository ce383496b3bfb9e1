"""The training flags that train-classifier, distill and search-rho share."""

from __future__ import annotations

from typing import Any

from classifiers.settings import ClassifierSettings
from commands.options import settings_options

NAMED_OTHERWISE = {"seed", "student", "distiller", "distiller_weights"}  # --seed, --network and --method
ClassifierFlags: Any = settings_options(ClassifierSettings, "ClassifierFlags", exclude=NAMED_OTHERWISE)
