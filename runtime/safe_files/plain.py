"""Bytes and UTF-8 text of regular files, with a limit.

A pipe, a device, a socket or a folder is refused before a byte is read (a pipe would wait for ever, /dev/zero has no
end), a file above the limit by its size, and one that grows while it is read when it passes the limit.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from runtime.errors import UserError
from runtime.free_space import free_memory_bytes
from runtime.safe_files.terminal import printable

TEXT_LIMIT_BYTES = 64 << 20
_PIECE_BYTES = 1 << 16  # a read takes so much memory at once, also where nothing is left
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


class MissingFile(UserError):
    """There is no file of that name."""


def read_limited(path: Path, limit_bytes: int, remedy: str = "give the path of a regular file") -> bytes:
    """The bytes of a regular file of at most `limit_bytes`.

    Raises MissingFile where there is none, UserError where it is no regular file, too large, or cannot be read.
    """
    try:
        handle = _open_regular(Path(path), remedy)
        with os.fdopen(handle, "rb") as stream:
            size = os.fstat(handle).st_size
            data = stream.read(size + 1) if size <= limit_bytes else b""
            while size <= limit_bytes and (more := stream.read(_PIECE_BYTES)):  # /proc states 0, a log may grow
                data += more
                size = len(data)
            if size <= limit_bytes:
                return data
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFile(f"{printable(path)} is missing; {remedy}.") from error
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read ({error.strerror}); {remedy}.") from error
    except ValueError as error:  # a NUL character in the name
        raise UserError(f"{printable(path)} is no name of a file; {remedy}.") from error
    raise UserError(f"{printable(path)} is larger than {_size(limit_bytes)}, which no such file is; {remedy}.")


def check_regular(path: Path, remedy: str = "give the path of a regular file") -> int:
    """The size in bytes of a regular file, which is not opened; the errors of `read_limited`."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFile(f"{printable(path)} does not exist or is no file; {remedy}.") from error
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read ({error.strerror}); {remedy}.") from error
    except ValueError as error:
        raise UserError(f"{printable(path)} is no name of a file; {remedy}.") from error
    _refuse_special(status.st_mode, Path(path), remedy)
    return status.st_size


def check_fits_memory(path: Path, size: int, remedy: str) -> None:
    """UserError where reading so many bytes of the file would take more than the memory that is free."""
    free = free_memory_bytes()
    if free is not None and size > free:
        raise UserError(f"{printable(path)} has {_size(size)}, and {_size(free)} of memory are free; {remedy}.")


def read_text(path: Path, remedy: str = "give a text file in UTF-8", limit_bytes: int = TEXT_LIMIT_BYTES) -> str:
    """UTF-8 text, without its byte order mark; the errors of `read_limited`, and UserError for other encodings."""
    return decode_text(read_limited(path, limit_bytes, remedy), printable(path), remedy)


def decode_text(data: bytes, name: str, remedy: str) -> str:
    """UTF-8 with or without a byte order mark; `name` says in the sentence where the bytes come from."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is no text in UTF-8 (byte {error.start}); {remedy}.") from error


def _open_regular(path: Path, remedy: str) -> int:
    _refuse_special(os.stat(path).st_mode, path, remedy)  # before the opening, which some devices notice
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _refuse_special(os.fstat(handle).st_mode, path, remedy)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _refuse_special(mode: int, path: Path, remedy: str) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "no regular file")
        raise UserError(f"{printable(path)} is {kind}, not a file to read; {remedy}.")


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB" if count >= 1 << 10 else f"{count} bytes"
