"""Which rows a `--keep` expression keeps: every comparison is a column of the dataset, joined row by row.

The quantile rank of a row is (number of rows before it) / (number of rows), in [0, 1), rows being ordered by their
value and equal ones by their place; `rank` counts within the row's asked label, `global rank` in the whole dataset.
So `error rank < 0.9` keeps exactly the ceil(0.9 n) rows of each label that `--rho 0.9` keeps.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from filters.keep_language import Compare, Keep, Not, fields_of, parse
from image_data.fake.distances import read_distances
from runtime.errors import UserError

if TYPE_CHECKING:
    from image_data.fake.dataset import FakeDataset

_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


def quantile_rank(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """float64 N in [0, 1): the share of each row's group that is lower; equal values rank by their place.

    values: float N; groups: int64 N.
    """
    order = np.lexsort((np.arange(len(values)), values, groups))
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(values) else np.zeros(0, dtype=np.int64)
    sizes = np.diff(np.r_[starts, len(values)])
    rank = np.empty(len(values), dtype=np.float64)
    rank[order] = (np.arange(len(values)) - np.repeat(starts, sizes)) / np.repeat(sizes, sizes)
    return rank


def keep_mask(tree: Keep, columns: Mapping[str, np.ndarray], label_of_row: np.ndarray) -> np.ndarray:
    """bool N.  columns: float64 N for each field of the tree; label_of_row: int64 N, equal for rows of one label."""
    if isinstance(tree, Compare):
        values = columns[tree.field]
        if tree.rank is not None:
            groups = label_of_row if tree.rank == "class" else np.zeros(len(values), dtype=np.int64)
            values = quantile_rank(values, groups)
        return np.asarray(_COMPARE[tree.operator](values, tree.number))
    if isinstance(tree, Not):
        return ~keep_mask(tree.part, columns, label_of_row)
    masks = [keep_mask(part, columns, label_of_row) for part in tree.parts]
    return (np.logical_and if tree.word == "and" else np.logical_or).reduce(masks)


def kept_rows(
    fakes: FakeDataset, text: str, error: Callable[[], np.ndarray], label_of_row: np.ndarray
) -> tuple[np.ndarray, Keep]:
    """(int64 rows that the expression keeps, ascending; its tree).

    `error()` gives float N, and is asked where the expression names it.  Raises UserError where the text cannot be
    read, where the dataset lacks a number that it names, and where nothing is kept.
    """
    tree = parse(text)
    wanted = fields_of(tree)
    columns: dict[str, np.ndarray] = {}
    if "label" in wanted:
        labels = np.asarray(fakes.labels)
        if labels.ndim != 1:
            raise UserError("--keep names label, and these labels are vectors; leave it out.")
        columns["label"] = labels.astype(np.float64)
    if "density_ratio" in wanted:
        ratio = fakes.density_ratio
        if ratio is None:
            raise UserError(
                "--keep names density_ratio, and these fakes were sampled without a filter; leave it out, or sample "
                "with --filter."
            )
        columns["density_ratio"] = ratio.astype(np.float64)
    if "error" in wanted:
        columns["error"] = error().astype(np.float64)
    if wanted & {"memorisation_distance", "duplicate_distance"}:
        distances = read_distances(fakes)
        columns["memorisation_distance"] = distances.memorisation
        columns["duplicate_distance"] = distances.duplicate
    rows = np.flatnonzero(keep_mask(tree, columns, label_of_row)).astype(np.int64)
    if not len(rows):
        raise UserError(f"--keep {text!r} keeps none of the {len(fakes)} fakes; loosen it.")
    return rows, tree
