"""Any folder of image files.

Classes: `NAME/*.png`, or `train/NAME/*.png` with `test/` and `val/` of the same shape.  Continuous labels: a
`labels.csv` in the folder with a header line, the file's path in the first column and numbers in the others.
A role that is not there is split off by the images' content (`roles.py`).  Beside the images a `dataset.json` may state
augmentations, unit and range (see `description.py`).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from image_data.labels import ClassLabels, ContinuousLabels
from image_data.real.dataset import RealData, assemble
from image_data.real.decoding import IMAGE_SUFFIXES, RESIZING, decode_files
from image_data.real.description import Description, continuous_space, read_description
from image_data.real.request import LoadRequest, only_fold
from image_data.real.roles import SPLIT_SHARE, split_missing
from image_data.sources import ArraySource
from runtime.errors import UserError

_ROLE_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_TABLE = "labels.csv"
Listing = dict[str, tuple[list[Path], np.ndarray]]  # role -> files and labels


def load_folder(request: LoadRequest) -> RealData:
    """`request.name` is the folder's path."""
    return load_image_folder(Path(request.name), request.name, request)


def load_image_folder(
    folder: Path,
    name: str,
    request: LoadRequest,
    augmentations: tuple[str, ...] | None = None,
    val_share: float = SPLIT_SHARE,
) -> RealData:
    """The same for datasets that are known by name: these state their augmentations and the share of val."""
    only_fold(request)
    description = read_description(folder / "dataset.json")
    listing, label_space = list_folder(folder, description)
    files = [path for paths, _ in listing.values() for path in paths]
    pixels, hashes, resized = decode_files(files, request.resolution_px, request.channels, name)
    found, start = {}, 0
    for role, (paths, labels) in listing.items():
        end = start + len(paths)
        names = [str(path.relative_to(folder)) for path in paths]
        found[role] = ArraySource(pixels[start:end], labels, hashes[start:end], names)
        start = end
    split = split_missing(found, f"{folder}", val_share)
    notes = {
        "source": str(folder),
        "split_off": split.split_off,
        "resizing": RESIZING if resized else "none",
    }
    allowed = augmentations or description.allowed(request.augmentations)
    return assemble(name, label_space, split.roles, allowed, request.real_per_class, request.seed, notes, split.remarks)


def list_folder(folder: Path, description: Description) -> tuple[Listing, ClassLabels | ContinuousLabels]:
    """The files and labels of each role that is there, and the label space; UserError naming what is amiss."""
    return _list_table(folder, description) if (folder / _TABLE).exists() else _list_classes(folder)


def _list_classes(folder: Path) -> tuple[Listing, ClassLabels]:
    """Class folders in alphabetical order; "train" decides which classes there are."""
    places = {_ROLE_FOLDERS[path.name]: path for path in _folders(folder) if path.name in _ROLE_FOLDERS}
    if places:
        if "train" not in places:
            raise UserError(
                f"{folder} has {places.popitem()[1].name}/ but no train/; add it, or give class folders only."
            )
        strays = [path.name for path in _folders(folder) if path.name not in _ROLE_FOLDERS]
        if strays:
            raise UserError(f"{folder / strays[0]} stands beside train/; move it into train/ or away.")
    else:
        places = {"train": folder}
    names = tuple(path.name for path in _folders(places["train"]))
    if not names:
        raise UserError(
            f"{places['train']} holds no class folders; put each class's images into a folder of its own, "
            f"or write a {_TABLE} for continuous labels."
        )
    listing: Listing = {}
    for role in ("train", "val", "test"):
        if role in places:
            listing[role] = _list_role(places[role], names)
    return listing, ClassLabels(names)


def _list_role(place: Path, names: Sequence[str]) -> tuple[list[Path], np.ndarray]:
    files: list[Path] = []
    labels: list[int] = []
    for path in _folders(place):
        if path.name not in names:
            raise UserError(f"{path} is a class that train/ does not have; add it there or remove it here.")
        images = _images(path)
        if not images:
            deeper = " (its images lie deeper: is this one folder level too high?)" if _folders(path) else ""
            raise UserError(f"{path} holds no images{deeper}; fill it or remove it.")
        files += images
        labels += [names.index(path.name)] * len(images)
    if not files:
        raise UserError(f"{place} holds no class folders with images; fill or remove it.")
    return files, np.array(labels, dtype=np.int64)


def _list_table(folder: Path, description: Description) -> tuple[Listing, ContinuousLabels]:
    table = folder / _TABLE
    listed: dict[str, tuple[list[Path], list[list[float]]]] = {}
    try:
        with open(table, newline="", encoding="utf-8") as stream:
            lines = list(csv.reader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{table} is no readable CSV ({error}).") from error
    width = len(lines[0]) if lines else 0
    if width < 2 or lines[0][0].strip().lower() != "file":
        raise UserError(f"{table} must begin with a header line such as file,angle: the path first, then the label.")
    seen: set[str] = set()
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        where = f"{table} line {number}"
        path, values = _table_row(folder, line, width, where)
        if line[0] in seen:
            raise UserError(f"{where}: {line[0]} stands there twice; remove one.")
        seen.add(line[0])
        role = _ROLE_FOLDERS.get(PurePosixPath(line[0]).parts[0], "train") if "/" in line[0] else "train"
        files, labels = listed.setdefault(role, ([], []))
        files.append(path)
        labels.append(values)
    if "train" not in listed:
        raise UserError(f"{table} lists no training images; add some.")
    arrays: Listing = {
        role: (listed[role][0], np.array(listed[role][1])) for role in ("train", "val", "test") if role in listed
    }
    if width == 2:
        arrays = {role: (files, labels[:, 0]) for role, (files, labels) in arrays.items()}
    known = np.concatenate([labels for role, (_, labels) in arrays.items() if role != "test"])
    return arrays, continuous_space(known, description, str(table))


def _table_row(folder: Path, line: list[str], width: int, where: str) -> tuple[Path, list[float]]:
    if len(line) != width:
        raise UserError(f"{where} has {len(line)} columns where the header has {width}.")
    relative = PurePosixPath(line[0])
    if relative.is_absolute() or ".." in relative.parts:
        raise UserError(f"{where}: {line[0]} must be a path inside the folder.")
    path = folder / relative
    if not path.is_file():
        raise UserError(f"{where}: {path} is not there; add the image or remove the line.")
    try:
        return path, [float(text) for text in line[1:]]
    except ValueError as error:
        raise UserError(f"{where}: a label is no number ({error}).") from error


def _folders(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(place: Path) -> list[Path]:
    return sorted(
        path
        for path in place.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
