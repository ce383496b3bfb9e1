"""Write a dataset of fakes as one .h5 file with `fake_images` and `fake_labels`, as the cGAN-KD trainers read it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from commands.support.dry_run import work_begins
from commands.support.fake_options import FakesOptions, fakes_folder
from commands.support.selection import CUT_HELP, KEEP_HELP, KeepText, select_fakes
from runtime.errors import UserError

POSITIONAL = "fakes"


class Options(FakesOptions):
    """Flags of export-h5; --out names the file."""

    rho: float = Field(1.0, gt=0, le=1, description="Share of the fakes that is kept, lowest teacher error first.")
    nfake_per_class: int | None = Field(None, ge=1, description="Fakes of each class or label after filtering.")
    nfake: int | None = Field(None, ge=1, description="Fakes in all, balanced over the classes.")
    relabel: bool = Field(False, description="Replace the asked label by the predictor's.")
    scope: Literal["class", "global"] | None = Field(None, description="Over what the rho-quantile is taken.")
    cut: Literal["rank-exact", "strict"] = Field("rank-exact", description=CUT_HELP)
    keep: KeepText | None = Field(None, description=KEEP_HELP)


def run(options: Options) -> dict[str, Any]:
    """Stream the selected rows into a new file."""
    from image_data.fake import export_h5, open_fakes

    if options.rho == 1.0 and (options.scope is not None or options.cut != "rank-exact"):
        name = "--cut" if options.scope is None else "--scope"
        raise UserError(f"{name} says how --rho cuts, and rho 1 keeps everything; give --rho too, or leave it out.")
    folder = fakes_folder(options)
    target = options.out or options.workspace / f"{folder.name}.h5"
    if target.exists():
        raise UserError(f"--out {target} exists; give the name of a new file.")
    fakes = open_fakes(folder)
    chosen = select_fakes(options, fakes, options.rho)
    work_begins(options)
    target.parent.mkdir(parents=True, exist_ok=True)
    export_h5(folder, target, chosen)
    return {"file": str(target), "images": len(chosen.rows), "bytes": target.stat().st_size}
