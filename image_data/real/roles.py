"""Who sees which image.

The embedded datasets never change and are cut exactly, stratified, by labels and a seed (`cut_roles`).  A user's data
may grow: roles that are not given are split off by the images' hashes (`split_missing`), so that adding, removing or
renaming images moves no other, equal images share a role, and a split is the same at every resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from image_data.seen import are_among, image_hashes
from image_data.sources import ArraySource
from runtime.errors import UserError
from runtime.seeds import numpy_generator

_LABEL_BINS = 20  # strata of continuous labels
SPLIT_SHARE = 0.15  # of each role that is split off
_LEAST = 2  # training images that each class keeps: fewer teach nothing


def strata_of(labels: np.ndarray) -> np.ndarray:
    """int64 N: the class itself, or for continuous labels the quantile bin (of the first coordinate of a vector)."""
    labels = np.asarray(labels)
    if labels.dtype.kind in "iu":
        return labels.astype(np.int64)
    values = labels if labels.ndim == 1 else labels[:, 0]
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return (ranks * min(_LABEL_BINS, len(values)) // max(1, len(values))).astype(np.int64)


def stratified_order(strata: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A random order of the rows in which every slice holds each stratum in proportion (within two rows).

    Row j of a stratum of n shuffled rows gets the place (j + u) / n, with one random u in [0, 1) for each stratum.
    """
    place = np.empty(len(strata))
    for stratum in np.unique(strata):
        rows = generator.permutation(np.flatnonzero(strata == stratum))
        place[rows] = (np.arange(len(rows)) + generator.random()) / len(rows)
    return np.argsort(place, kind="stable")


def cut_roles(
    labels: np.ndarray, sizes: dict[str, int], seed: int, purpose: str, fold: int = 0, folds: int = 1
) -> dict[str, np.ndarray]:
    """Sorted rows of the roles "test", "val" and "train", of exactly the asked sizes, disjoint and stratified.

    Test sets of different folds are disjoint (so `folds` of them can be pooled); validation and training images are
    drawn anew from the rest of each fold.  Equal arguments give equal rows on every machine.
    """
    total = len(labels)
    if sizes["test"] * folds > total or sum(sizes.values()) > total:
        raise ValueError(f"cannot cut {sizes} in {folds} folds from {total} rows")
    strata = strata_of(labels)
    order = stratified_order(strata, numpy_generator(seed, purpose, "folds"))
    test = order[fold * sizes["test"] : (fold + 1) * sizes["test"]]
    rest = np.sort(np.setdiff1d(order, test))
    order = rest[stratified_order(strata[rest], numpy_generator(seed, purpose, "fold", fold))]
    val, train = order[: sizes["val"]], order[sizes["val"] : sizes["val"] + sizes["train"]]
    return {"train": np.sort(train), "val": np.sort(val), "test": np.sort(test)}


def rows_per_class(labels: np.ndarray, count: int, seed: int, source: str) -> np.ndarray:
    """Sorted rows of `count` random images of each class (continuous: of each distinct label value), drawn by `seed`.

    With the same seed a smaller count gives a subset of a larger one.  UserError naming `source` and the label where
    there are too few.
    """
    if count < 1:
        raise UserError(f"{source}: real_per_class must be 1 or more, but is {count}.")
    chosen = []
    values, index = np.unique(labels, axis=0, return_inverse=True)
    for position, value in enumerate(values):
        rows = np.flatnonzero(index.reshape(-1) == position)
        if len(rows) < count:
            raise UserError(
                f"{source}: real_per_class is {count}, but label {value} has {len(rows)} training images; "
                "ask for fewer."
            )
        chosen.append(numpy_generator(seed, "real_per_class", position).permutation(rows)[:count])
    return np.sort(np.concatenate(chosen))


@dataclass(frozen=True)
class Split:
    """All three roles, which of them were split off the training images, and what a user should know of it."""

    roles: dict[str, ArraySource]
    split_off: list[str]
    remarks: tuple[str, ...] = ()


def with_hashes(source: ArraySource) -> ArraySource:
    """The source with its images' hashes; a loader that resizes gives those of the original pixels itself."""
    return replace(source, hashes=_hashes(source))


def with_names(source: ArraySource, role: str) -> ArraySource:
    """The source with a name for each image: its file's, or its row among what was loaded."""
    return (
        source
        if source.names is not None
        else replace(source, names=[f"row {row} of {role}" for row in range(len(source))])
    )


def split_missing(given: dict[str, ArraySource], where: str, val_share: float = SPLIT_SHARE) -> Split:
    """Cut the roles that are not in `given` off its "train" by the images' hashes, a number in [0, 1) for each image.

    Below 0.15 an image is for test and from there `val_share` wide for val, so the sizes are near these shares and not
    exact.  Roles that are given stay whole, and a given test set does not move val.  What this would leave without
    images is filled: a class keeps its 2 images of largest hash for training, then an empty role takes the training
    image of smallest hash whose class can spare it.  UserError naming `where` for fewer images than that needs.
    """
    missing = [role for role in ("val", "test") if role not in given]
    if not missing:
        return Split(given, missing)
    train = with_names(with_hashes(given["train"]), "train")
    hashes = _hashes(train)
    place = hashes.astype(np.float64) / 2.0**64
    role_of = np.full(len(train), "train", dtype="<U5")
    for role, low, high in (("test", 0.0, SPLIT_SHARE), ("val", SPLIT_SHARE, SPLIT_SHARE + val_share)):
        if role in missing:
            role_of[(low <= place) & (place < high)] = role
    classes = train.labels if train.labels.dtype.kind in "iu" else np.zeros(len(train), dtype=np.int64)
    moved = _keep_training_images(role_of, classes, hashes) + _fill_empty(role_of, classes, hashes, missing)
    if any(not (role_of == role).any() for role in ("train", *missing)):
        different = len(np.unique(hashes))
        counted = f"{len(train)} images" + (f" ({different} different)" if different < len(train) else "")
        raise UserError(
            f"{where}: {counted} are too few to split off {' and '.join(missing)}; add images or give these parts in "
            "folders of their own."
        )
    cut = {role: train.subset(np.flatnonzero(role_of == role)) for role in ("train", *missing)}
    return Split({role: cut.get(role, given.get(role)) for role in ("train", "val", "test")}, missing, _moves(moved))  # type: ignore[misc]


def _keep_training_images(role_of: np.ndarray, classes: np.ndarray, hashes: np.ndarray) -> int:
    """Give each class back its images of largest hash until it has two for training; how many were moved."""
    moved = 0
    values, held = np.unique(np.r_[classes[role_of == "train"], np.unique(classes)], return_counts=True)
    for value in values[held <= _LEAST]:  # each was counted once more, so that a class without any is among them
        members = np.flatnonzero(classes == value)
        for row in members[np.argsort(hashes[members], kind="stable")[::-1]]:
            if (role_of[members] == "train").sum() >= _LEAST:
                break
            moved += _move(role_of, hashes, row, "train")
    return moved


def _fill_empty(role_of: np.ndarray, classes: np.ndarray, hashes: np.ndarray, missing: Sequence[str]) -> int:
    """Give each empty role the training image of smallest hash whose class keeps two; how many were moved."""
    moved = 0
    for role in ("test", "val"):
        if role not in missing or (role_of == role).any():
            continue
        for row in np.argsort(hashes, kind="stable"):
            same = hashes == hashes[row]
            left = np.unique(classes[(role_of == "train") & ~same], return_counts=True)
            spared = all((left[1][left[0] == value] >= _LEAST).any() for value in np.unique(classes[same]))
            if role_of[row] == "train" and spared:
                moved += _move(role_of, hashes, row, role)
                break
    return moved


def _move(role_of: np.ndarray, hashes: np.ndarray, row: int, role: str) -> int:
    """Equal images go together."""
    same = (hashes == hashes[row]) & (role_of != role)
    role_of[same] = role
    return int(same.sum())


def _moves(count: int) -> tuple[str, ...]:
    if not count:
        return ()
    return (
        f"the data are so few that {count} image{'s' if count > 1 else ''} changed roles, for each class to have "
        "training images and no role to be empty; with more data such an image may change back",
    )


def leave_out_duplicates(roles: dict[str, ArraySource], where: str) -> tuple[dict[str, ArraySource], tuple[str, ...]]:
    """Take images of val and test that are training images too out of these, and those of test out of val.

    Training and the given test set stay as long as they can: only what scores or selects gets smaller.  Also says which
    and how many, by name.  UserError where a role has no image of its own.
    """
    roles = {role: with_names(with_hashes(source), role) for role, source in roles.items()}
    remarks = []
    for role, others in (("test", ("train",)), ("val", ("train", "test"))):
        double: np.ndarray = np.zeros(len(roles[role]), dtype=bool)
        for other in others:
            double |= are_among(_hashes(roles[role]), np.sort(_hashes(roles[other])))
        if not double.any():
            continue
        pairs = _pairs(roles, role, others, np.flatnonzero(double)[:3])
        count = int(double.sum())
        if double.all():
            raise UserError(
                f"{where}: all {count} {role} images are in {' or '.join(others)} too ({pairs}); give {role} images of "
                f"its own, or leave {role} out, and it is split off."
            )
        remarks.append(f"{where}: {count} of {len(double)} {role} images are left out, because {pairs}")
        roles[role] = roles[role].subset(np.flatnonzero(~double))
    return roles, tuple(remarks)


def _pairs(roles: dict[str, ArraySource], role: str, others: Sequence[str], rows: np.ndarray) -> str:
    """Up to three pairs of equal images, by name."""
    pairs = []
    for row in rows:
        for other in others:
            twins = np.flatnonzero(_hashes(roles[other]) == _hashes(roles[role])[row])
            if len(twins):
                pairs.append(f"{_names(roles[role])[row]} equals {_names(roles[other])[twins[0]]}")
                break
    return ", ".join(pairs)


def _hashes(source: ArraySource) -> np.ndarray:
    return image_hashes(source.pixels) if source.hashes is None else source.hashes


def _names(source: ArraySource) -> Sequence[str]:
    return source.names or ()
