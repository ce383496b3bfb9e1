"""A split that an HDF5 file holds beside its images: lists of row numbers, masks, or a column of roles.

`indx_train`, `train_idx`, `testIndices`, `val_mask` and the like name a role; `split` (or partition, fold, subset)
holds a role for each image, as a text or as 0, 1, 2 for train, validation, test.  Where no list names the test part,
it is the rows that no other list has.  A split that is there is used, or refused with the reason, or named as not
used: it is never replaced by a random one without a word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from image_data.real.hdf5_layouts import ROLE_WORDS, words_of
from runtime.errors import UserError
from runtime.safe_files import printable
from runtime.safe_files.hdf5_policy import is_text, read_array

_INDEX_WORDS = r"(?:indx|indexes|indices|index|inds|ind|idxs|idx|ids|id|mask|rows|row|split|set|is|list|numbers)"
_ROLES = r"(?:sub)?(?:train|training|val|valid|validation|dev|test|testing|rest)"
_WORD = re.compile(rf"(?:{_INDEX_WORDS})*({_ROLES})?(?:{_INDEX_WORDS})*")
_COLUMNS = {"split", "splits", "partition", "partitions", "fold", "subset", "set"}
_NUMBERED = {0: "train", 1: "val", 2: "test"}


@dataclass(frozen=True, eq=False)
class Split:
    """Sorted or listed rows (int64) of each role that the file gives; where none is given it is split off later."""

    rows: dict[str, np.ndarray]
    datasets: tuple[str, ...]
    remark: str


def role_in(name: str) -> str | None:
    """train, val, test or "" (a column of roles) where a dataset's name says that it is part of a split, else None."""
    words = words_of(name.rsplit("/", 1)[-1])
    words = [re.sub(r"[0-9]+$", "", word) or word for word in words]
    if len(words) == 1 and words[0] in _COLUMNS:
        return ""
    roles: set[str] = set()
    for word in words:
        match = _WORD.fullmatch(word)
        if match is None:
            return None
        if match.group(1):
            word = match.group(1).removeprefix("sub")
            roles.add("test" if word == "rest" else ROLE_WORDS[word])
    return roles.pop() if len(roles) == 1 else None


def find_split(file: h5py.File, names: list[str], count: int, path: Path, roles: tuple[str, ...]) -> Split | None:
    """The split of `count` images among the datasets `names`; None where there is none.

    `roles`: those that may come from it.  UserError naming the datasets where it contradicts itself or the images.
    """
    given: dict[str, list[str]] = {}
    for name in names:
        role = role_in(name)
        if role is not None and _fits(file[name], count, role):
            given.setdefault(role, []).append(name)
    columns = given.pop("", [])
    given = {role: datasets for role, datasets in given.items() if role in roles}
    if not given:
        return _by_column(file, columns, count, path, roles) if columns else None
    chosen = {role: _one_of(file, datasets, count, path) for role, datasets in given.items()}
    rows = {role: indices for role, (_, indices) in chosen.items()}
    used = tuple(name for name, _ in chosen.values())
    together = np.concatenate(list(rows.values()))
    if len(np.unique(together)) != len(together):
        raise UserError(f"{path}: an image is in two parts of the split ({' and '.join(used)}); mend these datasets.")
    return _complete(rows, used, count, path, roles)


def rows_of(index: np.ndarray, count: int, path: Path, name: str) -> np.ndarray:
    """int64 row numbers from a list of these, or from a mask; UserError where they are not of `count` images."""
    name = printable(name, 60)
    if index.ndim != 1 or index.dtype.kind not in "biuf" or not np.array_equal(index, np.round(index)):
        raise UserError(f"{path}: {name} must be a list of row numbers.")
    if index.dtype.kind == "b" or _is_mask(index, count):
        if len(index) != count:
            raise UserError(f"{path}: {name} is a mask of {len(index)} rows, but there are {count} images.")
        return np.flatnonzero(index)
    if index.size and (index.min() < 0 or index.max() >= count):
        hint = "; it seems to count from 1, rows count from 0" if index.min() == 1 and index.max() == count else ""
        raise UserError(
            f"{path}: {name} runs from {int(index.min())} to {int(index.max())}, but there are {count} images{hint}."
        )
    rows = index.astype(np.int64)
    if len(np.unique(rows)) != len(rows):
        raise UserError(
            f"{path}: {name} lists a row twice; an image is in two parts of the split or in one part twice."
        )
    return rows


def _is_mask(index: np.ndarray, count: int) -> bool:
    """Zeros and ones, as many as images: a list of row numbers would hold a row twice."""
    return len(index) == count and count > 2 and bool(np.isin(index, (0, 1)).all())


def _fits(dataset: h5py.Dataset, count: int, role: str) -> bool:
    """Whether a dataset can be part of a split: one row of numbers, or for a column one number or text an image."""
    if dataset.ndim != 1:
        return False
    numbers = dataset.dtype.kind in "biuf"
    return len(dataset) == count and (numbers or is_text(dataset)) if role == "" else numbers


def _one_of(file: h5py.File, names: list[str], count: int, path: Path) -> tuple[str, np.ndarray]:
    """Of several lists for one role the `sub` one that is part of the other, as the CcGAN files have them."""
    lists = [(name, rows_of(read_array(file[name], path), count, path, name)) for name in names]
    for name, rows in lists:
        if len(rows) == 0:
            raise UserError(f"{path}: {printable(name, 60)} lists no images; fill it or remove it.")
    if len(lists) == 1:
        return lists[0]
    smallest = min(lists, key=lambda entry: len(entry[1]))
    nested = all(set(smallest[1].tolist()) <= set(rows.tolist()) for _, rows in lists)
    if not nested or not ("sub" in smallest[0].lower() or all(len(rows) == len(smallest[1]) for _, rows in lists)):
        raise UserError(f"{path}: {' and '.join(names)} give two lists for the same part; keep one of them.")
    return smallest


def _complete(
    rows: dict[str, np.ndarray], used: tuple[str, ...], count: int, path: Path, roles: tuple[str, ...]
) -> Split:
    """Add the part that the lists leave open: the other rows."""
    left = np.setdiff1d(np.arange(count), np.concatenate(list(rows.values())))
    rest = ""
    if "train" not in rows:
        if not len(left):
            raise UserError(f"{path}: {' and '.join(used)} leave no image for training; mend these datasets.")
        rows, rest = {**rows, "train": left}, "; the other rows are for training"
    elif len(left) and "test" in roles and "test" not in rows:
        rows, rest = {**rows, "test": left}, "; the other rows are for testing"
    elif len(left):
        rest = f"; {len(left)} rows that they do not list are not used"
    sizes = ", ".join(f"{role} {len(rows[role])}" for role in ("train", "val", "test") if role in rows)
    verb = "is" if len(used) == 1 else "are"
    return Split(
        rows, used, f"{path}: {' and '.join(used)} {verb} taken as the split of {count} images ({sizes}){rest}"
    )


def _by_column(file: h5py.File, columns: list[str], count: int, path: Path, roles: tuple[str, ...]) -> Split | None:
    """Roles by one column; None where its numbers or texts do not say them."""
    if len(columns) > 1:
        raise UserError(f"{path}: {' and '.join(columns)} both give each image's part; keep one of them.")
    values = read_array(file[columns[0]], path)
    if values.dtype.kind == "U":
        names = np.array([ROLE_WORDS.get(text.strip().lower(), "") for text in values.tolist()])
    else:
        known = _NUMBERED if set(np.unique(values).tolist()) != {0, 1} else {0: "train", 1: "test"}
        names = np.array([known.get(value, "") for value in values.tolist()])
        _, sizes = np.unique(names, return_counts=True)
        if (names == "train").sum() < sizes.max() or (sizes == sizes.max()).sum() > 1:  # 0 may mean something else
            return None
    present = set(names.tolist())
    if "" in present or "train" not in present or not present <= set(roles) or len(present) < 2:
        return None
    return _complete({role: np.flatnonzero(names == role) for role in present}, (columns[0],), count, path, roles)
