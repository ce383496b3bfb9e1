"""A page replaces a page that this program wrote, and nothing else.

A page ends with the SHA-256 of all that stands before it, so that one that was edited by hand counts as the user's.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from runtime.errors import UserError

_MARK = re.compile(rb"<!-- retort report ([0-9a-f]{64}) -->\n\Z")
_LARGEST_BYTES = 512 << 20


def marked(page: str) -> str:
    """The page with its mark."""
    return f"{page}<!-- retort report {hashlib.sha256(page.encode()).hexdigest()} -->\n"


def check_replaceable(out_file: Path) -> None:
    """UserError where something stands under this name that is no report as it was written."""
    if not out_file.exists() and not out_file.is_symlink():
        return
    if not out_file.is_file():
        what = "a folder" if out_file.is_dir() else "no regular file"
        raise UserError(f"--out {out_file} is {what}; give the name of a new .html file.")
    data = out_file.read_bytes() if out_file.stat().st_size <= _LARGEST_BYTES else b""
    mark = _MARK.search(data)
    if mark is None or hashlib.sha256(data[: mark.start()]).hexdigest().encode() != mark[1]:
        raise UserError(
            f"--out {out_file} is no report, or was changed since it was written; give the name of a new .html file."
        )
