"""Write a dataset of fakes as one .h5 file with `fake_images` and `fake_labels`, as the cGAN-KD trainers read it."""

from __future__ import annotations

from typing import Any

from commands.support.view_export import ViewOptions, export_view

POSITIONAL = "fakes"


class Options(ViewOptions):
    """Flags of export-h5; --out names the file."""


def run(options: Options) -> dict[str, Any]:
    """Stream the selected rows into a new file."""
    return export_view(options, "h5")
