"""Writing so that a reader sees the old thing or the new thing, and never a part."""

from __future__ import annotations

import errno
import glob
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.digests import file_sha256
from runtime.errors import UserError
from runtime.failure_points import failure_point
from runtime.os_errors import errno_of, named, refusal

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS)
_guarded: dict[Path, int] = {}  # folders of running commands, and their file numbers


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """While the block runs nothing is written into `folder` (which exists) once it was removed or replaced.

    Without this a write would make the folder anew, with only what comes after.
    """
    place = Path(os.path.abspath(folder))
    _guarded[place] = place.stat().st_ino
    try:
        yield
    finally:
        _guarded.pop(place, None)


def guards() -> dict[Path, int]:
    """The folders that are guarded now, for worker processes to `adopt`."""
    return dict(_guarded)


def adopt(folders: dict[Path, int]) -> None:
    """Guard in this process what its parent guards."""
    _guarded.update(folders)


def refuse_gone(path: Path) -> None:
    """UserError where `path` is, or lies in, a guarded folder that was removed or replaced."""
    if not _guarded:
        return
    place = Path(os.path.abspath(path))
    for folder, number in _guarded.items():
        if folder in (place, *place.parents) and not (folder.is_dir() and folder.stat().st_ino == number):
            raise UserError(f"{folder} was removed or replaced while this command worked in it; run it again.")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, but never a guarded one anew (UserError)."""
    refuse_gone(folder)
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """A full or failing disk becomes a UserError that names `place`; any other OSError passes.

    For work that commits as it goes, and that the same command continues.
    """
    try:
        yield
    except OSError as error:
        number = errno_of(error)
        if number not in _DISK_ERRORS:
            raise
        raise UserError(refusal(number, str(place))) from error


def fsync_path(path: Path) -> None:
    """Ask the operating system to bring a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def commit_file(temporary: Path, final: Path) -> None:
    """fsync `temporary`, rename it to `final` (same folder), fsync the folder."""
    refuse_gone(final)
    fsync_path(temporary)
    failure_point("atomic.before_rename")
    os.replace(temporary, final)
    fsync_path(final.parent)
    failure_point("atomic.after_rename")


def commit_copy(source: Path, final: Path, sha256: str) -> None:
    """Copy a file that was looked at to `final`; UserError where it is another by now."""
    temporary = temporary_name(final)
    shutil.copyfile(source, temporary)
    if file_sha256(temporary) != sha256:
        temporary.unlink()
        raise UserError(f"{source} was changed while it was imported; import it again.")
    commit_file(temporary, final)


def commit_new_file(temporary: Path, final: Path) -> None:
    """`commit_file` that never replaces: FileExistsError where `final` exists, even if it is brand-new."""
    fsync_path(temporary)
    try:
        os.link(temporary, final)  # one step, unlike a look and a rename
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if final.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from None
        os.replace(temporary, final)
    temporary.unlink(missing_ok=True)
    fsync_path(final.parent)


def commit_new_folder(temporary: Path, final: Path) -> None:
    """Bring all files below `temporary` to the disk, rename it to `final` (same folder), fsync that folder.

    FileExistsError where `final` exists.  One call for the whole disk: a hundred thousand files, each with a call of
    its own, take many minutes.
    """
    refuse_gone(final)
    os.sync()
    try:
        os.rename(temporary, final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) or not final.exists():
            raise
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from error
    fsync_path(final.parent)


def temporary_name(final: Path) -> Path:
    """A new name beside `final`, which `remove_leftovers` knows.

    For opening with mode x and for mkdir, so that file modes follow the umask (those of `tempfile` are private).
    """
    return final.with_name(f".{final.name}.{secrets.token_hex(6)}.tmp")


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the contents of `path` in one step; creates parent folders."""
    make_folder(path.parent)
    temporary = temporary_name(path)
    try:
        with named(path), open(temporary, "xb") as stream:
            stream.write(data)
        commit_file(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def json_bytes(value: Any) -> bytes:
    """Indented JSON; ValueError for numbers that are none."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON in one step."""
    write_bytes(path, json_bytes(value))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text in one step."""
    write_bytes(path, text.encode())


def commit_folder(final: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a temporary folder beside `final`, then rename it to `final`, which must not exist."""
    make_folder(final.parent)
    temporary = temporary_name(final)
    with named(final):
        temporary.mkdir()
    try:
        fill(temporary)
        for path in temporary.rglob("*"):
            fsync_path(path)
        fsync_path(temporary)
        failure_point("checkpoint.before_commit")
        os.rename(temporary, final)
        fsync_path(final.parent)
        failure_point("checkpoint.after_commit")
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Delete what a killed process left half-written in `folder`, of all files or of the one called `name`."""
    for path in folder.glob(f".{name if name == '*' else glob.escape(f'{name}.') + '*'}.tmp"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
