"""A .zip archive as a tree of files; nothing is unpacked to disk.

Before a byte is inflated the directory is checked: how many entries and bytes it declares, that no entry claims more
than deflate can hold, that none is encrypted or overlaps another.  One file is inflated at a time, never beyond its
declared size.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from image_data.real.tree import LONGEST_PLACE, ImageTree, SubTree, is_hidden
from runtime.errors import UserError
from runtime.safe_files import printable

_MOST_ENTRIES = 4_000_000
_MOST_DIRECTORY_BYTES = 1 << 30
_LARGEST_FILE_BYTES = 256 << 20
_LARGEST_TOTAL_BYTES = 1 << 42
_MAX_COMPRESSION = 1100  # deflate cannot shrink more than 1032 times
_SLACK_BYTES = 1 << 16
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_DAMAGE = (OSError, RuntimeError, ValueError, EOFError, KeyError, NotImplementedError, struct.error, zlib.error,
           zipfile.BadZipFile, zipfile.LargeZipFile, UnicodeError, OverflowError, MemoryError)  # fmt: skip


def open_zip_tree(path: Path) -> ImageTree:
    """The archive's tree; where it holds one folder and nothing beside it, what is in that folder.

    UserError naming the archive, and the entry, where it is damaged or declares what no archive of images does.
    """
    tree = ZipTree(path)
    tops = {name.split("/", 1)[0] for name in (*tree.names, *tree.folders)}
    if len(tops) != 1:
        return tree
    (top,) = tops
    inner = SubTree(tree, f"{top}/")
    wraps = any("/" in name for name in inner.names) or {"dataset.json", "labels.csv"} & set(inner.names)
    return inner if wraps else tree


class ZipTree:
    """All files of an archive."""

    def __init__(self, path: Path) -> None:
        self.root = Path(path)
        self.broken: tuple[str, ...] = ()
        _check_directory(self.root)
        try:
            self._archive = zipfile.ZipFile(self.root)
            entries = self._archive.infolist()
        except _DAMAGE as error:
            raise UserError(
                f"{self.root} is no readable zip archive ({printable(error)}); fetch or make it again."
            ) from error
        self._entries: dict[str, zipfile.ZipInfo] = {}
        folders: set[str] = set()
        for entry in entries:
            parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
            if any(is_hidden(part) and part != ".." for part in parts):
                continue
            if not parts or ".." in parts or parts[0] == "/":
                raise UserError(
                    f"{self.root}: entry {printable(repr(entry.filename))} is no path inside it; make it again."
                )
            name = "/".join(parts)
            folders |= {"/".join(parts[:depth]) for depth in range(1, len(parts))}
            if entry.is_dir():
                folders.add(name)
                continue
            _check_entry(entry, self.place(name))
            if name in self._entries:
                raise UserError(f"{self.place(name)} stands there twice; make the archive again.")
            self._entries[name] = entry
        if sum(entry.file_size for entry in self._entries.values()) > _LARGEST_TOTAL_BYTES:
            raise UserError(f"{self.root} declares more than {_LARGEST_TOTAL_BYTES >> 40} TiB of files; unpack it.")
        self.names = tuple(sorted(self._entries, key=lambda name: name.split("/")))
        self.folders = tuple(sorted(folders, key=lambda name: name.split("/")))

    def place(self, name: str) -> str:
        return printable(f"{self.root}: {name}" if name else self.root, LONGEST_PLACE)

    def open(self, name: str) -> BinaryIO:
        entry = self._entries[name]
        try:
            with self._archive.open(entry) as stream:
                data = stream.read(entry.file_size + 1)
        except _DAMAGE as error:
            raise UserError(
                f"{self.place(name)} cannot be read ({printable(error)}); make the archive again."
            ) from error
        if len(data) != entry.file_size:
            raise UserError(f"{self.place(name)} does not have its declared size; make the archive again.")
        return io.BytesIO(data)


def _check_entry(entry: zipfile.ZipInfo, place: str) -> None:
    if entry.flag_bits & 1:
        raise UserError(f"{place} is encrypted; make the archive without a password.")
    if entry.compress_type not in _METHODS:
        raise UserError(f"{place} is compressed by method {entry.compress_type}; store it plain or with deflate.")
    if entry.file_size > _LARGEST_FILE_BYTES:
        raise UserError(f"{place} declares {entry.file_size} bytes; no image has as many; remove it.")
    if entry.file_size > entry.compress_size * _MAX_COMPRESSION + _SLACK_BYTES:
        raise UserError(f"{place} declares {entry.file_size} bytes but holds {entry.compress_size}; remove it.")


def _check_directory(path: Path) -> None:
    """Refuse a directory that would fill the memory, by the numbers in the archive's last record."""
    try:
        with open(path, "rb") as stream:
            size = stream.seek(0, io.SEEK_END)
            start = max(0, size - (_END.size + 0xFFFF))
            stream.seek(start)
            tail = stream.read(_END.size + 0xFFFF)
            at = tail.rfind(b"PK\x05\x06")
            if at < 0 or len(tail) - at < _END.size:
                raise UserError(f"{path} is no zip archive, or its end is missing; fetch or make it again.")
            _, _, _, _, count, length, offset, _ = _END.unpack_from(tail, at)
            if 0xFFFF in (count,) or 0xFFFFFFFF in (length, offset):
                count, length = _zip64_numbers(stream, start + at, count, length)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); mend it or give another.") from error
    if count > _MOST_ENTRIES or length > _MOST_DIRECTORY_BYTES:
        raise UserError(f"{path} declares {count} entries in {length} bytes; unpack it and give the folder.")


def _zip64_numbers(stream: BinaryIO, end: int, count: int, length: int) -> tuple[int, int]:
    stream.seek(max(0, end - _LOCATOR_64.size))
    locator = stream.read(_LOCATOR_64.size)
    if len(locator) < _LOCATOR_64.size or not locator.startswith(b"PK\x06\x07"):
        return count, length
    stream.seek(_LOCATOR_64.unpack(locator)[2])
    record = stream.read(_END_64.size)
    if len(record) < _END_64.size or not record.startswith(b"PK\x06\x06"):
        return count, length
    fields = _END_64.unpack(record)
    return int(fields[7]), int(fields[8])
