"""Write a dataset of fakes as one .h5 file with `fake_images` and `fake_labels`, as the cGAN-KD trainers read it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from commands.fake_options import FakesOptions, fakes_folder
from runtime.errors import UserError

POSITIONAL = "fakes"


class Options(FakesOptions):
    """Flags of export-h5; --out names the file."""

    rho: float = Field(1.0, gt=0, le=1, description="Share of the fakes that is kept, lowest teacher error first.")
    nfake_per_class: int | None = Field(None, ge=1, description="Fakes of each class or label after filtering.")
    relabel: bool = Field(False, description="Replace the asked label by the predictor's.")


def run(options: Options) -> dict[str, Any]:
    """Stream the selected rows into a new file."""
    from filters import select
    from image_data.fake import export_h5, open_fakes

    folder = fakes_folder(options)
    target = options.out or options.workspace / f"{folder.name}.h5"
    if target.exists():
        raise UserError(f"--out {target} exists; give the name of a new file.")
    fakes = open_fakes(folder)
    chosen = select(
        fakes,
        rho=options.rho,
        nfake_per_label=options.nfake_per_class,
        relabel=options.relabel,
        scope="class" if fakes.label_space.kind == "classes" else "global",
        seed=options.seed,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    export_h5(folder, target, chosen)
    return {"file": str(target), "images": len(chosen.rows), "bytes": target.stat().st_size}
