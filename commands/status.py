"""Show what a workspace holds: each artefact, whether it is finished, and the command that comes next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from commands.options import SharedOptions
from commands.workspace import COMMAND_FILE, SEAL


class Options(SharedOptions):
    """No flags of its own."""


def run(options: SharedOptions) -> dict[str, Any]:
    """Walk the workspace; nothing is changed."""
    found = {kind: _artefacts(options.workspace / kind, seal) for kind, seal in SEAL.items()}
    return {"workspace": str(options.workspace), "artefacts": {kind: rows for kind, rows in found.items() if rows}}


def _artefacts(folder: Path, seal: str) -> list[dict[str, Any]]:
    rows = []
    latest = (folder / "latest").resolve()
    for path in sorted(folder.glob("*")):
        if path.is_symlink() or not (path / COMMAND_FILE).is_file():
            continue
        record = json.loads((path / COMMAND_FILE).read_text())
        state = "finished" if (path / seal).is_file() else "unfinished"
        line = record["provenance"]["command_line"]
        rows.append({"name": path.name, "state": state, "latest": path.resolve() == latest, "made_by": line})
    return rows


def show(result: dict[str, Any]) -> str:
    """One line an artefact; unfinished ones say how to continue."""
    if not result["artefacts"]:
        return f"{result['workspace']} is empty; `python cli.py sample --nfake-per-class 200` fills it"
    lines = []
    for kind, rows in result["artefacts"].items():
        for row in rows:
            mark = " (latest)" if row["latest"] else ""
            tail = "" if row["state"] == "finished" else f"; continue with: python {row['made_by']}"
            lines.append(f"{kind:11s} {row['name']:10s} {row['state']}{mark}{tail}")
    return "\n".join(lines)
