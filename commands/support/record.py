"""`command.json`: with which options and inputs a folder was begun.  It is written first, and decides whether the same
command continues the folder or another one is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

from runtime.atomic import json_bytes
from runtime.digests import digest_of
from runtime.errors import UserError
from runtime.safe_files import MissingFile, read_json_object, read_limited, read_sealed_json, write_sealed_json
from runtime.safe_files.json_files import JSON_LIMIT_BYTES
from runtime.safe_files.sealed_json import SEAL, sealed_bytes

COMMAND_FILE = "command.json"
_PARTS = ("options", "parents")
AsNow = Callable[[dict[str, Any]], dict[str, Any]]


def write_record(folder: Path, identity: dict[str, Any], provenance: dict[str, Any]) -> None:
    """Commit the record; `provenance` is in no digest, but under the seal."""
    record = {"digest": digest_of(identity), "content": identity, "provenance": provenance}
    write_sealed_json(folder / COMMAND_FILE, record)


def read_record(folder: Path) -> dict[str, Any]:
    """The record: `digest`, `content` (with `command`, `options`, `parents`) and `provenance`.

    Raises MissingFile where the folder has none, UserError where it is damaged.
    """
    path = folder / COMMAND_FILE
    try:
        record = read_sealed_json(path, "restore it, or give another --out")
    except MissingFile:
        raise
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    content, provenance = record.get("content"), record.get("provenance")
    parts = [record, content, provenance, *(content.get(part) for part in _PARTS if isinstance(content, dict))]
    if len(parts) != 3 + len(_PARTS) or not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{path} is damaged: it lacks an entry; restore it, or give another --out.")
    return record


def recorded_parents(folder: Path) -> dict[str, str]:
    """The inputs of an artefact by kind, as digests; nothing where its record is missing or damaged."""
    try:
        return dict(read_record(folder)["content"]["parents"])
    except UserError:
        return {}


def check_record(folder: Path, identity: dict[str, Any], as_now: AsNow, changeable: Set[str] = frozenset()) -> bool:
    """Whether the folder's record says the same; False where it says otherwise only of the `changeable` options, or of
    what is opened at the end.

    as_now: recorded options, which may be spelled as in an earlier version -> as they are spelled now.
    Raises UserError that names what differs.
    """
    record = read_record(folder)
    if record["digest"] == digest_of(identity):
        return True
    options = as_now(record["content"]["options"])
    before = {**record["content"], "options": options}
    if before == identity:
        return True
    now = identity["options"]
    differing = {name for name in {*options, *now} if options.get(name) != now.get(name)}
    if differing - changeable or _made_of({**before, "options": now}) != _made_of(identity):
        changed = _differences(before, identity)
        raise UserError(f"--out {folder} was made with other options ({changed}); give a new folder.")
    return False


def _made_of(identity: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in identity.items() if name != "opened"}


def record_problems(folder: Path) -> list[str]:
    """One sentence where `command.json` is not as it was written; a folder without one is no command's."""
    path = folder / COMMAND_FILE
    if not path.is_file():
        return []
    try:
        record, raw = read_record(folder), read_limited(path, JSON_LIMIT_BYTES)
        whole = set(record) == {"digest", "content", "provenance"} and record["digest"] == digest_of(record["content"])
        sealed = SEAL in read_json_object(path)
        whole = whole and raw == (sealed_bytes(record) if sealed else json_bytes(record))
    except UserError:
        whole = False
    return [] if whole else [f"{path} is not as it was written; restore it, the images do not depend on it."]


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    differences = []
    for part in ("options", "parents"):
        old, new = before.get(part, {}), now[part]
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                differences.append(f"{key}: {_short(old.get(key))} then, {_short(new.get(key))} now")
    if before.get("command") != now["command"]:
        differences.insert(0, f"command {before.get('command')} then, {now['command']} now")
    return "; ".join(differences[:4]) or "an older version"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:8]}..."
