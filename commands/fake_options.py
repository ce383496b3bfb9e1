"""What the commands on one dataset of fakes share: the option that names it, and its description as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from commands.options import SharedOptions
from commands.workspace import resolve_input


class FakesOptions(SharedOptions):
    """`verify DIR` and `verify --fakes DIR` are the same."""

    fakes: Path | None = Field(None, description="Folder of the fakes (the workspace's latest by default).")


def fakes_folder(options: FakesOptions) -> Path:
    """The folder asked for; never made on demand, since these commands only look."""
    from runtime.errors import UserError

    if options.fakes is None and not (options.workspace / "fakes" / "latest").exists():
        raise UserError(f"no fakes in {options.workspace}; run `python cli.py sample` first or give --fakes DIR.")
    return resolve_input("fakes", options.fakes, options)


def describe_text(result: dict[str, Any]) -> str:
    """For people: nested values indented, long lists left to --json."""
    return "\n".join(_lines(result, ""))


def _lines(value: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for key, entry in value.items():
        if isinstance(entry, dict) and entry:
            lines += [f"{indent}{key}:", *_lines(entry, indent + "  ")]
        elif isinstance(entry, list) and len(entry) > 12:
            lines.append(f"{indent}{key}: {len(entry)} entries (see --json)")
        else:
            lines.append(f"{indent}{key}: {round(entry, 4) if isinstance(entry, float) else entry}")
    return lines
