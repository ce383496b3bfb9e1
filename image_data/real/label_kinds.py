"""Whether labels are classes or values, and what the classes are called; and one line that says what was taken and why.

What the user states goes first (`description.py`), then what a published layout fixes, then the numbers themselves:

* Texts are classes by their names, in alphabetical order (numerical, where all are whole numbers).
* Rows with a single 1 are classes, named by their column.
* Whole numbers stored as such are classes where few are different (at most half as many as there are images, and at
  most MOST_CLASSES): gaps, a start at 1 or negative numbers make no difference, since a class is named by its number.
* Whole numbers stored as floats are classes where they run from 0 up with none left out.
* Anything else is a value, or a vector of values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from image_data.labels import ClassLabels, ContinuousLabels
from image_data.real.description import Description, continuous_space
from runtime.errors import UserError
from runtime.safe_files import printable

MOST_CLASSES = 4096
ONLY_CLASS = "all"  # what the one class of images without labels is called
_SHOWN = 6
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
LabelParts = dict[str, np.ndarray]  # role -> whole numbers or floats (N or N x d), or texts (N)


@dataclass(frozen=True)
class LabelOrigin:
    """Where labels stand, for sentences, and what is known of them before the numbers are looked at."""

    where: str
    noun: str = "labels"
    known: tuple[str, str] | None = None  # kind, and why
    columns: tuple[str, ...] = ()  # names of the d columns


@dataclass(frozen=True, eq=False)
class LabelReading:
    """int64 N or float64 N (N x d) for each role, their space, and the line that says what was taken and why."""

    space: ClassLabels | ContinuousLabels
    labels: LabelParts
    remark: str


def read_labels(parts: LabelParts, description: Description, origin: LabelOrigin) -> LabelReading:
    """Decide for all roles at once.  The training and validation parts say which classes there are.  The range of
    values, which is no more than a unit of length, covers every role where it is not stated.

    UserError where the labels are not what was stated, or a test label is of no class that training knows.
    """
    parts = {role: _plain(labels, origin) for role, labels in parts.items()}
    every = _joined(list(parts.values()), origin)
    guess, what = _look(every)
    stated = description.stated_kind
    kind, why = guess, ""
    if stated is not None:
        kind = stated[0]
        why = f", as {description.path} states" if stated[1] == "label_kind" else f", since {stated[1]} is stated"
    elif origin.known is not None:
        kind, why = origin.known[0], f", {origin.known[1]}"
    space: ClassLabels | ContinuousLabels
    if kind == "classes":
        space, labels, taken = _classes(parts, every, description, origin)
    else:
        space, labels, taken = _values(parts, description, origin)
    remark = f"{origin.where}: {origin.noun} are {what}: taken as {taken}{why}"
    if description.label_kind is None and every.dtype.kind != "U":
        other = "values" if kind == "classes" else "classes"
        key = "continuous" if kind == "classes" else "classes"
        remark += f'; for {other} write {{"label_kind": "{key}"}} into {description.path}'
    return LabelReading(space, labels, remark)


def name_classes(
    names: tuple[str, ...], description: Description, where: str, numbers: np.ndarray | None = None
) -> tuple[tuple[str, ...], np.ndarray]:
    """`class_names` applied to classes: the names in their new order, and for each old index the new one (int64).

    The stated names are those of the classes in another order, or one new name for each in the order of `names`.
    `numbers`: the number of each class where labels are numbers; then names may count from 0 and leave classes out.
    """
    stated, same = description.class_names, np.arange(len(names))
    if stated is None:
        return names, same
    if set(stated) == set(names):
        return stated, np.array([stated.index(name) for name in names], dtype=np.int64)
    counted = numbers is not None and numbers[0] == 0 and numbers[-1] < len(stated)
    places = numbers.astype(np.int64) if counted and numbers is not None else same
    if not counted and len(stated) != len(names):
        raise UserError(
            f"{where}: {description.names_from} gives {len(stated)} names, but there are {len(names)} classes "
            f"({listed(names)}); name each once, in this order."
        )
    misplaced = [name for name in stated if name in names and stated.index(name) != places[names.index(name)]]
    if misplaced:
        raise UserError(
            f"{where}: {description.names_from} uses {printable(misplaced[0], 60)!r}, which is the name of one of the "
            f"classes, at another place ({listed(names)}); name all of these in any order, or give new names."
        )
    return stated, places


def number_names(names: list[str]) -> list[str] | None:
    """The names in the order of their numbers where all are whole numbers, else None."""
    if not names or not all(_WHOLE.fullmatch(name) for name in names):
        return None
    return sorted(names, key=lambda name: (int(name), name))


def listed(names: tuple[str, ...]) -> str:
    """All names, or the first few and the last."""
    shown = [printable(name, 40) for name in names[: _SHOWN - 1]]
    if len(names) > _SHOWN:
        shown.append("...")
    if len(names) >= _SHOWN:
        shown.append(printable(names[-1], 40))
    return ", ".join(shown)


def _plain(labels: np.ndarray, origin: LabelOrigin) -> np.ndarray:
    """N x 1 as N, flags as numbers, texts that are whole numbers as these; UserError for anything else."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    kind = labels.dtype.kind
    if kind not in "biufU" or labels.ndim not in (1, 2) or (kind == "U" and labels.ndim != 1) or 0 in labels.shape[1:]:
        shape = " x ".join(map(str, labels.shape)) or "a single value"
        raise UserError(
            f"{origin.where}: {origin.noun} are {shape} of type {labels.dtype}; give numbers or names, one for each "
            "image, or a row of numbers for each."
        )
    if kind == "b":
        return labels.astype(np.int64)
    if kind == "U" and labels.size and all(_WHOLE.fullmatch(text) for text in np.unique(labels).tolist()):
        return labels.astype(np.int64)
    return labels


def _joined(arrays: list[np.ndarray], origin: LabelOrigin) -> np.ndarray:
    if len({(array.dtype.kind == "U", array.shape[1:]) for array in arrays}) > 1:
        raise UserError(f"{origin.where}: {origin.noun} of its parts are of different kinds; give all in one form.")
    return np.concatenate(arrays)


def _look(labels: np.ndarray) -> tuple[str, str]:
    """What the numbers themselves say, and how a sentence describes them."""
    count = len(labels)
    if labels.dtype.kind == "U":
        return "classes", f"texts ({len(np.unique(labels))} different)"
    if labels.ndim == 2:
        width = labels.shape[1]
        if is_one_hot(labels):
            return "classes", f"rows with a single 1 ({count} x {width})"
        return "continuous", f"rows of {width} numbers"
    if not count:
        return "continuous", "no numbers at all"
    if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and np.array_equal(labels, np.round(labels))):
        return "continuous", f"numbers from {labels.min():g} to {labels.max():g}"
    values = np.unique(labels)
    what = f"whole numbers from {int(values[0])} to {int(values[-1])} ({len(values)} different)"
    if len(values) == 1:
        what = f"all {int(values[0])}"
    if labels.dtype.kind == "f":
        counted = np.array_equal(values, np.arange(len(values)))
        return "classes" if counted else "continuous", f"{what}, stored as floats"
    few = len(values) <= min(MOST_CLASSES, max(1, count // 2))
    return "classes" if few else "continuous", what


def is_one_hot(labels: np.ndarray) -> bool:
    """Whether every row of N x d numbers (d at least 2) is a single 1 among zeros."""
    if labels.ndim != 2 or labels.shape[1] < 2 or not len(labels):
        return False
    return bool((((labels == 0) | (labels == 1)).all(axis=1) & (labels.sum(axis=1) == 1)).all())


def _classes(
    parts: LabelParts, every: np.ndarray, description: Description, origin: LabelOrigin
) -> tuple[ClassLabels, LabelParts, str]:
    numbers: np.ndarray | None = None
    if is_one_hot(every):
        names = origin.columns or tuple(str(column) for column in range(every.shape[1]))
        coded = {role: np.argmax(labels, axis=1).astype(np.int64) for role, labels in parts.items()}
    else:
        if every.ndim != 1 or (every.dtype.kind == "f" and not np.array_equal(every, np.round(every))):
            raise UserError(
                f"{origin.where}: class labels must be whole numbers or names, one for each image, or rows with a "
                "single 1; mend the labels."
            )
        if every.dtype.kind == "f" and np.abs(every).max(initial=0) >= 2**53:
            raise UserError(f"{origin.where}: a class label is beyond what a float counts exactly; mend the labels.")
        values = np.unique(np.concatenate([labels for role, labels in parts.items() if role != "test"]))
        text = every.dtype.kind == "U"
        names = tuple(str(value) if text else str(int(value)) for value in values)
        if len(names) == 1 and not text and int(values[0]) == 0:
            names = (ONLY_CLASS,)
        numbers = None if text else values
        coded = {role: _index(labels, values, f"{origin.where} ({role})") for role, labels in parts.items()}
    if not names or any(not name.strip() for name in names):
        raise UserError(f"{origin.where}: a label is empty, or there is none; give each image a label.")
    names, order = name_classes(names, description, origin.where, numbers)
    taken = f"classes {listed(names)}" if len(names) > 1 else f"one class, {listed(names)}"
    return ClassLabels(names), {role: order[labels] for role, labels in coded.items()}, taken


def _index(labels: np.ndarray, values: np.ndarray, where: str) -> np.ndarray:
    index = np.minimum(np.searchsorted(values, labels), max(0, len(values) - 1))
    strange = np.flatnonzero(values[index] != labels) if len(values) else np.arange(len(labels))
    if len(strange):
        label = printable(labels[strange[0]], 60)
        raise UserError(f"{where}: label {label} is of no class that the training part has; remove these images.")
    return index.astype(np.int64)


def _values(
    parts: LabelParts, description: Description, origin: LabelOrigin
) -> tuple[ContinuousLabels, LabelParts, str]:
    if any(labels.dtype.kind == "U" for labels in parts.values()):
        raise UserError(f"{origin.where}: {origin.noun} are texts, and values must be numbers; mend them.")
    values = {role: labels.astype(np.float64) for role, labels in parts.items()}
    space = continuous_space(np.concatenate(list(values.values())), description, origin.where)
    kind = "values" if space.dimension == 1 else f"vectors of {space.dimension} values"
    return space, values, f"{kind} from {space.low:g} to {space.high:g} {space.unit}".rstrip()
