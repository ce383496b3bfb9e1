"""All images of a source, whatever their role, in pieces: for teachers that consist of ready-made images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from image_data.fake import open_fakes
from image_data.fake.manifest import MANIFEST_FILE
from image_data.labels import ClassLabels, ContinuousLabels
from image_data.real.decoding import check_shape_request, decode_hashed, reshape_pixels, survey_files
from image_data.real.description import Description
from image_data.real.folder import list_tree, open_tree, tree_description
from image_data.real.hdf5 import ImageSet, all_parts, open_images
from image_data.real.label_kinds import read_labels
from image_data.seen import image_hashes
from runtime.errors import UserError
from runtime.progress import note
from runtime.safe_files.hdf5_policy import open_trusted_layout

_PIECE_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class WholeSource:
    """`labels` N (or N x d) in the user's units; `pieces()` yields uint8 n x C x H x W, in the order of the labels.

    `shape` is (C, H, W).  Memory holds one piece at a time.  `pieces(hashes)` also fills uint64 N with the images'
    hashes (`image_data.seen`), which are those of the pixels before any resizing.
    """

    label_space: ClassLabels | ContinuousLabels
    labels: np.ndarray
    shape: tuple[int, int, int]
    pieces: Callable[..., Iterator[np.ndarray]]


@dataclass(frozen=True)
class LabelWishes:
    """What the user says of the labels; None leaves it to the source and the description beside it."""

    range: tuple[float, float] | None = None
    unit: str | None = None
    class_names: tuple[str, ...] | None = None


def open_whole(
    path: Path, resolution_px: int | None = None, channels: int | None = None, wishes: LabelWishes | None = None
) -> WholeSource:
    """A folder of images or a .zip archive, a fake dataset's folder, or an HDF5 file, with all of its images.

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
    if path.suffix.lower() == ".zip":
        return _of_folder(path, resolution_px, channels, wishes)
    if path.suffix.lower() not in (".h5", ".hdf5"):
        raise UserError(f"{path} is no folder, no .zip archive and no .h5 file; give one of these.")
    return _of_hdf5(path, resolution_px, channels, wishes)


def _of_folder(path: Path, resolution_px: int | None, channels: int | None, wishes: LabelWishes) -> WholeSource:
    tree = open_tree(path)
    listing = list_tree(tree, _described(tree_description(tree), wishes), whole=True)
    pictures = listing.pictures
    labels = np.concatenate([values for _, values in listing.parts.values()])
    listing.space.check(labels, str(path))
    size, grey, _ = survey_files(pictures, resolution_px)
    shape = (channels or (1 if grey else 3), size, size)

    def pieces(hashes: np.ndarray | None = None) -> Iterator[np.ndarray]:
        for piece in _cut(len(pictures), shape):
            decoded = [decode_hashed(picture, size, shape[0]) for picture in pictures[piece]]
            if hashes is not None:
                hashes[piece] = [name for _, name in decoded]
            yield np.stack([pixels for pixels, _ in decoded])

    return WholeSource(listing.space, labels, shape, pieces)


def _of_fakes(path: Path, resolution_px: int | None, channels: int | None, wishes: LabelWishes) -> WholeSource:
    fakes = open_fakes(path)
    stated_space = fakes.label_space
    if not isinstance(stated_space, ClassLabels | ContinuousLabels):
        raise UserError(f"{path}: labels of kind {stated_space.kind} are unknown; sample it again.")
    space = _named(stated_space, wishes)
    if isinstance(space, ContinuousLabels) and wishes.range is not None:
        space = replace(space, low=wishes.range[0], high=wishes.range[1])
    shape = _reshaped(fakes.image_shape, resolution_px, channels, path)

    def pieces(hashes: np.ndarray | None = None) -> Iterator[np.ndarray]:
        for piece in _cut(len(fakes), fakes.image_shape):
            pixels = fakes.images(np.arange(piece.start, piece.stop))
            if hashes is not None:
                hashes[piece] = image_hashes(pixels)
            yield reshape_pixels(pixels, resolution_px, channels, str(path))

    return WholeSource(space, fakes.labels, shape, pieces)


def _of_hdf5(path: Path, resolution_px: int | None, channels: int | None, wishes: LabelWishes) -> WholeSource:
    with open_trusted_layout(path, texts=True) as file:
        image_parts, origin, stated = all_parts(file, path)
        parts = [part for part, _, _ in image_parts]
        shapes = {_reshaped(images.shape, resolution_px, channels, path) for _, images, _ in image_parts}
    if len(shapes) != 1:
        raise UserError(f"{path}: its images have different sizes; give --resolution N to crop and resize them.")
    (shape,) = shapes
    named = {f"{number}": labels for number, (_, _, labels) in enumerate(image_parts)}
    reading = read_labels(named, _described(stated, wishes), origin)
    note(reading.remark)
    labels = np.concatenate(list(reading.labels.values()))
    reading.space.check(labels, str(path))

    def pieces(hashes: np.ndarray | None = None) -> Iterator[np.ndarray]:
        done = 0
        with open_trusted_layout(path, texts=True) as opened:
            for part in parts:
                for pixels in _read_pieces(open_images(opened, part, path)):
                    shaped = reshape_pixels(pixels, resolution_px, channels, str(path))
                    if hashes is not None:
                        hashes[done : done + len(pixels)] = image_hashes(pixels)
                    done += len(pixels)
                    yield shaped

    return WholeSource(reading.space, labels, shape, pieces)


def _read_pieces(images: ImageSet) -> Iterator[np.ndarray]:
    block = images.dataset.chunks[0] if images.dataset.chunks else 1  # a stored block is decoded once where it fits
    for piece in _cut(len(images), images.shape, block):
        yield images.read(piece)


def _reshaped(
    shape: Sequence[int], resolution_px: int | None, channels: int | None, path: Path
) -> tuple[int, int, int]:
    """(C, H, W) of what `reshape_pixels` will make; it refuses what cannot be."""
    result_shape = reshape_pixels(np.zeros((1, *shape), dtype=np.uint8), resolution_px, channels, str(path)).shape
    return int(result_shape[1]), int(result_shape[2]), int(result_shape[3])


def _cut(count: int, shape: Sequence[int], block: int = 1) -> Iterator[slice]:
    """Pieces of about _PIECE_BYTES, and of whole blocks of rows where these are not much larger."""
    rows = max(1, _PIECE_BYTES // max(1, int(np.prod(shape))))
    if rows < block <= 64 * rows:
        rows = block
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


def _described(description: Description, wishes: LabelWishes) -> Description:
    """The description beside the source, where the user says nothing else."""
    if wishes.range is not None:
        low, high = wishes.range
        description = replace(
            description, path="--label-range", label_kind="continuous", low=low, high=high, class_names=None
        )
    if wishes.class_names is not None:
        description = replace(
            description,
            path="--class-names",
            label_kind="classes",
            class_names=wishes.class_names,
            unit=None,
            low=None,
            high=None,
        )
    return description if wishes.unit is None else replace(description, unit=wishes.unit)


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
