"""Describe a dataset of fakes: counts, acceptance, clipped mass, density ratios, teacher errors, size, lineage."""

from __future__ import annotations

from typing import Any

from commands.fake_options import FakesOptions, fakes_folder

POSITIONAL = "fakes"


class Options(FakesOptions):
    """The dataset's folder, and no more."""


def run(options: Options) -> dict[str, Any]:
    """Read the manifest and the small columns; images stay unread."""
    from image_data.fake import describe_fakes

    folder = fakes_folder(options)
    return {"fakes": str(folder), **describe_fakes(folder)}


def text(result: dict[str, Any]) -> str:
    """For people: nested values indented, long lists left to --json."""
    return "\n".join(_lines(result, ""))


show = text


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
