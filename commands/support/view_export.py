"""What export-h5 and export-fakes share: which rows of the fakes, and the export itself."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from commands.support.dry_run import work_begins
from commands.support.fake_options import FakesOptions, fakes_folder
from commands.support.selection import CUT_HELP, KEEP_HELP, KeepText, select_fakes
from commands.support.workspace import artefact_digest
from runtime.errors import UserError
from runtime.safe_files import read_sealed_json

if TYPE_CHECKING:
    from image_data.fake import FakeDataset


class ViewOptions(FakesOptions):
    """The rows to export."""

    rho: float = Field(1.0, gt=0, le=1, description="Share of the fakes that is kept, lowest teacher error first.")
    nfake_per_class: int | None = Field(None, ge=1, description="Fakes of each class or label after filtering.")
    nfake: int | None = Field(None, ge=1, description="Fakes in all, balanced over the classes.")
    relabel: bool = Field(False, description="Replace the asked label by the predictor's.")
    scope: Literal["class", "global"] | None = Field(None, description="Over what the rho-quantile is taken.")
    cut: Literal["rank-exact", "strict"] = Field("rank-exact", description=CUT_HELP)
    keep: KeepText | None = Field(None, description=KEEP_HELP)


def export_view(options: ViewOptions, to: str, licence: str | None = None) -> dict[str, Any]:
    """Check everything, then write the rows in the format `to`; `licence` where it is not the teacher's."""
    from image_data.fake import open_fakes
    from image_data.fake.exports import export_fakes, export_format, export_rows
    from runtime.free_space import free_disk_bytes

    if options.rho == 1.0 and (options.scope is not None or options.cut != "rank-exact"):
        name = "--cut" if options.scope is None else "--scope"
        raise UserError(f"{name} says how --rho cuts, and rho 1 keeps everything; give --rho too, or leave it out.")
    form = export_format(to)
    folder = fakes_folder(options)
    target = options.out or options.workspace / f"{folder.name}{form.suffix or f'-{to}'}"
    kind = "file" if form.suffix else "folder"
    if target.exists():
        raise UserError(f"--out {target} exists; give the name of a new {kind}.")
    fakes = open_fakes(folder)
    chosen = select_fakes(options, fakes, options.rho)
    needed, free = form.bytes_needed(export_rows(fakes, form, chosen)), free_disk_bytes(target)
    if needed > free:
        raise UserError(
            f"--out {target} needs about {needed / 1e6:,.0f} MB, and its disk has {free / 1e6:,.0f} MB free; make "
            "room, or export fewer fakes."
        )
    disk = {"disk_mb": round(needed / 1e6, 2), "disk_free_mb": round(free / 1e6, 2)}
    work_begins(options, needs=lambda: disk)
    licence = licence or licence_of(fakes, options.workspace)
    export_fakes(fakes, target, form, chosen, licence=licence, seed=options.seed)
    written = [target, *target.rglob("*")]
    size = sum(path.stat().st_size for path in written if path.is_file())
    return {kind: str(target), "images": len(chosen), "bytes": size}


def licence_of(fakes: FakeDataset, workspace: Path) -> str:
    """What the card of the fakes' teacher says, which lies beside the fakes or in the workspace; or "unknown".

    A teacher folder that is damaged, or changed since, is another teacher's.
    """
    from teacher_sampler.adapted import Adaptation

    adaptation = Adaptation.from_json(fakes.manifest.content["teacher"]["adaptation"])
    for place in (fakes.path.resolve().parent.parent, workspace):
        for folder in sorted((place / "teacher").glob("*/")):
            with suppress(UserError, OSError, ValueError, KeyError, TypeError):
                if adaptation.identity(artefact_digest("teacher", folder)) == fakes.manifest.parents["teacher"]:
                    return str(read_sealed_json(folder / "card.json", "restore it")["licence"])
    return "unknown"
