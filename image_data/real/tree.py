"""A folder, or a .zip archive that is read where it lies, as a tree of files with names relative to its root.

Names are separated by "/", and every sentence names a file as the user would look for it.  Hidden files and folders
(a leading dot, `__MACOSX`) are no part of the tree.  Links are followed as torchvision's ImageFolder does; a link to a
folder above itself, a pipe or a device is never opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from runtime.errors import UserError
from runtime.safe_files import printable

LONGEST_PLACE = 400  # characters of a path in a sentence


class ImageTree(Protocol):
    """What folders and archives have in common."""

    @property
    def root(self) -> Path: ...

    @property
    def names(self) -> tuple[str, ...]:
        """Regular files, sorted by their parts."""
        ...

    @property
    def folders(self) -> tuple[str, ...]:
        """Every folder below the root, empty ones too, sorted by their parts."""
        ...

    @property
    def broken(self) -> tuple[str, ...]:
        """What has a name and cannot be read: dangling links, pipes, devices."""
        ...

    def place(self, name: str) -> str:
        """How sentences name a file or folder; "" is the root."""
        ...

    def open(self, name: str) -> BinaryIO:
        """The bytes of a file; UserError naming it where they cannot be had."""
        ...


@dataclass(frozen=True)
class Picture:
    """One image file of a tree; `str` gives its place."""

    tree: ImageTree = field(repr=False, compare=False)
    name: str

    def __str__(self) -> str:
        return self.tree.place(self.name)

    @property
    def suffix(self) -> str:
        """In lower case, with the dot."""
        return PurePosixPath(self.name).suffix.lower()

    def open(self) -> BinaryIO:
        return self.tree.open(self.name)


class FolderTree:
    """A folder on disk."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        files: list[str] = []
        folders: list[str] = []
        broken: list[str] = []
        for name, mode in _walk(self.root):
            group = folders if stat.S_ISDIR(mode) else files if stat.S_ISREG(mode) else broken
            group.append(name)
        self.names, self.folders, self.broken = _by_parts(files), _by_parts(folders), _by_parts(broken)

    def place(self, name: str) -> str:
        return printable(self.root / name if name else self.root, LONGEST_PLACE)

    def open(self, name: str) -> BinaryIO:
        path = self.root / name
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
                raise UserError(f"{path} is no regular file; remove it.")
            return open(path, "rb")
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); mend or remove it.") from error


@dataclass(frozen=True)
class SubTree:
    """What lies below one folder of a tree."""

    whole: ImageTree
    prefix: str  # ends with "/"

    @property
    def root(self) -> Path:
        return self.whole.root

    @cached_property
    def names(self) -> tuple[str, ...]:
        return below(self.whole.names, self.prefix)

    @cached_property
    def folders(self) -> tuple[str, ...]:
        return below(self.whole.folders, self.prefix)

    @cached_property
    def broken(self) -> tuple[str, ...]:
        return below(self.whole.broken, self.prefix)

    def place(self, name: str) -> str:
        return self.whole.place(f"{self.prefix}{name}".rstrip("/"))

    def open(self, name: str) -> BinaryIO:
        return self.whole.open(self.prefix + name)


def below(names: tuple[str, ...], prefix: str) -> tuple[str, ...]:
    """The names that begin with `prefix`, without it."""
    return tuple(name[len(prefix) :] for name in names if name.startswith(prefix))


def is_hidden(part: str) -> bool:
    """Whether a file or folder of this name is no part of a tree."""
    return part.startswith(".") or part == "__MACOSX"


def read_small(tree: ImageTree, name: str, limit_bytes: int) -> bytes:
    """All bytes of a file of the tree; UserError where there are more than `limit_bytes`."""
    with tree.open(name) as stream:
        data = stream.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise UserError(f"{tree.place(name)} is larger than {limit_bytes >> 20} MiB; no such file is; remove it.")
    return data


def _walk(root: Path) -> Iterator[tuple[str, int]]:
    """(name, mode) of everything that is not hidden, links followed; mode 0 for a link that leads nowhere."""
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while pending:
        folder, above = pending.pop()
        place = root / folder
        try:
            own = place.stat()
            entries = list(os.scandir(place))
        except OSError as error:
            raise UserError(f"{place} cannot be read ({error.strerror}); change its permissions.") from error
        identity = (own.st_dev, own.st_ino)
        if identity in above:
            raise UserError(f"{place} is a link to a folder above it; remove the link.")
        for entry in entries:
            if is_hidden(entry.name):
                continue
            name = f"{folder}/{entry.name}" if folder else entry.name
            try:
                mode = entry.stat().st_mode
            except OSError:
                mode = 0
            if stat.S_ISDIR(mode):
                pending.append((name, (*above, identity)))
            yield name, mode


def _by_parts(names: list[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: name.split("/")))
