"""Which datasets of an HDF5 file are images, labels and row numbers: published layouts, and names that say it.

A published layout is known by its dataset names.  Otherwise a dataset whose name holds `images` (or image, imgs, img,
x, data) is paired with one whose name differs in holding `labels` (or label, targets, target, y) instead; a role in
the name or in the name of its group (`images_test`, `train/images`) makes the pair that role.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py

from runtime.errors import UserError
from runtime.safe_files import printable
from runtime.safe_files.hdf5_policy import datasets_of

IMAGE_WORDS = ("images", "imgs", "image", "img", "x", "data")
LABEL_WORDS = ("labels", "label", "targets", "target", "y")
ROLE_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_SHOWN = 12


@dataclass(frozen=True)
class Part:
    """Images and labels by dataset name, all of them or the rows that an index dataset lists."""

    images: str
    labels: str
    rows: str | None = None


@dataclass(frozen=True)
class Layout:
    """Which datasets make up which role.  Roles that are absent are split off train."""

    name: str
    kind: Literal["classes", "continuous", "by numbers"]
    roles: dict[str, tuple[Part, ...]]
    remark: str = ""  # what of it a reader would not expect

    def datasets(self) -> set[str]:
        parts = [part for role in self.roles.values() for part in role]
        return {name for part in parts for name in (part.images, part.labels, part.rows) if name}


# The published split is kept where there is one; upstream tests on its "valid" images, so they are the test role.
LAYOUTS = (
    Layout(
        "RC-49",
        "continuous",
        {
            "train": (Part("images_odd", "labels_odd", "indx_odd_subtrain"),),
            "val": (Part("images_odd", "labels_odd", "indx_odd_subvalid"),),
            "test": (Part("images_odd", "labels_odd", "indx_odd_rest"), Part("images_even", "labels_even")),
        },
    ),
    Layout(
        "UTKFace, first version",
        "continuous",
        {
            "train": (Part("images", "labels", "indx_subtrain"),),
            "val": (Part("images", "labels", "indx_subvalid"),),
            "test": (Part("images", "labels", "indx_test"),),
        },
    ),
    Layout(
        "Tiny-ImageNet",
        "classes",
        {
            "train": (Part("imgs", "labels", "indx_subtrain"),),
            "val": (Part("imgs", "labels", "indx_subvalid"),),
            "test": (Part("imgs_val", "labels_val"),),
        },
    ),
    Layout(
        "CIFAR subset",
        "classes",
        {
            "train": (Part("images_train", "labels_train", "subtrain_indx"),),
            "val": (Part("images_train", "labels_train", "subvalid_indx"),),
        },
    ),
    Layout(
        "images with test part",
        "by numbers",
        {"train": (Part("images_train", "labels_train"),), "test": (Part("images_test", "labels_test"),)},
    ),
    Layout(
        "ImageNet-100",
        "classes",
        {"train": (Part("images_train", "labels_train"),), "test": (Part("images_valid", "labels_valid"),)},
        "images_valid is the test part, as in the file of ImageNet-100, whose trainers test on it",
    ),
    Layout("fakes", "by numbers", {"train": (Part("fake_images", "fake_labels"),)}),
    Layout("BigGAN input", "classes", {"train": (Part("imgs", "labels"),)}),
    Layout("images and labels", "by numbers", {"train": (Part("images", "labels"),)}),
)


def recognise(file: h5py.File, path: Path) -> Layout:
    """The file's layout; UserError listing what is there."""
    shapes = datasets_of(file, path)
    named = _by_names(shapes, path)
    if named is not None and {"train", "test"} <= set(named.roles):
        return named
    for layout in LAYOUTS:
        if layout.datasets() <= set(shapes) and not _adds_roles(named, layout):
            return layout
    if named is not None:
        return named
    listed = ", ".join(f"{printable(name, 60)} ({_shape(shape)})" for name, shape in list(shapes.items())[:_SHOWN])
    more = f" and {len(shapes) - _SHOWN} more" if len(shapes) > _SHOWN else ""
    raise UserError(
        f"{path} is in no known layout: it holds {listed or 'no datasets'}{more}; name the datasets images and labels."
    )


def words_of(name: str) -> list[str]:
    """The words of a dataset's name in lower case: `trainIdx` and `train_idx` alike."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return [word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word]


def _adds_roles(named: Layout | None, layout: Layout) -> bool:
    """Whether the names give a part that a layout without row numbers would leave out."""
    rows = any(part.rows for parts in layout.roles.values() for part in parts)
    return named is not None and not rows and len(named.roles) > len(layout.roles)


def _by_names(shapes: dict[str, tuple[int, ...]], path: Path) -> Layout | None:
    """Pairs of images and labels by their names; None without any.  UserError where two would be one role."""
    places: dict[str, dict[str, list[Part]]] = {}
    for name, shape in shapes.items():
        pair = _pair(name, set(shapes)) if len(shape) >= 3 else None
        if pair is not None:
            place, role, part = pair
            places.setdefault(place, {}).setdefault(role, []).append(part)
    if not places:
        return None
    place = next(iter(places))  # the one nearest to the root
    if len(places) > 1 and place.count("/") == list(places)[1].count("/") and place:
        one, other = (next(iter(places[name].values()))[0].images for name in list(places)[:2])
        raise UserError(f"{path} holds several sets of images ({one}, {other}); give a file with one of them.")
    roles = places[place]
    double = next((parts for parts in roles.values() if len(parts) > 1), None)
    if double is not None:
        raise UserError(f"{path}: {double[0].images} and {double[1].images} are the same part; keep one of them.")
    parts = {role: candidates[0] for role, candidates in roles.items()}
    if "train" not in parts:
        whole = parts.pop("", None)
        if whole is None:
            raise UserError(f"{path} holds {next(iter(parts.values())).images} but no training images; add these.")
        parts["train"] = whole
    used: dict[str, tuple[Part, ...]] = {role: (parts[role],) for role in ("train", "val", "test") if role in parts}
    name = "images with test part" if set(used) == {"train", "test"} else "parts by name"
    return Layout(name if len(used) > 1 else "images and labels", "by numbers", used)


def _pair(name: str, names: set[str]) -> tuple[str, str, Part] | None:
    """(group, role or "", images and labels) for a dataset of images with its labels beside it."""
    *groups, leaf = name.split("/")
    words = words_of(leaf)
    images = [word for word in words if word in IMAGE_WORDS]
    group_roles = [ROLE_WORDS[group.lower()] for group in groups if group.lower() in ROLE_WORDS]
    own_roles = [ROLE_WORDS[word] for word in words if word in ROLE_WORDS]
    if len(images) != 1 or len(words) != 1 + len(own_roles) or len(group_roles + own_roles) > 1:
        return None
    pattern = re.compile(rf"(?<![a-z]){images[0]}(?![a-z])", re.IGNORECASE)
    for word in LABEL_WORDS:
        for spelled in (word, word.upper(), word.capitalize()):
            labels = "/".join([*groups, pattern.sub(spelled, leaf)])
            if labels in names and labels != name:
                place = "/".join(group for group in groups if group.lower() not in ROLE_WORDS)
                return place, (group_roles + own_roles or [""])[0], Part(name, labels)
    return None


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one value"
