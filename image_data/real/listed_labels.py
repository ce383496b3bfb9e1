"""The dataset layout of StyleGAN2-ADA and StyleGAN3: a `dataset.json` whose key `labels` lists files and labels.

`{"labels": [["00000/img00000000.png", 3], ...]}` gives classes, `[file, [0.1, 0.9]]` vectors (a single 1 in each: the
classes again), and `{"labels": null}` none, which is one class.  The numbered folders are no classes.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import numpy as np

from image_data.real.description import Description
from image_data.real.label_kinds import LabelOrigin
from image_data.real.listing import Listing, is_image, labelled_files, one_class, role_of
from image_data.real.tree import ImageTree
from runtime.errors import UserError
from runtime.safe_files import printable


def list_labelled(tree: ImageTree, description: Description, whole: bool = False) -> Listing:
    """The files that `labels` lists, in its order; UserError naming the entry that is amiss."""
    where = f"{description.path}"
    if description.labels is None:
        files = [name for name in tree.names if is_image(name)]
        if not files:
            raise UserError(f"{tree.place('')} holds no images; fill it or give another.")
        return one_class(tree, {"train": files}, description, "its dataset.json says that there are no labels", "")
    pairs = description.labels
    if isinstance(pairs, dict):
        pairs = list(pairs.items())
    if not isinstance(pairs, list) or not pairs:
        raise UserError(f"{where}: labels must be a list of [file, label], or null; mend it.")
    known, seen = set(tree.names), set()
    rows: list[tuple[str, str]] = []
    for number, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            raise UserError(f"{where}: entry {number} of labels is no [file, label]; mend it.")
        name = str(PurePosixPath(pair[0].replace("\\", "/")))
        if name not in known:
            raise UserError(
                f"{where}: {printable(tree.place(pair[0]))} is not there; add the image or remove entry {number} of "
                "labels."
            )
        if name in seen:
            raise UserError(f"{where}: {printable(name)} stands in labels twice; remove one.")
        seen.add(name)
        rows.append(("train" if whole else role_of(name), name))
    labels = _array([pair[1] for pair in pairs], where)
    return labelled_files(tree, rows, labels, description, LabelOrigin(where))


def _array(values: list[Any], where: str) -> np.ndarray:
    """int64 N, float64 N or N x d, or texts N; UserError for the first entry that is unlike the first."""
    width = len(values[0]) if isinstance(values[0], list) else None
    text = isinstance(values[0], str)
    for number, value in enumerate(values):
        entries = value if isinstance(value, list) else [value]
        alike = (len(value) if isinstance(value, list) else None) == width
        plain = all(
            isinstance(entry, str) if text else isinstance(entry, int | float) and not isinstance(entry, bool)
            for entry in entries
        )
        if not alike or not plain or not entries:
            raise UserError(
                f"{where}: label {number} is {printable(repr(value), 60)}, unlike the first; give one whole number, "
                "one name, or a list of as many numbers, for every file."
            )
    try:
        labels = np.array(values)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{where}: labels are no numbers ({error}); mend them.") from error
    if labels.dtype.kind not in "ifU":
        raise UserError(f"{where}: a label is beyond 64 bits; mend it.")
    return labels
