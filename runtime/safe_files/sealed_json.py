"""JSON with a seal: the digest of everything else in it, so that a changed byte is seen before anything is believed.

Cards, results, choices and `command.json` carry one.  Artefacts of older versions have none and are read all the
same; `seal_state` tells them apart for those who show them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from runtime.atomic import json_bytes, write_bytes
from runtime.digests import digest_of
from runtime.errors import UserError
from runtime.safe_files.json_files import JSON_LIMIT_BYTES, read_json_object
from runtime.safe_files.terminal import printable

SEAL = "seal"
_RESTORE = "restore it, or make it again"


def sealed_bytes(value: dict[str, Any]) -> bytes:
    """The text of the file: indented JSON whose last entry is the seal."""
    plain = json.loads(json.dumps(value, allow_nan=False))  # as a reader will see it: keys are texts, tuples are lists
    return json_bytes({**plain, SEAL: digest_of(plain)})


def write_sealed_json(path: Path, value: dict[str, Any]) -> None:
    """Commit the object `value`, which has no entry `seal`, with its seal."""
    if SEAL in value:
        raise ValueError(f"{path}: the entry {SEAL!r} is the file's own")
    write_bytes(path, sealed_bytes(value))


def read_sealed_json(path: Path, remedy: str = _RESTORE, limit_bytes: int = JSON_LIMIT_BYTES) -> dict[str, Any]:
    """The object without its seal; also one that was never sealed.

    Raises MissingFile, or UserError where it is no JSON object or not as it was written, with the remedy.
    """
    content = read_json_object(path, remedy, limit_bytes)
    if not open_seal(content):
        raise UserError(f"{printable(path)} is not as it was written (its seal does not match); {remedy}.")
    return content


def open_seal(content: dict[str, Any]) -> bool:
    """Take the seal out of `content`; False where it is wrong.  An object without one passes."""
    if SEAL in content:
        return content.pop(SEAL) == digest_of(content)
    # One changed letter of the key would make a sealed file an unsealed one.
    last = next(reversed(content), None)
    return last is None or content[last] != digest_of({key: value for key, value in content.items() if key != last})


def seal_state(path: Path) -> Literal["sealed", "not sealed"]:
    """Whether the file carries a seal; the errors of `read_sealed_json` where it is damaged."""
    content = read_json_object(path, _RESTORE)
    carried = SEAL in content
    if not open_seal(content):
        raise UserError(f"{printable(path)} is not as it was written (its seal does not match); {_RESTORE}.")
    return "sealed" if carried else "not sealed"
