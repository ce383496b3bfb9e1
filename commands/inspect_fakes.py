"""Describe a dataset of fakes: counts, acceptance, clipped mass, density ratios, teacher errors, size, lineage."""

from __future__ import annotations

from typing import Any

from commands.fake_options import FakesOptions, describe_text, fakes_folder

POSITIONAL = "fakes"


class Options(FakesOptions):
    """The dataset's folder, and no more."""


def run(options: Options) -> dict[str, Any]:
    """Read the manifest and the small columns; images stay unread."""
    from image_data.fake import describe_fakes

    folder = fakes_folder(options)
    return {"fakes": str(folder), **describe_fakes(folder)}


show = describe_text
