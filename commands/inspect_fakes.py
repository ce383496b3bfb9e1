"""Describe a dataset of fakes: acceptance, clipped mass and errors of each label, density ratios, quality, warnings.

It reads the manifest, the small columns, the card of the filter that these fakes were sampled with, the newest
evaluation of them, and where no distances were scored a sample of the images; it changes nothing.  `--plots DIR` draws
PNG files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from commands.support.dry_run import work_begins
from commands.support.fake_options import FakesOptions, describe_text, fakes_folder
from commands.support.selection import KeepText, kept_by_label

POSITIONAL = "fakes"


class Options(FakesOptions):
    """The dataset's folder, and what to count in it."""

    keep: KeepText | None = Field(None, description="Count the rows that such an expression keeps; see distill.")
    filter: Path | None = Field(None, description="Folder of the filter of these fakes (found in the workspace).")
    plots: Path | None = Field(None, description="Draw density ratio, acceptance, errors ... into this folder, as PNG.")


def run(options: Options) -> dict[str, Any]:
    """Read what is there; draw it where asked for."""
    from commands.reporting.calibration import calibration_of, workspaces_of
    from image_data.fake import open_fakes

    folder = fakes_folder(options)
    _check_plots(options.plots)
    kept = None if options.keep is None else kept_by_label(open_fakes(folder), options.keep)
    work_begins(options)
    known = calibration_of(folder, workspaces_of(folder, options.workspace), options.filter, kept)
    result = {"fakes": str(folder), **known.to_json()}
    if kept is not None:
        result["kept"] = kept
    if options.plots is not None:
        from evaluation.report import write_png
        from evaluation.report.calibration_parts import plots_of

        drawn = plots_of(known)
        result["plots"] = [str(write_png(part, options.plots / f"{name}.png")) for name, part in drawn.items()]
    return result


def _check_plots(folder: Path | None) -> None:
    from runtime.errors import UserError

    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"--plots {folder} is a file; give the name of a folder.")


show = describe_text
