"""Any HDF5 file of images and labels: the layouts of the cGAN-KD and CcGAN repositories, and others by their names.

Which datasets are taken is `hdf5_layouts.py`'s to say, which rows make up which role `hdf5_split.py`'s, and what kind
of labels they are `label_kinds.py`'s; a `photos.json` beside `photos.h5` decides otherwise (see `description.py`).  A
range comes from there, or from attributes `low`, `high` and `unit` of the label dataset, or from the labels.  Images
are uint8; channels may come last.  Each choice, and each dataset that is not used, is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from image_data.real.dataset import RealData, assemble
from image_data.real.decoding import RESIZING, check_pixel_array, check_shape_request, reshape_pixels
from image_data.real.description import Description, read_description
from image_data.real.hdf5_layouts import Layout, Part, recognise
from image_data.real.hdf5_split import find_split, role_in, rows_of
from image_data.real.label_kinds import LabelOrigin, read_labels
from image_data.real.request import LoadRequest, only_fold
from image_data.real.roles import split_missing
from image_data.seen import image_hashes
from image_data.sources import ArraySource
from runtime.errors import UserError
from runtime.free_space import check_memory
from runtime.progress import note
from runtime.safe_files import printable
from runtime.safe_files.hdf5_policy import check_readable, datasets_of, open_trusted_layout, read_array

_SHOWN = 12
_DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, MemoryError)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """One dataset of images, not yet read: N x C x H x W, or channels last."""

    dataset: h5py.Dataset
    path: Path
    channels_last: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        shape = self.dataset.shape[1:]
        return (shape[2], shape[0], shape[1]) if self.channels_last else shape

    def __len__(self) -> int:
        return int(self.dataset.shape[0])

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """uint8 n x C x H x W; UserError where they cannot be read, or where there is no memory for them."""
        count = len(range(*rows.indices(len(self)))) if isinstance(rows, slice) else len(rows)
        check_readable(self.dataset, self.path, count)
        try:
            if isinstance(rows, slice):
                pixels = np.asarray(self.dataset[rows])
            else:
                pixels = np.asarray(self.dataset[rows.min() : rows.max() + 1])[rows - rows.min()]
        except _DAMAGE as error:
            raise UserError(
                f"{self.path}: dataset {printable(self.dataset.name)} cannot be read ({printable(error)}); fetch or "
                "make the file again."
            ) from error
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)) if self.channels_last else pixels


def load_hdf5(request: LoadRequest) -> RealData:
    """`request.name` is the file's path."""
    only_fold(request)
    path = Path(request.name)
    check_shape_request(request.resolution_px, request.channels, str(path))
    with open_trusted_layout(path, texts=True) as file:
        layout = recognise(file, path)
        description = described(file, layout, path)
        remarks = [f"{path}: {layout.remark}"] if layout.remark else []
        rows, used, split_remark = _rows(file, layout, path)
        remarks += [split_remark] if split_remark else []
        labels, images = _labels_and_images(file, layout, rows, path)
        reading = read_labels(labels, description, label_origin(layout, path))
        remarks += [
            reading.remark,
            *_channels_last({id(part): part for p in images.values() for part, _ in p}.values()),
        ]
        for line in (*remarks, *unused_datasets(file, layout, used, path)):
            note(line)
        _check_memory(images, request, path)
        sources = {
            role: _source(parts, rows[role], reading.labels[role], request, f"{path} ({role})")
            for role, parts in images.items()
        }
        kept_size = all(
            part.shape[1:] == (request.resolution_px,) * 2 for parts in images.values() for part, _ in parts
        )
    split = split_missing(sources, str(path))
    notes = {
        "source": str(path),
        "layout": layout.name,
        "reading": remarks,
        "split_off": split.split_off,
        "resizing": RESIZING if request.resolution_px is not None and not kept_size else "none",
    }
    allowed = description.allowed(request.augmentations)
    return assemble(
        str(path), reading.space, split.roles, allowed, request.real_per_class, request.seed, notes, split.remarks
    )


def all_parts(file: h5py.File, path: Path) -> tuple[list[tuple[Part, ImageSet, np.ndarray]], LabelOrigin, Description]:
    """Every image of the file, whatever its role: (part, images, their labels), the images not yet read.

    Also where the labels come from, and what the description beside the file states.  Says what is not used.
    """
    layout = recognise(file, path)
    parts = dict.fromkeys(Part(part.images, part.labels) for role in layout.roles.values() for part in role)
    opened = [(part, open_images(file, part, path), _labels(file, part, path)) for part in parts]
    splits = {name for name in datasets_of(file, path) if role_in(name) is not None}
    for line in (*_channels_last(images for _, images, _ in opened), *unused_datasets(file, layout, splits, path)):
        note(line)
    return opened, label_origin(layout, path), described(file, layout, path)


def label_origin(layout: Layout, path: Path) -> LabelOrigin:
    """What the layout says of the labels before they are looked at."""
    part = layout.roles["train"][0].labels
    known = None if layout.kind == "by numbers" else (layout.kind, f"as in the layout {layout.name}")
    return LabelOrigin(str(path), "labels" if part == "labels" else f"labels ({printable(part, 60)})", known)


def open_images(file: h5py.File, part: Part, path: Path) -> ImageSet:
    """The images of a part; UserError before any is read where they are no uint8 images, or not as many as labels.

    A last axis of 1 or 3, where the second axis is neither, means N x H x W x C.
    """
    images, labels = file[part.images], file[part.labels]
    shape, where = images.shape, f"{path}: dataset {printable(part.images, 60)}"
    last = len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3)
    shown = (shape[0], shape[3], shape[1], shape[2]) if last else shape
    check_pixel_array(shown, images.dtype, where)
    if not labels.ndim or len(labels) != len(images):
        raise UserError(
            f"{path}: {part.images} has {len(images)} images and {part.labels} {len(labels) if labels.ndim else 1} "
            "labels; give images and one label each."
        )
    if not len(images):
        raise UserError(f"{where} holds no images; fill it or give another file.")
    return ImageSet(images, path, last)


def _channels_last(images: Iterable[ImageSet]) -> list[str]:
    return [
        f"{image_set.path}: {printable(image_set.dataset.name)} is {' x '.join(map(str, image_set.dataset.shape))}: "
        "its last axis is taken as the channels"
        for image_set in images
        if image_set.channels_last
    ]


def unused_datasets(file: h5py.File, layout: Layout, used: set[str], path: Path) -> list[str]:
    """A line that names what the file holds beside what is taken, with the word for what looks like a split."""
    rest = [name for name in datasets_of(file, path) if name not in layout.datasets() | used]
    if not rest:
        return []
    shown = [
        printable(name, 60) + (" (looks like a split)" if role_in(name) is not None else "") for name in rest[:_SHOWN]
    ]
    more = f" and {len(rest) - _SHOWN} more" if len(rest) > _SHOWN else ""
    return [f"{path}: datasets that are not used: {', '.join(shown)}{more}"]


def described(file: h5py.File, layout: Layout, path: Path) -> Description:
    """The description beside the file; attributes of the labels fill unit and range where it leaves them open."""
    description = read_description(path.with_suffix(".json"))
    if description.label_kind == "classes" or description.class_names is not None:
        return description
    attributes = file[layout.roles["train"][0].labels].attrs
    try:
        unit, low, high = (attributes.get(name) for name in ("unit", "low", "high"))
    except _DAMAGE as error:
        raise UserError(f"{path}: an attribute of the labels cannot be read ({printable(error)}).") from error
    text = unit.decode(errors="replace") if isinstance(unit, bytes) else unit if isinstance(unit, str) else None
    return replace(
        description,
        unit=(None if text is None else printable(text, 60)) if description.unit is None else description.unit,
        low=_plain_number(low) if description.low is None else description.low,
        high=_plain_number(high) if description.high is None else description.high,
    )


def _plain_number(value: object) -> float | None:
    return float(value) if isinstance(value, np.integer | np.floating) and np.isfinite(value) else None


def _rows(
    file: h5py.File, layout: Layout, path: Path
) -> tuple[dict[str, list[tuple[Part, np.ndarray | None]]], set[str], str]:
    """The rows of each part of each role (None: all), the datasets of the split, and what to say of it."""
    selections: dict[str, list[tuple[Part, np.ndarray | None]]] = {}
    taken: dict[str, list[np.ndarray]] = {}
    for role, parts in layout.roles.items():
        for part in parts:
            rows = None
            if part.rows is not None:
                rows = rows_of(read_array(file[part.rows], path), len(file[part.images]), path, part.rows)
                taken.setdefault(part.images, []).append(rows)
            selections.setdefault(role, []).append((part, rows))
    for images_name, pieces in taken.items():
        together = np.concatenate(pieces)
        if len(np.unique(together)) != len(together):
            raise UserError(f"{path}: an image of {images_name} is in two parts of the split; mend the index datasets.")
    if taken:
        return selections, set(), ""
    (part,) = layout.roles["train"]
    others = [name for name in datasets_of(file, path) if name not in layout.datasets()]
    others = [name for name in others if name.count("/") in (0, part.images.count("/"))]
    open_roles = tuple(role for role in ("train", "val", "test") if role == "train" or role not in layout.roles)
    chosen = find_split(file, others, len(file[part.images]) if file[part.images].ndim else 0, path, open_roles)
    if chosen is None:
        return selections, set(), ""
    selections |= {role: [(part, rows)] for role, rows in chosen.rows.items()}
    return selections, set(chosen.datasets), chosen.remark


def _labels(file: h5py.File, part: Part, path: Path) -> np.ndarray:
    """N, or N x d; N x 1 and N are the same thing."""
    labels = read_array(file[part.labels], path)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2):
        raise UserError(
            f"{path}: {part.labels} has shape {labels.shape} and type {labels.dtype}; give numbers, N or N x d."
        )
    return labels


def _labels_and_images(
    file: h5py.File, layout: Layout, rows: dict[str, list[tuple[Part, np.ndarray | None]]], path: Path
) -> tuple[dict[str, np.ndarray], dict[str, list[tuple[ImageSet, np.ndarray | None]]]]:
    """The labels of each role, read; and its images, opened."""
    parts = dict.fromkeys(part for selection in rows.values() for part, _ in selection)
    images: dict[str, ImageSet] = {}
    labels: dict[str, np.ndarray] = {}
    for part in parts:
        if part.images not in images:
            images[part.images] = open_images(file, part, path)
            labels[part.images] = _labels(file, part, path)
    if len({(values.dtype.kind == "U", values.shape[1:]) for values in labels.values()}) > 1:
        raise UserError(f"{path}: the labels of its parts are of different kinds; give all in one form.")
    chosen = {
        role: np.concatenate([labels[part.images][slice(None) if at is None else at] for part, at in selection])
        for role, selection in rows.items()
    }
    return chosen, {role: [(images[part.images], at) for part, at in selection] for role, selection in rows.items()}


def _check_memory(
    images: dict[str, list[tuple[ImageSet, np.ndarray | None]]], request: LoadRequest, path: Path
) -> None:
    """A look at the memory that all images need at their size and at the size that is asked for."""
    needed = 0
    for parts in images.values():
        for part, at in parts:
            channels, height, width = part.shape
            size = request.resolution_px or max(height, width)
            count = len(part) if at is None else len(at)
            needed += count * (2 * channels * height * width + (request.channels or channels) * size * size)
    check_memory(needed, f"{path}: the images")


def _source(
    parts: list[tuple[ImageSet, np.ndarray | None]],
    rows: list[tuple[Part, np.ndarray | None]],
    labels: np.ndarray,
    request: LoadRequest,
    where: str,
) -> ArraySource:
    """The images of a role, in memory, with their hashes and what a user calls each of them."""
    pixels = _pixels(parts)
    names = [
        f"row {row} of {part.images}"
        for (part, at), (images, _) in zip(rows, parts, strict=True)
        for row in (range(len(images)) if at is None else at.tolist())
    ]
    hashes = image_hashes(pixels)
    return ArraySource(reshape_pixels(pixels, request.resolution_px, request.channels, where), labels, hashes, names)


def _pixels(parts: list[tuple[ImageSet, np.ndarray | None]]) -> np.ndarray:
    read = [part.read(slice(None) if at is None else at) for part, at in parts if at is None or len(at)]
    if not read:
        return np.empty((0, *parts[0][0].shape), dtype=np.uint8)
    if len({piece.shape[1:] for piece in read}) > 1:
        raise UserError(f"{parts[0][0].path}: its images have different sizes; make all images one size.")
    return read[0] if len(read) == 1 else np.concatenate(read)
