"""Images in class folders: `NAME/*.png`, or `train/NAME/*.png` with `test/` and `val/` of the same shape.

Folders inside a class folder count to their class, as in torchvision's ImageFolder.  The classes of `train` are the
classes; they stand in alphabetical order, or in the order of their numbers where every name is a whole number.  Images
in no folder at all are one class, and so are the numbered folders of a StyleGAN dataset without labels.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import PurePosixPath

import numpy as np

from image_data.labels import ClassLabels, ContinuousLabels
from image_data.real.description import Description
from image_data.real.label_kinds import LabelOrigin, listed, name_classes, number_names, read_labels
from image_data.real.listing import ROLE_FOLDERS, ROLES, Listing, is_image, one_class
from image_data.real.tree import ImageTree, Picture, SubTree
from image_data.real.unused import OTHER_SUFFIXES
from runtime.errors import UserError
from runtime.safe_files import printable

_SHARD = re.compile(r"[0-9]{5}/img[0-9]{8}\.[a-z]+")
_SHOWN_FOLDERS = 4


def list_class_folders(tree: ImageTree, description: Description) -> Listing:
    """Files and labels of each role; UserError naming the folder that is amiss."""
    prefixes = _role_prefixes(tree)
    subs: dict[str, ImageTree] = {role: SubTree(tree, start) if start else tree for role, start in prefixes.items()}
    train = subs["train"]
    images = [name for name in train.names if is_image(name)]
    tops = _tops(train)
    if not images:
        raise UserError(_empty(train, tops))
    if not any("/" in name for name in images):
        files = {role: [prefixes[role] + name for name in _flat_images(sub)] for role, sub in subs.items()}
        return one_class(tree, files, description, "it holds no class folders", "elsewhere")
    if len(subs) == 1 and all(_SHARD.fullmatch(name) for name in images if "/" in name):
        why = (
            "its numbered folders are those of a StyleGAN dataset, which are no classes, and no dataset.json has labels"
        )
        files = {"train": [prefixes["train"] + name for name in images if "/" in name]}
        return one_class(tree, files, description, why, "outside the numbered folders")
    _check_level(train, images, tops)
    order = number_names(tops) or tops
    space, codes, remarks = _labels_of(tree, order, description)
    place = {top: number for number, top in enumerate(order)}
    parts = {}
    for role, sub in subs.items():
        names = sorted(_role_files(sub, tops), key=lambda name: place[name.split("/", 1)[0]])
        labels = np.array([codes[name.split("/", 1)[0]] for name in names])
        parts[role] = ([Picture(tree, prefixes[role] + name) for name in names], labels)
    depth = 1 + bool(prefixes["train"])
    return Listing(parts, space, (*remarks, *_deeper(tree, parts, depth)), "outside the class folders")


def _role_prefixes(tree: ImageTree) -> dict[str, str]:
    """role -> what the names of its files begin with: "train/" and so on, or nothing where the tree has no roles."""
    folders: dict[str, str] = {}
    for top in _tops(tree):
        role = ROLE_FOLDERS.get(top.lower())
        if role is None:
            continue
        if role in folders:
            raise UserError(f"{tree.place(folders[role])} and {tree.place(top)} are the same part; keep one of them.")
        folders[role] = top
    if not folders:
        return {"train": ""}
    if "train" not in folders:
        raise UserError(
            f"{tree.place('')} has {next(iter(folders.values()))}/ but no train/; add it, or give class folders only."
        )
    strays = [top for top in _tops(tree) if top not in folders.values()]
    if strays:
        raise UserError(f"{tree.place(strays[0])} stands beside train/; move it into train/ or away.")
    return {role: f"{folders[role]}/" for role in ROLES if role in folders}


def _tops(tree: ImageTree) -> list[str]:
    return [name for name in tree.folders if "/" not in name]


def _flat_images(tree: ImageTree) -> list[str]:
    names = [name for name in tree.names if is_image(name)]
    deeper = next((name for name in names if "/" in name), None)
    if deeper is not None:
        folder = deeper.split("/", 1)[0]
        raise UserError(f"{tree.place(folder)} is a class that train/ does not have; add it there or remove it here.")
    if not names:
        raise UserError(f"{tree.place('')} holds no images; fill or remove it.")
    return names


def _role_files(tree: ImageTree, classes: list[str]) -> list[str]:
    """The images in class folders; every class folder must be known and hold some."""
    files = [name for name in tree.names if is_image(name) and "/" in name]
    held = Counter(name.split("/", 1)[0] for name in files)
    for top in _tops(tree):
        if top not in classes:
            raise UserError(f"{tree.place(top)} is a class that train/ does not have; add it there or remove it here.")
        if not held[top]:
            inside = sorted({PurePosixPath(name).suffix.lower() for name in tree.names if name.startswith(f"{top}/")})
            other = [suffix for suffix in inside if suffix in OTHER_SUFFIXES]
            kinds = f" of a kind that is read ({', '.join(other)} is not)" if other else ""
            raise UserError(f"{tree.place(top)} holds no images{kinds}; fill it or remove it.")
    if not files:
        raise UserError(f"{tree.place('')} holds no class folders with images; fill or remove it.")
    return files


def _check_level(tree: ImageTree, images: list[str], tops: list[str]) -> None:
    """One folder that holds folders of images and nothing else is more likely a level too high than one class."""
    if len(tops) != 1:
        return
    inner = {name.split("/")[1] for name in images if name.count("/") > 1}
    if len(inner) > 1 and not any(name.count("/") == 1 for name in images):
        raise UserError(
            f"{tree.place(tops[0])} holds {len(inner)} folders with images and none itself: is this one folder level "
            f"too high? Give {tree.place(tops[0])}, or move its images up where they are one class."
        )


def _labels_of(
    tree: ImageTree, order: list[str], description: Description
) -> tuple[ClassLabels | ContinuousLabels, dict[str, int | float], list[str]]:
    """The space, the label of each class folder, and what there is to say."""
    stated = description.stated_kind
    if stated is not None and stated[0] == "continuous":
        values = np.array([_number(tree, name, description) for name in order])
        values = values.astype(np.int64) if np.array_equal(values, np.round(values)) else values
        origin = LabelOrigin(tree.place(""), "folder names")
        reading = read_labels({"train": values}, description, origin)
        return reading.space, dict(zip(order, values.tolist(), strict=True)), [reading.remark]
    names, codes = name_classes(tuple(order), description, tree.place(""))
    remarks = []
    if order != sorted(order):
        remarks.append(
            f"{tree.place('')}: all class folders are numbers and stand in their order ({listed(tuple(order))}); a "
            f"network trained with torchvision's ImageFolder has the order {listed(tuple(sorted(order)))}"
        )
    if description.class_names is not None:
        pairs = tuple(f"{folder} = {names[code]}" for folder, code in zip(order, codes, strict=True))
        naming = (
            f"orders the folders: {listed(names)}"
            if set(names) == set(order)
            else f"names the folders: {listed(pairs)}"
        )
        remarks.append(f"{tree.place('')}: {description.names_from} {naming}")
    return ClassLabels(names), dict(zip(order, codes.tolist(), strict=True)), remarks


def _number(tree: ImageTree, name: str, description: Description) -> float:
    try:
        value = float(name)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(
            f"{tree.place('')}: folder name {printable(name, 60)!r} is no number, but {description.path} says that the "
            "labels are values; rename it, or remove that key."
        )
    return value


def _deeper(tree: ImageTree, parts: dict[str, tuple[list[Picture], np.ndarray]], depth: int) -> list[str]:
    """Which folders inside class folders were read; `depth` folders are above an image as a rule."""
    counts: Counter[str] = Counter()
    for pictures, _ in parts.values():
        counts.update(str(PurePosixPath(p.name).parent) for p in pictures if p.name.count("/") > depth)
    if not counts:
        return []
    shown = ", ".join(f"{printable(folder, 80)} ({count})" for folder, count in list(counts.items())[:_SHOWN_FOLDERS])
    more = f" and {len(counts) - _SHOWN_FOLDERS} more" if len(counts) > _SHOWN_FOLDERS else ""
    return [f"{tree.place('')}: images in folders inside a class folder count to that class: {shown}{more}"]


def _empty(tree: ImageTree, tops: list[str]) -> str:
    place = tree.place("")
    kinds = sorted({PurePosixPath(name).suffix.lower() for name in tree.names} & OTHER_SUFFIXES)
    if kinds:
        return f"{place} holds no images of a kind that is read ({', '.join(kinds)} is not); convert them to .png."
    if tops:
        return f"{place} holds no images, in {tops[0]} or elsewhere; fill its class folders."
    return (
        f"{place} holds no class folders; put each class's images into a folder of its own, or write a labels.csv for "
        "continuous labels."
    )
