"""All images of a source, whatever their role, in pieces: for teachers that consist of ready-made images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from image_data.fake import open_fakes
from image_data.fake.manifest import MANIFEST_FILE
from image_data.hdf5_policy import open_trusted_layout
from image_data.labels import ClassLabels, ContinuousLabels
from image_data.real.decoding import check_shape_request, decode_file, reshape_pixels, survey_files
from image_data.real.description import Description, class_space, continuous_space, read_description
from image_data.real.folder import list_folder
from image_data.real.hdf5 import all_parts, as_classes
from runtime.errors import UserError

_PIECE_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class WholeSource:
    """`labels` N (or N x d) in the user's units; `pieces()` yields uint8 n x C x H x W, in the order of the labels.

    `shape` is (C, H, W).  Memory holds one piece at a time.
    """

    label_space: ClassLabels | ContinuousLabels
    labels: np.ndarray
    shape: tuple[int, int, int]
    pieces: Callable[[], Iterator[np.ndarray]]


@dataclass(frozen=True)
class LabelWishes:
    """What the user says of the labels; None leaves it to the source and the description beside it."""

    range: tuple[float, float] | None = None
    unit: str | None = None
    class_names: tuple[str, ...] | None = None


def open_whole(
    path: Path, resolution_px: int | None = None, channels: int | None = None, wishes: LabelWishes | None = None
) -> WholeSource:
    """A folder of images, a fake dataset's folder, or an HDF5 file, with all of its images.

    Sizes and channels as for `load_real`.  UserError naming the file where the source is damaged or in no known form.
    """
    path, wishes = Path(path), wishes or LabelWishes()
    if wishes.range is not None and wishes.class_names is not None:
        raise UserError("labels are classes or values; give --class-names or --label-range, not both.")
    check_shape_request(resolution_px, channels, str(path))
    if path.is_dir():
        if (path / MANIFEST_FILE).is_file():
            return _of_fakes(path, resolution_px, channels, wishes)
        return _of_folder(path, resolution_px, channels, wishes)
    if path.suffix.lower() not in (".h5", ".hdf5"):
        raise UserError(f"{path} is no folder and no .h5 file; give one of these.")
    return _of_hdf5(path, resolution_px, channels, wishes)


def _of_folder(path: Path, resolution_px: int | None, channels: int | None, wishes: LabelWishes) -> WholeSource:
    description = _described(read_description(path / "dataset.json"), wishes)
    listing, found_space = list_folder(path, description)
    files = [file for paths, _ in listing.values() for file in paths]
    labels = np.concatenate([values for _, values in listing.values()])
    space = _continuous(labels, description, path) if labels.dtype.kind == "f" else _named(found_space, wishes)
    size, grey, _ = survey_files(files, resolution_px)
    shape = (channels or (1 if grey else 3), size, size)

    def pieces() -> Iterator[np.ndarray]:
        for piece in _cut(len(files), shape):
            yield np.stack([decode_file(file, size, shape[0]) for file in files[piece]])

    return WholeSource(space, labels, shape, pieces)


def _of_fakes(path: Path, resolution_px: int | None, channels: int | None, wishes: LabelWishes) -> WholeSource:
    fakes = open_fakes(path)
    found = fakes.label_space
    if not isinstance(found, ClassLabels | ContinuousLabels):
        raise UserError(f"{path}: labels of kind {found.kind} are unknown; sample it again.")
    space = _named(found, wishes)
    if isinstance(space, ContinuousLabels) and wishes.range is not None:
        space = replace(space, low=wishes.range[0], high=wishes.range[1])
    shape = _reshaped(fakes.image_shape, resolution_px, channels, path)

    def pieces() -> Iterator[np.ndarray]:
        for piece in _cut(len(fakes), fakes.image_shape):
            yield reshape_pixels(fakes.images(np.arange(piece.start, piece.stop)), resolution_px, channels, str(path))

    return WholeSource(space, fakes.labels, shape, pieces)


def _of_hdf5(path: Path, resolution_px: int | None, channels: int | None, wishes: LabelWishes) -> WholeSource:
    with open_trusted_layout(path) as file:
        parts, kind, stated = all_parts(file, path)
        names = [images.name for images, _ in parts]
        shapes = {_reshaped(images.shape[1:], resolution_px, channels, path) for images, _ in parts}
    if len(shapes) != 1:
        raise UserError(f"{path}: its images have different sizes; ask for a resolution to crop and resize them.")
    (shape,) = shapes
    labels = np.concatenate([values for _, values in parts])
    description = _described(stated, wishes)
    space: ClassLabels | ContinuousLabels
    if (description.label_kind or kind) == "classes":
        labels = as_classes(labels, str(path))
        space = class_space(labels, description)
        space.check(labels, str(path))
    else:
        labels = labels.astype(np.float64)
        space = _continuous(labels, description, path)

    def pieces() -> Iterator[np.ndarray]:
        with open_trusted_layout(path) as opened:
            for name in names:
                yield from _read_pieces(opened[name], resolution_px, channels, path)

    return WholeSource(space, labels, shape, pieces)


def _read_pieces(
    images: h5py.Dataset, resolution_px: int | None, channels: int | None, path: Path
) -> Iterator[np.ndarray]:
    for piece in _cut(len(images), images.shape[1:]):
        try:
            pixels = np.asarray(images[piece])
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"{path}: {images.name} cannot be read ({error}); fetch or make the file again.") from error
        yield reshape_pixels(pixels, resolution_px, channels, str(path))


def _reshaped(
    shape: Sequence[int], resolution_px: int | None, channels: int | None, path: Path
) -> tuple[int, int, int]:
    """(C, H, W) of what `reshape_pixels` will make; it refuses what cannot be."""
    found = reshape_pixels(np.zeros((1, *shape), dtype=np.uint8), resolution_px, channels, str(path)).shape
    return int(found[1]), int(found[2]), int(found[3])


def _cut(count: int, shape: Sequence[int]) -> Iterator[slice]:
    rows = max(1, _PIECE_BYTES // max(1, int(np.prod(shape))))
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


def _described(description: Description, wishes: LabelWishes) -> Description:
    """The description beside the source, where the user says nothing else."""
    if wishes.range is not None:
        low, high = wishes.range
        description = replace(description, label_kind="continuous", low=low, high=high)
    if wishes.class_names is not None:
        description = replace(description, label_kind="classes", class_names=wishes.class_names)
    return description if wishes.unit is None else replace(description, unit=wishes.unit)


def _continuous(labels: np.ndarray, description: Description, path: Path) -> ContinuousLabels:
    space = continuous_space(labels, description, str(path))
    space.check(labels, str(path))
    return space


def _named(space: ClassLabels | ContinuousLabels, wishes: LabelWishes) -> ClassLabels | ContinuousLabels:
    """The space with the user's class names; UserError where these are not as many."""
    if isinstance(space, ContinuousLabels):
        if wishes.class_names is not None:
            raise UserError("--class-names: the images' labels are values; leave it out.")
        return space if wishes.unit is None else replace(space, unit=wishes.unit)
    if wishes.range is not None:
        raise UserError("--label-range: the images' labels are classes; leave it out.")
    names = wishes.class_names
    if names is not None and len(names) != space.width:
        raise UserError(f"--class-names gives {len(names)} names, and there are {space.width} classes; name each once.")
    return space if names is None else ClassLabels(names)
