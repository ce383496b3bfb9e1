"""Sealed HDF5 files: built in memory, committed whole, never changed afterwards.

Equal arrays and attributes give equal bytes (no times, contiguous layout).  Each dataset carries the CRC-32 of its
bytes, so that a file can be checked before the manifest knows its SHA-256.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5l, h5o, h5p, h5s, h5t

from runtime.atomic import commit_file, fsync_path, refuse_gone, temporary_name
from runtime.errors import UserError
from runtime.failure_points import failure_point
from runtime.safe_files import printable
from runtime.safe_files.hdf5_policy import open_trusted_layout

# Name of each dataset -> (allowed types, allowed numbers of dimensions).
Layout = Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]]

SHARD_LAYOUT: Layout = {
    "fake_images": (("uint8",), (4,)),
    "fake_labels": (("int64", "float64"), (1, 2)),
    "sample_index": (("int64",), (1,)),
    "latents": (("float32",), (2,)),
    "density_ratio": (("float32",), (1,)),
    "row_crc32": (("uint32",), (1,)),
    "candidates/k": (("int64",), (1,)),
    "candidates/r": (("float32",), (1,)),
}
SCORE_LAYOUT: Layout = {
    "output": (("float16", "float32"), (1, 2)),
    "error": (("float32",), (1,)),
}
DISTANCE_LAYOUT: Layout = {
    "training_distance": (("float32",), (1,)),
    "training_row": (("int64",), (1,)),
    "duplicate_distance": (("float32",), (1,)),
    "duplicate_row": (("int64",), (1,)),
    "sparse_distance": (("float32",), (1,)),
}
PILOT_LAYOUT: Layout = {
    "k": (("int64",), (1,)),
    "r": (("float32",), (2,)),
}
OPTIONAL = frozenset({"latents"})
LEDGER = frozenset({"candidates/k", "candidates/r"})
_GROWTH_BYTES = 64 << 10  # by which HDF5 lets a file in memory grow
_UINT32 = h5t.py_create(np.dtype(np.uint32))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a dataset's contiguous bytes lie in its file."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    crc32: int


def array_crc32(array: np.ndarray) -> int:
    """CRC-32 of an array's bytes in C order."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def rows_crc32(images: np.ndarray) -> np.ndarray:
    """uint32 N: CRC-32 of each image row, uint8 N x C x H x W."""
    flat = np.ascontiguousarray(images).reshape(len(images), math.prod(images.shape[1:]))
    return np.array([zlib.crc32(row.data) for row in flat], dtype=np.uint32)


@dataclass(frozen=True, slots=True)
class SealedBytes:
    """A sealed file as it will lie on the disk, and its SHA-256."""

    content: bytes
    sha256: str


def seal(arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> SealedBytes:
    """The file of these arrays, with the CRC-32 of each, in memory."""
    content = _file_image(arrays, attributes)
    return SealedBytes(content, hashlib.sha256(content).hexdigest())


def commit_sealed(path: Path, sealed: SealedBytes) -> str:
    """Write the file under a temporary name, fsync, read it back, rename, fsync the folder.  Returns its SHA-256.

    Raises OSError where the disk is full or fails; then nothing stands under the final name.
    """
    _make_folder(path.parent)
    temporary = temporary_name(path)
    try:
        with open(temporary, "xb") as stream:
            stream.write(sealed.content)
        failure_point("store.shard_written")
        fsync_path(temporary)
        failure_point("store.shard_synced")
        with open(temporary, "rb") as written:
            if hashlib.file_digest(written, "sha256").hexdigest() != sealed.sha256:
                raise UserError(f"{path} does not read back as it was written; check the disk, then run again.")
        commit_file(temporary, path)
        failure_point("store.shard_committed")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return sealed.sha256


def _make_folder(folder: Path) -> None:
    """Make a folder so that it is on the disk before anything is in it."""
    refuse_gone(folder)
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_path(folder.parent)


def _file_image(arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> bytes:
    """The file's bytes, written by h5py's lower level, which takes half the time of its `create_dataset`."""
    access, untimed, contiguous = (h5p.create(kind) for kind in (h5p.FILE_ACCESS, h5p.FILE_CREATE, h5p.DATASET_CREATE))
    access.set_libver_bounds(h5f.LIBVER_EARLIEST, h5f.LIBVER_LATEST)
    access.set_fapl_core(_GROWTH_BYTES, False)
    untimed.set_obj_track_times(False)
    contiguous.set_obj_track_times(False)
    file = h5f.create(b"sealed.h5", h5f.ACC_TRUNC, fapl=access, fcpl=untimed)
    groups = {"": file}
    for name, array in arrays.items():
        group, _, short = name.rpartition("/")
        if group not in groups:
            groups[group] = h5g.create(file, group.encode())
        dtype, array = h5t.py_create(array.dtype, logical=True), np.ascontiguousarray(array)
        dataset = h5d.create(groups[group], short.encode(), dtype, h5s.create_simple(array.shape), dcpl=contiguous)
        dataset.write(h5s.ALL, h5s.ALL, array)
        checksum = h5a.create(dataset, b"crc32", _UINT32, h5s.create(h5s.SCALAR))
        checksum.write(np.array(array_crc32(array), dtype=np.uint32), mtype=_UINT32)
    described = h5py.AttributeManager(h5py.Group(h5g.open(file, b"/")))
    for key, value in attributes.items():
        described[key] = value
    h5f.flush(file)
    image: bytes = file.get_file_image()
    return image


def locate(path: Path, layout: Layout) -> dict[str, Place]:
    """The place of each dataset of a sealed file; no handle stays open.

    Raises UserError naming the file where it is missing, short, or has other datasets than `layout`.
    """
    return look(path, layout)[0]


def look(path: Path, layout: Layout) -> tuple[dict[str, Place], dict[str, Any]]:
    """`locate`, and the file's attributes; one walk by h5py's lower level, for each of a hundred thousand shards."""
    try:
        with reading(path), open(path, "rb") as stream:  # says what is wrong, where HDF5 says "unable to open"
            size = os.fstat(stream.fileno()).st_size
        with h5py.File(path, "r") as file:
            datasets = _datasets(path, file.id)
            _check_names(path, set(datasets), layout)
            places = {name: _place(path, name, datasets[name], layout[name], size) for name in sorted(datasets)}
            attributes = dict(file.attrs)
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise UserError(f"{path} is no whole HDF5 file; restore it, or make it again with `repair`.") from error
    rows = {place.shape[0] for name, place in places.items() if name not in LEDGER}
    if len(rows) > 1 and layout is not PILOT_LAYOUT:
        raise UserError(f"{path} holds datasets of unequal length; restore it, or make it again with `repair`.")
    return places, attributes


def _datasets(path: Path, group: h5g.GroupID, above: str = "") -> dict[str, Any]:
    """Every object by its name, groups of one level looked into; a link to another place is refused."""
    datasets: dict[str, Any] = {}
    for short in group:
        name = above + short.decode()
        if group.links.get_info(short).type != h5l.TYPE_HARD:
            raise UserError(f"{path}: {printable(name)} is a link to another place; restore the file.")
        item = h5o.open(group, short)
        if isinstance(item, h5g.GroupID) and not above:
            datasets |= _datasets(path, item, f"{name}/")
        else:
            datasets[name] = item
    return datasets


def _check_names(path: Path, names: set[str], layout: Layout) -> None:
    missing, extra = set(layout) - OPTIONAL - names, names - set(layout)
    if missing or extra:
        what = f"lacks {sorted(missing)}" if missing else f"holds the unknown {sorted(extra)}"
        raise UserError(f"{path} {what}; restore it, or make it again with `repair`.")


def _place(path: Path, name: str, dataset: Any, rule: tuple[tuple[str, ...], tuple[int, ...]], size: int) -> Place:
    dtypes, dimensions = rule
    dtype, shape, offset = dataset.dtype, tuple(dataset.shape), dataset.get_offset()
    contiguous = True
    if offset is None:  # chunked, compressed, virtual, external, or never written
        properties = dataset.get_create_plist()
        contiguous = properties.get_layout() == h5d.CONTIGUOUS
        if properties.get_external_count():
            raise UserError(f"{path}: {name} keeps its data in another file; restore the file.")
    if not contiguous or dtype.name not in dtypes or len(shape) not in dimensions:
        raise UserError(f"{path}: {name} has another type or layout than a fake dataset; restore the file.")
    count = math.prod(shape)
    if offset is None:
        if count:
            raise UserError(f"{path}: {name} was never written; restore it, or make it again with `repair`.")
        offset = 0
    elif offset + count * dtype.itemsize > size:
        raise UserError(f"{path} is too short for {name}; restore it, or make it again with `repair`.")
    crc32 = np.zeros((), dtype=np.uint32)
    h5a.open(dataset, b"crc32").read(crc32, mtype=_UINT32)
    return Place(int(offset), dtype, shape, int(crc32))


def sealed_attributes(path: Path) -> dict[str, Any]:
    """The attributes of a sealed file; an empty dict where they cannot be read (a damaged file is written again)."""
    try:
        with open_trusted_layout(path) as file:
            return dict(file.attrs)
    except (UserError, OSError, RuntimeError, ValueError, KeyError, TypeError):
        return {}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """A file that cannot be opened, read or mapped is a UserError that names it and what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; restore it, or make it again with `repair`.") from error
    except OSError as error:
        remedy = {
            errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
            errno.ENFILE: "raise the machine's limit of open files (the sysctl fs.file-max)",
            errno.ENOMEM: "each shard takes one memory map, raise their number (the sysctl vm.max_map_count)",
        }.get(error.errno or 0, "check the disk, restore it, or make it again with `repair`")
        raise UserError(f"{path} cannot be read ({error.strerror or error}); {remedy}.") from error


def map_place(path: Path, place: Place) -> np.ndarray:
    """The dataset as a read-only array over the file's pages; a file handle is kept as long as the array."""
    if 0 in place.shape:
        return np.empty(place.shape, dtype=place.dtype)
    with reading(path):
        return np.memmap(path, dtype=place.dtype, mode="r", offset=place.offset, shape=place.shape)


def read_place(path: Path, place: Place) -> np.ndarray:
    """The dataset as an array in memory.  Not by a map: there a failing disk would end the process."""
    count = math.prod(place.shape)
    with reading(path):
        values = np.fromfile(path, dtype=place.dtype, count=count, offset=place.offset)
    if len(values) != count:
        raise UserError(f"{path} cannot be read to its end; check the disk, or make it again with `repair`.")
    return values.reshape(place.shape)


def read_sealed(path: Path, layout: Layout, attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """All arrays of a file, checked against their CRC-32 and against `attributes`; UserError where they differ."""
    places, stated = look(path, layout)
    for key, value in attributes.items():
        if stated.get(key) != value:
            raise UserError(f"{path} was made with other settings ({key}); remove it and run again.")
    arrays = {name: read_place(path, place) for name, place in places.items()}
    for name, array in arrays.items():
        check_crc32(path, name, array, places[name])
    return arrays


def damaged_rows(images: np.ndarray, row_crc32: np.ndarray) -> np.ndarray:
    """int64: the rows of uint8 N x C x H x W `images` that do not match their CRC-32."""
    return np.flatnonzero(rows_crc32(images) != row_crc32)


def check_crc32(path: Path, name: str, array: np.ndarray, place: Place) -> None:
    """Raise UserError where the array is not as it was written."""
    if array_crc32(array) != place.crc32:
        raise UserError(
            f"{path}: {name} does not match its checksum; the file is damaged, make it again with `repair`."
        )
