"""The small JSON beside a user's data that says what pixels cannot: which augmentations keep the labels, units, names.

A folder or archive has it inside as `dataset.json`; a file `photos.h5` has it beside as `photos.json`.  All keys are
optional:

    {"augmentations": ["flip", "translate"], "label_kind": "classes" | "continuous", "class_names": ["cat", "dog"],
     "unit": "degrees", "low": 0, "high": 90}

Every key acts on every kind of source.  `class_names` means classes and `unit`, `low` and `high` mean values also where
`label_kind` is left out; the two groups exclude each other.  In a folder or archive `labels` may stand beside them, as
StyleGAN2-ADA and StyleGAN3 write it (see `listed_labels.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from image_data.augment import check_augmentations
from image_data.labels import ContinuousLabels
from runtime.errors import UserError
from runtime.safe_files import parse_json, printable, read_limited

LIMIT_BYTES = 64 << 20
_KEYS = ("augmentations", "label_kind", "class_names", "unit", "low", "high")
_MOST_NAMES = 100_000
_REMEDY = "mend it or remove it"


@dataclass(frozen=True)
class Description:
    """What the user stated; None or an empty tuple where nothing was."""

    path: Path | str  # where it stands, or would stand
    augmentations: tuple[str, ...] = ()
    label_kind: str | None = None
    class_names: tuple[str, ...] | None = None
    unit: str | None = None
    low: float | None = None
    high: float | None = None
    has_labels: bool = False  # whether the key `labels` is there
    labels: Any = None  # its value, not looked at yet

    def allowed(self, asked: tuple[str, ...] | None) -> tuple[str, ...]:
        """The user's option goes before the file; where neither speaks, none is allowed."""
        return self.augmentations if asked is None else asked

    @property
    def names_from(self) -> str:
        """What gave `class_names`: the file's key, or an option that went before it."""
        return str(self.path) if str(self.path).startswith("--") else f"class_names in {self.path}"

    @property
    def stated_kind(self) -> tuple[str, str] | None:
        """("classes" or "continuous", the key that says so), or None; UserError where keys contradict each other."""
        values = next((key for key in ("unit", "low", "high") if getattr(self, key) is not None), None)
        names = None if self.class_names is None else "class_names"
        kind = self.label_kind or ("classes" if names else "continuous" if values else None)
        odd = values if kind == "classes" else names
        if kind is None:
            return None
        if odd is not None:
            raise UserError(
                f"{self.path}: {odd} is for {'values' if kind == 'classes' else 'classes'}, but "
                f"{'label_kind' if self.label_kind else names or values} says that labels are "
                f"{'classes' if kind == 'classes' else 'values'}; remove one of the two."
            )
        return kind, "label_kind" if self.label_kind else str(names or values)


def read_description(path: Path) -> Description:
    """Read and check the file; an absent one is an empty description.  UserError naming the file and the key."""
    if not path.exists():
        return Description(path)
    return parse_description(read_limited(path, LIMIT_BYTES, _REMEDY), str(path), labels_allowed=False)


def parse_description(data: bytes, where: str, labels_allowed: bool) -> Description:
    """The same for bytes; `where` names them.  `labels_allowed`: the key `labels` may stand there."""
    fields = parse_json(data, where, _REMEDY)
    keys = (*_KEYS, "labels") if labels_allowed else _KEYS
    if not isinstance(fields, dict):
        raise UserError(f"{where} must be one JSON object with any of the keys {', '.join(keys)}.")
    unknown = sorted(set(fields) - set(keys))
    if unknown:
        raise UserError(f"{where}: key {printable(repr(unknown[0]), 60)} is unknown; known are {', '.join(keys)}.")
    kind = fields.get("label_kind")
    if kind not in (None, "classes", "continuous"):
        raise UserError(f"{where}: label_kind must be classes or continuous, not {printable(repr(kind), 60)}.")
    unit = fields.get("unit")
    if unit is not None and not isinstance(unit, str):
        raise UserError(f"{where}: unit must be a text.")
    names = _texts(fields, "class_names", where)
    if names is not None and (len(set(names)) != len(names) or not names or len(names) > _MOST_NAMES):
        raise UserError(
            f"{where}: class_names must name each class once (a class name stands twice, or none is there)."
        )
    return Description(
        path=where,
        augmentations=check_augmentations(_texts(fields, "augmentations", where) or (), where),
        label_kind=kind,
        class_names=names,
        unit=None if unit is None else printable(unit, 60),
        low=_number(fields, "low", where),
        high=_number(fields, "high", where),
        has_labels="labels" in fields,
        labels=fields.get("labels"),
    )


def continuous_space(labels: np.ndarray, description: Description, where: str) -> ContinuousLabels:
    """The stated range, or that of `labels` (float64 N or N x d)."""
    if not labels.size or not np.isfinite(labels).all():
        raise UserError(f"{where}: a label is not a finite number, or there is none; mend the labels.")
    low = float(labels.min()) if description.low is None else description.low
    high = float(labels.max()) if description.high is None else description.high
    if not low < high:
        raise UserError(f"{where}: the label range {low:g} to {high:g} is empty; check the labels, low and high.")
    return ContinuousLabels(low, high, description.unit or "", 1 if labels.ndim == 1 else labels.shape[1])


def _texts(fields: dict[str, Any], key: str, where: str) -> tuple[str, ...] | None:
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(entry, str) and entry.strip() for entry in value):
        raise UserError(f"{where}: {key} must be a list of texts.")
    return tuple(value)


def _number(fields: dict[str, Any], key: str, where: str) -> float | None:
    value = fields.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where}: {key} must be a finite number.")
    return float(value)
