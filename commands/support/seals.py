"""What commands that show artefacts say of their seals: a damaged part is named and left out, an unsealed one named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.safe_files import MissingFile, read_sealed_json, read_yaml, seal_state
from runtime.safe_files.sealed_json import SEAL, open_seal


def readable(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """A sealed file's object; None, and a sentence among the `problems`, where it is damaged.

    An object without a seal is given and named among the problems too.
    """
    try:
        content = read_sealed_json(path)
    except UserError as error:
        problems.append(f"{_bare(error)}; it is left out here")
        return None
    seal_note(path, problems, problems)
    return content


def seal_note(path: Path, damage: list[str], unsealed: list[str]) -> None:
    """Add a sentence to one of the lists where the file is damaged, or carries no seal; a missing file adds none."""
    try:
        if seal_state(path) == "not sealed":
            unsealed.append(_unsealed(path))
    except MissingFile:
        return
    except UserError as error:
        damage.append(_bare(error))


def choice_note(path: Path, damage: list[str], unsealed: list[str]) -> None:
    """`seal_note` for the YAML file of a choice."""
    try:
        content = read_yaml(path, remedy="restore it, or run search-rho again")
    except UserError as error:
        damage.append(_bare(error))
        return
    carried = isinstance(content, dict) and SEAL in content
    if not isinstance(content, dict) or not open_seal(content):
        damage.append(f"{path} is not as it was written (its seal does not match); restore it, or run search-rho again")
    elif not carried:
        unsealed.append(_unsealed(path))


def _unsealed(path: Path) -> str:
    return f"{path} is not sealed (an older version wrote it): a change in it would not be seen"


def _bare(error: UserError) -> str:
    return str(error).removesuffix(".")
