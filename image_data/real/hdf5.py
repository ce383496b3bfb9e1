"""Any HDF5 file in one of the layouts that the cGAN-KD and CcGAN repositories use, told by its dataset names.

Whether labels are classes or values follows from the layout, and where that leaves it open from the numbers; a
`photos.json` beside `photos.h5` decides otherwise (see `description.py`).  A range comes from there, or from attributes
`low`, `high` and `unit` of the label dataset, or from the labels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from image_data.hdf5_policy import open_trusted_layout, read_array
from image_data.labels import ClassLabels, ContinuousLabels
from image_data.real.dataset import RealData, assemble
from image_data.real.decoding import RESIZING, check_memory, check_shape_request, reshape_pixels
from image_data.real.description import Description, class_space, continuous_space, read_description
from image_data.real.request import LoadRequest, only_fold
from image_data.real.roles import split_missing
from image_data.seen import image_hashes
from image_data.sources import ArraySource
from runtime.errors import UserError


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
    ),
    Layout("fakes", "by numbers", {"train": (Part("fake_images", "fake_labels"),)}),
    Layout("BigGAN input", "classes", {"train": (Part("imgs", "labels"),)}),
    Layout("images and labels", "by numbers", {"train": (Part("images", "labels"),)}),
)


def load_hdf5(request: LoadRequest) -> RealData:
    """`request.name` is the file's path."""
    only_fold(request)
    path = Path(request.name)
    check_shape_request(request.resolution_px, request.channels, str(path))
    with open_trusted_layout(path) as file:
        layout = recognise(file, path)
        description = _with_attributes(file, layout, read_description(path.with_suffix(".json")))
        arrays = _read(file, layout, path)
    kept_size = all(pixels.shape[2:] == (request.resolution_px,) * 2 for pixels, *_ in arrays.values())
    found = {
        role: ArraySource(
            reshape_pixels(pixels, request.resolution_px, request.channels, f"{path} ({role})"),
            labels,
            image_hashes(pixels),
            names,
        )
        for role, (pixels, labels, names) in arrays.items()
    }
    known = np.concatenate([source.labels for role, source in found.items() if role != "test"])
    kind = description.label_kind or _kind(layout, known, path)
    label_space: ClassLabels | ContinuousLabels
    if kind == "classes":
        label_space = class_space(as_classes(known, f"{path} (train)"), description)
        found = {
            role: replace(source, labels=as_classes(source.labels, f"{path} ({role})"))
            for role, source in found.items()
        }
    else:
        found = {role: replace(source, labels=source.labels.astype(np.float64)) for role, source in found.items()}
        label_space = continuous_space(known.astype(np.float64), description, str(path))
    split = split_missing(found, str(path))
    resized = request.resolution_px is not None and not kept_size
    notes = {
        "source": str(path),
        "layout": layout.name,
        "split_off": split.split_off,
        "resizing": RESIZING if resized else "none",
    }
    allowed = description.allowed(request.augmentations)
    return assemble(
        str(path), label_space, split.roles, allowed, request.real_per_class, request.seed, notes, split.remarks
    )


def all_parts(file: h5py.File, path: Path) -> tuple[list[tuple[h5py.Dataset, np.ndarray]], str, Description]:
    """Every image of the file, whatever its role: (images, their labels) of each part, not yet read.

    Also the kind of label that layout and numbers tell, and what the description beside the file states.
    """
    layout = recognise(file, path)
    description = _with_attributes(file, layout, read_description(path.with_suffix(".json")))
    parts = dict.fromkeys((part.images, part.labels) for role in layout.roles.values() for part in role)
    found = []
    for images, labels in parts:
        values = _flat(read_array(file[labels], path), path, labels)
        if file[images].ndim != 4 or len(values) != len(file[images]):
            raise UserError(f"{path}: {images} and {labels} do not belong together; give each image one label.")
        found.append((file[images], values))
    kind = _kind(layout, np.concatenate([values for _, values in found]), path)
    return found, kind, description


def recognise(file: h5py.File, path: Path) -> Layout:
    """The first layout whose datasets are all there; UserError listing what is there."""
    names = {name for name in file if isinstance(file[name], h5py.Dataset)}
    for layout in LAYOUTS:
        if layout.datasets() <= names:
            return layout
    listed = ", ".join(sorted(names)[:12]) or "no datasets"
    raise UserError(f"{path} is in no known layout: it holds {listed}; name the datasets images and labels.")


def _read(file: h5py.File, layout: Layout, path: Path) -> dict[str, tuple[np.ndarray, np.ndarray, list[str]]]:
    """Images, labels and the images' names of each role of the layout."""
    check_memory(2 * sum(file[name].nbytes for name in layout.datasets()), str(path))
    arrays = {name: read_array(file[name], path) for name in sorted(layout.datasets())}
    found = {}
    taken: dict[str, list[np.ndarray]] = {}
    for role, parts in layout.roles.items():
        pixels, labels, names = [], [], []
        for part in parts:
            images, values = arrays[part.images], _flat(arrays[part.labels], path, part.labels)
            if images.ndim != 4 or len(values) != len(images):
                raise UserError(
                    f"{path}: {part.images} has shape {images.shape} and {part.labels} {values.shape}; "
                    "give N x C x H x W images and one label each."
                )
            rows = slice(None) if part.rows is None else _rows(arrays[part.rows], len(images), path, part.rows)
            if isinstance(rows, np.ndarray):
                taken.setdefault(part.images, []).append(rows)
            pixels.append(images[rows])
            labels.append(values[rows])
            names += [f"row {row} of {part.images}" for row in np.arange(len(images))[rows]]
        found[role] = (np.concatenate(pixels), np.concatenate(labels), names)
    for images_name, pieces in taken.items():
        together = np.concatenate(pieces)
        if len(np.unique(together)) != len(together):
            raise UserError(f"{path}: an image of {images_name} is in two parts of the split; mend the index datasets.")
    return found


def _flat(labels: np.ndarray, path: Path, name: str) -> np.ndarray:
    """N and N x 1 are the same thing."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or labels.dtype.kind not in "iuf":
        raise UserError(f"{path}: {name} has shape {labels.shape} and type {labels.dtype}; give numbers, N or N x d.")
    return labels


def _rows(index: np.ndarray, count: int, path: Path, name: str) -> np.ndarray:
    if index.ndim != 1 or (index.dtype.kind not in "iu" and not np.array_equal(index, np.round(index))):
        raise UserError(f"{path}: {name} must be a list of row numbers.")
    if index.size and (index.min() < 0 or index.max() >= count):
        raise UserError(f"{path}: {name} runs from {index.min()} to {index.max()}, but there are {count} images.")
    return index.astype(np.int64)


def _kind(layout: Layout, labels: np.ndarray, path: Path) -> str:
    """Where the layout says nothing: classes are whole numbers from 0 up with none left out."""
    if layout.kind != "by numbers":
        return layout.kind
    whole = labels.ndim == 1 and np.array_equal(labels, np.round(labels))
    values = np.unique(labels) if whole else np.empty(0)
    return "classes" if whole and np.array_equal(values, np.arange(len(values))) else "continuous"


def as_classes(labels: np.ndarray, where: str) -> np.ndarray:
    """int64 N; the original trainers store some class labels as floats."""
    if labels.ndim != 1 or not np.array_equal(labels, np.round(labels)) or (labels.size and labels.min() < 0):
        raise UserError(f"{where}: class labels must be whole numbers from 0 up, one for each image.")
    return labels.astype(np.int64)


def _with_attributes(file: h5py.File, layout: Layout, description: Description) -> Description:
    """Fill unit and range from the label dataset where the description leaves them open."""
    attributes = file[layout.roles["train"][0].labels].attrs
    try:
        unit, low, high = (attributes.get(name) for name in ("unit", "low", "high"))
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{file.filename}: an attribute of the labels cannot be read ({error}).") from error
    text = unit.decode(errors="replace") if isinstance(unit, bytes) else unit if isinstance(unit, str) else None
    return replace(
        description,
        unit=text if description.unit is None else description.unit,
        low=_plain_number(low) if description.low is None else description.low,
        high=_plain_number(high) if description.high is None else description.high,
    )


def _plain_number(value: object) -> float | None:
    return float(value) if isinstance(value, np.integer | np.floating) and np.isfinite(value) else None
