"""Opening zip archives whose entries are stored as they are, as torch writes them.

Promised: nothing is unpacked, read or allocated that is larger than the file says to be, because every entry is stored
without compression and all of them together are no larger than the file; each name occurs once.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from runtime.errors import UserError
from runtime.safe_files.plain import check_regular

_LARGEST_DIRECTORY = 64 << 20  # bytes of the list of entries; some 700,000 of them
_END, _END64, _LOCATOR64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_END_BYTES, _LONGEST_COMMENT = 22, 1 << 16


def open_stored(path: Path, remedy: str) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """The archive and its entries by name below its own folder (`archive/data.pkl` is `data.pkl`).

    UserError where it is no regular file, or an entry is compressed, encrypted, larger than the file or there twice;
    zipfile.BadZipFile, OSError or ValueError where it is no whole zip archive.
    """
    check_regular(path, remedy)
    size = path.stat().st_size
    _check_directory(path, size, remedy)
    archive = zipfile.ZipFile(path)
    try:
        return archive, _entries(archive, path, size, remedy)
    except BaseException:
        archive.close()
        raise


def _entries(archive: zipfile.ZipFile, path: Path, size: int, remedy: str) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.partition("/")[2] or info.filename
        shown = ascii(name[:100])
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
            raise UserError(
                f"{path} is refused: {shown} in it is compressed or encrypted ({info.file_size} bytes when unpacked), "
                f"as torch never writes it; {remedy}."
            )
        if name in entries:
            raise UserError(f"{path} is refused: it holds {shown} twice; {remedy}.")
        if info.file_size > size:
            raise UserError(f"{path} is refused: {shown} claims {info.file_size} bytes, more than the file; {remedy}.")
        entries[name] = info
    if sum(info.file_size for info in entries.values()) > size:
        raise UserError(f"{path} is refused: its entries claim more bytes than the file has; {remedy}.")
    return entries


def _check_directory(path: Path, size: int, remedy: str) -> None:
    """UserError where the list of entries alone would take much memory."""
    with path.open("rb") as file:
        file.seek(max(0, size - _END_BYTES - _LONGEST_COMMENT - 20 - 56))
        tail = file.read()
        places = [struct.unpack_from("<I", tail, at + 12)[0] for at in _finds(tail, _END) if at + 16 <= len(tail)]
        if _LOCATOR64 in tail:
            places += [
                struct.unpack_from("<Q", tail, at + 40)[0] for at in _finds(tail, _END64) if at + 48 <= len(tail)
            ]
    known = [place for place in places if place not in (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)]
    if known and max(known) > min(_LARGEST_DIRECTORY, size):
        raise UserError(f"{path} is refused: its list of entries claims {max(known)} bytes; {remedy}.")


def _finds(data: bytes, word: bytes) -> list[int]:
    positions: list[int] = []
    at = data.find(word)
    while at >= 0 and len(positions) < 100:
        positions.append(at)
        at = data.find(word, at + 1)
    return positions
