"""Make the damaged units of a dataset of fakes again, from the same teacher, filter and predictor, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field

from commands.support.builders import MakeSamplingParts
from commands.support.dry_run import work_begins
from commands.support.fake_options import FakesOptions, fakes_folder
from commands.support.workspace import artefact_digest, finished_artefacts, resolve_input
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
        parts[kind] = _part(kind, wanted, adaptation.identity if kind == "teacher" else str, folder, options)
    make_parts = MakeSamplingParts(
        parts["teacher"],
        parts.get("filter"),
        parts.get("predictor"),
        options.device,
        made_with["ceiling_quantile"],
        adaptation,
        accept_all=content["has_ratio"] and not content["needs_ratio"],
    )
    work_begins(options)
    mended = repair(folder, make_parts, make_engine(options, folder))
    left = verify_fakes(folder)
    return {"fakes": str(folder), "repaired": mended, "problems": left, "remedies": remedies(folder, left)}


def _part(kind: str, wanted: str, identity: Callable[[str], str], fakes: Path, options: Options) -> Path:
    """The part with the wanted digest: what the flag names, or one of this workspace or of that of the fakes.

    Nothing is built where it is missing: another part would not give the same bytes.
    """
    given = getattr(options, kind)
    if given is not None:
        place: Path = resolve_input(kind, given, options)
        if identity(artefact_digest(kind, place)) != wanted:
            raise UserError(f"{place} is not the {kind} that {fakes} was sampled with; give --{kind} DIR.")
        return place
    for workspace in dict.fromkeys((options.workspace.resolve(), fakes.resolve().parent.parent)):
        for place in finished_artefacts(workspace, kind):
            with suppress(UserError):  # a damaged one is not the one that is looked for
                if identity(artefact_digest(kind, place)) == wanted:
                    return place
    raise UserError(
        f"the {kind} that {fakes} was sampled with ({wanted[:8]}) is not in {options.workspace}; give --{kind} DIR."
    )
