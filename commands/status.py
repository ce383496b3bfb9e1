"""Show what a workspace holds: each artefact, whether it is finished and whole, and the command that comes next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from commands.support.options import SharedOptions
from commands.support.record import COMMAND_FILE, read_record
from commands.support.seals import choice_note, seal_note
from commands.support.workspace import SEAL
from runtime.errors import UserError


class Options(SharedOptions):
    """No flags of its own."""


def run(options: SharedOptions) -> dict[str, Any]:
    """Walk the workspace; nothing is changed."""
    artefacts = {kind: _artefacts(options.workspace / kind, kind) for kind in SEAL}
    return {"workspace": str(options.workspace), "artefacts": {kind: rows for kind, rows in artefacts.items() if rows}}


def _artefacts(folder: Path, kind: str) -> list[dict[str, Any]]:
    latest = (folder / "latest").resolve()
    return [
        {"name": path.name, "latest": path.resolve() == latest, **_state(path, kind)}
        for path in sorted(folder.glob("*"))
        if not path.is_symlink() and (path / COMMAND_FILE).exists()
    ]


def _state(path: Path, kind: str) -> dict[str, Any]:
    """Finished, unfinished, or damaged; the command line, where it can be read; what is wrong or not sealed."""
    damage: list[str] = []
    unsealed: list[str] = []
    made_by = None
    try:
        made_by = read_record(path)["provenance"].get("command_line")
    except UserError as error:
        damage.append(str(error).removesuffix("."))
    else:
        seal_note(path / COMMAND_FILE, damage, unsealed)
    seal = path / SEAL[kind]
    if seal.exists():
        _check(seal, kind, damage, unsealed)
    state = "damaged" if damage else "finished" if seal.is_file() else "unfinished"
    return {"state": state, "made_by": made_by, "problems": [*damage, *unsealed]}


def _check(seal: Path, kind: str, damage: list[str], unsealed: list[str]) -> None:
    if kind == "fakes":
        from image_data.fake.manifest import read_manifest

        try:
            read_manifest(seal.parent)
        except UserError as error:
            damage.append(str(error).removesuffix("."))
    elif kind == "rho":
        choice_note(seal, damage, unsealed)
        seal_note(seal.with_suffix(".json"), damage, unsealed)
    else:
        seal_note(seal, damage, unsealed)


def show(result: dict[str, Any]) -> str:
    """One line an artefact; unfinished ones say how to continue, damaged ones what is wrong."""
    if not result["artefacts"]:
        return f"{result['workspace']} is empty; `python cli.py sample --nfake-per-class 200` fills it"
    lines = []
    for kind, rows in result["artefacts"].items():
        for row in rows:
            mark = " (latest)" if row["latest"] else ""
            tail = f"; continue with: python {row['made_by']}" if row["state"] == "unfinished" else ""
            problems = "".join(f"; {text}" for text in row["problems"])
            lines.append(f"{kind:11s} {row['name']:10s} {row['state']}{mark}{tail}{problems}")
    return "\n".join(lines)
