"""Make the damaged units of a dataset of fakes again, from the same teacher, filter and predictor, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from commands.support.builders import SamplingRecipe
from commands.support.dry_run import work_begins
from commands.support.fake_options import FakesOptions, fakes_folder
from commands.support.workspace import artefact_digest, resolve_input
from runtime.errors import UserError

POSITIONAL = "fakes"


class Options(FakesOptions):
    """Flags of repair; the parts are those that the dataset was sampled with."""

    teacher: str | None = Field(None, description="Folder of the teacher, or the address of a teacher service.")
    filter: Path | None = Field(None, description="Folder of the filter.")
    predictor: Path | None = Field(None, description="Folder of the predictor.")


def run(options: Options) -> dict[str, Any]:
    """Repair what verify finds; nothing else is touched."""
    from commands.support.engine import make_engine
    from commands.support.remedies import remedies
    from image_data.fake import verify_fakes
    from image_data.fake.manifest import read_manifest
    from teacher_sampler.adapted import Adaptation
    from teacher_sampler.upkeep.repair import repair

    folder = fakes_folder(options)
    content = read_manifest(folder).content
    made_with, adaptation = content["settings"], Adaptation.from_json(content["teacher"]["adaptation"])
    parts: dict[str, Path] = {}
    for kind in ("teacher", "filter", "predictor"):
        wanted = made_with.get(f"{kind}_digest")
        if not wanted:
            continue
        parts[kind] = resolve_input(kind, getattr(options, kind), options)
        digest = artefact_digest(kind, parts[kind])
        if (adaptation.identity(digest) if kind == "teacher" else digest) != wanted:
            raise UserError(f"{parts[kind]} is not the {kind} that {folder} was sampled with; give --{kind} DIR.")
    recipe = SamplingRecipe(
        parts["teacher"],
        parts.get("filter"),
        parts.get("predictor"),
        options.device,
        made_with["ceiling_quantile"],
        adaptation,
        accept_all=content["has_ratio"] and not content["needs_ratio"],
    )
    work_begins(options)
    mended = repair(folder, recipe, make_engine(options, folder))
    left = verify_fakes(folder)
    return {"fakes": str(folder), "repaired": mended, "problems": left, "remedies": remedies(folder, left)}
