"""The option of commands that work on one dataset of fakes: its folder."""

from __future__ import annotations

from pathlib import Path

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
