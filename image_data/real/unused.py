"""Image files that lie in a source and are not used: counted and named, so that no image is left out without a word."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath

from image_data.real.decoding import IMAGE_SUFFIXES
from image_data.real.tree import ImageTree
from runtime.errors import UserError
from runtime.safe_files import printable

# Endings of images, and of arrays of images, that are not read.
OTHER_SUFFIXES = frozenset(
    {".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".jxl", ".psd", ".svg", ".ico", ".dds", ".exr", ".hdr", ".dcm"}
    | {".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".pcx", ".sgi", ".rgb", ".npy", ".npz", ".apng", ".pfm"}
    | {".jxr", ".xcf", ".qoi", ".ppm.gz"}
)
_MARKS = (
    b"\x89PNG\r\n",
    b"\xff\xd8\xff",
    b"GIF87a",
    b"GIF89a",
    b"II*\x00",
    b"MM\x00*",
    b"P5\n",
    b"P6\n",
    b"\x00\x00\x00\x0cjP",
)
_BRANDS = (b"ftypavif", b"ftypheic", b"ftypheix", b"ftypmif1")
_KNOWN_OTHERS = frozenset({".txt", ".csv", ".json", ".md", ".xml", ".html", ".yaml", ".yml", ".py", ".pdf", ".db"})
_MOST_OPENED = 10_000  # files whose first bytes are looked at
_MOST_LINES = 6


def unused_images(tree: ImageTree, used: Collection[str], reason: str) -> list[str]:
    """One line for each folder and reason: how many image files of it are not used, why, and the first one's name.

    `reason` says why a file of a kind that is read is not used.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    opened = 0
    used, broken = set(used), set(tree.broken)
    for name in (*tree.names, *tree.broken):
        if name in used:
            continue
        suffix = PurePosixPath(name).suffix.lower()
        if name in broken:
            why = "a link to nothing, or no regular file" if suffix in IMAGE_SUFFIXES else ""
        elif suffix in IMAGE_SUFFIXES:
            why = reason
        elif suffix in OTHER_SUFFIXES:
            why = f"{suffix} is not read"
        elif suffix in _KNOWN_OTHERS or opened >= _MOST_OPENED:
            why = ""
        else:
            opened += 1
            why = "an image needs its ending, such as .png or .jpg" if _looks_like_an_image(tree, name) else ""
        if why:
            groups.setdefault((str(PurePosixPath(name).parent), why), []).append(name)
    return _lines(tree, groups)


def _lines(tree: ImageTree, groups: dict[tuple[str, str], list[str]]) -> list[str]:
    lines = []
    for (folder, why), names in list(groups.items())[:_MOST_LINES]:
        place = printable(tree.place("" if folder == "." else folder))
        shown = printable(PurePosixPath(names[0]).name, 60) + (", ..." if len(names) > 1 else "")
        what = "image file" if len(names) == 1 else "image files"
        lines.append(f"{len(names)} {what} in {place} {'is' if len(names) == 1 else 'are'} not used: {why} ({shown})")
    rest = [len(names) for names in list(groups.values())[_MOST_LINES:]]
    if rest:
        lines.append(
            f"{sum(rest)} image files in {len(rest)} other folders of {printable(tree.root)} are not used either"
        )
    return lines


def _looks_like_an_image(tree: ImageTree, name: str) -> bool:
    try:
        with tree.open(name) as stream:
            head = stream.read(16)
    except UserError:
        return False
    return head.startswith(_MARKS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or head[4:12] in _BRANDS
