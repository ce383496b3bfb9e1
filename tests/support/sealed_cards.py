"""A sealed JSON file with other entries under a seal that is right, as a later version would write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtime.safe_files import read_sealed_json, write_sealed_json


def reseal(path: Path, changes: dict[str, Any], source: Path | None = None) -> dict[str, Any]:
    """Write `source` (or the file itself) with `changes` to `path`; returns what was written."""
    value = {**read_sealed_json(source or path), **changes}
    write_sealed_json(path, value)
    return value
