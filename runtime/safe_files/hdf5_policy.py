"""Opening HDF5 files from outside: a file is data of plain numbers, or it is refused.

An HDF5 file can point at other files (external storage, external links, virtual datasets), hold object types, ask for
filters that load plug-ins, declare terabytes that were never written, and link groups in circles.  None of that is
needed for images and labels, so none of it gets through.  Rows that were never written would read as zeros; they are
refused as well.  What is declared is compared with the free memory before it is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from runtime.errors import UserError
from runtime.free_space import check_memory
from runtime.safe_files import printable

_MAX_DEPTH = 8
_MAX_OBJECTS = 10_000
_PLAIN_KINDS = "biuf"
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
_MAX_COMPRESSION = 1100  # deflate cannot shrink more than 1032 times
_LONGEST_TEXT = 1024  # bytes of one text
_TEXT_BYTES_AT_ONCE = 256 << 20
# What the library raises for damaged files, depending on where the damage lies.
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)


def open_trusted_layout(path: Path, texts: bool = False) -> h5py.File:
    """Open for reading after looking at every object; use it as a context manager.

    UserError naming the file, and the object, where it cannot be read or holds anything but groups and whole datasets
    of numbers (with `texts`, of texts as well).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is not there or is no file; give the path of an HDF5 file.")
    try:
        file = h5py.File(path, "r")
    except _DAMAGE as error:
        raise UserError(f"{path} is no readable HDF5 file ({_first_line(error)}); fetch or make it again.") from error
    try:
        held = path.stat().st_size
        for name, item in _walk(file, path):
            if isinstance(item, h5py.Dataset):
                _check_dataset(item, f"{path}: dataset {printable(name)}", texts, held)
    except UserError:
        file.close()
        raise
    except _DAMAGE as error:
        file.close()
        raise UserError(f"{path} is damaged ({_first_line(error)}); fetch or make it again.") from error
    return file


def read_array(dataset: h5py.Dataset, path: Path) -> np.ndarray:
    """All of a dataset; a UserError naming file and dataset where a checksum or a compressed block does not decode.

    Texts come as an array of str.  Nothing is read that would not fit into the free memory.
    """
    check_readable(dataset, path)
    try:
        return _texts(dataset, path) if is_text(dataset) else np.asarray(dataset[()])
    except _DAMAGE as error:
        raise UserError(
            f"{path}: dataset {printable(dataset.name)} cannot be read ({_first_line(error)}); fetch or make it again."
        ) from error


def datasets_of(file: h5py.File, path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every dataset by its path from the root; those at the root first, then by name."""
    try:
        shapes = {name.lstrip("/"): item.shape for name, item in _walk(file, path) if isinstance(item, h5py.Dataset)}
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged ({_first_line(error)}); fetch or make it again.") from error
    return dict(sorted(shapes.items(), key=lambda entry: (entry[0].count("/"), entry[0])))


def check_readable(dataset: h5py.Dataset, path: Path, rows: int | None = None) -> None:
    """UserError where `rows` rows (all of them without) and one stored block need more memory than is free."""
    count = len(dataset) if dataset.ndim and rows is None else rows or 1
    row = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
    block = math.prod(dataset.chunks) * dataset.dtype.itemsize if dataset.chunks else 0
    check_memory(count * row + block, f"{path}: dataset {printable(dataset.name)}: its declared {count} rows")


def is_text(dataset: h5py.Dataset) -> bool:
    """Whether a dataset holds texts, of fixed or of any length."""
    return h5py.check_string_dtype(dataset.dtype) is not None


def _texts(dataset: h5py.Dataset, path: Path) -> np.ndarray:
    """A list of texts; in pieces, since a small file may let every row point at one long text."""
    if dataset.ndim != 1:
        raise UserError(f"{path}: dataset {printable(dataset.name)} is no list of texts; give one for each image.")
    step = max(1, min(65536, _TEXT_BYTES_AT_ONCE // max(1, path.stat().st_size)))
    texts: list[str] = []
    longest = 0
    for start in range(0, len(dataset), step):
        for text in dataset[start : start + step].tolist():
            data = text if isinstance(text, bytes) else str(text).encode()
            if len(data) > _LONGEST_TEXT:
                raise UserError(f"{path}: dataset {printable(dataset.name)} holds a text of {len(data)} bytes; cut it.")
            longest = max(longest, len(data))
            texts.append(data.decode("utf-8"))
    check_memory(4 * longest * len(texts), f"{path}: the texts of {printable(dataset.name)}")
    return np.array(texts, dtype=str)


def _walk(group: h5py.Group, path: Path) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """Every object below `group`, links looked at before they are followed."""
    pending = [(group, 0)]
    seen = 0
    while pending:
        parent, depth = pending.pop()
        for name in parent:
            full = f"{parent.name.rstrip('/')}/{name}"
            shown = f"{path}: {printable(full)}"
            if not isinstance(parent.get(name, getlink=True), h5py.HardLink):
                raise UserError(f"{shown} is a link to another place; only files that hold their own data are read.")
            seen += 1
            if seen > _MAX_OBJECTS or depth >= _MAX_DEPTH:
                raise UserError(f"{path}: too many or too deeply nested objects; this is no image dataset.")
            item = parent[name]
            if isinstance(item, h5py.Group):
                pending.append((item, depth + 1))
            elif not isinstance(item, h5py.Dataset):
                raise UserError(f"{shown} is neither a group nor a dataset; this is no image dataset.")
            yield full, item


def _check_dataset(dataset: h5py.Dataset, where: str, texts: bool, held_bytes: int) -> None:
    if dataset.external:
        raise UserError(f"{where} keeps its data in another file; only files that hold their own data are read.")
    if dataset.is_virtual:
        raise UserError(f"{where} is a virtual dataset; only files that hold their own data are read.")
    text = texts and is_text(dataset) and dataset.shape is not None
    if not text and (dataset.dtype.hasobject or dataset.dtype.kind not in _PLAIN_KINDS or dataset.shape is None):
        raise UserError(f"{where} is of type {dataset.dtype}; only plain numbers are read.")
    properties = dataset.id.get_create_plist()
    filters = {properties.get_filter(index)[0] for index in range(properties.get_nfilters())}
    if filters - _FILTERS:
        raise UserError(f"{where} uses HDF5 filter {min(filters - _FILTERS)}; store it plain, or with gzip or lzf.")
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if stored > held_bytes:  # blocks that share one place
        raise UserError(f"{where} stores {stored} bytes in a file of {held_bytes}; it is damaged, make it again.")
    compressed = bool(filters & {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_LZF})
    if stored * (_MAX_COMPRESSION if compressed else 1) < size:
        raise UserError(f"{where} declares {size} bytes but holds {stored}; rows were never written, make it again.")
    if dataset.chunks is not None and size:
        chunks = math.prod(-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        if dataset.id.get_num_chunks() < chunks:
            raise UserError(f"{where} has rows that were never written; make the file again.")


def _first_line(error: BaseException) -> str:
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])
