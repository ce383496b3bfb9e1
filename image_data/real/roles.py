"""Who sees which image: exact, stratified, disjoint splits that depend on labels and a seed only."""

from __future__ import annotations

import numpy as np

from image_data.sources import ArraySource
from runtime.errors import UserError
from runtime.seeds import numpy_generator

_LABEL_BINS = 20  # strata of continuous labels
_SHARE = 0.15
_SPLIT_SEED = 20240917  # never changes: who is split off must not depend on a run's seed


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


def split_missing(
    found: dict[str, ArraySource], where: str, val_size: int | None = None
) -> tuple[dict[str, ArraySource], list[str]]:
    """Cut the roles that are not in `found` off its "train", stratified and by a fixed seed; also names them.

    Each takes 15 per cent of the training images, rounded (or `val_size` for val).  Roles that are there stay whole.
    """
    train = found["train"]
    missing = [role for role in ("val", "test") if role not in found]
    share = round(_SHARE * len(train))
    sizes = {"val": share if val_size is None else val_size, "test": share}
    sizes = {role: sizes[role] if role in missing else 0 for role in sizes}
    sizes["train"] = len(train) - sizes["val"] - sizes["test"]
    if sizes["train"] < 2 or any(sizes[role] < 1 for role in missing):
        raise UserError(
            f"{where}: {len(train)} images are too few to split off {' and '.join(missing)}; add images or give these "
            "parts in folders of their own."
        )
    if not missing:
        return found, missing
    rows = cut_roles(train.labels, sizes, _SPLIT_SEED, "missing roles")
    cut = {role: train.subset(rows[role]) if role in ("train", *missing) else found[role] for role in sizes}
    return cut, missing
