"""Describe a dataset of fakes: counts, acceptance, clipped mass, density ratios, teacher errors, size, lineage."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from commands.fake_options import FakesOptions, describe_text, fakes_folder
from commands.selection import KeepText, kept_by_label

POSITIONAL = "fakes"


class Options(FakesOptions):
    """The dataset's folder, and what to count in it."""

    keep: KeepText | None = Field(None, description="Count the rows that such an expression keeps; see distill.")


def run(options: Options) -> dict[str, Any]:
    """Read the manifest and the small columns; images stay unread."""
    from image_data.fake import describe_fakes, open_fakes

    folder = fakes_folder(options)
    found = {"fakes": str(folder), **describe_fakes(folder)}
    if options.keep is not None:
        found["kept"] = kept_by_label(open_fakes(folder), options.keep)
    return found


show = describe_text
