"""The small JSON beside a user's data that says what pixels cannot: which augmentations keep the labels, units, names.

A folder has it inside as `dataset.json`; a file `photos.h5` has it beside as `photos.json`.  All keys are optional:

    {"augmentations": ["flip", "translate"], "label_kind": "classes" | "continuous", "class_names": ["cat", "dog"],
     "unit": "degrees", "low": 0, "high": 90}
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from image_data.augment import check_augmentations
from image_data.labels import ClassLabels, ContinuousLabels
from runtime.errors import UserError

_KEYS = ("augmentations", "label_kind", "class_names", "unit", "low", "high")


@dataclass(frozen=True)
class Description:
    """What the user stated; None or an empty tuple where nothing was."""

    path: Path
    augmentations: tuple[str, ...] = ()
    label_kind: str | None = None
    class_names: tuple[str, ...] | None = None
    unit: str | None = None
    low: float | None = None
    high: float | None = None

    def allowed(self, asked: tuple[str, ...] | None) -> tuple[str, ...]:
        """The user's option goes before the file; where neither speaks, none is allowed."""
        return self.augmentations if asked is None else asked


def read_description(path: Path) -> Description:
    """Read and check; an absent file is an empty description.  UserError naming the file and the key."""
    if not path.exists():
        return Description(path)
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no readable JSON ({error}).") from error
    if not isinstance(fields, dict):
        raise UserError(f"{path} must be one JSON object with any of the keys {', '.join(_KEYS)}.")
    unknown = sorted(set(fields) - set(_KEYS))
    if unknown:
        raise UserError(f"{path}: key {unknown[0]!r} is unknown; known are {', '.join(_KEYS)}.")
    if fields.get("label_kind") not in (None, "classes", "continuous"):
        raise UserError(f"{path}: label_kind must be classes or continuous, not {fields['label_kind']!r}.")
    if not isinstance(fields.get("unit", ""), str):
        raise UserError(f"{path}: unit must be a text.")
    names = _texts(fields, "class_names", path)
    if names is not None and len(set(names)) != len(names):
        raise UserError(f"{path}: a class name stands twice in class_names.")
    return Description(
        path=path,
        augmentations=check_augmentations(_texts(fields, "augmentations", path) or (), str(path)),
        label_kind=fields.get("label_kind"),
        class_names=names,
        unit=fields.get("unit"),
        low=_number(fields, "low", path),
        high=_number(fields, "high", path),
    )


def class_space(labels: np.ndarray, description: Description) -> ClassLabels:
    """Classes 0 .. largest label, or as many as `class_names` states."""
    names = description.class_names
    if names is None:
        top = int(labels.max(initial=0))
        if top >= len(labels):
            raise UserError(
                f"{description.path.with_suffix('')}: class labels go up to {top} with {len(labels)} images; "
                f'if these are values, not classes, put {{"label_kind": "continuous"}} into {description.path}.'
            )
        names = tuple(str(index) for index in range(top + 1))
    return ClassLabels(names)


def continuous_space(labels: np.ndarray, description: Description, where: str) -> ContinuousLabels:
    """The stated range, or that of `labels` (float64 N or N x d)."""
    if not len(labels) or not np.isfinite(labels).all():
        raise UserError(f"{where}: a label is not a finite number, or there is none; mend the labels.")
    low = float(labels.min()) if description.low is None else description.low
    high = float(labels.max()) if description.high is None else description.high
    if not low < high:
        raise UserError(f"{where}: the label range {low:g} to {high:g} is empty; check the labels, low and high.")
    return ContinuousLabels(low, high, description.unit or "", 1 if labels.ndim == 1 else labels.shape[1])


def _texts(fields: dict[str, Any], key: str, path: Path) -> tuple[str, ...] | None:
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise UserError(f"{path}: {key} must be a list of texts.")
    return tuple(value)


def _number(fields: dict[str, Any], key: str, path: Path) -> float | None:
    value = fields.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{path}: {key} must be a finite number.")
    return float(value)
