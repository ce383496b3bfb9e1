"""`command.json`: with which options and inputs a folder was begun.  It is written first, and decides whether the same
command continues the folder or another one is refused.
"""

from __future__ import annotations

import json
from collections.abc import Set
from pathlib import Path
from typing import Any

from runtime.atomic import write_bytes
from runtime.digests import digest_of
from runtime.errors import UserError

COMMAND_FILE = "command.json"


def write_record(folder: Path, identity: dict[str, Any], provenance: dict[str, Any]) -> None:
    """Commit the record; `provenance` is in no digest, but under the seal."""
    record = {"digest": digest_of(identity), "content": identity, "provenance": provenance}
    write_bytes(folder / COMMAND_FILE, _as_bytes({**record, "seal": digest_of(record)}))


def check_record(folder: Path, identity: dict[str, Any], changeable: Set[str] = frozenset()) -> bool:
    """Whether the folder's record says the same; False where it says otherwise only of the `changeable` options.

    Raises UserError that names what differs.
    """
    path = folder / COMMAND_FILE
    try:
        record = json.loads(path.read_text())
        stated, before = record["digest"], record["content"]
        options = before["options"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged; restore it, or give another --out.") from error
    if stated == digest_of(identity):
        return True
    now = identity["options"]
    differing = {name for name in {*options, *now} if options.get(name) != now.get(name)}
    if differing - changeable or {**before, "options": now} != identity:
        changed = _differences(before, identity)
        raise UserError(f"--out {folder} was made with other options ({changed}); give a new folder.")
    return False


def record_problems(folder: Path) -> list[str]:
    """One sentence where `command.json` is not as it was written; a folder without one is no command's."""
    path = folder / COMMAND_FILE
    if not path.is_file():
        return []
    raw = path.read_bytes()
    try:
        record = json.loads(raw)
        whole = _as_bytes(record) == raw and record["digest"] == digest_of(record["content"])
        if "seal" in record:
            whole = whole and record.pop("seal") == digest_of(record)
        whole = whole and set(record) == {"digest", "content", "provenance"}
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    return [] if whole else [f"{path} is not as it was written; restore it, the images do not depend on it."]


def _as_bytes(record: Any) -> bytes:
    return (json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    found = []
    for part in ("options", "parents"):
        old, new = before.get(part, {}), now[part]
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                found.append(f"{key}: {_short(old.get(key))} then, {_short(new.get(key))} now")
    if before.get("command") != now["command"]:
        found.insert(0, f"command {before.get('command')} then, {now['command']} now")
    return "; ".join(found[:4]) or "an older version"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:8]}..."
