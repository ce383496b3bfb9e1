"""What the readers of folders and archives have in common: which files make up which role, and their labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from image_data.labels import ClassLabels, ContinuousLabels
from image_data.real.decoding import IMAGE_SUFFIXES
from image_data.real.description import Description
from image_data.real.label_kinds import ONLY_CLASS, LabelOrigin, name_classes, read_labels
from image_data.real.tree import ImageTree, Picture
from runtime.errors import UserError

ROLES = ("train", "val", "test")
ROLE_FOLDERS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Listing:
    """Files and labels (int64 N, or float64 N or N x d) of each role that is there."""

    parts: dict[str, tuple[list[Picture], np.ndarray]]
    space: ClassLabels | ContinuousLabels
    remarks: tuple[str, ...]
    unused: str  # why an image file of the source that is not among them is not used

    @property
    def pictures(self) -> list[Picture]:
        return [picture for pictures, _ in self.parts.values() for picture in pictures]


def is_image(name: str) -> bool:
    """Whether the ending is one of those that are read."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def role_of(name: str) -> str:
    """The role that the first folder of a listed file names; train without one."""
    first, slash, _ = name.partition("/")
    return ROLE_FOLDERS.get(first.lower(), "train") if slash else "train"


def one_class(tree: ImageTree, files: dict[str, list[str]], description: Description, why: str, unused: str) -> Listing:
    """All files of each role as the one class that images without labels have."""
    stated = description.stated_kind
    if stated is not None and stated[0] == "continuous":
        raise UserError(
            f"{tree.place('')} holds images without labels ({why}), but {description.path} states {stated[1]}; "
            "write a labels.csv with a value for each image."
        )
    names, _ = name_classes((ONLY_CLASS,), description, tree.place(""))
    parts = {
        role: ([Picture(tree, name) for name in file_names], np.zeros(len(file_names), dtype=np.int64))
        for role, file_names in files.items()
    }
    count = sum(map(len, files.values()))
    return Listing(
        parts, ClassLabels(names), (f"{tree.place('')}: {why}: its {count} images are one class, {names[0]}",), unused
    )


def labelled_files(
    tree: ImageTree, rows: list[tuple[str, str]], labels: np.ndarray, description: Description, origin: LabelOrigin
) -> Listing:
    """Files that a table lists, in its order: `rows` are (role, name), `labels` one for each row."""
    roles = np.array([role for role, _ in rows])
    if "train" not in roles:
        raise UserError(f"{origin.where} lists no training images; add some.")
    at = {role: np.flatnonzero(roles == role) for role in ROLES if role in roles}
    reading = read_labels({role: labels[rows_of] for role, rows_of in at.items()}, description, origin)
    parts = {
        role: ([Picture(tree, rows[row][1]) for row in rows_of], reading.labels[role]) for role, rows_of in at.items()
    }
    return Listing(parts, reading.space, (reading.remark,), f"not listed in {origin.where}")
