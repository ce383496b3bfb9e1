"""Write a dataset of fakes in another program's format: an image folder, tar files of WebDataset, Parquet files.

torchvision's ImageFolder, `webdataset` and Hugging Face `datasets` read them.  A README.md beside the files tells
source, licence and selection.  An export is there whole or not at all; a killed one begins again.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from commands.support.view_export import ViewOptions, export_view

POSITIONAL = "fakes"


class Options(ViewOptions):
    """Flags of export-fakes; --out names the folder, or the file where the format has one."""

    to: str = Field("imagefolder", description="Format: imagefolder, webdataset, parquet or h5 (see list).")
    licence: str | None = Field(None, description="Licence of the images, for the README  [default: the teacher's]")


def run(options: Options) -> dict[str, Any]:
    """Stream the selected rows into a new folder or file."""
    return export_view(options, options.to, options.licence)
